#!/usr/bin/env python3
"""An auth callout of nats-server that asks an LDAP directory: who a user is, in which account, and what it may do.

With `auth.mode = "nats"` devices of MQTT log in with the names and passwords of the directory; nats-mqtt knows nothing of it.

    pip install 'nats-py>=2.9,<3' 'nkeys>=0.2,<1' 'ldap3>=2.9,<3'
    nsc generate nkey --account          # the seed (SA...) into the file issuer.nk, the public key (A...) into ISSUER
    nsc generate nkey --curve            # the seed (SX...) into the file callout.xk, the public key (X...) into XKEY
    ISSUER=A... XKEY=X... CALLOUT=password-1 SIDECAR=password-2 nats-server -c nats.conf
    CALLOUT=password-1 ./callout.py --issuer issuer.nk --xkey callout.xk \\
        --ldap ldaps://127.0.0.1 --base ou=devices,dc=example,dc=org --account T1 --account T2

Several of them may run: each request is answered by one. A request has the password as it was given, so it is sealed with the
curve key, and nobody but this service has users in the account AUTH.
"""

import argparse
import asyncio
import base64
import json
import os
import re
import secrets
import ssl
import time

import ldap3
import nats
import nkeys
from ldap3.core.exceptions import LDAPException
from ldap3.utils.dn import escape_rdn
from nacl.exceptions import CryptoError
from nacl.public import Box, PrivateKey, PublicKey

# One token of a subject, since it becomes one.
NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
# nats-server waits for two seconds.
LDAP_TIMEOUT_S = 1
LDAP_AT_ONCE = 16
# What a sealed request and its answer begin with.
SEALED = b"xkv1"
# Who has been removed from the directory is out after this time at the latest.
VALID_S = 3600


def read(file: str) -> str:
    with open(file, encoding="ascii") as opened:
        return opened.read().strip()


def of_base32(key: str) -> bytes:
    return base64.b32decode(key + "=" * (-len(key) % 8))


def b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def sign(issuer: nkeys.KeyPair, subject: str, audience: str, name: str, claims: dict, **more) -> str:
    now = int(time.time())
    body = {"jti": secrets.token_hex(16), "iat": now, "iss": issuer.public_key.decode(), "sub": subject, "aud": audience}
    body |= {"name": name, "nats": claims | {"version": 2}} | more
    header = {"typ": "JWT", "alg": "ed25519-nkey"}
    text = ".".join(b64(json.dumps(part).encode()) for part in (header, body))
    return f"{text}.{b64(issuer.sign(text.encode()))}"


def account_of(server: ldap3.Server, base: str, name: str, password: str) -> str | None:
    """The organisation in the entry of a user whose password this is."""
    # A bind with an empty password is an anonymous one, and good.
    if not NAME.fullmatch(name) or not password:
        return None
    dn = f"uid={escape_rdn(name)},{base}"
    connection = ldap3.Connection(server, dn, password, receive_timeout=LDAP_TIMEOUT_S, raise_exceptions=False)
    try:
        if not connection.bind():
            return None
        connection.search(dn, "(objectClass=*)", ldap3.BASE, attributes=["o"])
        return str(connection.entries[0].o) if connection.entries else None
    finally:
        connection.unbind()


class Callout:
    def __init__(self, args: argparse.Namespace) -> None:
        self.issuer = nkeys.from_seed(bytearray(read(args.issuer).encode()))
        # Two bytes say that it is the seed of a curve key; two behind it are a checksum.
        self.key = PrivateKey(of_base32(read(args.xkey))[2:34])
        # Without this ldap3 takes any certificate.
        tls = ldap3.Tls(validate=ssl.CERT_REQUIRED)
        self.server = ldap3.Server(args.ldap, tls=tls, connect_timeout=LDAP_TIMEOUT_S)
        self.base, self.accounts = args.base, args.account
        self.turns = asyncio.Semaphore(LDAP_AT_ONCE)

    async def user(self, request: dict) -> str:
        """The JWT of the user that a request is about; of a user that is refused an exception."""
        options = request["connect_opts"]
        name, password = options.get("user", ""), options.get("pass", "")
        async with self.turns:
            account = await asyncio.to_thread(account_of, self.server, self.base, name, password)
        if account not in self.accounts:
            raise PermissionError(f"{name!r} is not let in")
        permissions = {
            # nats-mqtt asks there what a user may do.
            "pub": {"allow": [f"dev.{name}.>", "$SYS.REQ.USER.INFO"]},
            "sub": {"allow": [f"cmd.{name}.>"]},
        }
        claims = {"type": "user", "subs": -1, "data": -1, "payload": -1} | permissions
        return sign(self.issuer, request["user_nkey"], account, name, claims, exp=int(time.time()) + VALID_S)

    async def answer(self, message: nats.aio.msg.Msg) -> None:
        try:
            # The key of the server that asks: a byte says that it is one of curves.
            box = Box(self.key, PublicKey(of_base32(message.headers["Nats-Server-Xkey"])[1:33]))
            body = box.decrypt(message.data.removeprefix(SEALED)).split(b".")[1]
        except (CryptoError, KeyError, TypeError, ValueError) as error:
            print(f"not a request that is sealed for us: {error!r}", flush=True)
            return
        request = json.loads(base64.urlsafe_b64decode(body + b"=" * (-len(body) % 4)))["nats"]
        result = {"type": "authorization_response"}
        try:
            result["jwt"] = await self.user(request)
        except (PermissionError, LDAPException) as refused:
            # Nothing of it reaches the client.
            print(f"refused: {refused}", flush=True)
            result["error"] = "refused"
        server = request["server_id"]["id"]
        answer = sign(self.issuer, request["user_nkey"], server, "", result)
        await message.respond(SEALED + box.encrypt(answer.encode()))


async def main() -> None:
    parser = argparse.ArgumentParser(description="Auth callout of nats-server to LDAP. The password of its user is in $CALLOUT.")
    parser.add_argument("--nats", default="nats://127.0.0.1:4222")
    parser.add_argument("--user", default="callout")
    parser.add_argument("--issuer", required=True, help="file with the seed of the issuer (SA...)")
    parser.add_argument("--xkey", required=True, help="file with the seed of the curve key (SX...)")
    parser.add_argument("--ldap", required=True, help="ldap:// or ldaps:// of the directory")
    parser.add_argument("--base", required=True, help="where users are: uid=NAME,BASE")
    parser.add_argument("--account", action="append", required=True, help="an account that an entry may name; may be repeated")
    args = parser.parse_args()
    callout = Callout(args)
    client = await nats.connect(args.nats, user=args.user, password=os.environ["CALLOUT"], max_reconnect_attempts=-1)
    tasks: set[asyncio.Task] = set()

    async def each(message: nats.aio.msg.Msg) -> None:
        task = asyncio.create_task(callout.answer(message))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    await client.subscribe("$SYS.REQ.USER.AUTH", queue="callout", cb=each)
    await client.flush()
    print("ready", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
