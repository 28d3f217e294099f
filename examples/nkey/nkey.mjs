// Connects with MQTT 5 and the method NATS-NKEY, and publishes a message: node nkey.mjs FILE [mqtt://HOST:PORT [CLIENT ID]]
//
// FILE is a .creds file of nsc (mode "jwt"), or has the seed of a user's NKey alone (mode "file"). Needs MQTT.js: npm install mqtt
import { createPrivateKey, createPublicKey, sign } from "node:crypto";
import { readFileSync } from "node:fs";
import mqtt from "mqtt";

const METHOD = "NATS-NKEY";
const BASE32 = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
const USER = 20 << 3;
// What stands before the 32 bytes of an Ed25519 key in PKCS #8.
const PKCS8 = Buffer.from("302e020100300506032b657004220420", "hex");

const bits = (text) => [...text].map((c) => BASE32.indexOf(c).toString(2).padStart(5, "0")).join("");
const decode = (text) => Buffer.from(bits(text).match(/.{8}/g).map((byte) => parseInt(byte, 2)));

function encode(bytes) {
  const all = [...bytes].map((byte) => byte.toString(2).padStart(8, "0")).join("");
  return all.match(/.{1,5}/g).map((five) => BASE32[parseInt(five.padEnd(5, "0"), 2)]).join("");
}

// CRC-16/XMODEM, the low byte first.
function checksum(bytes) {
  let crc = 0;
  for (const byte of bytes) {
    crc ^= byte << 8;
    for (let bit = 0; bit < 8; bit++) crc = ((crc << 1) ^ (crc & 0x8000 ? 0x1021 : 0)) & 0xffff;
  }
  return Buffer.from([crc & 0xff, crc >> 8]);
}

// What names the user, and the key that proves it: the JWT of a .creds file, or the public NKey.
function credentials(path) {
  const text = readFileSync(path, "ascii");
  const seed = decode(text.match(/\bSU[A-Z2-7]{56}\b/)[0]).subarray(2, 34);
  const key = createPrivateKey({ key: Buffer.concat([PKCS8, seed]), format: "der", type: "pkcs8" });
  const jwt = text.match(/\beyJ[\w-]+\.[\w-]+\.[\w-]+/);
  if (jwt) return { named: jwt[0], key };
  const raw = createPublicKey(key).export({ format: "der", type: "spki" }).subarray(-32);
  const body = Buffer.concat([Buffer.from([USER]), raw]);
  return { named: encode(Buffer.concat([body, checksum(body)])), key };
}

const [path, url = "mqtt://127.0.0.1:1883", clientId = "nkey-example"] = process.argv.slice(2);
const { named, key } = credentials(path);
const client = mqtt.connect(url, {
  protocolVersion: 5,
  clientId,
  manualConnect: true,
  reconnectPeriod: 0,
  properties: { authenticationMethod: METHOD, authenticationData: Buffer.from(named) },
});
// The nonce, signed for this client id and for nothing else.
client.handleAuth = (asked, answer) => {
  const signed = Buffer.concat([Buffer.from(`mqtt-nkey-v1\0${clientId}\0`), asked.properties.authenticationData]);
  const properties = { authenticationMethod: METHOD, authenticationData: sign(null, signed, key) };
  answer(null, { cmd: "auth", reasonCode: 0x18, properties });
};
client.on("error", (error) => {
  console.error(`refused: ${error.message}`);
  process.exit(1);
});
client.on("connect", async () => {
  console.log("connected");
  await client.publishAsync("nkey/example", "hello", { qos: 1 });
  console.log("published");
  client.end();
});
client.connect();
