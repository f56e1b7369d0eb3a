//! What is said at the beginning of a stream, before the algorithms' bytes: who asks for which port of which mesh, and
//! whether that is granted.
//!
//! Both messages are JSON behind a length of four bytes, big endian.

use std::{fmt, io, str::FromStr, time::Duration};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::DeserializeOwned};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use twinmesh_protocol::{certificate::SignedCertificate, id::OrganizationId};

/// The longest opening. One is below 2 KiB; the rest is room for later fields.
pub const MAX_OPENING_BYTES: usize = 64 * 1024;

/// The longest answer.
pub(crate) const MAX_ANSWER_BYTES: usize = 4 * 1024;

/// How long whoever opens a stream may take to say what for, and whoever accepts it to answer.
///
/// The answer comes after the accepting node has reached the run's port, so this is a little more than the few
/// milliseconds of a slow line.
pub(crate) const EXCHANGE_TIMEOUT: Duration = Duration::from_secs(10);

/// The name of a mesh: the hexadecimal digest of the job's root manifest, or `job-<id>` where tasks are not signed.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MeshId(String);

/// Why a text is no mesh id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no mesh id: expected 1 to 80 of the characters a-z, 0-9 and `-`")]
pub struct InvalidMeshId(String);

impl MeshId {
    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for MeshId {
    type Err = InvalidMeshId;

    fn from_str(text: &str) -> Result<Self, InvalidMeshId> {
        let fits = (1..=80).contains(&text.len())
            && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-');
        if fits { Ok(Self(text.to_owned())) } else { Err(InvalidMeshId(text.chars().take(80).collect())) }
    }
}

impl fmt::Display for MeshId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for MeshId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MeshId({})", self.0)
    }
}

impl Serialize for MeshId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for MeshId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// What the opening side says first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Opening {
    /// The mesh the stream belongs to.
    pub mesh: MeshId,
    /// For whom the opening node speaks.
    pub organization_id: OrganizationId,
    /// That organization's word for it.
    pub certificate: SignedCertificate,
    /// The external port of the accepting node that is wanted.
    pub port: u16,
}

/// What the accepting side says in return.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Answer {
    /// The stream is connected to the port.
    Ok(bool),
    /// It is not, and will be closed.
    Refused(Refusal),
}

/// Why a stream between twins is refused. It is told to the other side as a stable word and its fields.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[serde(tag = "code", rename_all = "snake_case")]
pub enum Refusal {
    /// The mesh is not open at this node: no run of the job is there yet, or the job has ended.
    #[error("the mesh `{mesh}` is not open here: no run of the job has started yet, or the job has ended")]
    MeshNotOpen {
        /// The mesh asked for.
        mesh: MeshId,
    },
    /// The organization is not one of the mesh's.
    #[error("organization {organization_id} is not a member of the mesh `{mesh}`")]
    NotAMember {
        /// The mesh asked for.
        mesh: MeshId,
        /// The organization that is not in it.
        organization_id: OrganizationId,
    },
    /// The certificate does not carry the signature of the key that is pinned for the organization.
    #[error("the node certificate is not signed by the key pinned for organization {organization_id}")]
    NotSignedByPinnedKey {
        /// The organization in whose name the node came.
        organization_id: OrganizationId,
    },
    /// The certificate is for another node than the one that showed it.
    #[error("the node certificate of organization {organization_id} is for another node key")]
    OtherNodeKey {
        /// The organization in whose name the node came.
        organization_id: OrganizationId,
    },
    /// The certificate is for another organization.
    #[error("the node certificate is for organization {found}, not for organization {expected}")]
    OtherOrganization {
        /// The organization in the certificate.
        found: OrganizationId,
        /// The organization in whose name the node came.
        expected: OrganizationId,
    },
    /// The certificate is for another collaboration.
    #[error("the node certificate of organization {organization_id} is for another collaboration")]
    OtherCollaboration {
        /// The organization in whose name the node came.
        organization_id: OrganizationId,
    },
    /// The certificate has expired.
    #[error("the node certificate of organization {organization_id} expired at {not_after}; its node must renew it")]
    Expired {
        /// The organization in whose name the node came.
        organization_id: OrganizationId,
        /// When it expired.
        not_after: String,
    },
    /// The certificate has a form that is not known here.
    #[error("the node certificate has version {version}, which is not known here: update the older side")]
    CertificateVersion {
        /// The version found.
        version: u32,
    },
    /// No run has this port.
    #[error("no run here has port {port}: it has not started, or has ended")]
    NoSuchPort {
        /// The port asked for.
        port: u16,
    },
    /// The run is there but does not accept connections at the port yet.
    #[error("the run at port {port} does not accept connections (yet)")]
    NotListening {
        /// The port asked for.
        port: u16,
    },
    /// The opening could not be read.
    #[error("the opening of the stream cannot be read: {reason}")]
    Malformed {
        /// What is wrong with it.
        reason: String,
    },
    /// A reason that this release does not know.
    #[error("the other node refuses for a reason that this release does not know: update the older side")]
    #[serde(other)]
    Unknown,
}

impl Refusal {
    /// Whether the same request may be granted a moment later, because the twin is about to start.
    #[must_use]
    pub fn may_pass(&self) -> bool {
        matches!(self, Self::MeshNotOpen { .. } | Self::NoSuchPort { .. } | Self::NotListening { .. })
    }
}

/// Why a message at the beginning of a stream could not be exchanged.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ExchangeError {
    #[error("a message of {found} bytes is longer than the {limit} allowed")]
    TooLong { found: usize, limit: usize },
    #[error("a message is not the JSON expected: {reason}")]
    Malformed { reason: String },
    #[error("the other side did not speak within {} s", EXCHANGE_TIMEOUT.as_secs())]
    Late,
    #[error("{0}")]
    Io(#[from] io::Error),
}

