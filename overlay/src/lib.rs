//! The peer network of Twinmesh: how nodes find each other, decide whom to talk to, and carry what algorithm twins say.
//!
//! libp2p finds the path: each node keeps a connection to the relay of every coordinator and is reachable through them, and
//! nodes connect to each other directly where they can. A stream between two nodes is encrypted end to end on either path.
//!
//! From the outside in:
//!
//! * [`JobMeshes`] – what a node uses: opens a job's mesh, dials twins, is handed twins that dial.
//! * [`mesh`] – the decision who may enter a mesh, by certificates under pinned keys. No IO.
//! * [`Overlay`] – the swarm: opens streams to peers over the best path, keeps the places at the relays, reports its
//!   [`OverlayStatus`] and [explains](Overlay::explain) its paths.
//! * [`TwinStream`] – a stream that knows its peer and path, and tells a finished stream from a lost one.
//! * [`carrier`] – moves bytes between a run's sockets and twin streams.
//! * [`gate`] – who may hold a connection at all.
//! * `relay` (feature `relay`) – the coordinator's side.
//!
//! Inside, `connect` and `relay_link` are cores without IO that decide what to dial when; `swarm::shell` does it. Two
//! small libp2p behaviours are our own: `streams` opens and accepts, `candidates` mends what hole punching is told.

mod address;
mod candidates;
pub mod carrier;
mod connect;
#[doc(hidden)]
pub mod fuzzing;
pub mod gate;
mod job_meshes;
mod listen;
pub mod mesh;
mod opening;
mod path;
mod record;
#[cfg(feature = "relay")]
pub mod relay;
mod relay_link;
mod status;
mod stream;
mod streams;
mod swarm;
mod transport;

pub use libp2p::{Multiaddr, PeerId};

pub use self::{
    address::{AddressError, MAX_PEER_ADDRESSES, RelayAddress},
    job_meshes::{Arrival, Arrivals, Clock, Credentials, DialError, JobMeshes, OpenerGone},
    listen::StartError,
    path::{Path, Traffic},
    status::{ConnectionStatus, Explanation, OverlayStatus, PeerStatus, RelayStatus},
    stream::TwinStream,
    swarm::{Incoming, MAX_RELAYS, OpenError, Overlay, OverlayConfig, Paths},
};
