//! Keeps this node's place at one relay: connected, with a reservation, for as long as the relay is wanted.
//!
//! A core without IO: it is told what happened and what time it is, and answers what to do next.

use std::time::Duration;

use libp2p::{Multiaddr, PeerId};
use tokio::time::Instant;

use crate::{address::RelayAddress, path::Path};

/// The pause after the first failure; it doubles with each further one.
const BACKOFF_FIRST: Duration = Duration::from_millis(250);

/// The longest pause. A coordinator that comes back is found within this time (plus a quarter, see [`RelayLink::backoff`]).
const BACKOFF_LAST: Duration = Duration::from_secs(10);

/// When a dial that brought neither a connection nor an error is taken for failed.
const DIAL_TIMEOUT: Duration = Duration::from_secs(15);

/// When a reservation that was neither given nor refused makes us start over with a new connection.
const RESERVE_TIMEOUT: Duration = Duration::from_secs(15);

/// QUIC is tried once in so many times. With the first pauses that is two seconds after the beginning.
const QUIC_TURN: u32 = 4;

/// What to do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// Dial the relay's addresses of this path.
    Dial(Path),
    /// Ask for a reservation on the connection.
    Reserve,
    /// Close all connections to the relay.
    Disconnect,
}

/// The state of the link to the relay.
#[derive(Debug)]
pub(crate) struct RelayLink {
    relay: RelayAddress,
    own: PeerId,
    state: State,
    failures: u32,
    last_error: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Not connected; dial at this time.
    Down {
        retry_at: Instant,
    },
    Dialing {
        since: Instant,
    },
    /// Connected; ask for a reservation at this time.
    Connected {
        reserve_at: Instant,
    },
    Reserving {
        since: Instant,
    },
    Reserved,
}

impl RelayLink {
    pub(crate) fn new(now: Instant, own: PeerId, relay: RelayAddress) -> Self {
        Self { relay, own, state: State::Down { retry_at: now }, failures: 0, last_error: None }
    }

    pub(crate) fn relay(&self) -> &RelayAddress {
        &self.relay
    }

    /// Names the relay anew, perhaps at other addresses: a hint that it may be back, so a waiting link tries at once.
    pub(crate) fn set(&mut self, now: Instant, addresses: Vec<Multiaddr>) {
        self.relay.addresses = addresses;
        if let State::Down { retry_at } = &mut self.state {
            *retry_at = now;
        }
    }

    pub(crate) fn connected(&mut self, now: Instant) {
        if let State::Down { .. } | State::Dialing { .. } = self.state {
            self.state = State::Connected { reserve_at: now };
        }
    }

    /// The last connection to the relay has ended.
    pub(crate) fn disconnected(&mut self, now: Instant, reason: String) {
        let was_reserved = self.state == State::Reserved;
        self.failed(reason);
        // Who had a place loses it when the relay restarts: the first new attempt need not wait long.
        let pause = if was_reserved { BACKOFF_FIRST } else { self.backoff() };
        self.state = State::Down { retry_at: now + pause };
    }

    pub(crate) fn dial_failed(&mut self, now: Instant, reason: String) {
        if let State::Dialing { .. } = self.state {
            self.failed(reason);
            self.state = State::Down { retry_at: now + self.backoff() };
        }
    }

    pub(crate) fn reserved(&mut self) {
        self.state = State::Reserved;
        self.failures = 0;
        self.last_error = None;
    }

    /// The reservation was refused or has ended, while a connection may still be there.
    pub(crate) fn reservation_lost(&mut self, now: Instant, reason: String) {
        if let State::Reserving { .. } | State::Reserved = self.state {
            self.failed(reason);
            self.state = State::Connected { reserve_at: now + self.backoff() };
        }
    }

    pub(crate) fn poll(&mut self, now: Instant) -> Option<Step> {
        match self.state {
            State::Down { retry_at } if now >= retry_at => {
                self.state = State::Dialing { since: now };
                // TCP carries bulk better, and tells at once when the relay dies; QUIC gets some turns for where TCP is
                // blocked.
                let has = |path| self.relay.addresses.iter().any(|address| Path::of_address(address) == path);
                let quic_turn = self.failures % QUIC_TURN == QUIC_TURN - 1 || !has(Path::DirectTcp);
                Some(Step::Dial(if quic_turn && has(Path::DirectQuic) { Path::DirectQuic } else { Path::DirectTcp }))
            }
            State::Dialing { since } if now >= since + DIAL_TIMEOUT => {
                self.dial_failed(now, "no answer in time".to_owned());
                None
            }
            State::Connected { reserve_at } if now >= reserve_at => {
                self.state = State::Reserving { since: now };
                Some(Step::Reserve)
            }
            State::Reserving { since } if now >= since + RESERVE_TIMEOUT => {
                self.disconnected(now, "the relay did not answer the request for a reservation".to_owned());
                Some(Step::Disconnect)
            }
            State::Down { .. }
            | State::Dialing { .. }
            | State::Connected { .. }
            | State::Reserving { .. }
            | State::Reserved => None,
        }
    }

