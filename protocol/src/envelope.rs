//! Payloads as vantage6 protects them, for organizations whose key is RSA (contract A.9.2).
//!
//! An envelope is the text `key$iv$message`, each part in standard base64: a fresh AES-256 key encrypted to the receiver's
//! RSA key (RSAES-PKCS1-v1_5, RFC 8017 §7.2), the initial counter block, and the content under AES-256-CTR (NIST SP
//! 800-38A §6.5).
//!
//! **An envelope says nothing about who made it, nor whether it was altered on its way.** Anybody who knows the public
//! key can make one, and anybody who sees one can flip bits of its content. What must be authentic is named by a signed
//! manifest, or is sealed as in [`crate::sealed`].
//!
//! Whoever can watch whether many envelopes open learns a captured envelope's key from the padding (Bleichenbacher,
//! CRYPTO '98). So [`open_text`], which is for programs that answer others, does the same with a key that cannot be
//! opened as with one that opens to a wrong key: both give the same garbage every time, which is no text.

use aws_lc_rs::cipher::{AES_256, EncryptingKey, EncryptionContext, UnboundCipherKey};
use aws_lc_rs::error::Unspecified;
use aws_lc_rs::iv::FixedLength;
use aws_lc_rs::rsa::{Pkcs1PublicEncryptingKey, PublicEncryptingKey};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::de::IgnoredAny;
use zeroize::Zeroizing;

use crate::rsa::{RsaKey, RsaPublicKey};

const KEY_BYTES: usize = 32;
const IV_BYTES: usize = 16;

/// Why an envelope cannot be made or opened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EnvelopeError {
    /// Not the three parts of an envelope.
    #[error("the payload is not vantage6's envelope `key$iv$message`")]
    NotAnEnvelope,
    /// Made for another key, or altered: these cannot be told apart.
    #[error("the envelope cannot be opened: it was made for another key, or altered")]
    CannotOpen,
    /// The receiver's key, or the random source.
    #[error("the envelope cannot be made: the receiver's RSA key cannot be used")]
    CannotSeal,
}

/// Makes an envelope that the holder of the private key can open.
///
/// # Errors
/// When the public key is not one.
pub fn seal(receiver: &RsaPublicKey, content: &[u8]) -> Result<String, EnvelopeError> {
    let (key, iv) = (Zeroizing::new(rand::random()), rand::random());
    seal_with(receiver, content, &key, &iv).map_err(|Unspecified| EnvelopeError::CannotSeal)
}

fn seal_with(
    receiver: &RsaPublicKey,
    content: &[u8],
    key: &[u8; KEY_BYTES],
    iv: &[u8; IV_BYTES],
) -> Result<String, Unspecified> {
    let receiver = Pkcs1PublicEncryptingKey::new(PublicEncryptingKey::from_der(receiver.der())?)?;
    let mut encrypted = vec![0; receiver.ciphertext_size()];
    let encrypted = receiver.encrypt(key, &mut encrypted)?;
    let mut message = content.to_vec();
    apply(key, iv, &mut message)?;
    let mut text = String::with_capacity((encrypted.len() + IV_BYTES + message.len()) * 4 / 3 + 16);
    STANDARD.encode_string(encrypted, &mut text);
    text.push('$');
    STANDARD.encode_string(iv, &mut text);
    text.push('$');
    STANDARD.encode_string(message, &mut text);
    Ok(text)
}

/// Opens an envelope, whatever it holds.
///
/// Only where nobody else learns whether this worked, as on a researcher's machine. An envelope that was altered in its
/// last part opens to altered content.
///
/// # Errors
/// When it is no envelope, or was made for another key.
pub fn open(receiver: &RsaKey, envelope: &str) -> Result<Vec<u8>, EnvelopeError> {
    let parts = Parts::read(envelope)?;
    let key = content_key(receiver, &parts.key).ok_or(EnvelopeError::CannotOpen)?;
    parts.content(&key)
}

/// Opens an envelope that holds text, such as an algorithm's input or result.
///
/// What cannot be opened and what does not hold text is the same error, see the module's introduction.
///
/// # Errors
/// When it is no envelope, or does not open to text.
pub fn open_text(receiver: &RsaKey, envelope: &str) -> Result<Vec<u8>, EnvelopeError> {
    let parts = Parts::read(envelope)?;
    let rejection = receiver.rejection(&parts.key);
    let key = content_key(receiver, &parts.key).unwrap_or(rejection);
    let content = parts.content(&key)?;
    if std::str::from_utf8(&content).is_ok() { Ok(content) } else { Err(EnvelopeError::CannotOpen) }
}

/// Undoes what vantage6's browser interface does to inputs: base64 of JSON becomes the JSON, all else stays (contract
/// A.9.2).
#[must_use]
pub fn input_of_browser(content: Vec<u8>) -> Vec<u8> {
    let is_json = |bytes: &[u8]| serde_json::from_slice::<IgnoredAny>(bytes).is_ok();
    if is_json(&content) {
        return content;
    }
    match STANDARD.decode(&content) {
        Ok(inner) if is_json(&inner) => inner,
        Ok(_) | Err(_) => content,
    }
}

/// The parts of an envelope.
struct Parts {
    key: Vec<u8>,
    iv: [u8; IV_BYTES],
    message: Vec<u8>,
}

impl Parts {
    fn read(envelope: &str) -> Result<Self, EnvelopeError> {
        let mut parts = envelope.split('$').map(|part| STANDARD.decode(part));
        match (parts.next(), parts.next(), parts.next(), parts.next()) {
            (Some(Ok(key)), Some(Ok(iv)), Some(Ok(message)), None) => {
                let iv = iv.try_into().map_err(|_| EnvelopeError::NotAnEnvelope)?;
                Ok(Self { key, iv, message })
            }
            _ => Err(EnvelopeError::NotAnEnvelope),
        }
    }

    fn content(mut self, key: &[u8; KEY_BYTES]) -> Result<Vec<u8>, EnvelopeError> {
        apply(key, &self.iv, &mut self.message).map_err(|Unspecified| EnvelopeError::CannotOpen)?;
        Ok(self.message)
    }
}

/// The key in an envelope. The browser interface encrypts the text of its base64 instead of its bytes.
fn content_key(receiver: &RsaKey, encrypted: &[u8]) -> Option<Zeroizing<[u8; KEY_BYTES]>> {
    let bytes = receiver.decrypt(encrypted)?;
    if let Ok(key) = <[u8; KEY_BYTES]>::try_from(bytes.as_slice()) {
        return Some(Zeroizing::new(key));
    }
    let decoded = Zeroizing::new(STANDARD.decode(&*bytes).ok()?);
    <[u8; KEY_BYTES]>::try_from(decoded.as_slice()).ok().map(Zeroizing::new)
}

/// AES-256-CTR, which is its own inverse.
fn apply(key: &[u8; KEY_BYTES], iv: &[u8; IV_BYTES], content: &mut [u8]) -> Result<(), Unspecified> {
    let cipher = EncryptingKey::ctr(UnboundCipherKey::new(&AES_256, key)?)?;
    // Safe: the key is fresh for every envelope, so no counter block is used twice.
    cipher.less_safe_encrypt(content, EncryptionContext::Iv128(FixedLength::from(iv))).map(drop)
}

#[cfg(test)]
mod tests;
