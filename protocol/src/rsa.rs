//! RSA keys, as organizations with stock vantage6 clients have them (contract A.9.2).
//!
//! Such a key receives payloads in vantage6's envelope and does nothing else: it signs no task, certifies no node, and
//! seals nothing that its receiver could tell from a forgery.

use std::fmt;
use std::sync::Arc;

use ed25519_dalek::pkcs8::spki::der::asn1::UintRef;
use ed25519_dalek::pkcs8::spki::der::{Decode as _, Reader as _, SliceReader};
use ed25519_dalek::pkcs8::spki::{ObjectIdentifier, SubjectPublicKeyInfoRef};

use crate::digest::fingerprint;
use crate::key::error::KeyError;

/// The object identifier of RSA keys (RFC 8017 A.1).
pub(crate) const RSA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.1");
/// The sizes of keys in bits that are worked with: shorter ones are no protection, longer ones no library's (NIST SP
/// 800-57 part 1 §5.6.2 holds 2048 for the least).
const BITS: std::ops::RangeInclusive<usize> = 2048..=8192;

/// An organization's RSA public key, with the text it came in.
///
/// Two are the same key whatever their texts; what stock clients compare are the texts, so these are kept byte for byte.
#[derive(Clone)]
pub struct RsaPublicKey {
    pem: Arc<str>,
    der: Arc<[u8]>,
}

impl RsaPublicKey {
    /// Takes a text and the SubjectPublicKeyInfo in it.
    pub(crate) fn new(pem: &str, der: &[u8], info: &SubjectPublicKeyInfoRef<'_>) -> Result<Self, KeyError> {
        let bits = info.subject_public_key.as_bytes().and_then(modulus_bits).ok_or(KeyError::Rsa)?;
        if !BITS.contains(&bits) {
            return Err(KeyError::Rsa);
        }
        Ok(Self { pem: pem.into(), der: der.into() })
    }

    /// The SubjectPublicKeyInfo PEM, byte for byte as it was read.
    #[must_use]
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// The SubjectPublicKeyInfo (RFC 5280 §4.1).
    #[must_use]
    pub fn der(&self) -> &[u8] {
        &self.der
    }

    /// What people compare by eye or voice: the SHA-256 of the SubjectPublicKeyInfo, its first 16 bytes in groups.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        fingerprint(&self.der)
    }
}

impl PartialEq for RsaPublicKey {
    fn eq(&self, other: &Self) -> bool {
        self.der == other.der
    }
}

impl Eq for RsaPublicKey {}

impl fmt::Debug for RsaPublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RsaPublicKey({})", self.fingerprint())
    }
}

/// The length of the modulus of an RSAPublicKey (RFC 8017 A.1.1) whose exponent is fit for use.
fn modulus_bits(key: &[u8]) -> Option<usize> {
    let mut reader = SliceReader::new(key).ok()?;
    let (modulus, exponent) = reader
        .sequence(|reader| {
            Ok::<_, ed25519_dalek::pkcs8::spki::der::Error>((UintRef::decode(reader)?, UintRef::decode(reader)?))
        })
        .ok()?;
    reader.finish().ok()?;
    let exponent_is_odd = exponent.as_bytes().last().is_some_and(|last| last % 2 == 1);
    let is_one = exponent.as_bytes() == [1];
    let (first, rest) = modulus.as_bytes().split_first()?;
    let bits = rest.len() * 8 + usize::try_from(u8::BITS - first.leading_zeros()).ok()?;
    (exponent_is_odd && !is_one).then_some(bits)
}

#[cfg(feature = "open")]
pub use private::RsaKey;

#[cfg(feature = "open")]
mod private {
    use std::fmt;
    use std::sync::Arc;

