"""Home Assistant at its start, over WebSocket with paho-mqtt: subscribes to many filters in one packet and takes what is
retained. Prints how many were granted, whether within 10 s, and how many retained messages came.

home_assistant.py PORT PATH FILTERS RETAINED
"""

import sys
import threading
import time

import paho.mqtt.client as mqtt

from who import introduce

port, path, filters, wanted = int(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id="home-assistant", transport="websockets")
introduce(client)
client.ws_set_options(path=path)
granted, topics = [], set()
subscribed, complete = threading.Event(), threading.Event()
began = 0.0


def on_connect(client, _userdata, _flags, reason_code, _properties):
    global began
    if reason_code.is_failure:
        sys.exit(f"refused: {reason_code}")
    began = time.monotonic()
    names = ["homeassistant/+/+/config"] + [f"sensor/{number}/#" for number in range(1, filters)]
    client.subscribe([(name, 0) for name in names])


def on_subscribe(_client, _userdata, _mid, reason_codes, _properties):
    granted.extend(code for code in reason_codes if not code.is_failure)
    in_time.append(time.monotonic() - began < 10)
    subscribed.set()


def on_message(_client, _userdata, message):
    if message.retain:
        topics.add(message.topic)
    if len(topics) >= wanted:
        complete.set()


in_time = []
client.on_connect, client.on_subscribe, client.on_message = on_connect, on_subscribe, on_message
client.connect("127.0.0.1", port, keepalive=60)
client.loop_start()
if not subscribed.wait(20):
    sys.exit("no SUBACK")
complete.wait(30)
client.disconnect()
client.loop_stop()
print(f"granted {len(granted)} {'in time' if all(in_time) else 'late'}, {len(topics)} retained")
