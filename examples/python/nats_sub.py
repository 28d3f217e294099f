#!/usr/bin/env python3
"""Prints what arrives on a NATS subject: nats_sub.py SUBJECT [URL]"""

import asyncio
import sys

import _tools  # noqa: F401
import nats


async def main(subject, url="nats://127.0.0.1:4222"):
    client = await nats.connect(url)

    async def show(message):
        # A message without properties has no headers, or only the marker of one that is stored.
        print(f"NATS {message.subject}: {message.data.decode(errors='replace')} {message.headers or ''}", flush=True)

    await client.subscribe(subject, cb=show)
    await asyncio.Event().wait()


if len(sys.argv) < 2:
    sys.exit(__doc__)
try:
    asyncio.run(main(*sys.argv[1:]))
except KeyboardInterrupt:
    pass
