//! Wakes whoever waits for a commit, here and in every other process on the same database.
//!
//! A bell is a hint to look at the tables, never the news itself: one rung too often costs a look, and whoever may have
//! missed one is woken once it hears again.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use sqlx::postgres::PgListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// What a commit may have changed that somebody waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Bell {
    /// The event log grew.
    Event,
    /// A node told how it is reached.
    Peer,
    /// There is mail to be sent.
    Mail,
}

impl Bell {
    pub(super) const ALL: [Self; 3] = [Self::Event, Self::Peer, Self::Mail];

    /// Rings elsewhere once the transaction is committed.
    pub(super) fn notify_sql(self) -> &'static str {
        match self {
            Self::Event => "NOTIFY twinmesh, 'event'",
            Self::Peer => "NOTIFY twinmesh, 'peer'",
            Self::Mail => "NOTIFY twinmesh, 'mail'",
        }
    }

    fn read(payload: &str) -> Option<Self> {
        match payload {
            "event" => Some(Self::Event),
            "peer" => Some(Self::Peer),
            "mail" => Some(Self::Mail),
            _ => None,
        }
    }
}

/// The channel of [`Bell::notify_sql`].
const CHANNEL: &str = "twinmesh";
/// How long nothing is heard before the connection is tried and everybody looks by themselves.
const SILENCE: Duration = Duration::from_secs(5);
/// How long a connection may take to answer before it is given up.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long to wait before listening again when the database is away.
const RETRY: Duration = Duration::from_millis(200);

/// All bells; clones share them.
#[derive(Debug, Clone)]
pub(super) struct Bells {
    bells: Arc<[watch::Sender<u64>; Bell::ALL.len()]>,
    /// Whether other processes are heard.
    heard: Arc<AtomicBool>,
}

impl Bells {
    pub(super) fn new() -> Self {
        Self { bells: Arc::new(std::array::from_fn(|_| watch::channel(0).0)), heard: Arc::default() }
    }

    pub(super) fn ring(&self, bell: Bell) {
        self.sender(bell).send_modify(|count| *count = count.wrapping_add(1));
    }

    pub(super) fn hear(&self, bell: Bell) -> watch::Receiver<u64> {
        self.sender(bell).subscribe()
    }

    fn sender(&self, bell: Bell) -> &watch::Sender<u64> {
        match bell {
            Bell::Event => &self.bells[0],
            Bell::Peer => &self.bells[1],
            Bell::Mail => &self.bells[2],
        }
    }

    /// Whether other processes are heard at this moment.
    pub(super) fn are_heard(&self) -> bool {
        self.heard.load(Ordering::Relaxed)
    }

    fn ring_all(&self) {
        for bell in Bell::ALL {
            self.ring(bell);
        }
    }
}

/// Passes on what rings in other processes, until `stop`. Whenever something may have been missed, everything rings.
pub(super) async fn listen(url: String, bells: Bells, stop: CancellationToken) {
    let mut listener = None;
    let forever = async {
        loop {
            let heard = hear(&url, &mut listener).await;
            bells.heard.store(heard.is_ok(), Ordering::Relaxed);
            match heard {
                Ok(Some(bell)) => bells.ring(bell),
                Ok(None) => bells.ring_all(),
                Err(error) => {
                    tracing::warn!("cannot hear what other coordinators do, and try again: {error}");
                    listener = None;
                    tokio::time::sleep(RETRY).await;
                }
            }
        }
    };
    tokio::select! {
        () = stop.cancelled() => {}
        () = forever => {}
    }
}

/// The next bell that rings elsewhere; `None` when any may have.
async fn hear(url: &str, listener: &mut Option<PgListener>) -> Result<Option<Bell>, sqlx::Error> {
    let Some(listener) = listener else {
        let connect = async {
            let mut new = PgListener::connect(url).await?;
            // A lost connection ends in an error or in `None`; both come back here, and everybody looks after that.
            new.eager_reconnect(false);
            new.listen(CHANNEL).await?;
            Ok(new)
        };
        *listener = Some(in_time(connect).await?);
        return Ok(None);
    };
    match tokio::time::timeout(SILENCE, listener.try_recv()).await {
        Ok(Ok(Some(notification))) => Ok(Bell::read(notification.payload())),
        Ok(Ok(None)) => Err(sqlx::Error::Io(std::io::ErrorKind::ConnectionReset.into())),
        Ok(Err(error)) => Err(error),
        // Nothing to hear, or a connection that ended without a word.
        Err(_) => in_time(async { sqlx::query("SELECT 1").execute(listener).await.map(|_| None) }).await,
    }
}

async fn in_time<T>(work: impl Future<Output = Result<T, sqlx::Error>>) -> Result<T, sqlx::Error> {
    tokio::time::timeout(PATIENCE, work)
        .await
        .unwrap_or_else(|_| Err(sqlx::Error::Io(std::io::ErrorKind::TimedOut.into())))
}
