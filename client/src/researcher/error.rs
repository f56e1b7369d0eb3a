use twinmesh_protocol::envelope::EnvelopeError;
use twinmesh_protocol::id::{RunId, TaskId};
use twinmesh_protocol::payload::NotBase64;
use twinmesh_protocol::sealed::SealError;
use twinmesh_protocol::signed::SignedError;
use twinmesh_protocol::status::RunStatus;

use crate::api::ApiError;
use crate::made::MadeError;
use crate::pins::PinError;

/// Why a task could not be asked for, awaited or read.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The coordinator.
    #[error(transparent)]
    Api(#[from] ApiError),
    /// A public key.
    #[error(transparent)]
    Pin(#[from] PinError),
    /// The tasks made here.
    #[error(transparent)]
    Made(#[from] MadeError),
    /// The user belongs to no organization.
    #[error("user `{user}` belongs to no organization")]
    NoOrganization {
        /// The user's name.
        user: String,
    },
    /// A key is needed and none was given.
    #[error("there is no private key of your organization here")]
    NoKeyHere,
    /// A key is needed for this collaboration.
    #[error("collaboration `{collaboration}` is encrypted, and there is no private key of your organization here")]
    NoKey {
        /// The collaboration's name.
        collaboration: String,
    },
    /// The coordinator shows another key for our own organization.
    #[error(
        "the coordinator shows another key for your organization `{organization}` than the private key here: shown \
         {shown}, here {here}"
    )]
    OwnKeyDiffers {
        /// Our organization's name.
        organization: String,
        /// The fingerprint shown, or what is shown instead of a key.
        shown: String,
        /// The fingerprint of the private key's public half.
        here: String,
    },
    /// An organization that the task is for is no member.
    #[error("organization {organization} is not in collaboration `{collaboration}`; its organizations: {members}")]
    NotMember {
        /// The organization's id.
        organization: String,
        /// The collaboration's name.
        collaboration: String,
        /// The names of those that are.
        members: String,
    },
    /// An organization is named twice.
    #[error("organization `{organization}` is named more than once")]
    NamedTwice {
        /// The organization's name.
        organization: String,
    },
    /// Nobody to send the task to.
    #[error("collaboration `{collaboration}` has no organizations")]
    NoReceivers {
        /// The collaboration's name.
        collaboration: String,
    },
    /// The arguments cannot be written as JSON.
    #[error("the input cannot be written as JSON")]
    Input(#[source] serde_json::Error),
    /// A payload is not written as payloads are; does not happen with what was sealed here.
    #[error("the input cannot be uploaded")]
    Payload(#[source] NotBase64),
    /// The input cannot be sealed.
    #[error("cannot seal the input for organization `{organization}`")]
    Seal {
        /// The organization's name.
        organization: String,
        /// Why.
        source: SealError,
    },
    /// The input cannot be put into vantage6's envelope.
    #[error("cannot encrypt the input for organization `{organization}`")]
    Envelope {
        /// The organization's name.
        organization: String,
        /// Why.
        source: EnvelopeError,
    },
    /// Our key is RSA and theirs is not.
    #[error(
        "organization `{organization}` has an Ed25519 key and runs signed tasks only, but the private key here is RSA, \
         which signs nothing"
    )]
    NeedsSignature {
        /// The organization's name.
        organization: String,
    },
    /// Limits on subtasks that nobody can sign.
    #[error("the private key here is RSA, which signs nothing: what subtasks a task may make cannot be said")]
    Delegation,
    /// The task was signed with the key that our organization had before.
    #[error("task {task} was signed with an Ed25519 key, but the private key here is RSA")]
    SignedBefore {
        /// The task.
        task: TaskId,
    },
    /// The manifest cannot be signed.
    #[error("cannot sign the task")]
    Sign(#[source] SignedError),
    /// The task is encrypted but was not signed; its results cannot be opened here.
    #[error("task {task} has no signed manifest: its results cannot be opened and checked here")]
    NoManifest {
        /// The task.
        task: TaskId,
    },
    /// The task names no collaboration, so that nobody knows whether its results ought to be sealed.
    #[error("the coordinator does not say to which collaboration task {task} belongs: its results cannot be trusted")]
    NoCollaboration {
        /// The task.
        task: TaskId,
    },
    /// The task is said to belong elsewhere.
    #[error("the coordinator shows task {task} in another collaboration, {found}, than where it was made")]
    OtherCollaboration {
        /// The task.
        task: TaskId,
        /// The collaboration shown.
        found: String,
    },
    /// Nobody signed the task, it was not made here, and only the coordinator says that it need not be.
    #[error(
        "task {task} was not made here and nobody signed it: that collaboration `{collaboration}` is not encrypted is \
         only the coordinator's word"
    )]
    Unsigned {
        /// The task.
        task: TaskId,
        /// The collaboration's name.
        collaboration: String,
    },
    /// The manifest was altered, or signed by another organization.
    #[error("task {task} was not signed with the key of your organization `{organization}`")]
    ForeignManifest {
        /// The task.
        task: TaskId,
        /// Our organization's name.
        organization: String,
        /// What is wrong with it.
        source: SignedError,
    },
    /// The manifest belongs elsewhere.
    #[error("the coordinator shows task {task} with the manifest of another task")]
    OtherManifest {
        /// The task.
        task: TaskId,
    },
    /// A run of an organization that the task was not signed for.
    #[error("the coordinator shows a run of task {task} at organization `{organization}`, for which it was not signed")]
    ForeignRun {
        /// The task.
        task: TaskId,
        /// The organization's name.
        organization: String,
    },
    /// The runs are not those that were signed for.
    #[error("the coordinator shows {found} runs of task {task} at organization `{organization}`, signed was one")]
    OtherRuns {
        /// The task.
        task: TaskId,
        /// The organization's name.
        organization: String,
        /// The number of runs shown.
        found: usize,
    },
}

