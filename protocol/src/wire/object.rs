use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::id::ObjectId;

/// Whether an upload is whole, as a structured truth value: `?0` or `?1` (Resumable Uploads for HTTP,
/// draft-ietf-httpbis-resumable-upload, section 4.1).
pub const UPLOAD_COMPLETE: &str = "upload-complete";
/// How many bytes of an upload have been kept, or before which byte a request goes on (same draft, section 4.2).
pub const UPLOAD_OFFSET: &str = "upload-offset";
/// What the whole must hash to (RFC 9530).
pub const REPR_DIGEST: &str = "repr-digest";

/// The answer to an upload (contract A.7.9).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Uploaded {
    /// What to put where the payload's text else would stand.
    pub uuid: ObjectId,
}

/// How far an upload is. Our addition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct UploadProgress {
    /// What it goes by.
    pub uuid: ObjectId,
    /// How many bytes have been kept.
    pub offset: u64,
    /// Whether it is whole.
    pub complete: bool,
}

/// Reads a structured truth value (RFC 9651 section 3.3.6).
#[must_use]
pub fn read_flag(text: &str) -> Option<bool> {
    match text.trim() {
        "?1" => Some(true),
        "?0" => Some(false),
        _ => None,
    }
}

/// Writes a digest as the value of [`REPR_DIGEST`].
#[must_use]
pub fn write_repr_digest(digest: Digest) -> String {
    format!("sha-256=:{}:", STANDARD.encode(digest.as_bytes()))
}

/// The SHA-256 in the value of a [`REPR_DIGEST`], which may hold further ones; `None` where it holds none that reads.
#[must_use]
pub fn read_repr_digest(text: &str) -> Option<Digest> {
    let entry = text.split(',').find_map(|entry| entry.trim().strip_prefix("sha-256="))?;
    let bytes = STANDARD.decode(entry.strip_prefix(':')?.strip_suffix(':')?).ok()?;
    bytes.try_into().ok().map(Digest::from_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The digest of `{"hello": "world"}` and a line's end, from RFC 9530 appendix B.1.
    #[test]
    fn a_digest_is_written_as_in_the_published_example() {
        let text = "sha-256=:RK/0qy18MlBSVnWgjwz6lZEWjP/lF5HF9bvEF8FabDg=:";
        let digest = Digest::of(b"{\"hello\": \"world\"}\n");
        assert_eq!(write_repr_digest(digest), text);
        assert_eq!(read_repr_digest(text), Some(digest));
        assert_eq!(read_repr_digest(&format!("md5=:AA==:, {text}")), Some(digest));
        for text in ["", "sha-256=", "sha-256=RK/0", "sha-256=:AA==:", "md5=:AA==:"] {
            assert_eq!(read_repr_digest(text), None, "{text}");
        }
    }

    #[test]
    fn a_truth_value_is_question_mark_and_digit() {
        assert_eq!((read_flag("?1"), read_flag(" ?0"), read_flag("true")), (Some(true), Some(false), None));
    }
}
