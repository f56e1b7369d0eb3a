/// The error of reading a key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Not a PEM text at all, or one of another kind.
    #[error("the text is no {expected} PEM; `openssl genpkey -algorithm ed25519` makes a key that fits")]
    NotPem {
        /// The label that was expected.
        expected: &'static str,
    },
    /// A key of a kind that is not used here.
    #[error("keys of kind {oid} are not supported: an organization's key is Ed25519 (or RSA for stock clients)")]
    UnsupportedKind {
        /// The object identifier found.
        oid: String,
    },
    /// The bytes are no point of the curve, or of small order (which would make signatures and secrets worthless).
    #[error("the Ed25519 key is invalid or weak: make a new one")]
    Weak,
    /// Not base64, where the interface wants base64 of a PEM text.
    #[error("the public key is not base64 of a PEM text")]
    NotBase64,
    /// An RSA key that is no key, or too short to protect anything, or longer than is worked with.
    #[error("the RSA key cannot be used: 2048 to 8192 bits with an odd exponent are needed, and vantage6 makes 4096")]
    Rsa,
    /// A private key that needs a passphrase.
    #[error("the private key is protected by a passphrase: `openssl pkey -in FILE` writes it without")]
    Passphrase,
}
