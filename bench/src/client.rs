//! One MQTT connection, for what is done step by step; the loops under load take its parts.

use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::task::Poll;
use std::time::Duration;

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::encryption::{Encryption, Stream};
use crate::operator::Operator;
use crate::wire::{self, Accepted, Publish, Version};

/// How long an answer may take.
const ANSWER_MAX: Duration = Duration::from_secs(30);

/// Where to connect, and in which version.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Endpoint {
    pub(crate) address: SocketAddr,
    pub(crate) version: Version,
    /// Who makes the passwords that are asked for; as long as the program runs.
    pub(crate) operator: Option<&'static Operator>,
    /// Who the broker is, where it speaks TLS; as long as the program runs.
    pub(crate) encryption: Option<&'static Encryption>,
}

/// A packet that was received.
#[derive(Debug)]
pub(crate) struct Packet {
    pub(crate) first: u8,
    pub(crate) body: BytesMut,
}

/// A connection whose CONNECT was accepted.
#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) stream: Stream,
    pub(crate) input: BytesMut,
    pub(crate) output: BytesMut,
    pub(crate) version: Version,
    pub(crate) accepted: Accepted,
}

impl Client {
    pub(crate) async fn connect(endpoint: Endpoint, client_id: &str, is_clean: bool) -> Result<Self, String> {
        let Endpoint { address, version, operator, encryption } = endpoint;
        let password = operator.map(|operator| operator.password(client_id));
        let stream = TcpStream::connect(address).await.map_err(|e| format!("no connection: {e}"))?;
        stream.set_nodelay(true).map_err(|e| e.to_string())?;
        let stream = timeout(ANSWER_MAX, Stream::new(stream, encryption)).await;
        let stream = stream.map_err(|_| "no TLS".to_owned())?.map_err(|e| format!("no TLS: {e}"))?;
        let accepted = Accepted { is_session_present: false, code: 0, receive_max: u16::MAX };
        let (input, output) = (BytesMut::new(), BytesMut::new());
        let mut client = Self { stream, input, output, version, accepted };
        wire::put_connect(&mut client.output, version, client_id, is_clean, password);
        client.flush().await?;
        let packet = client.packet().await.map_err(|e| format!("CONNECT: {e}"))?;
        if packet.first >> 4 != wire::CONNACK {
            return Err(format!("CONNECT was answered with packet type {}", packet.first >> 4));
        }
        client.accepted = wire::connack_of(version, &packet.body).map_err(|e| e.to_string())?;
        match client.accepted.code {
            0 => Ok(client),
            code => Err(format!("CONNECT in version {version} was refused with code {code}")),
        }
    }

    /// Subscribes, and waits for SUBACK; what else comes meanwhile is passed over.
    pub(crate) async fn subscribe<S: AsRef<str>>(&mut self, filters: &[S], qos: u8) -> Result<(), String> {
        wire::put_subscribe(&mut self.output, self.version, filters, qos);
        self.flush().await?;
        loop {
            let packet = self.packet().await.map_err(|e| format!("SUBSCRIBE: {e}"))?;
            if packet.first >> 4 == wire::SUBACK {
                return match packet.body.last() {
                    Some(&code) if code < 0x80 => Ok(()),
                    Some(code) => Err(format!("SUBSCRIBE was refused with code {code:#x}")),
                    None => Err("SUBACK has no code".to_owned()),
                };
            }
        }
    }

    pub(crate) async fn flush(&mut self) -> Result<(), String> {
        let written = async {
            self.stream.write_all_buf(&mut self.output).await?;
            self.stream.flush().await
        };
        timeout(ANSWER_MAX, written).await.map_err(|_| "takes no bytes".to_owned())?.map_err(|e| e.to_string())
    }

    /// Writes what is there, or else reads what has come: whether any bytes have moved. Safe to drop and to call again.
    pub(crate) async fn move_bytes(&mut self) -> bool {
        let Self { stream, input, output, .. } = self;
        poll_fn(|cx| {
            if !output.is_empty()
                && let Poll::Ready(written) = Pin::new(&mut *stream).poll_write(cx, output)
            {
                let count = written.unwrap_or(0);
                output.advance(count);
                return Poll::Ready(count > 0);
            }
            // What TLS has taken may wait there. When it cannot go on, reading tells why.
            let _ = Pin::new(&mut *stream).poll_flush(cx);
            pin!(stream.read_buf(input)).poll(cx).map(|read| matches!(read, Ok(1..)))
        })
        .await
    }

    /// The next packet; waits for it for [`ANSWER_MAX`].
    pub(crate) async fn packet(&mut self) -> Result<Packet, String> {
        loop {
            if let Some(packet) = self.buffered()? {
                return Ok(packet);
            }
            let read = timeout(ANSWER_MAX, self.stream.read_buf(&mut self.input)).await;
            if read.map_err(|_| "no answer".to_owned())?.map_err(|e| e.to_string())? == 0 {
                return Err("the connection was closed".to_owned());
            }
        }
    }

    /// The next packet, when it is there already.
    pub(crate) fn buffered(&mut self) -> Result<Option<Packet>, String> {
        let Some(frame) = wire::frame(&self.input).map_err(|e| e.to_string())? else { return Ok(None) };
        let mut packet = self.input.split_to(frame.body.end);
        packet.advance(frame.body.start);
        Ok(Some(Packet { first: frame.first, body: packet }))
    }

    /// Says DISCONNECT and waits until the server has closed the connection: then the session is away, and it is the server
    /// that keeps the port for a while.
    pub(crate) async fn disconnect(mut self) -> Result<(), String> {
        wire::put_disconnect(&mut self.output);
        self.flush().await?;
        let closed = async {
            loop {
                self.input.clear();
                if matches!(self.stream.read_buf(&mut self.input).await, Ok(0) | Err(_)) {
                    return;
                }
            }
        };
        timeout(ANSWER_MAX, closed).await.map_err(|_| "does not close the connection after DISCONNECT".to_owned())
    }

    /// Publishes at QoS 1 with `in_flight` at a time, and waits until all is acknowledged. `next` writes topic and payload of the
    /// message with that number.
    pub(crate) async fn publish_all(
        &mut self,
        count: u64,
        in_flight: u64,
        retain: bool,
        mut next: impl FnMut(u64, &mut String, &mut Vec<u8>),
    ) -> Result<(), String> {
        let in_flight = in_flight.min(u64::from(self.accepted.receive_max));
        let (mut topic, mut payload) = (String::new(), Vec::new());
        let (mut sent, mut acknowledged) = (0, 0);
        while acknowledged < count {
            while sent < count && sent - acknowledged < in_flight {
                next(sent, &mut topic, &mut payload);
                let packet_id = (sent % 65_000 + 1) as u16;
                let publish = Publish { topic: &topic, qos: 1, packet_id, retain, payload: &payload };
                wire::put_publish(&mut self.output, self.version, &publish);
                sent += 1;
            }
            self.flush().await?;
            let mut packet = Some(self.packet().await.map_err(|e| format!("PUBLISH: {e}"))?);
            while let Some(answer) = packet {
                if answer.first >> 4 == wire::PUBACK {
                    match wire::acknowledgement_of(&answer.body).map_err(|e| e.to_string())? {
                        (_, code) if code >= 0x80 => return Err(format!("PUBLISH was refused with code {code:#x}")),
                        _ => acknowledged += 1,
                    }
                }
                packet = self.buffered()?;
            }
        }
        Ok(())
    }
}
