use std::fmt;
use std::sync::Arc;

use tokio::sync::{Mutex, RwLock};
use twinmesh_protocol::wire::TokenPair;

/// Keeps tokens beyond the life of a process.
///
/// Several processes may share one store: before a token is renewed the store is asked whether another process has
/// done so already.
pub trait TokenStore: Send + Sync + fmt::Debug {
    /// The tokens kept last, if any.
    fn load(&self) -> Option<TokenPair>;

    /// Keeps these tokens instead of the ones before. Called after every log-in and renewal; a store that cannot
    /// keep them logs why, the session goes on in memory.
    fn save(&self, tokens: &TokenPair);
}

/// What proves who asks.
#[derive(Default)]
pub(super) struct Session {
    pub(super) current: RwLock<Current>,
    /// Held while tokens are renewed, so that many requests that fail at once renew once.
    pub(super) renewal: Mutex<()>,
    pub(super) store: Option<Arc<dyn TokenStore>>,
}

#[derive(Default, Clone)]
pub(super) struct Current {
    pub(super) tokens: Option<Arc<TokenPair>>,
    /// Logs in again when the renewal is refused; nodes have one.
    pub(super) api_key: Option<Arc<str>>,
    /// Grows with every exchange of tokens.
    pub(super) generation: u64,
    /// Whether the tokens are a single one that cannot be renewed (a container's).
    pub(super) fixed: bool,
}

impl Session {
    pub(super) async fn replace(&self, tokens: TokenPair) {
        if let Some(store) = &self.store {
            store.save(&tokens);
        }
        self.adopt(tokens).await;
    }

    /// Takes tokens that the store has already.
    pub(super) async fn adopt(&self, tokens: TokenPair) {
        let mut current = self.current.write().await;
        current.tokens = Some(Arc::new(tokens));
        current.fixed = false;
        current.generation += 1;
    }

    pub(super) async fn current(&self) -> Current {
        self.current.read().await.clone()
    }
}

/// The id at the end of a path like `/api/user/7`.
pub(super) fn last_id(path: &str) -> Option<i64> {
    path.rsplit('/').next()?.parse().ok()
}
