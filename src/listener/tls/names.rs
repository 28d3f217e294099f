//! Whom a client certificate names, read out of one that was verified.

use std::fmt::Write as _;

use mqtt_access::{Certificate, CertificateIdentity};
use tokio_rustls::rustls::pki_types::CertificateDer;
use x509_cert::attr::AttributeTypeAndValue;
use x509_cert::der::asn1::{Any, ObjectIdentifier};
use x509_cert::der::{Decode, Encode, Tag, TagNumber, Tagged};
use x509_cert::name::Name;

const COMMON_NAME: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.4.3");
const SUBJECT_ALT_NAME: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.17");

/// Attributes of a subject, as openssl writes them with `-nameopt RFC2253`; others are written as numbers.
const ATTRIBUTES: [(&str, ObjectIdentifier); 20] = [
    ("CN", COMMON_NAME),
    ("SN", ObjectIdentifier::new_unwrap("2.5.4.4")),
    ("serialNumber", ObjectIdentifier::new_unwrap("2.5.4.5")),
    ("C", ObjectIdentifier::new_unwrap("2.5.4.6")),
    ("L", ObjectIdentifier::new_unwrap("2.5.4.7")),
    ("ST", ObjectIdentifier::new_unwrap("2.5.4.8")),
    ("street", ObjectIdentifier::new_unwrap("2.5.4.9")),
    ("O", ObjectIdentifier::new_unwrap("2.5.4.10")),
    ("OU", ObjectIdentifier::new_unwrap("2.5.4.11")),
    ("title", ObjectIdentifier::new_unwrap("2.5.4.12")),
    ("description", ObjectIdentifier::new_unwrap("2.5.4.13")),
    ("postalCode", ObjectIdentifier::new_unwrap("2.5.4.17")),
    ("name", ObjectIdentifier::new_unwrap("2.5.4.41")),
    ("GN", ObjectIdentifier::new_unwrap("2.5.4.42")),
    ("initials", ObjectIdentifier::new_unwrap("2.5.4.43")),
    ("dnQualifier", ObjectIdentifier::new_unwrap("2.5.4.46")),
    ("pseudonym", ObjectIdentifier::new_unwrap("2.5.4.65")),
    ("UID", ObjectIdentifier::new_unwrap("0.9.2342.19200300.100.1.1")),
    ("DC", ObjectIdentifier::new_unwrap("0.9.2342.19200300.100.1.25")),
    ("emailAddress", ObjectIdentifier::new_unwrap("1.2.840.113549.1.9.1")),
];

/// Its identities. `None`: it cannot be read.
pub(super) fn named_by(der: &CertificateDer<'_>) -> Option<Certificate> {
    let certificate = x509_cert::Certificate::from_der(der).ok()?.tbs_certificate;
    let mut identities = Vec::new();
    for extension in certificate.extensions.iter().flatten().filter(|one| one.extn_id == SUBJECT_ALT_NAME) {
        let names = Vec::<Any>::from_der(extension.extn_value.as_bytes()).ok()?;
        identities.extend(names.iter().filter_map(alternative));
    }
    let subject = subject(&certificate.subject);
    if !subject.is_empty() {
        identities.push(CertificateIdentity::Subject(subject));
    }
    identities.extend(common_name(&certificate.subject).map(CertificateIdentity::CommonName));
    Some(Certificate::new(identities))
}

/// One of the Subject Alternative Names. Other kinds, and what is no visible ASCII, name nobody.
fn alternative(name: &Any) -> Option<CertificateIdentity> {
    let Tag::ContextSpecific { constructed: false, number } = name.tag() else { return None };
    let text = std::str::from_utf8(name.value()).ok()?;
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return None;
    }
    match number {
        TagNumber::N1 => Some(CertificateIdentity::Email(text.to_owned())),
        TagNumber::N2 => Some(CertificateIdentity::dns(text)),
        TagNumber::N6 => Some(CertificateIdentity::Uri(text.to_owned())),
        _ => None,
    }
}

/// The one that is most specific.
fn common_name(subject: &Name) -> Option<String> {
    let mut all = subject.0.iter().rev().flat_map(|names| names.0.iter());
    all.find(|one| one.oid == COMMON_NAME).and_then(|one| text_of(&one.value)).filter(|name| !name.is_empty())
}

/// As RFC 2253 writes it, the most specific first.
fn subject(subject: &Name) -> String {
    let mut out = String::new();
    for names in subject.0.iter().rev() {
        for (index, one) in names.0.iter().collect::<Vec<_>>().into_iter().rev().enumerate() {
            if !out.is_empty() {
                out.push(if index == 0 { ',' } else { '+' });
            }
            write_attribute(&mut out, one);
        }
    }
    out
}

