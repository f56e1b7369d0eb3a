//! Organization keys.
//!
//! An organization has one Ed25519 key (RFC 8032). The X25519 key to which payloads are sealed is derived from it by
//! the standard birational map (RFC 7748 §4.1), so the public SubjectPublicKeyInfo PEM (RFC 8410) is all that others
//! need. An organization with stock vantage6 clients has an RSA key instead ([`crate::rsa`]), which receives payloads
//! and signs nothing. The two kinds are never taken for each other.

pub(crate) mod error;

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ed25519_dalek::VerifyingKey;
use ed25519_dalek::pkcs8::spki::der::pem::LineEnding;
use ed25519_dalek::pkcs8::spki::{EncodePublicKey as _, ObjectIdentifier, SubjectPublicKeyInfoRef};
use ed25519_dalek::pkcs8::{Document, spki};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

pub use self::error::KeyError;
use crate::digest::fingerprint;
use crate::rsa::{RSA, RsaPublicKey};

/// The object identifier of Ed25519 keys (RFC 8410 §3).
const ED25519: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.101.112");
/// Longer texts are no key: a private RSA key of 8192 bits has less than 7 KiB.
pub const MAX_PEM_BYTES: usize = 8192;

/// The public key of an organization, of either kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PublicKey {
    /// Ed25519: signs, and receives sealed payloads.
    Ed25519(OrganizationPublicKey),
    /// RSA: receives vantage6's envelope only (contract A.9.2).
    Rsa(RsaPublicKey),
}

impl PublicKey {
    /// Reads a SubjectPublicKeyInfo PEM ("BEGIN PUBLIC KEY").
    ///
    /// # Errors
    /// When the text is no such PEM, the key is of another kind, or an Ed25519 key is weak.
    pub fn from_pem(text: &str) -> Result<Self, KeyError> {
        const LABEL: &str = "PUBLIC KEY";
        let not_pem = KeyError::NotPem { expected: LABEL };
        if text.len() > MAX_PEM_BYTES {
            return Err(not_pem);
        }
        let Ok((LABEL, document)) = Document::from_pem(text.trim()) else {
            return Err(not_pem);
        };
        let info = SubjectPublicKeyInfoRef::try_from(document.as_bytes()).map_err(|_: spki::Error| not_pem)?;
        match info.algorithm.oid {
            ED25519 => VerifyingKey::try_from(info)
                .map_err(|_| KeyError::Weak)
                .and_then(|key| OrganizationPublicKey::from_bytes(key.as_bytes()))
                .map(Self::Ed25519),
            RSA => RsaPublicKey::new(text, document.as_bytes(), &info).map(Self::Rsa),
            oid => Err(KeyError::UnsupportedKind { oid: oid.to_string() }),
        }
    }

    /// Reads the form of the interface: base64 of the PEM text (contract A.6).
    ///
    /// # Errors
    /// As [`PublicKey::from_pem`], and when the text is not base64.
    pub fn from_api(text: &str) -> Result<Self, KeyError> {
        let bytes = STANDARD.decode(text).map_err(|_| KeyError::NotBase64)?;
        let pem = String::from_utf8(bytes).map_err(|_| KeyError::NotBase64)?;
        Self::from_pem(&pem)
    }

    /// The SubjectPublicKeyInfo PEM; of an RSA key byte for byte as it was read.
    #[must_use]
    pub fn to_pem(&self) -> String {
        match self {
            Self::Ed25519(key) => key.to_pem(),
            Self::Rsa(key) => key.pem().to_owned(),
        }
    }

    /// The form of the interface: base64 of the PEM text (contract A.6).
    #[must_use]
    pub fn to_api(&self) -> String {
        STANDARD.encode(self.to_pem())
    }

    /// What people compare by eye or voice: the same for every text that holds this key.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        match self {
            Self::Ed25519(key) => key.fingerprint(),
            Self::Rsa(key) => key.fingerprint(),
        }
    }

    /// The key that verifies signatures; an RSA key does not.
    #[must_use]
    pub const fn ed25519(&self) -> Option<OrganizationPublicKey> {
        match self {
            Self::Ed25519(key) => Some(*key),
            Self::Rsa(_) => None,
        }
    }
}

