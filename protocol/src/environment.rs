//! The text form of an algorithm's environment variables (contract D.2).
//!
//! Each value is base32 (RFC 4648) of its UTF-8 bytes with `=` written as `!`; names stay as they are.

use data_encoding::BASE32;

/// The error of decoding a variable.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EnvironmentError {
    /// The text is not base32 with `!` as padding.
    #[error("the value is not base32 with `!` as padding")]
    NotBase32,
    /// The bytes are not UTF-8.
    #[error("the value decodes to bytes that are not UTF-8")]
    NotText,
}

/// Encodes a value as a container's variable.
#[must_use]
pub fn encode_value(value: &str) -> String {
    BASE32.encode(value.as_bytes()).replace('=', "!")
}

/// Decodes a container's variable.
///
/// # Errors
/// When the text is not base32 with `!` as padding, or what it holds is not UTF-8.
pub fn decode_value(text: &str) -> Result<String, EnvironmentError> {
    let bytes = BASE32.decode(text.replace('!', "=").as_bytes()).map_err(|_| EnvironmentError::NotBase32)?;
    String::from_utf8(bytes).map_err(|_| EnvironmentError::NotText)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Contract G.1.
    #[test]
    fn the_contracts_vectors_hold() {
        for (value, text) in [
            ("abc", "MFRGG!!!"),
            ("8080", "HAYDQMA!"),
            ("http://proxyserver", "NB2HI4B2F4XXA4TPPB4XGZLSOZSXE!!!"),
            ("default,two", "MRSWMYLVNR2CY5DXN4!!!!!!"),
            ("", ""),
        ] {
            assert_eq!(encode_value(value), text);
            assert_eq!(decode_value(text).unwrap(), value);
        }
        assert_eq!(decode_value("abc"), Err(EnvironmentError::NotBase32));
        assert_eq!(decode_value("74======"), Err(EnvironmentError::NotText));
    }
}
