//! Where a request comes from, and how often it may guess.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use axum::extract::{ConnectInfo, FromRequestParts};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode};
use tokio::sync::broadcast::error::RecvError;
use twinmesh_protocol::time::Time;
use utoipa::IntoResponses;
use utoipa::openapi::{RefOr, Response, ResponseBuilder};
use uuid::Uuid;

use super::AppState;
use super::event::presence::Instance;
use super::problem::Problem;
use crate::authn::limiter::Key;
use crate::config::Network;

/// How old what another instance tells may be, by both clocks.
const FRESH: Duration = Duration::from_secs(60);
const FORWARDED_FOR: &str = "x-forwarded-for";

/// Somebody who is about to show a secret, and where they come from; nobody knows for a request that came by no network.
#[derive(Debug)]
pub(crate) struct Stranger {
    address: Option<IpAddr>,
    /// This request's instant.
    pub(crate) now: Time,
    pub(crate) state: AppState,
}

impl Stranger {
    /// Begins to check a secret: charges a guess to the origin and, where it is for one, to the account by the name it
    /// is asked for.
    pub(crate) fn guess(&self, account: Option<&str>) -> Result<Guess, Problem> {
        let (state, now) = (&self.state, self.now);
        let keys: Vec<Key> = self.address.map(Key::address).into_iter().chain(account.map(Key::account)).collect();
        match state.limiter().charge(&keys, now) {
            Ok(()) => Ok(Guess { state: state.clone(), keys, now }),
            Err(wait) => {
                tracing::debug!(wait_s = wait.as_secs(), "too many guesses");
                Err(Problem::too_many(wait))
            }
        }
    }
}

impl FromRequestParts<AppState> for Stranger {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, state: &AppState) -> Result<Self, Infallible> {
        let peer = parts.extensions.get::<ConnectInfo<SocketAddr>>().map(|ConnectInfo(peer)| peer.ip());
        let address = peer.map(|peer| behind(peer, &parts.headers, state.trusted_proxies()));
        Ok(Self { address, now: state.now(), state: state.clone() })
    }
}

/// The answer to whoever has guessed too often, for declarations.
pub(crate) struct TooManyGuesses;

impl IntoResponses for TooManyGuesses {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        let response = ResponseBuilder::new().description("Too many wrong passwords, keys or codes");
        BTreeMap::from([(StatusCode::TOO_MANY_REQUESTS.as_str().into(), response.build().into())])
    }
}

/// A guess that was charged. Dropped without being [`Guess::was_right`], it counts, here and at every other instance.
#[derive(Debug)]
pub(crate) struct Guess {
    state: AppState,
    keys: Vec<Key>,
    now: Time,
}

impl Guess {
    /// It was none: they knew.
    pub(crate) fn was_right(mut self) {
        let keys = std::mem::take(&mut self.keys);
        self.state.limiter().forgive(&keys, self.now);
    }
}

impl Drop for Guess {
    fn drop(&mut self) {
        if self.keys.is_empty() || !self.state.store().is_shared() {
            return;
        }
        // Outside a runtime everything ends.
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        let (state, keys) = (self.state.clone(), std::mem::take(&mut self.keys));
        runtime.spawn(async move {
            let Instance { id, words, .. } = state.instance();
            let keys: Vec<String> = keys.iter().map(Key::to_string).collect();
            // That the same was guessed twice makes two of them.
            let one = Uuid::new_v4().simple();
            let told = words.seal(&format!("{id} {} {one} wrong {}", state.now().micros(), keys.join(" ")));
            if let Err(error) = state.store().tell(&told).await {
                tracing::warn!("cannot tell other coordinators of a wrong guess: {error}");
            }
        });
    }
}

/// Takes in what was guessed wrongly at other instances.
pub(crate) fn hear_of_guesses(state: &AppState) {
    if !state.store().is_shared() {
        return;
    }
    let (state, mut words) = (state.clone(), state.store().words());
    tokio::spawn(async move {
        let mut heard = Heard::default();
        loop {
            let told = tokio::select! {
                () = state.shutdown().cancelled() => return,
                told = words.recv() => told,
            };
            match told {
                Ok(told) => {
                    let now = state.now();
                    if let Some(keys) = heard.wrong_elsewhere(&told, state.instance(), now) {
                        state.limiter().take_in(&keys, now);
                    }
                }
                Err(RecvError::Lagged(lost)) => tracing::warn!(lost, "did not hear of all guesses elsewhere"),
                Err(RecvError::Closed) => return,
            }
        }
    });
}

