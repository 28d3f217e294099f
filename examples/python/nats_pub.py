#!/usr/bin/env python3
"""Publishes on a NATS subject: nats_pub.py SUBJECT TEXT [URL]"""

import asyncio
import sys

import _tools  # noqa: F401
import nats


async def main(subject, text, url="nats://127.0.0.1:4222"):
    client = await nats.connect(url)
    await client.publish(subject, text.encode())
    await client.drain()


if len(sys.argv) < 3:
    sys.exit(__doc__)
asyncio.run(main(*sys.argv[1:]))
