//! Decides, for one peer, which paths to try when, and when a worse one is good enough.
//!
//! A core without IO: it is told what happened and what time it is, and answers what to do next.

use std::{collections::BTreeMap, time::Duration};

use tokio::time::Instant;

use crate::path::Path;

/// How long an attempt may take before it fails.
///
/// Contract D.7: published algorithms dial their twins within seconds of starting, and give up after about ten.
pub(crate) const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a path gets before the next worse one is tried as well ("happy eyeballs", RFC 8305 section 5, which
/// recommends 100 to 250 ms; a handshake on a LAN takes a few).
const STAGGER: Duration = Duration::from_millis(100);

/// How long a relayed connection that is up waits for a direct one.
const PATIENCE: Duration = Duration::from_millis(250);

/// The same where the peer's addresses are on this machine: TCP over loopback either fails at once or succeeds, so waiting
/// costs nothing but on a machine that is very busy. (QUIC would not notice a closed port for seconds.)
const PATIENCE_LOOPBACK: Duration = Duration::from_secs(3);

/// How long a refused circuit is asked for again: the other node may be about to renew its place at the relay.
const RELAY_RETRY_WINDOW: Duration = Duration::from_secs(3);

/// The pause between two such requests.
const RELAY_RETRY_PAUSE: Duration = Duration::from_millis(300);

/// What to do next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step {
    /// Dial over this path.
    Dial(Path),
    /// The best connection there is will do.
    Use,
    /// Nothing worked.
    Fail(BTreeMap<Path, String>),
}

/// An attempt to get a connection to one peer.
#[derive(Debug)]
pub(crate) struct Attempt {
    started: Instant,
    loopback: bool,
    last_dial: Option<Instant>,
    stages: BTreeMap<Path, Stage>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Stage {
    Planned,
    Dialing,
    Retry { at: Instant, reason: String },
    Failed(String),
}

impl Attempt {
    /// Begins an attempt over those of the paths that the peer has addresses for.
    pub(crate) fn new(now: Instant, paths: impl IntoIterator<Item = Path>, loopback: bool) -> Self {
        Self {
            started: now,
            loopback,
            last_dial: None,
            stages: paths.into_iter().map(|path| (path, Stage::Planned)).collect(),
        }
    }

    /// Whether this attempt tries a direct path.
    pub(crate) fn is_direct(&self) -> bool {
        self.stages.keys().any(|path| path.is_direct())
    }

    /// A dial that [`Step::Dial`] asked for has failed.
    pub(crate) fn failed(&mut self, now: Instant, path: Path, reason: String) {
        if let Some(stage) = self.stages.get_mut(&path)
            && *stage == Stage::Dialing
        {
            let retry = path == Path::Relayed && now < self.started + RELAY_RETRY_WINDOW;
            *stage = if retry { Stage::Retry { at: now + RELAY_RETRY_PAUSE, reason } } else { Stage::Failed(reason) };
        }
    }

    /// What to do now, given the best connection to the peer and whether circuits can be asked for. `None`: wait until
    /// something happens or [`Attempt::deadline`] comes.
    pub(crate) fn poll(&mut self, now: Instant, connected: Option<Path>, relay_ready: bool) -> Option<Step> {
        match connected {
            Some(path) if path.is_direct() => return Some(Step::Use),
            Some(_) if !self.direct_is_pending() || now >= self.started + self.patience() => return Some(Step::Use),
            Some(_) | None => {}
        }
        if now >= self.started + ATTEMPT_TIMEOUT {
            return Some(Step::Fail(self.reasons(relay_ready)));
        }
        let may_dial = self.may_dial(now);
        for (path, stage) in &mut self.stages {
            if *path == Path::Relayed && (connected.is_some() || !relay_ready) {
                continue;
            }
            let due = match stage {
                Stage::Planned => may_dial,
                Stage::Retry { at, .. } => now >= *at,
                Stage::Dialing | Stage::Failed(_) => false,
            };
            if due {
                *stage = Stage::Dialing;
                self.last_dial = Some(now);
                return Some(Step::Dial(*path));
            }
            if *stage == Stage::Planned {
                break;
            }
        }
        let over = self.stages.values().all(|stage| matches!(stage, Stage::Failed(_)));
        (over && connected.is_none()).then(|| Step::Fail(self.reasons(relay_ready)))
    }

