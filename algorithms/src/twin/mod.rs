//! Links between twins: the runs of one task at several organizations, talking directly to each other.
//!
//! A [`TwinGroup`] gives each pair of twins an ordered stream of messages that survives lost connections, and twins and
//! nodes that are killed and start over. Twins are ranked by the number of their organization; the lower rank dials the
//! higher one, again and again. Messages are numbered and kept (`channel`); on every new connection both sides say
//! how far the other's messages came, and go on from there.
//!
//! A twin that has its result says goodbye and stays until all others have said so too, so that one that starts over
//! late still finds its twins. That happens after the result is written (see [`Host`]).
//!
//! Determinism is the algorithm's part: started over with the same input, data and seed, it must send the same messages.

use std::{
    collections::BTreeSet,
    io,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use twinmesh_protocol::id::{OrganizationId, TaskId};

pub use self::channel::Replay;
use self::{
    network::{GatewayNetwork, Listener, Network},
    peer::Peer,
};
use crate::{
    maths::collective::Links,
    sdk::{Farewell, Host, gateway::GatewayError},
};

mod channel;
mod frame;
pub(crate) mod fuzzing;
mod network;
mod peer;
#[cfg(test)]
mod tests;

/// The port on which twins listen inside their image.
pub const PORT: u16 = 8888;

/// What the image calls that port.
pub const LABEL: &str = "twin";

/// How much may be kept for twins that start over, unless [`Options`] say otherwise.
const KEPT_BYTES: usize = 256 * 1024 * 1024;

/// A reason for losing the twins.
#[derive(Debug, thiserror::Error)]
pub enum TwinError {
    /// This run is not among the task's runs.
    #[error("organization {0} is not among the twins")]
    NotAMember(OrganizationId),
    /// The port cannot be opened.
    #[error("cannot listen on port {port} for twins")]
    Listen {
        /// The port.
        port: u16,
        /// What the operating system said.
        source: io::Error,
    },
    /// The gateway does not say who the twins are.
    #[error(transparent)]
    Gateway(#[from] GatewayError),
    /// A twin could not be reached for a long time.
    #[error("the twin of organization {organization} was out of reach for {} s: {reason}", waited.as_secs())]
    Lost {
        /// The organization.
        organization: OrganizationId,
        /// How long it was waited for.
        waited: Duration,
        /// The last failure.
        reason: String,
    },
    /// A twin failed.
    #[error("the twin of organization {0} failed; its own log says why")]
    Failed(OrganizationId),
    /// A twin finished although a message from it is expected.
    #[error(
        "the twin of organization {0} has finished already; do all twins run the same function with the same arguments?"
    )]
    Finished(OrganizationId),
    /// The two cannot go on.
    #[error("cannot go on with the twin of organization {organization}: {reason}")]
    Broken {
        /// The organization.
        organization: OrganizationId,
        /// Why not.
        reason: String,
    },
    /// The run must keep more than it may.
    #[error(
        "more than {limit} bytes would be kept for twins that start over; send less, or give up starting over (`Replay::Connection`)"
    )]
    TooMuchKept {
        /// The limit.
        limit: usize,
    },
    /// A message is too long.
    #[error("a message of {length} bytes is too long; send it in parts of at most {} bytes", frame::MAX_MESSAGE)]
    TooLong {
        /// Its length.
        length: usize,
    },
}

/// How a group behaves.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// How long sent messages are kept.
    pub replay: Replay,
    /// How much may be kept, over all twins.
    pub kept_bytes: usize,
    /// How long a twin may be out of reach; the host's patience if `None`.
    pub patience: Option<Duration>,
}

impl Default for Options {
    fn default() -> Self {
        Self { replay: Replay::Whole, kept_bytes: KEPT_BYTES, patience: None }
    }
}

/// Who and where this twin is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Identity {
    pub(crate) task: TaskId,
    pub(crate) organization: OrganizationId,
}

/// The twins of a task, as one of them sees them.
pub struct TwinGroup {
    shared: Arc<Shared>,
}

impl std::fmt::Debug for TwinGroup {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TwinGroup").field("organizations", &self.organizations()).finish_non_exhaustive()
    }
}

/// What the group, its threads and the host's farewell have in common.
struct Shared {
    organizations: Vec<OrganizationId>,
    rank: usize,
    /// By rank; `None` at the own rank.
    peers: Vec<Option<Arc<Peer>>>,
    listener: Option<Arc<dyn Listener>>,
    options: Options,
    kept: AtomicUsize,
    sent: AtomicUsize,
}

impl TwinGroup {
    /// Finds the twins of this run's task and connects to all of them.
    ///
    /// `expected` are their organizations; when empty, those of the task's runs.
    ///
    /// # Errors
    ///
    /// The twins are not there within the host's patience, or this run is not one of them.
    pub fn join(host: &Host, expected: &[OrganizationId], options: Options) -> Result<Self, TwinError> {
        Self::join_at(host, PORT, LABEL, expected, options)
    }

