//! How inputs and results are written on the wire: sealed in an encrypted collaboration, else base64.
//!
//! In an encrypted collaboration the receiver's key decides the form: vantage6's envelope for RSA, ours for Ed25519. Which
//! keys these are is known from pins, so a coordinator cannot turn one into the other. Who wrote a payload shows only
//! where both keys are Ed25519.

use twinmesh_protocol::{
    envelope::{self, EnvelopeError},
    id::{CollaborationId, OrganizationId},
    key::{OrganizationKey, PrivateKey, PublicKey},
    manifest::Nonce,
    payload::{self, PayloadForm},
    sealed::{self, Direction, SealContext, SealError},
};

/// Who this node is.
#[derive(Debug, Clone)]
pub struct Home {
    pub organization_id: OrganizationId,
    pub collaboration_id: CollaborationId,
    /// Whether payloads are sealed.
    pub encrypted: bool,
    /// The organization's key; always there when payloads are sealed.
    pub key: Option<PrivateKey>,
}

/// Whom a payload is exchanged with, for which task.
#[derive(Debug, Clone)]
pub struct Correspondent {
    pub organization_id: OrganizationId,
    pub key: PublicKey,
    /// The nonce of the task's manifest; none where nobody signed the task.
    pub nonce: Option<Nonce>,
}

/// Why a payload cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum SealingError {
    #[error("it is not sealed, though the collaboration is encrypted")]
    NotSealed,
    #[error("it is sealed, though the collaboration is not encrypted")]
    Sealed,
    #[error(
        "it is sealed for an RSA key (a stock vantage6 client), but this organization's key is Ed25519 ({fingerprint})"
    )]
    Vantage6 { fingerprint: String },
    #[error("it is sealed for an Ed25519 key, but this organization's key is RSA ({fingerprint})")]
    NoVantage6 { fingerprint: String },
    #[error("it is not base64")]
    Malformed,
    #[error(
        "it cannot be opened with the key of organization {receiver} ({fingerprint}): it was altered, sealed to another organization or an older key, or made for another task"
    )]
    CannotOpen { receiver: OrganizationId, fingerprint: String },
    #[error(
        "it cannot be opened with the RSA key of organization {receiver} ({fingerprint}): it was altered, made for another key, or is no text"
    )]
    CannotOpenEnvelope { receiver: OrganizationId, fingerprint: String },
    #[error("the task is not signed, so nothing can be sealed to or by the Ed25519 key of an organization")]
    Unsigned,
    #[error("the organization's key is missing")]
    NoKey,
    #[error(transparent)]
    Seal(SealError),
    #[error(transparent)]
    Envelope(EnvelopeError),
}

impl Home {
    /// Writes a payload to a correspondent.
    ///
    /// # Errors
    ///
    /// When it must be sealed and cannot be.
    pub fn write(
        &self,
        direction: Direction,
        to: Option<&Correspondent>,
        content: &[u8],
    ) -> Result<String, SealingError> {
        if !self.encrypted {
            return Ok(payload::to_text(content));
        }
        let to = to.ok_or(SealingError::Unsigned)?;
        let key = self.key.as_ref().ok_or(SealingError::NoKey)?;
        let receiver = match &to.key {
            PublicKey::Rsa(receiver) => return envelope::seal(receiver, content).map_err(SealingError::Envelope),
            PublicKey::Ed25519(receiver) => receiver,
        };
        let nonce = to.nonce.ok_or(SealingError::Unsigned)?;
        let context = self.context(direction, self.organization_id, to.organization_id, nonce);
        let sealed = match key {
            PrivateKey::Ed25519(key) => sealed::seal(key, receiver, &context, content),
            PrivateKey::Rsa(_) => sealed::seal_anonymous(receiver, &context, content),
        };
        sealed.map(|bytes| payload::to_text(&bytes)).map_err(SealingError::Seal)
    }

    /// Reads a payload from a correspondent.
    ///
    /// # Errors
    ///
    /// When it is not what the collaboration demands, or cannot be opened.
    pub fn read(
        &self,
        direction: Direction,
        from: Option<&Correspondent>,
        text: &str,
    ) -> Result<Vec<u8>, SealingError> {
        let form = payload::classify(text);
        if !self.encrypted {
            return match form {
                // Results may be any bytes.
                PayloadForm::Plain | PayloadForm::Malformed => {
                    payload::from_text(text).map_err(|_| SealingError::Malformed)
                }
                PayloadForm::Sealed | PayloadForm::Vantage6Envelope => Err(SealingError::Sealed),
            };
        }
        let key = self.key.as_ref().ok_or(SealingError::NoKey)?;
        let fingerprint = || key.public().fingerprint();
        match (form, key) {
            (PayloadForm::Sealed, PrivateKey::Ed25519(key)) => self.open(key, direction, from, text),
            (PayloadForm::Vantage6Envelope, PrivateKey::Rsa(key)) => {
                let content = envelope::open_text(key, text).map_err(|_| SealingError::CannotOpenEnvelope {
                    receiver: self.organization_id,
                    fingerprint: fingerprint(),
                })?;
                Ok(match direction {
                    Direction::Input => envelope::input_of_browser(content),
                    Direction::Result => content,
                })
            }
            (PayloadForm::Vantage6Envelope, PrivateKey::Ed25519(_)) => {
                Err(SealingError::Vantage6 { fingerprint: fingerprint() })
            }
            (PayloadForm::Sealed, PrivateKey::Rsa(_)) => Err(SealingError::NoVantage6 { fingerprint: fingerprint() }),
            (PayloadForm::Plain, _) => Err(SealingError::NotSealed),
            (PayloadForm::Malformed, _) => Err(SealingError::Malformed),
        }
    }

    fn open(
        &self,
        key: &OrganizationKey,
        direction: Direction,
        from: Option<&Correspondent>,
        text: &str,
    ) -> Result<Vec<u8>, SealingError> {
        let fingerprint = || key.public().fingerprint();
        let from = from.ok_or(SealingError::Unsigned)?;
        let nonce = from.nonce.ok_or(SealingError::Unsigned)?;
        let bytes = payload::from_text(text).map_err(|_| SealingError::Malformed)?;
        let context = self.context(direction, from.organization_id, self.organization_id, nonce);
        let opened = match (&from.key, direction) {
            (PublicKey::Ed25519(sender), _) => sealed::open(key, sender, &context, &bytes),
            (PublicKey::Rsa(_), Direction::Result) => sealed::open_anonymous(key, &context, &bytes),
            (PublicKey::Rsa(_), Direction::Input) => return Err(SealingError::Unsigned),
        };
        opened.map_err(|error| match error {
            SealError::CannotOpen => {
                SealingError::CannotOpen { receiver: self.organization_id, fingerprint: fingerprint() }
            }
            error => SealingError::Seal(error),
        })
    }

    fn context(
        &self,
        direction: Direction,
        sender: OrganizationId,
        receiver: OrganizationId,
        nonce: Nonce,
    ) -> SealContext {
        SealContext { direction, collaboration_id: self.collaboration_id, sender, receiver, nonce }
    }
}