    /// When to poll again though nothing has happened.
    pub(crate) fn deadline(&self, now: Instant) -> Instant {
        let mut deadline = self.started + ATTEMPT_TIMEOUT;
        // What was due already and has not been done waits for an event, not for a time.
        let mut earlier = |at: Instant| {
            if at > now {
                deadline = deadline.min(at);
            }
        };
        earlier(self.started + PATIENCE);
        earlier(self.started + self.patience());
        for stage in self.stages.values() {
            match stage {
                Stage::Planned => {
                    if let Some(last) = self.last_dial {
                        earlier(last + STAGGER);
                    }
                }
                Stage::Retry { at, .. } => earlier(*at),
                Stage::Dialing | Stage::Failed(_) => {}
            }
        }
        deadline
    }

    fn patience(&self) -> Duration {
        match self.stages.get(&Path::DirectTcp) {
            Some(Stage::Planned | Stage::Dialing) if self.loopback => PATIENCE_LOOPBACK,
            Some(_) | None => PATIENCE,
        }
    }

    fn direct_is_pending(&self) -> bool {
        self.stages.iter().any(|(path, stage)| path.is_direct() && !matches!(stage, Stage::Failed(_)))
    }

    /// Whether the next planned path may start: the ones before it have failed, or have had their head start.
    fn may_dial(&self, now: Instant) -> bool {
        let dialing = self.stages.values().any(|stage| *stage == Stage::Dialing);
        !dialing || self.last_dial.is_none_or(|last| now >= last + STAGGER)
    }

