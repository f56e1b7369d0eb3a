//! Secrets that are long and random, and so are looked up by a plain hash.

use data_encoding::{BASE64URL_NOPAD, HEXLOWER};
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

/// What all who share this secret have in common, and what tells nothing of it.
pub(crate) fn family(secret: &[u8]) -> String {
    let hash = Sha256::new().chain_update("twinmesh instances\n").chain_update(secret).finalize();
    HEXLOWER.encode(&hash[..8])
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
