use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use twinmesh_protocol::time::Time;

use super::event::Follow;
use super::event::presence::Instance;
use super::health::Pulse;
use super::intake::Memory;
use super::meter::Meter;
use super::task::opening::Openings;
use crate::algorithm_store::StoreCaller;
use crate::authn::limiter::Limiter;
use crate::authn::lockout::Lockout;
use crate::authn::password::Hasher;
use crate::authn::token::Tokens;
use crate::authn::two_factor::SecondFactor;
use crate::authz::Actor;
use crate::authz::actor::Who;
use crate::clock::Clock;
use crate::config::Network;
use crate::objects::Objects;
use crate::relay::Relay;
use crate::store::{self, Store};
use crate::tally::{Entry, Tally};
use crate::tls::Tls;

/// How old a note of when somebody was last seen may get. Finer notes would make every read a write.
const LAST_SEEN_EVERY: Duration = Duration::from_secs(30);

/// How many questions an algorithm may have held at a time. It waits for the subtasks of one task.
const HELD_PER_CONTAINER: usize = 64;

/// What every handler has at hand.
#[derive(Debug, Clone)]
pub(crate) struct AppState(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    parts: Parts,
    follow: Follow,
    meter: Meter,
    pulse: Pulse,
    last_seen: Mutex<BTreeMap<i64, Time>>,
    /// Who has how many event streams and held questions open.
    held: Tally<String>,
    openings: Openings,
}

/// What the state is made of.
#[derive(Debug)]
pub(crate) struct Parts {
    pub(crate) store: Store,
    /// Where large payloads are.
    pub(crate) objects: Objects,
    pub(crate) tokens: Tokens,
    pub(crate) hasher: Hasher,
    pub(crate) lockout: Lockout,
    /// What counts wrong passwords, keys, codes and tokens.
    pub(crate) limiter: Mutex<Limiter>,
    /// Proxies whose word about addresses counts.
    pub(crate) trusted_proxies: Vec<Network>,
    /// The second factor, if users need one.
    pub(crate) second_factor: SecondFactor,
    /// Whether and how lost credentials are recovered.
    pub(crate) recovery: Recovery,
    pub(crate) clock: Clock,
    /// Such as `/api`.
    pub(crate) api_path: String,
    /// The largest body that is taken in whole.
    pub(crate) body_limit: usize,
    /// How long a body may pause.
    pub(crate) body_idle: Duration,
    /// Room for bodies.
    pub(crate) body_memory: Memory,
    /// How many event streams and held questions one user or node may have open.
    pub(crate) held_per_caller: usize,
    /// How long the question for a task's status is held.
    pub(crate) status_hold: Duration,
    /// How long a node may be away before it counts as gone.
    pub(crate) node_grace: Duration,
    /// Which coordinator this is among those on the same database.
    pub(crate) instance: Instance,
    /// Asks algorithm stores.
    pub(crate) algorithm_stores: StoreCaller,
    /// The image that asks nodes for the columns of a database.
    pub(crate) basics_image: String,
    /// TLS, if this process speaks it.
    pub(crate) tls: Option<Tls>,
    pub(crate) data_dir: PathBuf,
    /// Cancelled when the process ends. Held requests may end early then; they are dropped soon after anyway.
    pub(crate) shutdown: CancellationToken,
}

/// Whether and how lost credentials are recovered.
#[derive(Debug)]
pub(crate) struct Recovery {
    /// Whether mail can be sent at all.
    pub(crate) by_mail: bool,
    /// A user is sent a token at most this often.
    pub(crate) mail_every: Duration,
}

impl AppState {
    pub(crate) fn new(parts: Parts) -> Self {
        let (store, clock) = (parts.store.clone(), parts.clock.clone());
        let follow = Follow::new(store, clock, parts.node_grace, parts.instance.clone(), parts.shutdown.clone());
        Self(Arc::new(Inner {
            parts,
            follow,
            meter: Meter::new(),
            pulse: Pulse::default(),
            last_seen: Mutex::default(),
            held: Tally::default(),
            openings: Openings::default(),
        }))
    }

    pub(crate) fn store(&self) -> &Store {
        &self.0.parts.store
    }

    /// Where large payloads are.
    pub(crate) fn objects(&self) -> &Objects {
        &self.0.parts.objects
    }