    pub(crate) fn deadline(&self) -> Option<Instant> {
        match self.state {
            State::Down { retry_at } => Some(retry_at),
            State::Dialing { since } => Some(since + DIAL_TIMEOUT),
            State::Connected { reserve_at } => Some(reserve_at),
            State::Reserving { since } => Some(since + RESERVE_TIMEOUT),
            State::Reserved => None,
        }
    }

    /// Whether there is a connection over which circuits can be asked for.
    pub(crate) fn is_connected(&self) -> bool {
        match self.state {
            State::Connected { .. } | State::Reserving { .. } | State::Reserved => true,
            State::Down { .. } | State::Dialing { .. } => false,
        }
    }

    /// Whether others can reach this node through the relay.
    pub(crate) fn is_reserved(&self) -> bool {
        self.state == State::Reserved
    }

    /// Failures in a row, and the last one's reason.
    pub(crate) fn failures(&self) -> (u32, Option<&str>) {
        (self.failures, self.last_error.as_deref())
    }

    fn failed(&mut self, reason: String) {
        self.failures = self.failures.saturating_add(1);
        self.last_error = Some(reason);
    }

    /// The pause before the next try: doubling, and spread by up to a quarter, differently for each node and try, so
    /// that a restarted relay is not hit by all nodes at the same moment.
    fn backoff(&self) -> Duration {
        let doublings = self.failures.saturating_sub(1).min(6);
        let pause = (BACKOFF_FIRST * 2_u32.pow(doublings)).min(BACKOFF_LAST);
        let bytes = self.own.to_bytes();
        let spread = bytes[bytes.len() - 1 - (self.failures as usize % 16)];
        pause + pause * u32::from(spread) / 1024
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn relay() -> RelayAddress {
        RelayAddress {
            peer_id: PeerId::random(),
            addresses: vec!["/ip4/127.0.0.1/udp/1/quic-v1".parse().unwrap(), "/ip4/127.0.0.1/tcp/1".parse().unwrap()],
        }
    }

    #[test]
    fn it_dials_reserves_and_rests() {
        let now = Instant::now();
        let mut link = RelayLink::new(now, PeerId::random(), relay());
        assert_eq!(link.poll(now), Some(Step::Dial(Path::DirectTcp)));
        assert_eq!(link.poll(now), None);
        link.connected(now);
        assert_eq!(link.poll(now), Some(Step::Reserve));
        assert!(link.is_connected() && !link.is_reserved());
        link.reserved();
        assert_eq!((link.poll(now), link.deadline(), link.is_reserved()), (None, None, true));
    }

    #[test]
    fn it_tries_for_ever_ever_more_slowly_and_over_both_transports() {
        let mut now = Instant::now();
        let mut link = RelayLink::new(now, PeerId::random(), relay());
        let mut quic = 0;
        for _ in 0..40 {
            let Some(Step::Dial(path)) = link.poll(now) else { panic!("it must dial") };
            quic += usize::from(path == Path::DirectQuic);
            link.dial_failed(now, "refused".into());
            let next = link.deadline().unwrap();
            assert!(next > now && next <= now + BACKOFF_LAST * 5 / 4);
            assert_eq!(link.poll(now), None);
            now = next;
        }
        assert_eq!(quic, 10);
        assert_eq!(link.failures(), (40, Some("refused")));
    }

    #[test]
    fn after_a_restart_of_the_relay_it_reserves_again() {
        let now = Instant::now();
        let mut link = RelayLink::new(now, PeerId::random(), relay());
        link.poll(now);
        link.connected(now);
        link.poll(now);
        link.reserved();
        link.reservation_lost(now, "the listener closed".into());
        link.disconnected(now, "reset".into());
        let at = link.deadline().unwrap();
        assert!(at <= now + Duration::from_secs(1));
        assert!(matches!(link.poll(at), Some(Step::Dial(_))));
        link.connected(at);
        assert_eq!(link.poll(at), Some(Step::Reserve));
    }

    #[test]
    fn a_relay_that_never_answers_is_left() {
        let now = Instant::now();
        let mut link = RelayLink::new(now, PeerId::random(), relay());
        link.poll(now);
        link.connected(now);
        link.poll(now);
        assert_eq!(link.poll(link.deadline().unwrap()), Some(Step::Disconnect));
    }

    #[test]
    fn a_relay_that_is_named_again_is_tried_at_once_where_it_is_said_to_be() {
        let now = Instant::now();
        let mut link = RelayLink::new(now, PeerId::random(), relay());
        link.poll(now);
        link.dial_failed(now, "refused".into());
        assert_eq!(link.poll(now), None);
        let quic: Vec<Multiaddr> = vec!["/ip4/127.0.0.1/udp/2/quic-v1".parse().unwrap()];
        link.set(now, quic.clone());
        assert_eq!(link.poll(now), Some(Step::Dial(Path::DirectQuic)));
        assert_eq!(link.relay().addresses, quic);
        // A link that stands is left alone.
        link.connected(now);
        link.poll(now);
        link.reserved();
        link.set(now, quic);
        assert_eq!((link.poll(now), link.is_reserved()), (None, true));
    }
}
