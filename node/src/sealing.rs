//! How inputs and results are written on the wire: sealed in an encrypted collaboration, else base64.

use twinmesh_protocol::{
    id::{CollaborationId, OrganizationId},
    key::{OrganizationKey, OrganizationPublicKey},
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
    pub key: Option<OrganizationKey>,
}

/// Whom a payload is exchanged with, for which task.
#[derive(Debug, Clone, Copy)]
pub struct Correspondent {
    pub organization_id: OrganizationId,
    pub key: OrganizationPublicKey,
    pub nonce: Nonce,
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
    #[error("it is not base64")]
    Malformed,
    #[error(
        "it cannot be opened with the key of organization {receiver} ({fingerprint}): it was altered, sealed to another organization or an older key, or made for another task"
    )]
    CannotOpen { receiver: OrganizationId, fingerprint: String },
    #[error("the task is not signed, so its payloads cannot be sealed")]
    Unsigned,
    #[error("the organization's key is missing")]
    NoKey,
    #[error(transparent)]
    Seal(SealError),
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
        let context = self.context(direction, self.organization_id, to.organization_id, to.nonce);
        sealed::seal(key, &to.key, &context, content).map(|bytes| payload::to_text(&bytes)).map_err(SealingError::Seal)
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
        match form {
            PayloadForm::Sealed => {}
            PayloadForm::Plain => return Err(SealingError::NotSealed),
            PayloadForm::Vantage6Envelope => return Err(SealingError::Vantage6 { fingerprint: fingerprint() }),
            PayloadForm::Malformed => return Err(SealingError::Malformed),
        }
        let from = from.ok_or(SealingError::Unsigned)?;
        let bytes = payload::from_text(text).map_err(|_| SealingError::Malformed)?;
        let context = self.context(direction, from.organization_id, self.organization_id, from.nonce);
        sealed::open(key, &from.key, &context, &bytes).map_err(|error| match error {
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
