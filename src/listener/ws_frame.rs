//! WebSocket frames [RFC 6455, 5.2] as bytes, the server's side: headers are read, masks taken off, frames written. No I/O.

/// Bytes of the longest header: two, eight of a length, four of a mask.
pub(super) const HEADER_MAX: usize = 14;

/// Bytes that a control frame can carry.
pub(super) const CONTROL_MAX: usize = 125;

/// Why a connection is closed by us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// It does not keep to RFC 6455.
    Protocol,
    /// A text frame [MQTT-6.0.0-1].
    Text,
}

impl Refusal {
    /// The status code of the Close frame.
    pub(super) const fn code(self) -> u16 {
        match self {
            Self::Protocol => 1002,
            Self::Text => 1003,
        }
    }

    pub(super) const fn reason(self) -> &'static str {
        match self {
            Self::Protocol => "this is not the WebSocket protocol",
            Self::Text => "MQTT travels in binary frames",
        }
    }
}

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Opcode {
    Continuation,
    Text,
    Binary,
    Close,
    Ping,
    Pong,
}

impl Opcode {
    const fn of(byte: u8) -> Option<Self> {
        Some(match byte & 0x0F {
            0x0 => Self::Continuation,
            0x1 => Self::Text,
            0x2 => Self::Binary,
            0x8 => Self::Close,
            0x9 => Self::Ping,
            0xA => Self::Pong,
            _ => return None,
        })
    }

    const fn byte(self) -> u8 {
        match self {
            Self::Continuation => 0x0,
            Self::Text => 0x1,
            Self::Binary => 0x2,
            Self::Close => 0x8,
            Self::Ping => 0x9,
            Self::Pong => 0xA,
        }
    }

    /// Whether it stands between the frames of a message and is whole.
    pub(super) const fn is_control(self) -> bool {
        self.byte() & 0x8 != 0
    }
}

/// The header of a frame of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) opcode: Opcode,
    /// The last frame of its message.
    pub(super) is_final: bool,
    pub(super) mask: Mask,
    /// Bytes of the payload.
    pub(super) payload_len: u64,
}

/// A mask, and how far it is in the payload.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Mask([u8; 4]);

impl Mask {
    /// Takes the mask off the next bytes of the payload.
    pub(super) fn remove(&mut self, bytes: &mut [u8]) {
        let word = u32::from_ne_bytes(self.0);
        let mut words = bytes.chunks_exact_mut(4);
        for chunk in &mut words {
            if let Ok(four) = <&mut [u8; 4]>::try_from(chunk) {
                *four = (u32::from_ne_bytes(*four) ^ word).to_ne_bytes();
            }
        }
        let rest = words.into_remainder();
        let count = rest.len();
        rest.iter_mut().zip(self.0).for_each(|(byte, mask)| *byte ^= mask);
        self.0.rotate_left(count);
    }
}

impl Header {
    /// The header at the beginning of `bytes` and how long it is; `None` when it is not complete.
    ///
    /// # Errors
    /// The client does not keep to the protocol.
    pub(super) fn read(bytes: &[u8]) -> Result<Option<(Self, usize)>, Refusal> {
        let [first, second, rest @ ..] = bytes else { return Ok(None) };
        let opcode = Opcode::of(*first).ok_or(Refusal::Protocol)?;
        let is_final = first & 0x80 != 0;
        // No extension gives a meaning to the reserved bits, and a client masks.
        if first & 0x70 != 0 || second & 0x80 == 0 {
            return Err(Refusal::Protocol);
        }
        let (payload_len, rest) = match second & 0x7F {
            126 => match rest.split_first_chunk() {
                Some((len, rest)) => (u64::from(u16::from_be_bytes(*len)), rest),
                None => return Ok(None),
            },
            127 => match rest.split_first_chunk() {
                Some((len, rest)) => (u64::from_be_bytes(*len), rest),
                None => return Ok(None),
            },
            len => (u64::from(len), rest),
        };
        if payload_len > i64::MAX as u64 || opcode.is_control() && (!is_final || payload_len > CONTROL_MAX as u64) {
            return Err(Refusal::Protocol);
        }
        let Some((mask, rest)) = rest.split_first_chunk() else { return Ok(None) };
        let header = Self { opcode, is_final, mask: Mask(*mask), payload_len };
        Ok(Some((header, bytes.len() - rest.len())))
    }
}

