#!/usr/bin/env python3
"""An MQTT 5 client and a NATS client talk to each other: both_directions.py [MQTT PORT] [NATS URL]

Ends with exit code 0 when each got what the other published, properties and headers included.
"""

import asyncio
import sys

import _tools  # noqa: F401
import nats
import paho.mqtt.client as mqtt
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties


def device(port, loop, received):
    """An MQTT client that is subscribed to its commands when this returns a connected one."""
    client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id="thermometer-42", protocol=mqtt.MQTTv5)
    subscribed = asyncio.Event()
    client.on_connect = lambda client, *_: client.subscribe("devices/42/cmd", qos=1)
    client.on_subscribe = lambda *_: loop.call_soon_threadsafe(subscribed.set)
    client.on_message = lambda client, _, message: loop.call_soon_threadsafe(received.put_nowait, message)
    client.connect("127.0.0.1", port)
    client.loop_start()
    return client, subscribed


async def main(port="1883", url="nats://127.0.0.1:4222"):
    commands = asyncio.Queue()
    client, subscribed = device(int(port), asyncio.get_running_loop(), commands)
    await asyncio.wait_for(subscribed.wait(), 10)
    backend = await nats.connect(url)
    readings = await backend.subscribe("devices.*.temp")
    await backend.flush()

    # From the device to the backend. A user property becomes a header.
    properties = Properties(PacketTypes.PUBLISH)
    properties.UserProperty = ("unit", "celsius")
    sent = client.publish("devices/42/temp", "21.5", qos=1, properties=properties)
    await asyncio.to_thread(sent.wait_for_publish, 10)
    reading = await readings.next_msg(timeout=10)
    print(f"NATS got {reading.subject}: {reading.data.decode()} {reading.headers['unit']}")
    assert (reading.subject, reading.data, reading.headers["unit"]) == ("devices.42.temp", b"21.5", "celsius")

    # From the backend to the device. A header becomes a user property.
    await backend.publish("devices.42.cmd", b"on", headers={"from": "backend"})
    command = await asyncio.wait_for(commands.get(), 10)
    print(f"MQTT got {command.topic}: {command.payload.decode()} {command.properties.UserProperty}")
    assert (command.topic, command.payload) == ("devices/42/cmd", b"on")
    assert ("from", "backend") in command.properties.UserProperty

    await backend.drain()
    client.disconnect()
    client.loop_stop()


asyncio.run(main(*sys.argv[1:]))