impl From<OrganizationPublicKey> for PublicKey {
    fn from(key: OrganizationPublicKey) -> Self {
        Self::Ed25519(key)
    }
}

/// Base64 of the 32 bytes of an Ed25519 key; the PEM text of an RSA key.
impl Serialize for PublicKey {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Ed25519(key) => key.serialize(serializer),
            Self::Rsa(key) => serializer.serialize_str(key.pem()),
        }
    }
}

impl<'de> Deserialize<'de> for PublicKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        if text.contains("BEGIN") {
            return Self::from_pem(&text).map_err(serde::de::Error::custom);
        }
        let bytes = STANDARD.decode(text).map_err(serde::de::Error::custom)?;
        let bytes = bytes.try_into().map_err(|_| serde::de::Error::custom("an Ed25519 key has 32 bytes"))?;
        OrganizationPublicKey::from_bytes(&bytes).map(Self::Ed25519).map_err(serde::de::Error::custom)
    }
}

/// An organization's Ed25519 public key; never weak.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct OrganizationPublicKey(VerifyingKey);

impl OrganizationPublicKey {
    /// Takes the 32 bytes of RFC 8032.
    ///
    /// # Errors
    /// When they are no point of the curve or one of small order.
    pub fn from_bytes(bytes: &[u8; 32]) -> Result<Self, KeyError> {
        match VerifyingKey::from_bytes(bytes) {
            Ok(key) if !key.is_weak() => Ok(Self(key)),
            Ok(_) | Err(_) => Err(KeyError::Weak),
        }
    }

    /// The 32 bytes of RFC 8032.
    #[must_use]
    pub fn to_bytes(self) -> [u8; 32] {
        self.0.to_bytes()
    }

    /// The SubjectPublicKeyInfo PEM with a trailing newline.
    #[must_use]
    pub fn to_pem(self) -> String {
        self.0.to_public_key_pem(LineEnding::LF).expect("32 bytes always fit a PEM")
    }

    /// The form of the interface: base64 of the PEM text (contract A.6).
    #[must_use]
    pub fn to_api(self) -> String {
        STANDARD.encode(self.to_pem())
    }

    /// The X25519 public key to which payloads are sealed.
    #[must_use]
    pub fn sealing_key(self) -> x25519_dalek::PublicKey {
        x25519_dalek::PublicKey::from(self.0.to_montgomery().to_bytes())
    }

    /// What people compare by eye or voice: the SHA-256 of the 32 bytes, its first 16 bytes in groups.
    #[must_use]
    pub fn fingerprint(self) -> String {
        fingerprint(self.0.as_bytes())
    }

    pub(crate) fn verify(&self, message: &[u8], signature: &[u8; 64]) -> bool {
        self.0.verify_strict(message, &ed25519_dalek::Signature::from_bytes(signature)).is_ok()
    }
}

impl fmt::Debug for OrganizationPublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "OrganizationPublicKey({})", self.fingerprint())
    }
}

impl Serialize for OrganizationPublicKey {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        crate::payload::base64_bytes::serialize(self.0.as_bytes(), serializer)
    }
}

impl<'de> Deserialize<'de> for OrganizationPublicKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let bytes: [u8; 32] = crate::payload::base64_bytes::deserialize(deserializer)?;
        Self::from_bytes(&bytes).map_err(serde::de::Error::custom)
    }
}

#[cfg(feature = "open")]
pub use private::{OrganizationKey, PrivateKey};

#[cfg(feature = "open")]
mod private {
    use std::fmt;

    use ed25519_dalek::Signer as _;
    use ed25519_dalek::SigningKey;
    use ed25519_dalek::pkcs8::spki::der::pem::LineEnding;
    use ed25519_dalek::pkcs8::{DecodePrivateKey as _, EncodePrivateKey as _, PrivateKeyInfoRef, SecretDocument};
    use zeroize::Zeroizing;

    use super::{ED25519, KeyError, MAX_PEM_BYTES, OrganizationPublicKey, PublicKey, RSA};
    use crate::rsa::RsaKey;