/// Reads one message of at most `limit` bytes. Memory is taken as bytes arrive, not as they are announced.
pub(crate) async fn read_message<T: DeserializeOwned>(
    stream: &mut (impl AsyncRead + Unpin),
    limit: usize,
) -> Result<T, ExchangeError> {
    tokio::time::timeout(EXCHANGE_TIMEOUT, read_whenever(stream, limit)).await.map_err(|_| ExchangeError::Late)?
}

/// The same, however long it takes.
pub(crate) async fn read_whenever<T: DeserializeOwned>(
    stream: &mut (impl AsyncRead + Unpin),
    limit: usize,
) -> Result<T, ExchangeError> {
    let found = stream.read_u32().await? as usize;
    if found > limit {
        return Err(ExchangeError::TooLong { found, limit });
    }
    let mut bytes = Vec::new();
    stream.take(found as u64).read_to_end(&mut bytes).await?;
    if bytes.len() < found {
        return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
    }
    serde_json::from_slice(&bytes).map_err(|error| ExchangeError::Malformed { reason: error.to_string() })
}

/// Writes one message.
pub(crate) async fn write_message<T: Serialize>(
    stream: &mut (impl AsyncWrite + Unpin),
    message: &T,
) -> Result<(), ExchangeError> {
    let body = serde_json::to_vec(message).map_err(|error| ExchangeError::Malformed { reason: error.to_string() })?;
    let length = u32::try_from(body.len())
        .map_err(|_| ExchangeError::TooLong { found: body.len(), limit: MAX_OPENING_BYTES })?;
    let mut bytes = length.to_be_bytes().to_vec();
    bytes.extend_from_slice(&body);
    let writing = async {
        stream.write_all(&bytes).await?;
        stream.flush().await
    };
    tokio::time::timeout(EXCHANGE_TIMEOUT, writing).await.map_err(|_| ExchangeError::Late)??;
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn block_on<F: Future>(future: F) -> F::Output {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
    }

    #[tokio::test]
    async fn a_message_arrives_as_it_was_sent() {
        let refusals = [
            Refusal::MeshNotOpen { mesh: "job-7".parse().unwrap() },
            Refusal::NoSuchPort { port: 50_000 },
            Refusal::Malformed { reason: "x".into() },
        ];
        for refusal in refusals {
            let mut bytes = Vec::new();
            write_message(&mut bytes, &Answer::Refused(refusal.clone())).await.unwrap();
            let answer: Answer = read_message(&mut &bytes[..], MAX_ANSWER_BYTES).await.unwrap();
            assert_eq!(answer, Answer::Refused(refusal));
        }
    }

    #[tokio::test]
    async fn the_words_on_the_wire_are_stable() {
        let text = serde_json::to_string(&Answer::Refused(Refusal::NoSuchPort { port: 5 })).unwrap();
        assert_eq!(text, r#"{"refused":{"code":"no_such_port","port":5}}"#);
        assert_eq!(serde_json::to_string(&Answer::Ok(true)).unwrap(), r#"{"ok":true}"#);
        let later: Answer = serde_json::from_str(r#"{"refused":{"code":"moon_phase","phase":3}}"#).unwrap();
        assert_eq!(later, Answer::Refused(Refusal::Unknown));
    }

    #[tokio::test]
    async fn an_announced_length_beyond_the_limit_is_refused_before_anything_is_read() {
        let error = read_message::<Answer>(&mut &b"\xff\xff\xff\xff"[..], MAX_OPENING_BYTES).await.unwrap_err();
        assert!(matches!(error, ExchangeError::TooLong { limit: MAX_OPENING_BYTES, .. }), "{error}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_peer_is_not_waited_for_for_ever() {
        let (_held, mut silent) = tokio::io::duplex(10);
        let error = read_message::<Answer>(&mut silent, MAX_ANSWER_BYTES).await.unwrap_err();
        assert!(matches!(error, ExchangeError::Late));
    }

    #[test]
    fn a_mesh_id_is_short_and_plain() {
        for good in ["job-1", &"a".repeat(64), "0"] {
            assert_eq!(good.parse::<MeshId>().unwrap().as_str(), good);
        }
        for bad in ["", "Job-1", "a b", "../x", &"a".repeat(81), "jöb"] {
            assert!(bad.parse::<MeshId>().is_err(), "{bad}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn any_bytes_are_read_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..300), framed in any::<bool>()) {
            let mut input = if framed { (bytes.len() as u32).to_be_bytes().to_vec() } else { Vec::new() };
            input.extend_from_slice(&bytes);
            block_on(async {
                let _ = read_message::<Opening>(&mut &input[..], MAX_OPENING_BYTES).await;
                let _ = read_message::<Answer>(&mut &input[..], MAX_ANSWER_BYTES).await;
            });
        }

        #[test]
        fn any_json_is_read_without_panic(text in r#"\{("(mesh|organization_id|certificate|port|ok|refused|code)":("[a-z]{0,4}"|[0-9]{1,12}|true|\{\}|null),?){0,5}\}"#) {
            let mut input = (text.len() as u32).to_be_bytes().to_vec();
            input.extend_from_slice(text.as_bytes());
            block_on(async {
                let _ = read_message::<Opening>(&mut &input[..], MAX_OPENING_BYTES).await;
                let _ = read_message::<Answer>(&mut &input[..], MAX_ANSWER_BYTES).await;
            });
        }
    }
}
