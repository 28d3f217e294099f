"""A curve key as NATS writes it: its seed, and the public key."""

import base64
import os

from nacl.public import PrivateKey

SEED, CURVE = 18 << 3, 23 << 3


def checksum(data: bytes) -> bytes:
    crc = 0
    for byte in data:
        crc ^= byte << 8
        for _ in range(8):
            crc = (crc << 1 ^ 0x1021 if crc & 0x8000 else crc << 1) & 0xFFFF
    return crc.to_bytes(2, "little")


def text(data: bytes) -> str:
    return base64.b32encode(data + checksum(data)).decode().rstrip("=")


raw = os.urandom(32)
print(text(bytes([SEED | CURVE >> 5, (CURVE & 31) << 3]) + raw))
print(text(bytes([CURVE]) + bytes(PrivateKey(raw).public_key)))