    /// The private key of an organization, of either kind.
    #[derive(Debug, Clone)]
    #[expect(clippy::large_enum_variant, reason = "a process has one or two of them")]
    pub enum PrivateKey {
        /// Ed25519: signs, seals and opens.
        Ed25519(OrganizationKey),
        /// RSA: opens vantage6's envelopes only (contract A.9.2).
        Rsa(RsaKey),
    }

    impl PrivateKey {
        /// Reads the PEM of a private key: PKCS#8 ("BEGIN PRIVATE KEY") of either kind, or PKCS#1 ("BEGIN RSA PRIVATE
        /// KEY") as vantage6 writes it.
        ///
        /// # Errors
        /// When the text is no such PEM, needs a passphrase, or holds a key of another kind.
        pub fn from_pem(text: &str) -> Result<Self, KeyError> {
            let not_pem = KeyError::NotPem { expected: "PRIVATE KEY" };
            if text.len() > MAX_PEM_BYTES {
                return Err(not_pem);
            }
            // PKCS#1 says so in a header (RFC 1421 §4.6.1.1), PKCS#8 in its label.
            if text.contains("ENCRYPTED") {
                return Err(KeyError::Passphrase);
            }
            let (label, document) = SecretDocument::from_pem(text.trim()).map_err(|_| not_pem.clone())?;
            match label {
                "RSA PRIVATE KEY" => RsaKey::from_pkcs1(document.as_bytes()).map(Self::Rsa),
                "PRIVATE KEY" => {
                    let info = PrivateKeyInfoRef::try_from(document.as_bytes()).map_err(|_| not_pem)?;
                    match info.algorithm.oid {
                        ED25519 => OrganizationKey::from_pem(text).map(Self::Ed25519),
                        RSA => RsaKey::from_pkcs8(document.as_bytes()).map(Self::Rsa),
                        oid => Err(KeyError::UnsupportedKind { oid: oid.to_string() }),
                    }
                }
                _ => Err(not_pem),
            }
        }

        /// The public half.
        #[must_use]
        pub fn public(&self) -> PublicKey {
            match self {
                Self::Ed25519(key) => PublicKey::Ed25519(key.public()),
                Self::Rsa(key) => PublicKey::Rsa(key.public().clone()),
            }
        }

        /// The key that signs; an RSA key does not.
        #[must_use]
        pub const fn ed25519(&self) -> Option<&OrganizationKey> {
            match self {
                Self::Ed25519(key) => Some(key),
                Self::Rsa(_) => None,
            }
        }
    }

    impl From<OrganizationKey> for PrivateKey {
        fn from(key: OrganizationKey) -> Self {
            Self::Ed25519(key)
        }
    }

    /// A private Ed25519 key: an organization's, or a node's. Its `Debug` shows nothing of it.
    #[derive(Clone)]
    pub struct OrganizationKey(SigningKey);

    impl OrganizationKey {
        /// Makes a new key from the operating system's random source.
        #[must_use]
        pub fn generate() -> Self {
            Self::from_seed(&rand::random())
        }

        /// The key of a 32-byte seed (RFC 8032 §5.1.5).
        #[must_use]
        pub fn from_seed(seed: &[u8; 32]) -> Self {
            Self(SigningKey::from_bytes(seed))
        }

        /// The 32-byte seed.
        #[must_use]
        pub fn seed(&self) -> Zeroizing<[u8; 32]> {
            Zeroizing::new(self.0.to_bytes())
        }

        /// Reads a PKCS#8 PEM ("BEGIN PRIVATE KEY", RFC 8410), as `openssl genpkey -algorithm ed25519` writes it.
        ///
        /// # Errors
        /// When the text is no such PEM.
        pub fn from_pem(text: &str) -> Result<Self, KeyError> {
            let not_pem = KeyError::NotPem { expected: "PRIVATE KEY" };
            if text.len() > MAX_PEM_BYTES {
                return Err(not_pem);
            }
            SigningKey::from_pkcs8_pem(text.trim()).map(Self).map_err(|_| not_pem)
        }

        /// The PKCS#8 PEM, readable by openssl.
        #[must_use]
        pub fn to_pem(&self) -> Zeroizing<String> {
            // Version 1 of PKCS#8, without the public key: older openssl releases read only this one.
            let bytes = ed25519_dalek::pkcs8::KeypairBytes { secret_key: self.0.to_bytes(), public_key: None };
            bytes.to_pkcs8_pem(LineEnding::LF).expect("32 bytes always fit a PEM")
        }