    fn reasons(&self, relay_ready: bool) -> BTreeMap<Path, String> {
        self.stages
            .iter()
            .map(|(path, stage)| {
                let reason = match stage {
                    Stage::Failed(reason) | Stage::Retry { reason, .. } => reason.clone(),
                    Stage::Dialing => "no answer in time".to_owned(),
                    Stage::Planned if *path == Path::Relayed && !relay_ready => "the relay is not connected".to_owned(),
                    Stage::Planned => "not tried in time".to_owned(),
                };
                (*path, reason)
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ALL: [Path; 3] = [Path::DirectTcp, Path::DirectQuic, Path::Relayed];

    fn after(start: Instant, ms: u64) -> Instant {
        start + Duration::from_millis(ms)
    }

    fn start() -> Instant {
        Instant::now()
    }

    #[test]
    fn paths_are_tried_best_first_with_a_head_start() {
        let t = start();
        let mut attempt = Attempt::new(t, ALL, false);
        assert_eq!(attempt.poll(t, None, true), Some(Step::Dial(Path::DirectTcp)));
        assert_eq!(attempt.poll(after(t, 50), None, true), None);
        assert_eq!(attempt.deadline(after(t, 50)), after(t, 100));
        assert_eq!(attempt.poll(after(t, 100), None, true), Some(Step::Dial(Path::DirectQuic)));
        assert_eq!(attempt.poll(after(t, 200), None, true), Some(Step::Dial(Path::Relayed)));
        assert_eq!(attempt.poll(after(t, 210), Some(Path::DirectQuic), true), Some(Step::Use));
    }

    #[test]
    fn a_failure_lets_the_next_path_start_at_once() {
        let t = start();
        let mut attempt = Attempt::new(t, ALL, false);
        assert_eq!(attempt.poll(t, None, true), Some(Step::Dial(Path::DirectTcp)));
        attempt.failed(after(t, 1), Path::DirectTcp, "refused".into());
        assert_eq!(attempt.poll(after(t, 1), None, true), Some(Step::Dial(Path::DirectQuic)));
        attempt.failed(after(t, 2), Path::DirectQuic, "refused".into());
        assert_eq!(attempt.poll(after(t, 2), None, true), Some(Step::Dial(Path::Relayed)));
        assert_eq!(attempt.poll(after(t, 3), Some(Path::Relayed), true), Some(Step::Use));
    }

    #[test]
    fn a_relayed_connection_waits_a_little_for_a_direct_one() {
        let t = start();
        let mut attempt = Attempt::new(t, ALL, false);
        attempt.poll(t, None, true);
        assert_eq!(attempt.poll(after(t, 10), Some(Path::Relayed), true), None);
        assert_eq!(attempt.poll(after(t, 250), Some(Path::Relayed), true), Some(Step::Use));
        let mut local = Attempt::new(t, ALL, true);
        local.poll(t, None, true);
        local.poll(after(t, 100), None, true);
        assert_eq!(local.poll(after(t, 250), Some(Path::Relayed), true), None);
        assert_eq!(local.poll(after(t, 260), Some(Path::DirectTcp), true), Some(Step::Use));
        local.failed(after(t, 270), Path::DirectTcp, "refused".into());
        assert_eq!(local.poll(after(t, 270), Some(Path::Relayed), true), Some(Step::Use));
    }

    #[test]
    fn a_refused_circuit_is_asked_for_again_for_a_while() {
        let t = start();
        let mut attempt = Attempt::new(t, [Path::Relayed], false);
        assert_eq!(attempt.poll(t, None, true), Some(Step::Dial(Path::Relayed)));
        attempt.failed(after(t, 5), Path::Relayed, "no reservation".into());
        assert_eq!(attempt.poll(after(t, 6), None, true), None);
        assert_eq!(attempt.poll(after(t, 305), None, true), Some(Step::Dial(Path::Relayed)));
        attempt.failed(after(t, 3000), Path::Relayed, "no reservation".into());
        let expected = BTreeMap::from([(Path::Relayed, "no reservation".to_owned())]);
        assert_eq!(attempt.poll(after(t, 3000), None, true), Some(Step::Fail(expected)));
    }

    #[test]
    fn a_relay_that_is_away_is_waited_for_and_then_named() {
        let t = start();
        let mut attempt = Attempt::new(t, [Path::Relayed], false);
        assert_eq!(attempt.poll(t, None, false), None);
        assert_eq!(attempt.poll(after(t, 500), None, true), Some(Step::Dial(Path::Relayed)));
        let mut attempt = Attempt::new(t, [Path::Relayed], false);
        let expected = BTreeMap::from([(Path::Relayed, "the relay is not connected".to_owned())]);
        assert_eq!(attempt.poll(after(t, 10_000), None, false), Some(Step::Fail(expected)));
    }

    #[test]
    fn without_any_path_it_fails_at_once() {
        let t = start();
        assert_eq!(Attempt::new(t, [], false).poll(t, None, true), Some(Step::Fail(BTreeMap::new())));
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        /// Whatever happens in whatever order, the attempt ends by its timeout, never dials a path twice at a time, and
        /// its deadline never lies behind when there is nothing to do.
        #[test]
        fn every_attempt_comes_to_an_end(
            paths in prop::collection::btree_set(prop::sample::select(ALL.to_vec()), 0..=3),
            events in prop::collection::vec((0_u64..700, 0_usize..5), 0..60),
        ) {
            let t = start();
            let mut now = t;
            let mut attempt = Attempt::new(t, paths, false);
            let mut dialing: Vec<Path> = Vec::new();
            let mut connected: Option<Path> = None;
            let mut relay_ready = false;
            for (pause, event) in events {
                now += Duration::from_millis(pause);
                match event {
                    0..3 => {
                        let path = ALL[event];
                        if let Some(index) = dialing.iter().position(|dialed| *dialed == path) {
                            dialing.remove(index);
                            attempt.failed(now, path, "refused".into());
                        }
                    }
                    3 => relay_ready = !relay_ready,
                    _ => {
                        if dialing.contains(&Path::Relayed) {
                            connected = Some(Path::Relayed);
                        }
                    }
                }
                for _ in 0..10 {
                    match attempt.poll(now, connected, relay_ready) {
                        Some(Step::Dial(path)) => {
                            prop_assert!(!dialing.contains(&path));
                            dialing.push(path);
                        }
                        Some(Step::Use) => { prop_assert!(connected.is_some()); return Ok(()); }
                        Some(Step::Fail(_)) => { prop_assert!(connected.is_none()); return Ok(()); }
                        None => break,
                    }
                }
                prop_assert!(now < t + ATTEMPT_TIMEOUT);
                prop_assert!(attempt.deadline(now) > now);
            }
            let end = attempt.poll(t + ATTEMPT_TIMEOUT, connected, relay_ready);
            prop_assert!(matches!(end, Some(Step::Use | Step::Fail(_))));
        }
    }
}
