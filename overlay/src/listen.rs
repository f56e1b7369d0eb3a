//! Binds a swarm's listeners.

use std::{collections::HashMap, io, time::Duration};

use futures::StreamExt;
use libp2p::{
    Multiaddr, Swarm,
    core::transport::ListenerId,
    swarm::{NetworkBehaviour, SwarmEvent},
};
use tokio::time::Instant;

/// How long all listeners together may take to say where they listen.
const LISTEN_TIMEOUT: Duration = Duration::from_secs(3);

/// Why an overlay or a relay did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// One of the addresses to listen at is taken, not ours, or of a kind that is not supported.
    #[error("cannot listen at `{address}`; is the port taken, or the address not this machine's?")]
    Listen {
        /// The address.
        address: Multiaddr,
        /// What the transport says.
        source: io::Error,
    },
    /// The transports could not be built.
    #[error("cannot set up the overlay's transports: {reason}")]
    Transport {
        /// What failed.
        reason: String,
    },
}

/// Listens at the addresses, waits until each has been bound, and returns what happened meanwhile.
///
/// It comes before any dial: a dial can only use the port of a listener that is there, and hole punching depends on that.
pub(crate) async fn listen<B: NetworkBehaviour>(
    swarm: &mut Swarm<B>,
    addresses: &[Multiaddr],
) -> Result<Vec<SwarmEvent<B::ToSwarm>>, StartError> {
    let mut waiting: HashMap<ListenerId, Multiaddr> = HashMap::new();
    for address in addresses {
        let listener = swarm.listen_on(address.clone()).map_err(|error| StartError::Listen {
            address: address.clone(),
            source: io::Error::other(error.to_string()),
        })?;
        waiting.insert(listener, address.clone());
    }
    let deadline = Instant::now() + LISTEN_TIMEOUT;
    let mut events = Vec::new();
    while !waiting.is_empty() {
        let Ok(event) = tokio::time::timeout_at(deadline, swarm.select_next_some()).await else {
            // An interface without an address: it may get one later, and the listener will say so.
            tracing::warn!(?waiting, "some listeners have no address yet");
            break;
        };
        match &event {
            SwarmEvent::NewListenAddr { listener_id, .. } => {
                waiting.remove(listener_id);
            }
            SwarmEvent::ListenerClosed { listener_id, reason, .. } => {
                if let Some(address) = waiting.remove(listener_id) {
                    let source = match reason {
                        Ok(()) => io::Error::other("the listener closed"),
                        Err(error) => io::Error::new(error.kind(), error.to_string()),
                    };
                    return Err(StartError::Listen { address, source });
                }
            }
            _ => {}
        }
        events.push(event);
    }
    Ok(events)
}
