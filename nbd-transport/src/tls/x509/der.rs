//! As much of DER as it takes to say what kind of key there is.

use std::fmt;

/// A kind of key.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum KeyKind {
    Rsa { bits: usize },
    Curve(String),
    Other(String),
}

impl KeyKind {
    /// Whether a key of this kind may be used, as far as one can tell.
    pub(super) fn is_accepted(&self) -> bool {
        match self {
            Self::Rsa { bits } => (2048..=8192).contains(bits),
            // AWS-LC knows it, ring does not.
            Self::Curve(name) if name == "P-521" => cfg!(feature = "tls"),
            Self::Curve(name) => matches!(name.as_str(), "P-256" | "P-384"),
            Self::Other(name) => name == ED25519,
        }
    }
}

impl fmt::Display for KeyKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rsa { bits } => write!(f, "an RSA key of {bits} bits"),
            Self::Curve(name) => write!(f, "an elliptic curve key on the curve {name}"),
            Self::Other(name) => f.write_str(name),
        }
    }
}

const ED25519: &str = "an Ed25519 key";

/// A value: its tag, its content, and what follows it. Lengths beyond four bytes do not occur.
fn value(der: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&[tag, first], rest) = der.split_first_chunk()?;
    let (length, rest) = match first {
        0..=0x7F => (usize::from(first), rest),
        0x81..=0x84 => {
            let (digits, rest) = rest.split_at_checked(usize::from(first & 0x7F))?;
            (digits.iter().fold(0, |length, digit| length << 8 | usize::from(*digit)), rest)
        }
        // Without a length, which DER does not have, or longer than anything here.
        0x80 | 0x85.. => return None,
    };
    let (content, rest) = rest.split_at_checked(length)?;
    Some((tag, content, rest))
}

/// The content of a value that has this tag, and what follows it.
fn expect(tag: u8, der: &[u8]) -> Option<(&[u8], &[u8])> {
    value(der).filter(|(found, ..)| *found == tag).map(|(_, content, rest)| (content, rest))
}

const INTEGER: u8 = 0x02;
const BIT_STRING: u8 = 0x03;
const OCTET_STRING: u8 = 0x04;
const OBJECT_IDENTIFIER: u8 = 0x06;
const SEQUENCE: u8 = 0x30;
const CONTEXT_0: u8 = 0xA0;

/// What kind of key a `SubjectPublicKeyInfo` (RFC 5280, 4.1) has.
pub(super) fn public_key(spki: &[u8]) -> Option<KeyKind> {
    let (content, _) = expect(SEQUENCE, spki)?;
    let (algorithm, rest) = expect(SEQUENCE, content)?;
    let (bits, _) = expect(BIT_STRING, rest)?;
    let rsa = || {
        // Its first byte counts unused bits.
        let (key, _) = expect(SEQUENCE, bits.get(1..)?)?;
        expect(INTEGER, key).map(|(modulus, _)| modulus)
    };
    key(algorithm, rsa)
}

/// What kind of key a `PrivateKeyInfo` (RFC 5958), an `RSAPrivateKey` (RFC 8017) or an
/// `ECPrivateKey` (RFC 5915) is.
pub(super) fn private_key(der: &[u8]) -> Option<KeyKind> {
    let (content, _) = expect(SEQUENCE, der)?;
    let (_version, rest) = expect(INTEGER, content)?;
    match value(rest)? {
        (SEQUENCE, algorithm, rest) => key(algorithm, || {
            let (inner, _) = expect(OCTET_STRING, rest)?;
            modulus(expect(SEQUENCE, inner)?.0)
        }),
        (INTEGER, ..) => modulus(content).map(rsa_of),
        (OCTET_STRING, _, rest) => {
            let (parameters, _) = expect(CONTEXT_0, rest)?;
            expect(OBJECT_IDENTIFIER, parameters).map(|(curve, _)| elliptic(curve))
        }
        _ => None,
    }
}

fn modulus(rsa_private_key: &[u8]) -> Option<&[u8]> {
    let (_version, rest) = expect(INTEGER, rsa_private_key)?;
    expect(INTEGER, rest).map(|(modulus, _)| modulus)
}

