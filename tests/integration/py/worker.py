"""A worker of a shared subscription, in a process of its own: prints the payload of each message, and acknowledges it after
that, so that whoever kills it knows what it has done.

worker.py mqtt PORT CLIENT_ID FILTER
worker.py nats URL STREAM CONSUMER
"""

import asyncio
import sys


def done(payload):
    sys.stdout.write(payload.decode() + "\n")
    sys.stdout.flush()


def mqtt(port, client_id, topic_filter):
    from paho.mqtt.client import CallbackAPIVersion, Client, MQTTv5

    from who import introduce

    client = Client(CallbackAPIVersion.VERSION2, client_id=client_id, protocol=MQTTv5, manual_ack=True)
    introduce(client)

    def connected(client, _userdata, _flags, _reason, _properties):
        client.subscribe(topic_filter, qos=1)

    def subscribed(_client, _userdata, _mid, reasons, _properties):
        assert [reason.value for reason in reasons] == [1], reasons
        print("ready", flush=True)

    def message(client, _userdata, message):
        done(message.payload)
        client.ack(message.mid, message.qos)

    client.on_connect, client.on_subscribe, client.on_message = connected, subscribed, message
    client.connect("127.0.0.1", int(port))
    client.loop_forever()


async def nats(url, stream, consumer):
    from nats import connect
    from nats.errors import TimeoutError

    connection = await connect(url)
    worker = await connection.jetstream().pull_subscribe_bind(consumer=consumer, stream=stream)
    print("ready", flush=True)
    while True:
        try:
            messages = await worker.fetch(16, timeout=5)
        except TimeoutError:
            continue
        for message in messages:
            done(message.data)
            await message.ack()


if sys.argv[1] == "mqtt":
    mqtt(*sys.argv[2:])
else:
    asyncio.run(nats(*sys.argv[2:]))
