"""A device on paho-mqtt answers requests of nats-py; then a client on paho-mqtt calls a service of nats.micro.

requests.py MQTT_PORT NATS_URL PREFIX [COUNT]

With COUNT, that many requests are made each way, one after the other, and how long they take is printed.
"""

import asyncio
import statistics
import sys
import time

import nats
import nats.errors
import nats.micro
import paho.mqtt.client as mqtt
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from who import introduce

port, url, prefix = int(sys.argv[1]), sys.argv[2], sys.argv[3]
count = int(sys.argv[4]) if len(sys.argv) > 4 else 3
PATIENCE = 30


def connected(name, filters, on_message):
    client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id=f"{prefix}-{name}", protocol=mqtt.MQTTv5)
    introduce(client)
    granted = []
    client.on_subscribe = lambda _client, _data, mid, codes, _properties: granted.append(mid)
    client.on_message = on_message
    client.connect("127.0.0.1", port, keepalive=30)
    client.loop_start()
    client.subscribe(filters)
    deadline = time.monotonic() + PATIENCE
    while not granted and time.monotonic() < deadline:
        time.sleep(0.005)
    return client


def publish_properties(**values):
    properties = Properties(PacketTypes.PUBLISH)
    for name, value in values.items():
        setattr(properties, name, value)
    return properties


def answer(client, _data, message):
    properties = publish_properties(UserProperty=[("Answered-By", "paho")])
    if hasattr(message.properties, "CorrelationData"):
        properties.CorrelationData = message.properties.CorrelationData
    client.publish(message.properties.ResponseTopic, b"re: " + message.payload, qos=message.qos, properties=properties)


def shown(what, times):
    times = sorted(times)
    print(f"{what}: p50 {statistics.median(times) * 1000:.2f} ms, p99 {times[int(len(times) * 0.99)] * 1000:.2f} ms")


async def ask_device(nc, qos):
    device = connected(f"device{qos}", [(f"{prefix}/42/cmd{qos}", qos)], answer)
    times = []
    # A subscription above QoS 0 is known to the sidecar that copies messages of NATS a moment after it was granted.
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            await nc.request(f"{prefix}.42.cmd{qos}", b"first", timeout=1)
            break
        except nats.errors.TimeoutError:
            assert time.monotonic() < deadline, "no answer"
    for number in range(count):
        begin = time.perf_counter()
        reply = await nc.request(f"{prefix}.42.cmd{qos}", b"%d" % number, timeout=PATIENCE,
                                 headers={"Mqtt-Correlation-Data": str(number)})
        times.append(time.perf_counter() - begin)
        assert reply.data == b"re: %d" % number, reply
        assert reply.headers["Answered-By"] == "paho", reply.headers
        assert reply.headers["Mqtt-Correlation-Data"] == str(number), reply.headers
    device.disconnect()
    device.loop_stop()
    shown(f"nats request to a device at QoS {qos}", times)


async def ask_service(nc, qos):
    loop, answers = asyncio.get_running_loop(), asyncio.Queue()

    async def add(request):
        if request.data == b"nonsense":
            await request.respond_error("400", "not numbers")
        else:
            total = sum(int(number) for number in request.data.split())
            await request.respond(str(total).encode(), headers={"Unit": "none"})

    service = await nats.micro.add_service(nc, name="adder", version="1.0.0")
    await service.add_endpoint(name="add", subject=f"{prefix}.add{qos}", handler=add)
    await nc.flush()
    back = f"{prefix}/answers{qos}"
    client = connected(f"asker{qos}", [(back, qos)],
                       lambda _client, _data, message: loop.call_soon_threadsafe(answers.put_nowait, message))
    times = []
    for number in range(count):
        properties = publish_properties(ResponseTopic=back, CorrelationData=b"\x00%d" % number)
        begin = time.perf_counter()
        client.publish(f"{prefix}/add{qos}", f"{number} 40", qos=qos, properties=properties)
        message = await asyncio.wait_for(answers.get(), PATIENCE)
        times.append(time.perf_counter() - begin)
        assert message.payload == str(number + 40).encode(), message.payload
        assert message.properties.CorrelationData == b"\x00%d" % number, message.properties
        assert ("Unit", "none") in message.properties.UserProperty, message.properties
    client.publish(f"{prefix}/add{qos}", "nonsense", qos=qos, properties=publish_properties(ResponseTopic=back))
    message = await asyncio.wait_for(answers.get(), PATIENCE)
    assert ("Nats-Service-Error-Code", "400") in message.properties.UserProperty, message.properties
    assert ("Nats-Service-Error", "not numbers") in message.properties.UserProperty, message.properties
    client.disconnect()
    client.loop_stop()
    await service.stop()
    shown(f"a client at QoS {qos} to a NATS service", times)


async def main():
    nc = await nats.connect(url)
    for qos in (0, 1, 2):
        await ask_device(nc, qos)
        await ask_service(nc, qos)
    await nc.close()
    print("both ways")


asyncio.run(main())