    use aws_lc_rs::encoding::{AsDer as _, PublicKeyX509Der};
    use aws_lc_rs::rsa::{Pkcs1PrivateDecryptingKey, PrivateDecryptingKey};
    use ed25519_dalek::pkcs8::spki::AlgorithmIdentifier;
    use ed25519_dalek::pkcs8::spki::der::asn1::{AnyRef, OctetStringRef};
    use ed25519_dalek::pkcs8::spki::der::pem::LineEnding;
    use ed25519_dalek::pkcs8::{Document, PrivateKeyInfoRef, SecretDocument};
    use sha2::{Digest as _, Sha256};
    use zeroize::Zeroizing;

    use super::{KeyError, RSA, RsaPublicKey, SubjectPublicKeyInfoRef};

    /// An organization's RSA private key. Its `Debug` shows nothing of it.
    #[derive(Clone)]
    pub struct RsaKey(Arc<Inner>);

    struct Inner {
        key: Pkcs1PrivateDecryptingKey,
        public: RsaPublicKey,
        /// From which the keys follow that stand for those that cannot be opened.
        rejection: Zeroizing<[u8; 32]>,
    }

    impl RsaKey {
        /// Takes an RSAPrivateKey (RFC 8017 A.1.2).
        pub(crate) fn from_pkcs1(der: &[u8]) -> Result<Self, KeyError> {
            let algorithm = AlgorithmIdentifier { oid: RSA, parameters: Some(AnyRef::NULL) };
            let key = OctetStringRef::new(der).map_err(|_| KeyError::Rsa)?;
            let info = PrivateKeyInfoRef::new(algorithm, key);
            let wrapped = SecretDocument::encode_msg(&info).map_err(|_| KeyError::Rsa)?;
            Self::from_pkcs8(wrapped.as_bytes())
        }

        /// Takes a PrivateKeyInfo (RFC 5208 §5).
        pub(crate) fn from_pkcs8(der: &[u8]) -> Result<Self, KeyError> {
            let key = PrivateDecryptingKey::from_pkcs8(der).map_err(|_| KeyError::Rsa)?;
            let public: PublicKeyX509Der<'_> = key.public_key().as_der().map_err(|_| KeyError::Rsa)?;
            let public = Document::try_from(public.as_ref()).map_err(|_| KeyError::Rsa)?;
            // Python's `cryptography`, with which stock clients write theirs, makes the same bytes.
            let pem = public.to_pem("PUBLIC KEY", LineEnding::LF).map_err(|_| KeyError::Rsa)?;
            let info = SubjectPublicKeyInfoRef::try_from(public.as_bytes()).map_err(|_| KeyError::Rsa)?;
            let public = RsaPublicKey::new(&pem, public.as_bytes(), &info)?;
            let mut rejection = Sha256::new();
            rejection.update(b"twinmesh/envelope/rejection/1\0");
            rejection.update(der);
            let rejection = Zeroizing::new(rejection.finalize().into());
            let key = Pkcs1PrivateDecryptingKey::new(key).map_err(|_| KeyError::Rsa)?;
            Ok(Self(Arc::new(Inner { key, public, rejection })))
        }

        /// The public half.
        #[must_use]
        pub fn public(&self) -> &RsaPublicKey {
            &self.0.public
        }

        /// What was encrypted to this key by RSAES-PKCS1-v1_5 (RFC 8017 §7.2).
        pub(crate) fn decrypt(&self, ciphertext: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
            let key = &self.0.key;
            if ciphertext.len() != key.key_size_bytes() {
                return None;
            }
            let mut buffer = Zeroizing::new(vec![0; key.min_output_size()]);
            let length = key.decrypt(ciphertext, &mut buffer).ok()?.len();
            buffer.truncate(length);
            Some(buffer)
        }

        /// A key that nobody else can foretell, always the same for the same ciphertext.
        pub(crate) fn rejection(&self, ciphertext: &[u8]) -> Zeroizing<[u8; 32]> {
            let mut hash = Sha256::new();
            hash.update(*self.0.rejection);
            hash.update(ciphertext);
            Zeroizing::new(hash.finalize().into())
        }
    }

    impl fmt::Debug for RsaKey {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("RsaKey([redacted])")
        }
    }
}
