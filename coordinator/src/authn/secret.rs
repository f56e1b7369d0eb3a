//! Secrets that are long and random, and so are looked up by a plain hash.

use std::fmt;

use data_encoding::{BASE64URL_NOPAD, HEXLOWER};
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

/// A new API key or token id: 122 random bits in the form the contract wants.
pub(crate) fn new_key() -> Uuid {
    Uuid::new_v4()
}

/// The form in which such a secret is stored. One indexed look-up finds it; what an index leaks by its timing is the
/// hash, which tells nothing of the secret.
pub(crate) fn hash(secret: &str) -> String {
    HEXLOWER.encode(&digest(secret))
}

/// SHA-256.
pub(crate) fn digest(text: &str) -> [u8; 32] {
    Sha256::digest(text.as_bytes()).into()
}

/// Words that only those who share a secret can have written (HMAC-SHA256, RFC 2104).
#[derive(Clone)]
pub(crate) struct Sealed(Hmac<Sha256>);

impl Sealed {
    /// Words of one kind, by what the secret makes for them.
    pub(crate) fn new(secret: &[u8], kind: &str) -> Self {
        let key =
            Sha256::new().chain_update("twinmesh words\n").chain_update(kind).chain_update([0]).chain_update(secret);
        Self(Hmac::new_from_slice(&key.finalize()).expect("HMAC takes keys of any length"))
    }

    /// The words with their proof behind them.
    pub(crate) fn seal(&self, words: &str) -> String {
        let proof = self.0.clone().chain_update(words).finalize().into_bytes();
        format!("{words} {}", HEXLOWER.encode(&proof))
    }

    /// The words, if they have been written by somebody who knows the secret.
    pub(crate) fn open<'a>(&self, sealed: &'a str) -> Option<&'a str> {
        let (words, proof) = sealed.rsplit_once(' ')?;
        let proof = HEXLOWER.decode(proof.as_bytes()).ok()?;
        self.0.clone().chain_update(words).verify_slice(&proof).ok()?;
        Some(words)
    }
}

impl fmt::Debug for Sealed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sealed([redacted])")
    }
}

/// A new token for a mail: 256 random bits.
pub(crate) fn new_token() -> String {
    BASE64URL_NOPAD.encode(&rand::random::<[u8; 32]>())
}

/// A password to be read off a screen once: 128 random bits, and a bit of everything the policy asks for.
pub(crate) fn new_password() -> String {
    let random: [u8; 16] = rand::random();
    format!("{}-Aa1", BASE64URL_NOPAD.encode(&random))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_believed_of_those_only_who_share_the_secret() {
        let ours = Sealed::new(b"secret", "guesses");
        let sealed = ours.seal("7 wrong address=192.0.2.1");
        assert_eq!(Sealed::new(b"secret", "guesses").open(&sealed), Some("7 wrong address=192.0.2.1"));
        for (secret, kind) in [("other", "guesses"), ("secret", "others")] {
            assert_eq!(Sealed::new(secret.as_bytes(), kind).open(&sealed), None);
        }
        assert_eq!(ours.open(&sealed.replace("192.0.2.1", "192.0.2.2")), None);
        for text in ["", " ", "7 wrong", "7 wrong 00", &sealed[1..], &sealed[..sealed.len() - 1]] {
            assert_eq!(ours.open(text), None, "{text}");
        }
    }
}