    /// As [`TwinGroup::join`], over another port of the image and its label.
    ///
    /// # Errors
    ///
    /// As [`TwinGroup::join`].
    pub fn join_at(
        host: &Host,
        port: u16,
        label: &str,
        expected: &[OrganizationId],
        options: Options,
    ) -> Result<Self, TwinError> {
        let organizations: BTreeSet<OrganizationId> = if expected.is_empty() {
            host.gateway().runs(host.claims().task_id)?.iter().map(|run| run.organization.id).collect()
        } else {
            expected.iter().copied().collect()
        };
        let identity = Identity { task: host.claims().task_id, organization: host.claims().organization_id };
        let options = Options { patience: Some(options.patience.unwrap_or(host.patience())), ..options };
        let listener = if organizations.len() > 1 {
            Some(network::listen(host, port).map_err(|source| TwinError::Listen { port, source })?)
        } else {
            None
        };
        let network = Arc::new(GatewayNetwork::new(host, label));
        let group = Self::start(identity, &organizations, network, listener, options)?;
        host.on_farewell(Box::new(Parting(Arc::clone(&group.shared))));
        group.await_twins()?;
        Ok(group)
    }

    fn start(
        identity: Identity,
        organizations: &BTreeSet<OrganizationId>,
        network: Arc<dyn Network>,
        listener: Option<Arc<dyn Listener>>,
        options: Options,
    ) -> Result<Self, TwinError> {
        let organizations: Vec<OrganizationId> = organizations.iter().copied().collect();
        let rank = organizations
            .iter()
            .position(|organization| *organization == identity.organization)
            .ok_or(TwinError::NotAMember(identity.organization))?;
        let peers: Vec<Option<Arc<Peer>>> = organizations
            .iter()
            .enumerate()
            .map(|(index, organization)| (index != rank).then(|| Arc::new(Peer::new(identity, *organization, options))))
            .collect();
        for peer in peers.iter().skip(rank + 1).flatten() {
            peer::spawn_dialer(Arc::clone(peer), Arc::clone(&network));
        }
        if let Some(listener) = &listener {
            let dialers: Vec<_> = peers.iter().take(rank).flatten().cloned().collect();
            peer::spawn_acceptor(identity, dialers, Arc::clone(listener), network);
        }
        Ok(Self {
            shared: Arc::new(Shared {
                organizations,
                rank,
                peers,
                listener,
                options,
                kept: AtomicUsize::new(0),
                sent: AtomicUsize::new(0),
            }),
        })
    }

    /// The organizations of all twins, by rank.
    #[must_use]
    pub fn organizations(&self) -> &[OrganizationId] {
        &self.shared.organizations
    }

    /// How many bytes of messages were sent so far, not counting those sent again.
    #[must_use]
    pub fn sent_bytes(&self) -> usize {
        self.shared.sent.load(Ordering::Relaxed)
    }

    fn await_twins(&self) -> Result<(), TwinError> {
        self.shared.peers.iter().flatten().try_for_each(|peer| peer.await_connection())
    }
}

impl Links for TwinGroup {
    type Error = TwinError;

    fn rank(&self) -> usize {
        self.shared.rank
    }

    fn size(&self) -> usize {
        self.shared.organizations.len()
    }

    fn send(&mut self, to: usize, message: Bytes) -> Result<(), TwinError> {
        let length = message.len();
        if length > frame::MAX_MESSAGE {
            return Err(TwinError::TooLong { length });
        }
        let Some(peer) = self.shared.peers.get(to).and_then(Option::as_ref) else { return Ok(()) };
        self.shared.sent.fetch_add(length, Ordering::Relaxed);
        match self.shared.options.replay {
            Replay::Connection => peer.send_bounded(message, self.shared.options.kept_bytes / self.size()),
            Replay::Whole => {
                let limit = self.shared.options.kept_bytes;
                if self.shared.kept.fetch_add(length, Ordering::Relaxed).saturating_add(length) > limit {
                    return Err(TwinError::TooMuchKept { limit });
                }
                peer.send(message)
            }
        }
    }

    fn receive(&mut self, from: usize) -> Result<Bytes, TwinError> {
        match self.shared.peers.get(from).and_then(Option::as_ref) {
            Some(peer) => peer.receive(),
            None => Err(TwinError::Broken {
                organization: self.shared.organizations[self.shared.rank],
                reason: "a twin does not talk to itself".to_owned(),
            }),
        }
    }
}

impl Shared {
    fn close(&self) {
        if let Some(listener) = &self.listener {
            listener.close();
        }
        self.peers.iter().flatten().for_each(|peer| peer.close());
    }
}

/// What the host does with the group when the result is safe.
struct Parting(Arc<Shared>);

impl Farewell for Parting {
    fn finish(&self) -> Result<(), String> {
        let peers = || self.0.peers.iter().flatten();
        peers().for_each(|peer| peer.say_goodbye());
        let complaints: Vec<String> =
            peers().filter_map(|peer| peer.await_goodbye().err()).map(|error| error.to_string()).collect();
        self.0.close();
        if complaints.is_empty() { Ok(()) } else { Err(complaints.join("; ")) }
    }

    fn abort(&self) {
        self.0.peers.iter().flatten().for_each(|peer| peer.say_abort());
        self.0.peers.iter().flatten().for_each(|peer| peer.await_aborted());
        self.0.close();
    }
}