/// What other instances told lately: whoever may listen at the database may repeat it.
#[derive(Debug, Default)]
struct Heard(BTreeSet<(Time, String)>);

impl Heard {
    /// To whom a wrong guess is charged that another instance of ours tells of.
    fn wrong_elsewhere(&mut self, told: &str, own: &Instance, now: Time) -> Option<Vec<Key>> {
        let mut words = own.words.open(told)?.split(' ');
        let is_elsewhere = words.next().is_some_and(|id| id != own.id.to_string());
        let at = Time::from_micros(words.next()?.parse().ok()?);
        let one = words.next()?.to_owned();
        let is_wrong = words.next() == Some("wrong");
        if !(is_elsewhere && is_wrong) || now.since(at).max(at.since(now)) > FRESH {
            return None;
        }
        self.0.retain(|(at, _)| now.since(*at) <= FRESH);
        if !self.0.insert((at, one)) {
            return None;
        }
        words.map(|key| key.parse().ok()).collect()
    }
}

/// The address for which a connection speaks. Each proxy adds, at the end, whom it heard from; what stands before the
/// last one that is not ours anybody may have written.
pub(crate) fn behind(peer: IpAddr, headers: &HeaderMap, trusted: &[Network]) -> IpAddr {
    let is_ours = |address: IpAddr| trusted.iter().any(|network| network.contains(address));
    let mut speaker = peer.to_canonical();
    let told: Vec<&str> = headers
        .get_all(FORWARDED_FOR)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|v| v.split(','))
        .collect();
    for text in told.into_iter().rev() {
        if !is_ours(speaker) {
            break;
        }
        let Some(address) = read(text.trim()) else { break };
        speaker = address;
    }
    speaker
}

/// An address as proxies write it, some with the port.
fn read(text: &str) -> Option<IpAddr> {
    let address = text.parse().ok().or_else(|| text.parse::<SocketAddr>().ok().map(|address| address.ip()));
    address.map(|address: IpAddr| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authn::secret::Sealed;
    use crate::store::instance::InstanceId;

    #[test]
    fn what_is_told_of_guesses_is_believed_once_and_of_our_own_instances_only() {
        let ours = |id: &str| Instance {
            id: InstanceId::new(id),
            words: Sealed::new(b"secret", "guesses"),
            lease: Duration::from_secs(1),
            relay: None,
        };
        let told = |at: i64| format!("{} {at} x wrong address=192.0.2.1", ours("b").id);
        let (at, own, mut heard) = (Time::from_micros(1_000_000_000), ours("a"), Heard::default());
        let sealed = own.words.seal(&told(at.micros()));
        assert_eq!(heard.wrong_elsewhere(&told(at.micros()), &own, at), None, "no proof");
        assert_eq!(heard.wrong_elsewhere(&sealed, &ours("b"), at), None, "its own");
        let late = at.plus(FRESH).plus(Duration::from_secs(1));
        assert_eq!(heard.wrong_elsewhere(&sealed, &own, late), None, "too late");
        let keys = heard.wrong_elsewhere(&sealed, &own, at).unwrap();
        assert_eq!(keys, [Key::address("192.0.2.1".parse().unwrap())]);
        assert_eq!(heard.wrong_elsewhere(&sealed, &own, at.plus(FRESH)), None, "repeated");
    }

    #[test]
    fn only_proxies_of_ours_are_believed() {
        let trusted = ["127.0.0.1".parse().unwrap(), "10.0.0.0/8".parse().unwrap()];
        for (peer, told, origin) in [
            ("192.0.2.1", "198.51.100.7", "192.0.2.1"),
            ("127.0.0.1", "198.51.100.7", "198.51.100.7"),
            ("127.0.0.1", "203.0.113.9, 198.51.100.7", "198.51.100.7"),
            ("127.0.0.1", "198.51.100.7, 10.1.2.3", "198.51.100.7"),
            ("127.0.0.1", "198.51.100.7:4711", "198.51.100.7"),
            ("127.0.0.1", "[2001:db8::7]:4711", "2001:db8::7"),
            ("127.0.0.1", "nonsense", "127.0.0.1"),
            ("127.0.0.1", "203.0.113.9, nonsense, 10.1.2.3", "10.1.2.3"),
            ("::ffff:127.0.0.1", "198.51.100.7", "198.51.100.7"),
        ] {
            let headers = HeaderMap::from_iter([(FORWARDED_FOR.parse().unwrap(), told.parse().unwrap())]);
            let found = behind(peer.parse().unwrap(), &headers, &trusted);
            assert_eq!(found, origin.parse::<IpAddr>().unwrap(), "{peer} {told}");
        }
    }
}
