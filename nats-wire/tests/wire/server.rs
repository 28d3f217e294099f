//! A server's side of the protocol, written apart from the crate, as second opinion.

use bytes::BytesMut;
use nats_wire::{Decoder, FrameError, HeaderLine, Limits, Message, ServerOp};

/// A message as a server sends it. With `headers`, it is an HMSG.
pub(crate) fn sent(subject: &[u8], sid: u64, reply: Option<&[u8]>, headers: Option<&[u8]>, payload: &[u8]) -> Vec<u8> {
    let mut out = if headers.is_some() { b"HMSG ".to_vec() } else { b"MSG ".to_vec() };
    out.extend_from_slice(subject);
    out.extend_from_slice(format!(" {sid} ").as_bytes());
    if let Some(reply) = reply {
        out.extend_from_slice(reply);
        out.push(b' ');
    }
    let block = headers.unwrap_or_default();
    if headers.is_some() {
        out.extend_from_slice(format!("{} ", block.len()).as_bytes());
    }
    out.extend_from_slice(format!("{}\r\n", block.len() + payload.len()).as_bytes());
    out.extend_from_slice(block);
    out.extend_from_slice(payload);
    out.extend_from_slice(b"\r\n");
    out
}

/// Everything that is decoded of bytes that come in pieces of these sizes, the last size again and again.
pub(crate) fn decoded(bytes: &[u8], sizes: &[usize], limits: Limits) -> Result<Vec<ServerOp>, FrameError> {
    let (mut decoder, mut buffer, mut out) = (Decoder::new(limits), BytesMut::new(), Vec::new());
    let (mut rest, mut sizes) = (bytes, sizes.iter().copied());
    let mut size = 1;
    while !rest.is_empty() {
        size = sizes.next().unwrap_or(size).max(1);
        let (piece, behind) = rest.split_at(size.min(rest.len()));
        buffer.extend_from_slice(piece);
        rest = behind;
        while let Some(op) = decoder.decode(&mut buffer)? {
            out.push(op);
        }
    }
    Ok(out)
}

/// The one message in it.
pub(crate) fn one(bytes: &[u8]) -> Message {
    match decoded(bytes, &[bytes.len()], Limits::default()).as_deref() {
        Ok([ServerOp::Message(message)]) => message.clone(),
        other => panic!("{other:?}"),
    }
}

/// The headers of a message, malformed lines left out.
pub(crate) fn headers(message: &Message) -> Vec<(Vec<u8>, Vec<u8>)> {
    let lines = message.headers().into_iter().flat_map(nats_wire::HeaderBlock::lines);
    lines
        .filter_map(|line| match line {
            HeaderLine::Header { name, value } => Some((name.to_vec(), value.to_vec())),
            HeaderLine::Malformed(_) => None,
        })
        .collect()
}

/// A publish as nats-server reads it: arguments end at the bytes that its `splitArg` knows, the length is the last one.
pub(crate) struct Published {
    pub(crate) arguments: Vec<Vec<u8>>,
    pub(crate) block: Vec<u8>,
    pub(crate) payload: Vec<u8>,
}

/// Reads one publish, which has to be all that there is.
pub(crate) fn published(bytes: &[u8]) -> Published {
    let end = bytes.windows(2).position(|pair| pair == b"\r\n").expect("a line");
    let (line, rest) = (&bytes[..end], &bytes[end + 2..]);
    let mut words = line.split(|byte| b" \t\r\n".contains(byte)).filter(|word| !word.is_empty());
    let has_headers = words.next() == Some(b"HPUB");
    let arguments: Vec<Vec<u8>> = words.map(<[u8]>::to_vec).collect();
    let number = |word: &[u8]| std::str::from_utf8(word).unwrap().parse::<usize>().unwrap();
    let total = number(&arguments[arguments.len() - 1]);
    let block = if has_headers { number(&arguments[arguments.len() - 2]) } else { 0 };
    assert_eq!(&rest[total..], b"\r\n", "the length is right");
    Published { arguments, block: rest[..block].to_vec(), payload: rest[block..total].to_vec() }
}
