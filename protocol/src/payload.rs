//! The text forms of inputs and results on the wire (contract A.9).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::digest::Digest;

/// The first bytes of a sealed payload. The first is not valid in UTF-8, so that sealed bytes are never taken for text.
pub const SEALED_MAGIC: [u8; 5] = [0x89, b'T', b'M', b'S', 0x01];

/// What a payload text is, as far as its form shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PayloadForm {
    /// Base64 of text.
    Plain,
    /// Base64 of a payload sealed by Twinmesh (module `sealed`).
    Sealed,
    /// The three parts `key$iv$message` of vantage6's envelope (contract A.9.2).
    Vantage6Envelope,
    /// None of these.
    Malformed,
}

impl PayloadForm {
    /// Whether only the receiver can read it.
    #[must_use]
    pub const fn is_encrypted(self) -> bool {
        matches!(self, Self::Sealed | Self::Vantage6Envelope)
    }
}

/// Tells the form of a payload text without opening it.
#[must_use]
pub fn classify(text: &str) -> PayloadForm {
    if text.contains('$') {
        // Of many parts no more are looked at than tell that there are too many.
        let mut parts = text.splitn(4, '$');
        let (Some(key), Some(iv), Some(message), None) = (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return PayloadForm::Malformed;
        };
        let (Ok(key), Ok(iv), Ok(_)) = (STANDARD.decode(key), STANDARD.decode(iv), STANDARD.decode(message)) else {
            return PayloadForm::Malformed;
        };
        // An RSA key has 2048 bits or more; the initial counter block has 16 bytes.
        return if key.len() >= 256 && iv.len() == 16 { PayloadForm::Vantage6Envelope } else { PayloadForm::Malformed };
    }
    match STANDARD.decode(text) {
        Ok(bytes) if bytes.starts_with(&SEALED_MAGIC) => PayloadForm::Sealed,
        Ok(bytes) if std::str::from_utf8(&bytes).is_ok() => PayloadForm::Plain,
        Ok(_) | Err(_) => PayloadForm::Malformed,
    }
}

/// As much of an object's beginning as tells its form, in bytes: a key sealed by 16,384 bits of RSA and what follows it.
pub const OBJECT_HEAD_BYTES: usize = 4096;

/// Tells the form of a payload that is kept as an object from its first [`OBJECT_HEAD_BYTES`] (contract A.9.3): base64
/// text where payloads are plain, else the sealed bytes themselves, or an envelope whose last part is bytes.
#[must_use]
pub fn classify_object(head: &[u8]) -> PayloadForm {
    if head.starts_with(&SEALED_MAGIC) {
        return PayloadForm::Sealed;
    }
    let mut parts = head.splitn(3, |byte| *byte == b'$');
    if let (Some(key), Some(iv), Some(_)) = (parts.next(), parts.next(), parts.next()) {
        return match (STANDARD.decode(key), STANDARD.decode(iv)) {
            (Ok(key), Ok(iv)) if key.len() >= 256 && iv.len() == 16 => PayloadForm::Vantage6Envelope,
            (Ok(_) | Err(_), _) => PayloadForm::Malformed,
        };
    }
    let is_text = head.iter().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/' | b'='));
    // Sealed bytes as text are what rows hold, not objects.
    let is_sealed = head.get(..8).and_then(|start| STANDARD.decode(start).ok());
    if is_text && !is_sealed.is_some_and(|start| start.starts_with(&SEALED_MAGIC)) {
        PayloadForm::Plain
    } else {
        PayloadForm::Malformed
    }
}

/// Payload texts that are longer than this, in characters, are kept as objects. Others stay in the row: what is small is
/// had with one request less.
pub const INLINE_CHARACTERS: usize = 1 << 20;

/// A payload as an object holds it, from its text as a row would: what is sealed without base64, the rest as it is.
///
/// # Errors
/// When the text is not what payloads are written as.
pub fn object_from_text(text: &str) -> Result<Vec<u8>, NotBase64> {
    if let Some(at) = text.rfind('$') {
        let (head, message) = text.split_at(at + 1);
        let mut object = head.as_bytes().to_vec();
        STANDARD.decode_vec(message, &mut object).map_err(|_| NotBase64)?;
        return Ok(object);
    }
    let start = text.get(..8).and_then(|start| STANDARD.decode(start).ok());
    if start.is_some_and(|start| start.starts_with(&SEALED_MAGIC)) {
        return from_text(text);
    }
    Ok(text.as_bytes().to_vec())
}

/// A payload's text, from the object that holds it.
///
/// # Errors
/// When the object is no payload.
pub fn text_from_object(object: Vec<u8>) -> Result<String, NotBase64> {
    let head = object.get(..OBJECT_HEAD_BYTES).unwrap_or(&object);
    match classify_object(head) {
        PayloadForm::Plain => String::from_utf8(object).map_err(|_| NotBase64),
        PayloadForm::Sealed => Ok(to_text(&object)),
        PayloadForm::Vantage6Envelope => {
            let mut places = object.iter().enumerate().filter(|(_, byte)| **byte == b'$').map(|(at, _)| at);
            let at = places.nth(1).ok_or(NotBase64)?;
            let (head, message) = object.split_at(at + 1);
            let mut text = std::str::from_utf8(head).map_err(|_| NotBase64)?.to_owned();
            STANDARD.encode_string(message, &mut text);
            Ok(text)
        }
        PayloadForm::Malformed => Err(NotBase64),
    }
}

