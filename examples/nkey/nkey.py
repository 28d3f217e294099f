#!/usr/bin/env python3
"""Connects with MQTT 5 and the method NATS-NKEY, and publishes a message: nkey.py FILE [HOST:PORT [CLIENT ID]]

FILE is a .creds file of nsc (mode "jwt"), or has the seed of a user's NKey alone (mode "file"). Needs `nkeys`. It is written
on a socket, because paho has no AUTH packets; everything but `authenticate` is what any MQTT client does.
"""

import re
import socket
import sys

import nkeys

METHOD = b"NATS-NKEY"
CONNECT, CONNACK, PUBLISH, PUBACK, DISCONNECT, AUTH = 0x10, 0x20, 0x32, 0x40, 0xE0, 0xF0
CONTINUE = 0x18


def credentials(path):
    """What names the user, and the key that proves it: the JWT of a .creds file, or the public NKey."""
    text = open(path, "rb").read()
    key = nkeys.from_seed(re.search(rb"\bSU[A-Z2-7]{56}\b", text)[0])
    jwt = re.search(rb"\beyJ[\w-]+\.[\w-]+\.[\w-]+", text)
    return (jwt[0] if jwt else key.public_key), key


def number(value):
    """A Variable Byte Integer."""
    head, value = value & 0x7F, value >> 7
    return bytes([head | 0x80]) + number(value) if value else bytes([head])


def binary(data):
    """Binary Data, or a string."""
    return len(data).to_bytes(2, "big") + data


def authentication(data):
    """The properties Authentication Method and Authentication Data."""
    properties = b"\x15" + binary(METHOD) + b"\x16" + binary(data)
    return number(len(properties)) + properties


def send(connection, kind, body):
    connection.sendall(bytes([kind]) + number(len(body)) + body)


def receive(connection):
    """The first byte of a packet, and what is behind its length."""
    kind = connection.read(1)
    if not kind:
        sys.exit("the server closed the connection")
    length = shift = 0
    while True:
        byte = connection.read(1)[0]
        length |= (byte & 0x7F) << shift
        shift += 7
        if not byte & 0x80:
            return kind[0], connection.read(length)


def authenticate(key, client_id, asked):
    """What AUTH asks for: the nonce, signed for this client id and for nothing else."""
    # Reason code, length of the properties, Authentication Method, Authentication Data.
    nonce = asked[asked.index(METHOD) + len(METHOD) + 3 :][:32]
    return key.sign(b"mqtt-nkey-v1\0" + client_id + b"\0" + nonce)


def main(path, address="127.0.0.1:1883", client_id="nkey-example"):
    named, key = credentials(path)
    client_id = client_id.encode()
    host, port = address.rsplit(":", 1)
    connection = socket.create_connection((host, int(port)), 10)
    stream = connection.makefile("rb")
    # Clean Start, a keep alive of 60 s.
    head = binary(b"MQTT") + bytes([5, 0x02, 0, 60])
    send(connection, CONNECT, head + authentication(named) + binary(client_id))
    while True:
        kind, body = receive(stream)
        if kind == AUTH and body[0] == CONTINUE:
            signature = authenticate(key, client_id, body)
            send(connection, AUTH, bytes([CONTINUE]) + authentication(signature))
        elif kind == CONNACK and body[1] == 0:
            print("connected")
            send(connection, PUBLISH, binary(b"nkey/example") + bytes([0, 1, 0]) + b"hello")
        elif kind == PUBACK:
            print("published")
            return send(connection, DISCONNECT, b"")
        else:
            sys.exit(f"refused: packet {kind:#04x}, reason code {body[1] if kind == CONNACK else body[0]:#04x}")


if __name__ == "__main__":
    main(*sys.argv[1:])
