"""The bucket of retained messages with nats-py.

kv.py URL put PREFIX: puts two keys.
kv.py URL end PREFIX: deletes one of them and purges the other.
kv.py URL watch KEYS COUNT: prints so many changes of keys, each as `KEY VALUE` or `KEY OPERATION`.
"""

import asyncio
import sys

import nats


async def put(bucket, prefix):
    await bucket.put(f"{prefix}.a", b"1")
    await bucket.put(f"{prefix}.b", b"2")


async def end(bucket, prefix):
    await bucket.delete(f"{prefix}.a")
    await bucket.purge(f"{prefix}.b")


async def watch(bucket, keys, count):
    watcher = await bucket.watch(keys)
    seen = 0
    while seen < count:
        entry = await watcher.updates(timeout=20)
        if entry is not None:
            print(entry.key, entry.operation or entry.value.decode())
            seen += 1


async def main():
    connection = await nats.connect(sys.argv[1])
    bucket = await connection.jetstream().key_value("MQTT_retained")
    if sys.argv[2] == "put":
        await put(bucket, sys.argv[3])
    elif sys.argv[2] == "end":
        await end(bucket, sys.argv[3])
    else:
        await watch(bucket, sys.argv[3], int(sys.argv[4]))
    await connection.close()


asyncio.run(main())
