"""Who the clients of the tests are, where the sidecars ask."""

import os


def introduce(client):
    """Gives a client of paho-mqtt the user name and password of the tests, if they have any."""
    if "TEST_USER" in os.environ:
        client.username_pw_set(os.environ["TEST_USER"], os.environ["TEST_PASSWORD"])
