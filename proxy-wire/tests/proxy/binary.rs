//! Version 2.

use proxy_wire::{ClientTls, Decoded, HEADER_MAX, Header, HeaderError, decode};

use crate::written::{ADDRESSES, SIGNATURE, TCP4, header, ssl, tlv};

fn whole(bytes: &[u8]) -> Header {
    match decode(bytes) {
        Ok(Decoded::Whole(header, len)) if len == bytes.len() => header,
        other => panic!("{other:?} of {bytes:02X?}"),
    }
}

fn source(bytes: &[u8]) -> Option<String> {
    whole(bytes).source.map(|addr| addr.to_string())
}

#[test]
fn addresses_of_every_family() {
    let six: Vec<u8> = (0..36).collect();
    let of_client = Some("192.0.2.7:50112".to_owned());
    let of_six = Some("[1:203:405:607:809:a0b:c0d:e0f]:8225".to_owned());
    for (about, addresses, expected) in [
        (TCP4, &ADDRESSES[..], of_client.clone()),
        ([0x21, 0x12], &ADDRESSES[..], of_client),
        ([0x21, 0x21], &six, of_six.clone()),
        ([0x21, 0x22], &six, of_six),
        ([0x21, 0x31], &[b'/'; 216], None),
        ([0x21, 0x32], &[0; 216], None),
        ([0x21, 0x00], &[], None),
    ] {
        assert_eq!(source(&header(about, &[addresses])), expected, "{about:02X?}");
        assert!(!whole(&header(about, &[addresses, &tlv(0x04, b"")])).is_local);
        if !addresses.is_empty() {
            let short = header(about, &[&addresses[1..]]);
            assert!(matches!(decode(&short), Err(HeaderError::Malformed(_))), "{about:02X?}");
        }
    }
}

#[test]
fn of_its_own_connection_a_proxy_says_nothing_else() {
    let local = Header { is_local: true, ..Header::default() };
    for about in [[0x20, 0x00], [0x20, 0x11], [0x20, 0xFF]] {
        for behind in [&[][..], &ADDRESSES[..], &[0xFF; 3]] {
            assert_eq!(whole(&header(about, &[behind])), local, "{about:02X?} {behind:02X?}");
        }
    }
}

#[test]
fn versions_commands_and_families_that_there_are_not() {
    for about in [[0x22, 0x11], [0x2F, 0x11], [0x11, 0x11], [0x31, 0x11], [0x21, 0x13], [0x21, 0x10], [0x21, 0x41]] {
        let bytes = header(about, &[&ADDRESSES]);
        assert!(matches!(decode(&bytes), Err(HeaderError::Malformed(_))), "{about:02X?}");
    }
    assert!(matches!(decode(&[SIGNATURE, &[0x22]].concat()), Err(HeaderError::Malformed(_))), "before it is whole");
}

#[test]
fn a_length_that_is_too_large_is_refused_before_anything_is_buffered() {
    let of_length = |len: usize| [SIGNATURE, &TCP4, &u16::try_from(len).unwrap().to_be_bytes()].concat();
    for about in [TCP4, [0x20, 0]] {
        let begun = [SIGNATURE, &about, &[0xFF, 0xFF]].concat();
        assert_eq!(decode(&begun), Err(HeaderError::TooLong));
    }
    assert_eq!(decode(&of_length(HEADER_MAX - 15)), Err(HeaderError::TooLong));
    assert_eq!(decode(&of_length(HEADER_MAX - 16)), Ok(Decoded::Part(HEADER_MAX - 16)));
    let room = HEADER_MAX - 16 - ADDRESSES.len() - 3;
    assert_eq!(source(&header(TCP4, &[&ADDRESSES, &tlv(0x04, &vec![0; room])])).as_deref(), Some("192.0.2.7:50112"));
}

