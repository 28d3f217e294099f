//! The public key in a PEM file (RFC 5280, SubjectPublicKeyInfo), as far as keys are needed that sign JWTs.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

const RSA: &[u8] = &[0x2A, 0x86, 0x48, 0x86, 0xF7, 0x0D, 0x01, 0x01, 0x01];
const EC: &[u8] = &[0x2A, 0x86, 0x48, 0xCE, 0x3D, 0x02, 0x01];
const P256: &[u8] = &[0x2A, 0x86, 0x48, 0xCE, 0x3D, 0x03, 0x01, 0x07];
const P384: &[u8] = &[0x2B, 0x81, 0x04, 0x00, 0x22];
const ED25519: &[u8] = &[0x2B, 0x65, 0x70];

const INTEGER: u8 = 0x02;
const BIT_STRING: u8 = 0x03;
const OBJECT: u8 = 0x06;
const SEQUENCE: u8 = 0x30;

/// A public key.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum PublicKey {
    Rsa { modulus: Vec<u8>, exponent: Vec<u8> },
    P256(Vec<u8>),
    P384(Vec<u8>),
    Ed25519(Vec<u8>),
}

/// The one public key in the text of a PEM file.
pub(super) fn public_key(pem: &str) -> Option<PublicKey> {
    let (_, rest) = pem.split_once("-----BEGIN PUBLIC KEY-----")?;
    let (body, rest) = rest.split_once("-----END PUBLIC KEY-----")?;
    if rest.contains("-----BEGIN") {
        return None;
    }
    let body: String = body.split_whitespace().collect();
    let der = STANDARD.decode(body).ok()?;
    let (mut info, end) = take(&der, SEQUENCE)?;
    let mut algorithm = next(&mut info, SEQUENCE)?;
    let bits = next(&mut info, BIT_STRING)?;
    // No bits are unused in whole bytes.
    let key = bits.strip_prefix(&[0])?;
    let kind = next(&mut algorithm, OBJECT)?;
    if !end.is_empty() || !info.is_empty() {
        return None;
    }
    match kind {
        RSA => rsa(key),
        ED25519 => Some(PublicKey::Ed25519(key.to_vec())),
        EC => match next(&mut algorithm, OBJECT)? {
            P256 => Some(PublicKey::P256(key.to_vec())),
            P384 => Some(PublicKey::P384(key.to_vec())),
            _ => None,
        },
        _ => None,
    }
}

fn rsa(key: &[u8]) -> Option<PublicKey> {
    let (mut numbers, end) = take(key, SEQUENCE)?;
    let mut number = || Some(unsigned(next(&mut numbers, INTEGER)?).to_vec());
    let (modulus, exponent) = (number()?, number()?);
    end.is_empty().then_some(PublicKey::Rsa { modulus, exponent })
}

/// Without zeros in front.
pub(super) fn unsigned(number: &[u8]) -> &[u8] {
    let zeros = number.iter().take_while(|byte| **byte == 0).count();
    number.get(zeros..).unwrap_or_default()
}

fn next<'a>(rest: &mut &'a [u8], tag: u8) -> Option<&'a [u8]> {
    let (value, after) = take(rest, tag)?;
    *rest = after;
    Some(value)
}

/// The value of the first element, which has this tag, and what is behind it.
fn take(bytes: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (&found, rest) = bytes.split_first()?;
    let (&first, rest) = rest.split_first()?;
    let (length, rest) = match first {
        _ if first < 0x80 => (usize::from(first), rest),
        // Keys of 65,535 bytes are large enough.
        0x81 => (usize::from(*rest.first()?), rest.get(1..)?),
        0x82 => (usize::from(u16::from_be_bytes([*rest.first()?, *rest.get(1)?])), rest.get(2..)?),
        _ => return None,
    };
    (found == tag).then_some(())?;
    rest.split_at_checked(length)
}

#[cfg(test)]
mod tests {
    use super::{PublicKey, public_key};

    /// By `openssl genpkey` and `openssl pkey -pubout`.
    const ED: &str = "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=\n-----END PUBLIC KEY-----\n";

    const EC: &str = "-----BEGIN PUBLIC KEY-----\nMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEDa8i55bpaKVcQjTKiqkNG3I66iHa\nPEixuQ12Exfy27nPjl0KXuDl4Qm7EHRi8ouVE8tA7A5cxwSrDKOac4psgQ==\n-----END PUBLIC KEY-----\n";

    #[test]
    fn the_key_of_a_file() {
        let Some(PublicKey::P256(point)) = public_key(EC) else { panic!("a key") };
        assert_eq!((point.len(), point[0]), (65, 4));
        let Some(PublicKey::Ed25519(key)) = public_key(ED) else { panic!("a key") };
        assert_eq!((key.len(), key[0], key[31]), (32, 0x19, 0xE1));
    }

    #[test]
    fn what_is_cut_or_changed_or_twice_is_none() {
        assert_eq!(public_key(&format!("{ED}{ED}")), None);
        assert_eq!(public_key("-----BEGIN PUBLIC KEY-----\n-----END PUBLIC KEY-----"), None);
        let body = ED.lines().nth(1).unwrap();
        for length in 0..body.len() {
            let text = ED.replace(body, &body[..length]);
            assert_eq!(public_key(&text), None, "{length}");
        }
        assert_eq!(public_key(&ED.replace("MCow", "MCkw")), None);
        assert_eq!(public_key(&ED.replace("PUBLIC KEY", "CERTIFICATE")), None);
    }
}