/// The digest of a payload as it goes over the wire: of its text, or of the object that it is kept as if it is long.
///
/// # Errors
/// When the text is not what payloads are written as.
pub fn wire_digest(text: &str) -> Result<Digest, NotBase64> {
    if text.len() > INLINE_CHARACTERS {
        Ok(Digest::of(&object_from_text(text)?))
    } else {
        Ok(Digest::of(text.as_bytes()))
    }
}

/// Standard base64 with padding, as all payloads are written.
#[must_use]
pub fn to_text(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}

/// The error of reading a payload text.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the payload is not base64 with padding")]
pub struct NotBase64;

/// The bytes of a payload text.
///
/// # Errors
/// When the text is not standard base64 with padding.
pub fn from_text(text: &str) -> Result<Vec<u8>, NotBase64> {
    STANDARD.decode(text).map_err(|_| NotBase64)
}

/// Bytes as base64 text in JSON, for `#[serde(with = "…")]`.
pub mod base64_bytes {
    use super::STANDARD;
    use base64::Engine as _;
    use serde::{Deserialize, Deserializer, Serializer};

    /// Writes the bytes as standard base64.
    ///
    /// # Errors
    /// The serializer's own.
    pub fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD.encode(bytes))
    }

    /// Reads standard base64 into a byte vector or array.
    ///
    /// # Errors
    /// When the text is not base64 or has the wrong length.
    pub fn deserialize<'de, D: Deserializer<'de>, B: TryFrom<Vec<u8>>>(deserializer: D) -> Result<B, D::Error> {
        let text = String::deserialize(deserializer)?;
        let bytes = STANDARD.decode(text).map_err(serde::de::Error::custom)?;
        let length = bytes.len();
        B::try_from(bytes).map_err(|_| serde::de::Error::custom(format!("{length} bytes are not the expected number")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_form_of_a_payload_shows_without_opening_it() {
        assert_eq!(classify("eyJtZXRob2QiOiAibSJ9"), PayloadForm::Plain);
        assert_eq!(classify(""), PayloadForm::Plain);
        assert_eq!(classify(&to_text(b"\x89TMS\x01rest")), PayloadForm::Sealed);
        let envelope = format!("{}${}${}", to_text(&[7; 512]), to_text(&[1; 16]), to_text(b"message"));
        assert_eq!(classify(&envelope), PayloadForm::Vantage6Envelope);
        for text in ["$$", "a$b", "not base64!", "/w==", &format!("{}$AA==$", to_text(&[7; 512]))] {
            assert_eq!(classify(text), PayloadForm::Malformed, "{text}");
        }
        for text in [format!("{envelope}$"), format!("{envelope}$$"), format!("${envelope}")] {
            assert_eq!(classify(&text), PayloadForm::Malformed, "{text}");
        }
    }

    #[test]
    fn a_text_of_nothing_but_separators_is_no_payload() {
        // As a list of its parts it would take sixteen times its length.
        let text = "$".repeat(64 << 20);
        assert_eq!(classify(&text), PayloadForm::Malformed);
        assert_eq!(classify(&format!("{}$", &text[..64])), PayloadForm::Malformed);
    }

    #[test]
    fn an_object_and_its_text_say_the_same() {
        let sealed = to_text(b"\x89TMS\x01rest\0\xff");
        let envelope = format!("{}${}${}", to_text(&[7; 512]), to_text(&[1; 16]), to_text(b"\0$\xff$"));
        for (text, object) in [
            ("eyJtZXRob2QiOiAibSJ9".to_owned(), b"eyJtZXRob2QiOiAibSJ9".to_vec()),
            (String::new(), Vec::new()),
            (sealed, b"\x89TMS\x01rest\0\xff".to_vec()),
            (envelope.clone(), [&envelope.as_bytes()[..710], b"\0$\xff$"].concat()),
        ] {
            assert_eq!(object_from_text(&text).unwrap(), object);
            assert_eq!(classify(&text), classify_object(&object), "{text}");
            assert_eq!(text_from_object(object).unwrap(), text);
        }
        assert!(object_from_text("a$b$!").is_err());
        assert!(text_from_object(vec![0]).is_err());
    }

    #[test]
    fn the_form_of_an_object_shows_in_its_first_bytes() {
        let sealed = b"\x89TMS\x01rest\0\xff";
        assert_eq!(classify_object(sealed), PayloadForm::Sealed);
        assert_eq!(classify_object(b"eyJtZXRob2QiOiAibSJ9"), PayloadForm::Plain);
        assert_eq!(classify_object(b""), PayloadForm::Plain);
        let mut envelope = format!("{}${}$", to_text(&[7; 2048]), to_text(&[1; 16])).into_bytes();
        assert!(envelope.len() < OBJECT_HEAD_BYTES);
        envelope.extend_from_slice(b"\0\xff$\x89");
        assert_eq!(classify_object(&envelope), PayloadForm::Vantage6Envelope);
        for bytes in [b"$$".as_slice(), b"AA==$AA==$x", b"{\"a\": 1}", b"\x89TM", to_text(sealed).as_bytes()] {
            assert_eq!(classify_object(bytes), PayloadForm::Malformed, "{bytes:?}");
        }
    }
}