    pub(crate) fn tokens(&self) -> &Tokens {
        &self.0.parts.tokens
    }

    pub(crate) fn hasher(&self) -> &Hasher {
        &self.0.parts.hasher
    }

    pub(crate) fn lockout(&self) -> Lockout {
        self.0.parts.lockout
    }

    /// What counts wrong passwords, keys, codes and tokens.
    pub(crate) fn limiter(&self) -> MutexGuard<'_, Limiter> {
        self.0.parts.limiter.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Which coordinator this is among those on the same database.
    pub(crate) fn instance(&self) -> &Instance {
        &self.0.parts.instance
    }

    pub(crate) fn trusted_proxies(&self) -> &[Network] {
        &self.0.parts.trusted_proxies
    }

    pub(crate) fn second_factor(&self) -> &SecondFactor {
        &self.0.parts.second_factor
    }

    pub(crate) fn recovery(&self) -> &Recovery {
        &self.0.parts.recovery
    }

    /// The clock's instant. Handlers use the caller's `now`.
    pub(crate) fn now(&self) -> Time {
        self.0.parts.clock.now()
    }

    pub(crate) fn api_path(&self) -> &str {
        &self.0.parts.api_path
    }

    pub(crate) fn body_limit(&self) -> usize {
        self.0.parts.body_limit
    }

    /// How long a body may pause.
    pub(crate) fn body_idle(&self) -> Duration {
        self.0.parts.body_idle
    }

    /// Room for bodies.
    pub(crate) fn body_memory(&self) -> &Memory {
        &self.0.parts.body_memory
    }

    /// Who waits for a task to be opened.
    pub(crate) fn openings(&self) -> &Openings {
        &self.0.openings
    }

    /// Counts an event stream or a held question while the guard lives; `None` when the caller has enough of them.
    pub(crate) fn hold(&self, actor: &Actor) -> Option<Entry<String>> {
        let most = match actor.who {
            Who::User { .. } | Who::Node { .. } => self.0.parts.held_per_caller,
            Who::Container(_) => HELD_PER_CONTAINER,
        };
        self.0.held.enter(actor.key(), most)
    }

    /// How long the question for a task's status is held.
    pub(crate) fn status_hold(&self) -> Duration {
        self.0.parts.status_hold
    }

    /// The image that asks nodes for the columns of a database.
    pub(crate) fn basics_image(&self) -> &str {
        &self.0.parts.basics_image
    }

    /// Asks algorithm stores.
    pub(crate) fn algorithm_stores(&self) -> &StoreCaller {
        &self.0.parts.algorithm_stores
    }

    /// The overlay's meeting point, if this process is one.
    pub(crate) fn relay(&self) -> Option<&Relay> {
        self.0.parts.instance.relay.as_deref()
    }

    /// TLS, if this process speaks it.
    pub(crate) fn tls(&self) -> Option<&Tls> {
        self.0.parts.tls.as_ref()
    }

    /// Where everything that must outlive the process is kept.
    pub(crate) fn data_dir(&self) -> &Path {
        &self.0.parts.data_dir
    }

    /// What is counted and timed.
    pub(crate) fn meter(&self) -> &Meter {
        &self.0.meter
    }

    /// How the database was when it was last tried.
    pub(crate) fn pulse(&self) -> &Pulse {
        &self.0.pulse
    }

    /// Who follows the event log.
    pub(crate) fn follow(&self) -> &Follow {
        &self.0.follow
    }

    pub(crate) fn shutdown(&self) -> &CancellationToken {
        &self.0.parts.shutdown
    }

    /// Notes that somebody was seen, now and then.
    pub(crate) fn saw(&self, actor: &Actor, now: Time) {
        let id = match &actor.who {
            Who::User { id, .. } => id.get(),
            Who::Node { id, .. } => id.get(),
            Who::Container(_) => return,
        };
        {
            let mut seen = self.0.last_seen.lock().unwrap_or_else(PoisonError::into_inner);
            if seen.get(&id).is_some_and(|last| now.since(*last) < LAST_SEEN_EVERY) {
                return;
            }
            seen.insert(id, now);
        }
        let store = self.store().clone();
        tokio::spawn(async move {
            if let Err(error) = store::identity::seen(&store, id, now).await {
                tracing::debug!("cannot note when {id} was last seen: {error}");
            }
        });
    }
}