fn key<'a>(algorithm: &[u8], modulus: impl FnOnce() -> Option<&'a [u8]>) -> Option<KeyKind> {
    let (oid, parameters) = expect(OBJECT_IDENTIFIER, algorithm)?;
    let name = match dotted(oid).as_str() {
        "1.2.840.113549.1.1.1" => return modulus().map(rsa_of),
        "1.2.840.10045.2.1" => return expect(OBJECT_IDENTIFIER, parameters).map(|c| elliptic(c.0)),
        "1.2.840.113549.1.1.10" => "an RSA-PSS key".to_owned(),
        "1.2.840.10040.4.1" => "a DSA key".to_owned(),
        "1.3.101.110" => "an X25519 key, which cannot sign".to_owned(),
        "1.3.101.112" => ED25519.to_owned(),
        "1.3.101.113" => "an Ed448 key".to_owned(),
        other => format!("a key for the algorithm {other}"),
    };
    Some(KeyKind::Other(name))
}

fn rsa_of(modulus: &[u8]) -> KeyKind {
    let zeros = modulus.iter().take_while(|byte| **byte == 0).count();
    let significant = &modulus[zeros..];
    let unused = significant.first().map_or(0, |byte| byte.leading_zeros() as usize);
    KeyKind::Rsa { bits: significant.len() * 8 - unused }
}

fn elliptic(curve: &[u8]) -> KeyKind {
    let dotted = dotted(curve);
    let name = match dotted.as_str() {
        "1.2.840.10045.3.1.1" => "P-192",
        "1.2.840.10045.3.1.7" => "P-256",
        "1.3.132.0.10" => "secp256k1",
        "1.3.132.0.33" => "P-224",
        "1.3.132.0.34" => "P-384",
        "1.3.132.0.35" => "P-521",
        other => other,
    };
    KeyKind::Curve(name.to_owned())
}

/// In words, an `AlgorithmIdentifier` of a signature, without its outermost header.
pub(super) fn signature_algorithm(identifier: &[u8]) -> Option<String> {
    let (oid, _) = expect(OBJECT_IDENTIFIER, identifier)?;
    let dotted = dotted(oid);
    let name = match dotted.as_str() {
        "1.2.840.113549.1.1.2" => "MD2",
        "1.2.840.113549.1.1.4" => "MD5",
        "1.2.840.113549.1.1.5" | "1.3.14.3.2.29" | "1.2.840.10045.4.1" | "1.2.840.10040.4.3" => {
            "SHA-1"
        }
        "1.2.840.113549.1.1.14" | "1.2.840.10045.4.3.1" => "SHA-224",
        "1.3.101.113" => "Ed448",
        other => return Some(format!("the algorithm {other}")),
    };
    Some(name.to_owned())
}

/// An object identifier as people write it.
fn dotted(oid: &[u8]) -> String {
    let mut numbers = Vec::new();
    let mut number = 0u64;
    for byte in oid {
        // Numbers that do not fit do not occur, and only a name would be wrong.
        number = number.wrapping_shl(7) | u64::from(byte & 0x7F);
        if byte & 0x80 == 0 {
            numbers.push(std::mem::take(&mut number));
        }
    }
    // The first two share a number (X.690, 8.19.4).
    let mut text = numbers.first().map_or_else(String::new, |first| {
        let root = (first / 40).min(2);
        format!("{root}.{}", first - 40 * root)
    });
    for number in numbers.iter().skip(1) {
        text.push_str(&format!(".{number}"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identifiers_are_dotted() {
        for (oid, text) in [
            (&[0x2A, 0x86, 0x48, 0x86, 0xF7, 0x0D, 1, 1, 5][..], "1.2.840.113549.1.1.5"),
            (&[0x2B, 101, 112], "1.3.101.112"),
            (&[0x60, 0x86, 0x48], "2.16.840"),
            (&[], ""),
        ] {
            assert_eq!(dotted(oid), text);
        }
    }

    #[test]
    fn bits_are_counted_from_the_first_that_is_set() {
        assert_eq!(rsa_of(&[0, 0x80, 0]), KeyKind::Rsa { bits: 16 });
        assert_eq!(rsa_of(&[0x01]), KeyKind::Rsa { bits: 1 });
        assert_eq!(rsa_of(&[0, 0]), KeyKind::Rsa { bits: 0 });
    }

    #[test]
    fn no_bytes_are_taken_for_more_than_they_are() {
        let key = rcgen::KeyPair::generate().unwrap();
        let der = key.serialize_der();
        assert_eq!(private_key(&der), Some(KeyKind::Curve("P-256".to_owned())));
        for cut in 0..der.len() {
            assert_eq!(private_key(&der[..cut]), None);
            let _ = public_key(&der[..cut]);
            let mut changed = der.clone();
            changed[cut] ^= 0xFF;
            let _ = private_key(&changed);
        }
    }
}
