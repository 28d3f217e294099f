"""Publishes numbered messages with paho-mqtt, and ends when all of them are acknowledged.

publish.py PORT VERSION QOS TOPIC COUNT
"""

import sys

import paho.mqtt.client as mqtt

from who import introduce

port, version, qos, topic, count = int(sys.argv[1]), sys.argv[2], int(sys.argv[3]), sys.argv[4], int(sys.argv[5])
protocol = {"5": mqtt.MQTTv5, "3.1.1": mqtt.MQTTv311, "3.1": mqtt.MQTTv31}[version]

client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id=f"paho-{topic.replace('/', '-')}", protocol=protocol)
introduce(client)
refused = []


def on_publish(_client, _userdata, mid, reason_code, _properties):
    if reason_code.is_failure:
        refused.append((mid, str(reason_code)))


client.on_publish = on_publish
client.max_inflight_messages_set(100)
client.connect("127.0.0.1", port, keepalive=30)
client.loop_start()
infos = [client.publish(topic, str(number), qos=qos) for number in range(count)]
for info in infos:
    info.wait_for_publish(timeout=60)
    if not info.is_published():
        sys.exit("a message was not acknowledged within 60 s")
client.disconnect()
client.loop_stop()
if refused:
    sys.exit(f"refused: {refused[:5]}")
print("published", count)
