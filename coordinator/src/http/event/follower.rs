//! Who follows the log at this instance, and how far they are.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use twinmesh_protocol::id::EventSequence;

/// Everybody who follows; clones share it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Followers(Arc<Mutex<Inner>>);

#[derive(Debug, Default)]
struct Inner {
    next: u64,
    places: BTreeMap<u64, (Kind, EventSequence)>,
}

/// Who it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    Node,
    User,
}

/// How things stand.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Following {
    pub(crate) nodes: usize,
    pub(crate) users: usize,
    /// How many events the last of them is behind.
    pub(crate) lag: i64,
}

impl Followers {
    /// One more, who has heard of everything up to a place.
    pub(crate) fn enter(&self, kind: Kind, place: EventSequence) -> Follower {
        let mut inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let id = inner.next;
        inner.next += 1;
        inner.places.insert(id, (kind, place));
        Follower { all: self.clone(), id }
    }

    /// How things stand when the log ends there.
    pub(crate) fn look(&self, end: EventSequence) -> Following {
        let inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut following = Following::default();
        for (kind, place) in inner.places.values() {
            match kind {
                Kind::Node => following.nodes += 1,
                Kind::User => following.users += 1,
            }
            following.lag = following.lag.max(end.get() - place.get());
        }
        following
    }
}

/// One who follows, for as long as this is there.
#[derive(Debug)]
pub(crate) struct Follower {
    all: Followers,
    id: u64,
}

impl Follower {
    /// Has heard of everything up to there.
    pub(crate) fn reached(&self, place: EventSequence) {
        let mut inner = self.all.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, last)) = inner.places.get_mut(&self.id) {
            *last = place;
        }
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.all.0.lock().unwrap_or_else(PoisonError::into_inner).places.remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lag_is_that_of_the_last() {
        let followers = Followers::default();
        let place = EventSequence::new;
        let node = followers.enter(Kind::Node, place(3));
        let user = followers.enter(Kind::User, place(9));
        assert_eq!(followers.look(place(10)), Following { nodes: 1, users: 1, lag: 7 });
        node.reached(place(10));
        assert_eq!(followers.look(place(10)), Following { nodes: 1, users: 1, lag: 1 });
        drop(user);
        assert_eq!(followers.look(place(10)), Following { nodes: 1, users: 0, lag: 0 });
    }
}
