"""A round trip over WebSocket with paho-mqtt: subscribes, publishes a payload, and prints what comes back.

websocket.py PORT PATH VERSION QOS TOPIC SIZE [AUTHORITIES]

With a file of authorities it is over TLS.
"""

import sys
import threading

import paho.mqtt.client as mqtt

from who import introduce

port, path, version, qos, topic, size = int(sys.argv[1]), *sys.argv[2:4], int(sys.argv[4]), sys.argv[5], int(sys.argv[6])
authorities = sys.argv[7] if len(sys.argv) > 7 else None
protocol = {"5": mqtt.MQTTv5, "3.1.1": mqtt.MQTTv311}[version]

client = mqtt.Client(
    mqtt.CallbackAPIVersion.VERSION2, client_id=f"ws-{topic.replace('/', '-')}", protocol=protocol, transport="websockets"
)
introduce(client)
client.ws_set_options(path=path)
if authorities:
    client.tls_set(ca_certs=authorities)
payload = bytes(index % 251 for index in range(size))
done = threading.Event()
received = []


def on_connect(client, _userdata, _flags, reason_code, _properties):
    if reason_code.is_failure:
        received.append(f"refused: {reason_code}")
        done.set()
    client.subscribe(topic, qos)


def on_subscribe(client, _userdata, _mid, _reason_codes, _properties):
    client.publish(topic, payload, qos=qos)


def on_message(_client, _userdata, message):
    same = "same" if message.payload == payload else "other"
    received.append(f"{message.topic} qos{message.qos} {same} {len(message.payload)}")
    done.set()


client.on_connect, client.on_subscribe, client.on_message = on_connect, on_subscribe, on_message
client.connect("127.0.0.1", port, keepalive=30)
client.loop_start()
in_time = done.wait(30)
client.disconnect()
client.loop_stop()
if not in_time:
    sys.exit("nothing came back within 30 s")
print("\n".join(received))