impl ClientError {
    /// What to try, where there is something to say.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Api(error) => error.hint(),
            Self::NoKeyHere | Self::NoKey { .. } => {
                Some("make one with `twinmesh key create`, or name the file with --key".into())
            }
            Self::OwnKeyDiffers { .. } => Some(
                "if the key here is the right one, upload it with `twinmesh key upload`; else get the right file \
                 from a colleague and name it with --key"
                    .into(),
            ),
            Self::Pin(PinError::Mismatch { .. }) => {
                Some("replace a pin with `twinmesh organization pin ORGANIZATION --fingerprint …`".into())
            }
            Self::ForeignManifest { .. } | Self::SignedBefore { .. } => {
                Some("results can be opened with the key that signed the task; name its file with --key".into())
            }
            Self::NotMember { .. } => Some("list them with `twinmesh organization list --collaboration …`".into()),
            Self::Unsigned { .. } => {
                Some("name the collaboration where it was made, as in `twinmesh result get --collaboration …`".into())
            }
            Self::Pin(_)
            | Self::Made(_)
            | Self::NoOrganization { .. }
            | Self::NamedTwice { .. }
            | Self::NoReceivers { .. }
            | Self::Input(_)
            | Self::Payload(_)
            | Self::Seal { .. }
            | Self::Envelope { .. }
            | Self::NeedsSignature { .. }
            | Self::Delegation
            | Self::Sign(_)
            | Self::NoManifest { .. }
            | Self::NoCollaboration { .. }
            | Self::OtherCollaboration { .. }
            | Self::ForeignRun { .. }
            | Self::OtherManifest { .. }
            | Self::OtherRuns { .. } => None,
        }
    }
}

/// Why a run has no result that can be used.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// It has not ended.
    #[error("run {run} at organization `{organization}` has not ended: {status}")]
    Unfinished {
        /// The run.
        run: RunId,
        /// The name of the organization that runs it.
        organization: String,
        /// Its status.
        status: RunStatus,
    },
    /// It ended without a result.
    #[error("run {run} at organization `{organization}` ended without a result: {status}{}", log_text(.log))]
    Failed {
        /// The run.
        run: RunId,
        /// The name of the organization that ran it.
        organization: String,
        /// How it ended.
        status: RunStatus,
        /// What it printed, or why it was refused.
        log: String,
    },
    /// It is not what the organization sealed for this task.
    #[error("result of run {run} from organization `{organization}` was altered or not made by it")]
    Tampered {
        /// The run.
        run: RunId,
        /// The name of the organization that should have made it.
        organization: String,
        /// What does not fit.
        source: SealError,
    },
    /// It cannot be opened with our RSA key.
    #[error("result of run {run} from organization `{organization}` was altered or not made for us")]
    Envelope {
        /// The run.
        run: RunId,
        /// The name of the organization that should have made it.
        organization: String,
        /// What does not fit.
        source: EnvelopeError,
    },
    /// It is no payload at all.
    #[error("result of run {run} from organization `{organization}` cannot be read")]
    Malformed {
        /// The run.
        run: RunId,
        /// The name of the organization that should have made it.
        organization: String,
        /// What does not fit.
        source: NotBase64,
    },
    /// The run is said to be completed, but there is no result.
    #[error("run {run} at organization `{organization}` is completed, but the coordinator shows no result")]
    Missing {
        /// The run.
        run: RunId,
        /// The name of the organization that ran it.
        organization: String,
    },
    /// The organization's key is not to be trusted.
    #[error("result of run {run} from organization `{organization}` cannot be checked")]
    Untrusted {
        /// The run.
        run: RunId,
        /// The organization's name.
        organization: String,
        /// Why.
        source: PinError,
    },
}

impl RunError {
    /// The run.
    #[must_use]
    pub const fn run(&self) -> RunId {
        match self {
            Self::Unfinished { run, .. }
            | Self::Failed { run, .. }
            | Self::Tampered { run, .. }
            | Self::Envelope { run, .. }
            | Self::Malformed { run, .. }
            | Self::Missing { run, .. }
            | Self::Untrusted { run, .. } => *run,
        }
    }
}

fn log_text(log: &str) -> String {
    let log = log.trim();
    if log.is_empty() { String::new() } else { format!("\n{log}") }
}
