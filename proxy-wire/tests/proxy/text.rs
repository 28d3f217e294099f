//! Version 1.

use proxy_wire::{Decoded, Header, HeaderError, decode};

fn from(addr: &str) -> Header {
    Header { source: Some(addr.parse().unwrap()), ..Header::default() }
}

#[test]
fn lines_that_proxies_write() {
    for (line, expected) in [
        ("PROXY TCP4 192.0.2.7 198.51.100.1 50112 8883\r\n", from("192.0.2.7:50112")),
        ("PROXY TCP4 1.1.1.1 1.1.1.1 1 1\r\n", from("1.1.1.1:1")),
        ("PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n", from("255.255.255.255:65535")),
        ("PROXY TCP6 2001:db8::7 2001:db8::1 0 8883\r\n", from("[2001:db8::7]:0")),
        ("PROXY TCP6 :: :: 1 1\r\n", from("[::]:1")),
        (
            "PROXY TCP6 ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff 65535 65535\r\n",
            from("[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535"),
        ),
        ("PROXY UNKNOWN\r\n", Header::default()),
        ("PROXY UNKNOWN ffff::1 what ever 65535 stands \x01 here\r\n", Header::default()),
    ] {
        for behind in ["", "\x10\x0C\r\n", "PROXY UNKNOWN\r\n"] {
            let bytes = [line, behind].concat();
            assert_eq!(decode(bytes.as_bytes()), Ok(Decoded::Whole(expected.clone(), line.len())), "{line:?}");
        }
    }
}

#[test]
fn lines_that_are_wrong() {
    for line in [
        "PROXY \r\n",
        "PROXY TCP4\r\n",
        "PROXY TCP5 192.0.2.7 198.51.100.1 50112 8883\r\n",
        "PROXY UNKNOWNS\r\n",
        "PROXY tcp4 192.0.2.7 198.51.100.1 50112 8883\r\n",
        "PROXY TCP4 192.0.2.7 198.51.100.1 50112\r\n",
        "PROXY TCP4 192.0.2.7 198.51.100.1 50112 8883 \r\n",
        "PROXY TCP4  192.0.2.7 198.51.100.1 50112 8883\r\n",
        "PROXY TCP4 192.0.2.7 198.51.100.1 50112 8883\n\r\n",
        "PROXY TCP4 192.0.2.07 198.51.100.1 50112 8883\r\n",
        "PROXY TCP4 192.0.2.7 198.51.100.256 50112 8883\r\n",
        "PROXY TCP4 192.0.2.7 198.51.100.1 050112 8883\r\n",
        "PROXY TCP4 192.0.2.7 198.51.100.1 +5011 8883\r\n",
        "PROXY TCP4 192.0.2.7 198.51.100.1 50112 65536\r\n",
        "PROXY TCP4 192.0.2.7 198.51.100.1 -1 8883\r\n",
        "PROXY TCP4 192.0.2.7 198.51.100.1  8883\r\n",
        "PROXY TCP4 2001:db8::7 2001:db8::1 1 1\r\n",
        "PROXY TCP6 192.0.2.7 198.51.100.1 1 1\r\n",
        "PROXY TCP6 [::1] ::1 1 1\r\n",
        "PROXY TCP6 fe80::1%eth0 ::1 1 1\r\n",
    ] {
        assert!(matches!(decode(line.as_bytes()), Err(HeaderError::Malformed(_))), "{line:?}");
    }
    assert!(matches!(decode(b"PROXY TCP4 \xFF\r\n"), Err(HeaderError::Malformed(_))));
}

#[test]
fn a_line_ends_in_time() {
    let line = |len: usize| format!("PROXY UNKNOWN{}", " ".repeat(len - 15));
    let whole = format!("{}\r\n", line(107));
    assert_eq!(decode(whole.as_bytes()), Ok(Decoded::Whole(Header::default(), 107)));
    for wrong in [format!("{}\r\n", line(108)), format!("{}\r", line(108)), "PROXY UNKNOWN\n".repeat(8)] {
        assert_eq!(decode(wrong.as_bytes()), Err(HeaderError::TooLong), "{wrong:?}");
    }
}

#[test]
fn what_is_no_header_is_known_by_its_first_wrong_byte() {
    for bytes in ["G", "\x16\x03\x01", "\x10", "PROXX", "proxy", "PROXY\t", "\r\nPROXY", "\r\n\r\n\0\r\nQUIT\r"] {
        assert_eq!(decode(bytes.as_bytes()), Err(HeaderError::Absent), "{bytes:?}");
    }
    for bytes in ["", "P", "PROXY", "\r", "\r\n\r\n\0\r\nQUI"] {
        assert!(matches!(decode(bytes.as_bytes()), Ok(Decoded::Part(1..))), "{bytes:?}");
    }
}
