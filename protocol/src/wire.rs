//! The resources of the v4 contract as they stand in JSON (sections A.1 to A.8), and our additions to it.
//!
//! The same types write the answers of the coordinator and read them in clients and nodes. Field order does not
//! matter on the wire.

mod account;
mod event;
mod federation;
mod object;
mod page;
mod peer;
mod problem;
mod task;

pub use account::{NewRole, NewUser, Role, Rule, TokenPair, User};
pub use event::{Event, EventKind, Hello};
pub use federation::{
    AlgorithmStore, Collaboration, DatabaseDetails, KeyRecord, KeySetter, NewCollaboration, NewNode, NewOrganization,
    NewStudy, Node, NodeConfigEntry, NodeDetails, Organization, Study,
};
pub use object::{
    REPR_DIGEST, UPLOAD_COMPLETE, UPLOAD_OFFSET, UploadProgress, Uploaded, read_flag, read_repr_digest,
    write_repr_digest,
};
pub use page::{Link, Many, One, Page, PageLinks};
pub use peer::{NewPeer, OverlayInfo, PeerRecord, RelayInfo, RelayPlace};
pub use problem::{FieldErrors, Problem};
pub use task::{
    AlgorithmAddress, AlgorithmAddresses, ColumnRequest, Columns, ContainerToken, ContainerTokenRequest, NewPort,
    NewTask, NewTaskDatabase, NewTaskOrganization, NodeSummary, Port, Preprocessing, Run, RunPatch, RunResult,
    RunResultLink, StatusAnswer, Task, TaskDatabase,
};