        /// The public half.
        #[must_use]
        pub fn public(&self) -> OrganizationPublicKey {
            OrganizationPublicKey(self.0.verifying_key())
        }

        /// The X25519 secret that opens what was sealed to [`OrganizationPublicKey::sealing_key`].
        #[must_use]
        pub fn sealing_secret(&self) -> x25519_dalek::StaticSecret {
            x25519_dalek::StaticSecret::from(self.0.to_scalar_bytes())
        }

        pub(crate) fn sign(&self, message: &[u8]) -> [u8; 64] {
            self.0.sign(message).to_bytes()
        }
    }

    impl fmt::Debug for OrganizationKey {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("OrganizationKey([redacted])")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 8410 §10.1 and §10.3.
    const PRIVATE: &str = "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEINTuctv5E1hK1bbY8fdp+K06/nwoy/HU++CXqI9EdVhC\n-----END PRIVATE KEY-----\n";
    const PUBLIC: &str = "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=\n-----END PUBLIC KEY-----\n";

    #[test]
    fn the_published_key_pair_reads_and_writes_byte_for_byte() {
        let key = OrganizationKey::from_pem(PRIVATE).unwrap();
        assert_eq!(key.public().to_pem(), PUBLIC);
        assert_eq!(*key.to_pem(), PRIVATE);
        assert_eq!(PublicKey::from_pem(PUBLIC).unwrap(), PublicKey::Ed25519(key.public()));
        assert_eq!(PublicKey::from_api(&key.public().to_api()).unwrap(), PublicKey::Ed25519(key.public()));
    }

    #[test]
    fn both_derivations_of_the_sealing_key_agree() {
        let key = OrganizationKey::generate();
        assert_eq!(x25519_dalek::PublicKey::from(&key.sealing_secret()), key.public().sealing_key());
    }

    #[test]
    fn a_key_of_small_order_is_refused() {
        let mut identity = [0; 32];
        identity[0] = 1;
        assert_eq!(OrganizationPublicKey::from_bytes(&identity), Err(KeyError::Weak));
        assert_eq!(OrganizationPublicKey::from_bytes(&[0; 32]), Err(KeyError::Weak));
    }

    #[test]
    fn other_texts_are_refused_with_what_to_try() {
        for text in ["", "hello", PRIVATE, &PUBLIC.replace('M', "N"), &"A".repeat(10_000)] {
            assert!(PublicKey::from_pem(text).is_err(), "{text}");
        }
        assert!(OrganizationKey::from_pem(PUBLIC).unwrap_err().to_string().contains("openssl"));
        assert_eq!(PublicKey::from_api("*"), Err(KeyError::NotBase64));
    }

    #[test]
    fn an_rsa_key_that_protects_nothing_is_refused() {
        let pem = "-----BEGIN PUBLIC KEY-----\nMFwwDQYJKoZIhvcNAQEBBQADSwAwSAJBAJv8ZpB5hEK7qxP9K3v43hUS5fGT4waK\ne7ix4Z4mu5UBv+cw7WSFAt0Vaag0sAbsPzU8Hhsrj/qPABvfB8asUwcCAwEAAQ==\n-----END PUBLIC KEY-----\n";
        assert_eq!(PublicKey::from_pem(pem), Err(KeyError::Rsa));
    }

    #[test]
    fn a_public_key_reads_back_from_its_json() {
        let key = PublicKey::Ed25519(OrganizationKey::generate().public());
        let text = serde_json::to_string(&key).unwrap();
        assert_eq!(text, serde_json::to_string(&key.ed25519().unwrap()).unwrap());
        assert_eq!(serde_json::from_str::<PublicKey>(&text).unwrap(), key);
        assert!(serde_json::from_str::<PublicKey>("\"BEGIN\"").is_err());
    }

    #[test]
    fn a_private_key_never_shows_in_logs() {
        assert_eq!(format!("{:?}", OrganizationKey::generate()), "OrganizationKey([redacted])");
        let key = PrivateKey::from_pem(PRIVATE).unwrap();
        assert_eq!(format!("{key:?}"), "Ed25519(OrganizationKey([redacted]))");
    }
}