#[test]
fn a_certificate_counts_when_it_was_shown_and_verified() {
    let cn = tlv(0x22, b"lamp");
    for (client, verify, is_verified) in [
        (0x07, 0, true),
        (0x03, 0, true),
        (0x05, 0, true),
        (0x01, 0, false),
        (0x03, 10, false),
        (0x07, 1 << 24, false),
        (0xF9, 0, false),
    ] {
        let bytes = header(TCP4, &[&ADDRESSES, &ssl(client, verify, &[tlv(0x21, b"TLSv1.3"), cn.clone()])]);
        let tls = ClientTls { is_verified, common_name: Some("lamp".to_owned()) };
        assert_eq!(whole(&bytes).tls, Some(tls), "{client:02X} {verify}");
    }
    // Without PP2_CLIENT_SSL there is no TLS, whatever is said besides.
    assert_eq!(whole(&header(TCP4, &[&ADDRESSES, &ssl(0x06, 0, &[cn])])).tls, None);
}

#[test]
fn what_is_no_name_names_nobody() {
    let named = |cn: &[u8]| {
        let bytes = header(TCP4, &[&ADDRESSES, &ssl(0x07, 0, &[tlv(0x22, cn)])]);
        whole(&bytes).tls.unwrap().common_name
    };
    assert_eq!(named("L\u{e4}mp 1".as_bytes()).as_deref(), Some("L\u{e4}mp 1"));
    for cn in [&b""[..], b"lamp\0", b"lamp\n", b"\xFF", "lamp\u{85}".as_bytes()] {
        assert_eq!(named(cn), None, "{cn:02X?}");
    }
}

#[test]
fn the_host_that_was_asked_for() {
    let of = |value: &[u8]| decode(&header(TCP4, &[&ADDRESSES, &tlv(0x02, value)]));
    let bytes = header(TCP4, &[&ADDRESSES, &tlv(0x02, b"t2.example")]);
    assert_eq!(whole(&bytes).authority.as_deref(), Some("t2.example"));
    for value in [&b""[..], &[b'a'; 256], b"\xFF"] {
        assert!(matches!(of(value), Err(HeaderError::Malformed(_))), "{value:02X?}");
    }
}

#[test]
fn what_means_nothing_here_is_skipped() {
    let skipped = [tlv(0x01, b"mqtt"), tlv(0x04, &[0; 9]), tlv(0x05, b"id"), tlv(0x30, b"ns"), tlv(0xEA, b"vpce-1")];
    assert_eq!(whole(&header(TCP4, &[&ADDRESSES, &skipped.concat()])), whole(&header(TCP4, &[&ADDRESSES])));
}

#[test]
fn what_can_be_read_in_two_ways_is_refused() {
    let (host, tls, cn) = (tlv(0x02, b"a"), ssl(0x07, 0, &[]), tlv(0x22, b"lamp"));
    for more in [
        [host.clone(), host].concat(),
        [tls.clone(), tls].concat(),
        ssl(0x07, 0, &[cn.clone(), cn]),
        ssl(0x07, 0, &[vec![0x22, 0, 9]]),
        tlv(0x20, &[7, 0, 0, 0]),
        tlv(0x03, &[0; 3]),
        vec![0x04],
        vec![0x04, 0, 1],
        [tlv(0x04, b""), vec![0]].concat(),
    ] {
        let bytes = header(TCP4, &[&ADDRESSES, &more]);
        assert!(matches!(decode(&bytes), Err(HeaderError::Malformed(_))), "{more:02X?}");
    }
}

#[test]
fn a_checksum_is_looked_at() {
    let mut bytes = header(TCP4, &[&ADDRESSES, &tlv(0x03, &[0; 4]), &tlv(0x02, b"t2.example")]);
    let at = 16 + ADDRESSES.len() + 3;
    let sum = crc_bit_by_bit(&bytes);
    bytes[at..at + 4].copy_from_slice(&sum.to_be_bytes());
    assert_eq!(whole(&bytes).authority.as_deref(), Some("t2.example"));
    for at in 16..bytes.len() {
        let mut damaged = bytes.clone();
        damaged[at] ^= 0x01;
        assert!(decode(&damaged).is_err(), "byte {at}");
    }
    let twice = header(TCP4, &[&ADDRESSES, &tlv(0x03, &[0; 4]), &tlv(0x03, &[0; 4])]);
    assert!(decode(&twice).is_err());
}

/// Without a table, as the definition has it.
fn crc_bit_by_bit(bytes: &[u8]) -> u32 {
    let mut crc = !0_u32;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = crc >> 1 ^ if crc & 1 == 1 { 0x82F6_3B78 } else { 0 };
        }
    }
    !crc
}
