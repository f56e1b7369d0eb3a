//! Wakes whoever waits for a commit, here and in every other process on the same database.
//!
//! A bell is a hint to look at the tables, never the news itself: one rung too often costs a look, and whoever may have
//! missed one is woken once it hears again. Beside that processes pass each other words, which stand in no table: whoever
//! does not listen at that moment never hears them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use sqlx::postgres::PgListener;
use tokio::sync::{broadcast, watch};
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
/// The channel of words.
pub(super) const WORDS: &str = "twinmesh_words";
/// How many words wait for whoever is slow to take them in. They are few, and the oldest may be lost.
const WAITING_WORDS: usize = 1024;
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
    words: broadcast::Sender<Arc<str>>,
}

/// What is heard of other processes.
enum Heard {
    Bell(Bell),
    Words(Arc<str>),
    /// Any bell may have rung.
    Anything,
}

impl Bells {
    pub(super) fn new() -> Self {
        let bells = Arc::new(std::array::from_fn(|_| watch::channel(0).0));
        Self { bells, heard: Arc::default(), words: broadcast::channel(WAITING_WORDS).0 }
    }

    pub(super) fn ring(&self, bell: Bell) {
        self.sender(bell).send_modify(|count| *count = count.wrapping_add(1));
    }

    pub(super) fn hear(&self, bell: Bell) -> watch::Receiver<u64> {
        self.sender(bell).subscribe()
    }

    /// The words of all processes, this one among them, from now on.
    pub(super) fn words(&self) -> broadcast::Receiver<Arc<str>> {
        self.words.subscribe()
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
                Ok(Heard::Bell(bell)) => bells.ring(bell),
                Ok(Heard::Anything) => bells.ring_all(),
                // Nobody may want to hear them.
                Ok(Heard::Words(words)) => drop(bells.words.send(words)),
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

/// What happens elsewhere next.
async fn hear(url: &str, listener: &mut Option<PgListener>) -> Result<Heard, sqlx::Error> {
    let Some(listener) = listener else {
        let connect = async {
            let mut new = PgListener::connect(url).await?;
            // A lost connection ends in an error or in `None`; both come back here, and everybody looks after that.
            new.eager_reconnect(false);
            new.listen_all([CHANNEL, WORDS]).await?;
            Ok(new)
        };
        *listener = Some(in_time(connect).await?);
        return Ok(Heard::Anything);
    };
    match tokio::time::timeout(SILENCE, listener.try_recv()).await {
        Ok(Ok(Some(notification))) => Ok(match (notification.channel(), Bell::read(notification.payload())) {
            (WORDS, _) => Heard::Words(notification.payload().into()),
            (_, Some(bell)) => Heard::Bell(bell),
            (_, None) => Heard::Anything,
        }),
        Ok(Ok(None)) => Err(sqlx::Error::Io(std::io::ErrorKind::ConnectionReset.into())),
        Ok(Err(error)) => Err(error),
        // Nothing to hear, or a connection that ended without a word.
        Err(_) => in_time(async { sqlx::query("SELECT 1").execute(listener).await.map(|_| Heard::Anything) }).await,
    }
}

async fn in_time<T>(work: impl Future<Output = Result<T, sqlx::Error>>) -> Result<T, sqlx::Error> {
    tokio::time::timeout(PATIENCE, work)
        .await
        .unwrap_or_else(|_| Err(sqlx::Error::Io(std::io::ErrorKind::TimedOut.into())))
}