fn write_attribute(out: &mut String, one: &AttributeTypeAndValue) {
    let known = ATTRIBUTES.iter().find(|(_, oid)| *oid == one.oid);
    match (known, text_of(&one.value)) {
        (Some((name, _)), Some(text)) => {
            let _ = write!(out, "{name}=");
            write_escaped(out, &text);
        }
        _ => {
            let name = known.map_or_else(|| one.oid.to_string(), |(name, _)| (*name).to_owned());
            let _ = write!(out, "{name}=#");
            one.value.to_der().unwrap_or_default().iter().for_each(|byte| {
                let _ = write!(out, "{byte:02X}");
            });
        }
    }
}

fn write_escaped(out: &mut String, text: &str) {
    let last = text.len().saturating_sub(1);
    for (index, byte) in text.bytes().enumerate() {
        let is_at_the_edge = (byte == b' ' && (index == 0 || index == last)) || (byte == b'#' && index == 0);
        match byte {
            b',' | b'+' | b'"' | b'\\' | b'<' | b'>' | b';' => out.extend(['\\', char::from(byte)]),
            b' '..=b'~' if is_at_the_edge => out.extend(['\\', char::from(byte)]),
            b' '..=b'~' => out.push(char::from(byte)),
            _ => {
                let _ = write!(out, "\\{byte:02X}");
            }
        }
    }
}

/// What is text, in whatever encoding.
fn text_of(value: &Any) -> Option<String> {
    let bytes = value.value();
    match value.tag() {
        Tag::Utf8String | Tag::PrintableString | Tag::Ia5String | Tag::NumericString | Tag::TeletexString => {
            std::str::from_utf8(bytes).ok().map(str::to_owned)
        }
        Tag::BmpString if bytes.len().is_multiple_of(2) => {
            let units: Vec<u16> = bytes.chunks_exact(2).map(|pair| u16::from_be_bytes([pair[0], pair[1]])).collect();
            String::from_utf16(&units).ok()
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{DnType, DnValue, SanType};
    use tokio_rustls::rustls::pki_types::pem::PemObject;

    use super::super::authority::Authority;
    use super::*;

    fn identities(change: impl FnOnce(&mut rcgen::CertificateParams)) -> Vec<String> {
        let issued = Authority::new("ours").issue_with(change);
        let der = CertificateDer::from_pem_slice(issued.cert.as_bytes()).unwrap();
        named_by(&der).unwrap().identities().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn names_come_in_the_order_of_their_kinds() {
        let named = identities(|params| {
            params.distinguished_name = rcgen::DistinguishedName::new();
            params.distinguished_name.push(DnType::CountryName, "DE");
            params.distinguished_name.push(DnType::OrganizationName, "A, B + C");
            params.distinguished_name.push(DnType::CommonName, "lamp-1");
            params.subject_alt_names = vec![
                SanType::URI("spiffe://x/lamp".try_into().unwrap()),
                SanType::IpAddress([192, 0, 2, 1].into()),
                SanType::DnsName("Lamp.Example".try_into().unwrap()),
                SanType::Rfc822Name("lamp@Example.org".try_into().unwrap()),
            ];
        });
        let expected = [
            "email:lamp@Example.org",
            "dns:lamp.example",
            "uri:spiffe://x/lamp",
            r"subject:CN=lamp-1,O=A\, B \+ C,C=DE",
            "cn:lamp-1",
        ];
        assert_eq!(named, expected);
    }

    #[test]
    fn a_subject_is_written_as_openssl_writes_it() {
        let named = identities(|params| {
            params.distinguished_name = rcgen::DistinguishedName::new();
            let device = DnType::CustomDnType(vec![1, 2, 3, 4]);
            params.distinguished_name.push(device, DnValue::Utf8String("x".to_owned()));
            params.distinguished_name.push(DnType::OrganizationalUnitName, " #1; ");
            params.distinguished_name.push(DnType::CommonName, DnValue::Utf8String("L\u{e4}mp".to_owned()));
        });
        assert_eq!(named, [r"subject:CN=L\C3\A4mp,OU=\ #1\;\ ,1.2.3.4=#0C0178", "cn:L\u{e4}mp"]);
    }

    #[test]
    fn what_is_no_name_names_nobody() {
        let named = identities(|params| {
            params.distinguished_name = rcgen::DistinguishedName::new();
            params.subject_alt_names = vec![
                SanType::DnsName("a b".try_into().unwrap()),
                SanType::Rfc822Name("a\0@example.org".try_into().unwrap()),
            ];
        });
        assert_eq!(named, [""; 0]);
        assert_eq!(named_by(&CertificateDer::from_slice(b"no certificate")), None);
    }
}