/// Room that [`write_header`] needs at most, for payloads of up to 65,535 bytes.
pub(super) const HEADER_OUT_MAX: usize = 4;

/// Writes the header of a whole frame of a server into the end of `room`; returns how much of its beginning is left over.
pub(super) fn write_header(opcode: Opcode, payload_len: u16, room: &mut [u8; HEADER_OUT_MAX]) -> usize {
    let first = 0x80 | opcode.byte();
    let [high, low] = payload_len.to_be_bytes();
    if payload_len < 126 {
        *room = [0, 0, first, low];
        2
    } else {
        *room = [first, 126, high, low];
        0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(opcode: Opcode, is_final: bool, payload_len: u64) -> Header {
        Header { opcode, is_final, mask: Mask([1, 2, 3, 4]), payload_len }
    }

    #[test]
    fn a_header_is_read_when_it_is_complete_and_not_before() {
        let cases: [(&[u8], Header); 5] = [
            (&[0x82, 0x85, 1, 2, 3, 4], header(Opcode::Binary, true, 5)),
            (&[0x02, 0xFE, 1, 0, 1, 2, 3, 4], header(Opcode::Binary, false, 256)),
            (&[0x80, 0xFF, 0, 0, 0, 1, 0, 0, 0, 0, 1, 2, 3, 4], header(Opcode::Continuation, true, 1 << 32)),
            (&[0x89, 0x80, 1, 2, 3, 4], header(Opcode::Ping, true, 0)),
            (&[0x88, 0xFD, 1, 2, 3, 4], header(Opcode::Close, true, 125)),
        ];
        for (bytes, expected) in cases {
            for len in 0..bytes.len() {
                assert_eq!(Header::read(&bytes[..len]), Ok(None), "{len} of {bytes:?}");
            }
            let more = [bytes, &[9; 3]].concat();
            assert_eq!(Header::read(&more), Ok(Some((expected, bytes.len()))));
            assert!(bytes.len() <= HEADER_MAX);
        }
    }

    #[test]
    fn what_breaks_the_protocol_is_refused() {
        let cases: [&[u8]; 7] = [
            &[0x82, 0x05, 0, 0],                            // not masked
            &[0xC2, 0x85, 0, 0],                            // a reserved bit
            &[0x83, 0x85, 0, 0],                            // no such frame
            &[0x09, 0x80, 0, 0],                            // a part of a ping
            &[0x89, 0xFE, 0, 126],                          // a long ping
            &[0x88, 0xFF, 0, 0, 0, 0, 0, 0, 0, 200],        // a longer Close
            &[0x82, 0xFF, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0], // a negative length
        ];
        for bytes in cases {
            assert_eq!(Header::read(bytes), Err(Refusal::Protocol), "{bytes:?}");
        }
    }

    #[test]
    fn a_mask_goes_on_where_the_last_piece_ended() {
        let masked: Vec<u8> = (0..100_u8).map(|at| at ^ [7, 77, 177, 27][usize::from(at) % 4]).collect();
        for size in 1..20 {
            let (mut mask, mut bytes) = (Mask([7, 77, 177, 27]), masked.clone());
            bytes.chunks_mut(size).for_each(|piece| mask.remove(piece));
            assert_eq!(bytes, (0..100_u8).collect::<Vec<u8>>(), "in pieces of {size}");
        }
    }

    #[test]
    fn a_header_of_ours_has_the_shortest_length() {
        let mut room = [0; HEADER_OUT_MAX];
        assert_eq!(write_header(Opcode::Binary, 125, &mut room), 2);
        assert_eq!(room[2..], [0x82, 125]);
        assert_eq!(write_header(Opcode::Binary, 126, &mut room), 0);
        assert_eq!(room, [0x82, 126, 0, 126]);
        assert_eq!(write_header(Opcode::Pong, 0, &mut room), 2);
        assert_eq!(room[2..], [0x8A, 0]);
    }
}
