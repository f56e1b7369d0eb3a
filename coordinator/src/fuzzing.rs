//! Decoders that see the network, for those who throw anything at them. Not part of the interface.

use axum::http::{HeaderMap, HeaderValue};
use serde_json::Value;
use twinmesh_protocol::time::Time;
use twinmesh_protocol::wire::{NewPeer, NewRole, NewTask, NewUser, RunPatch};

use crate::authn::token::Tokens;
use crate::config::{Config, Span};
use crate::http::event;
use crate::http::page::PageRequest;
use crate::http::params::Params;

/// A request's query, and where in the log its caller left off.
pub fn query(text: &str) {
    let params = Params::parse("/api/task", text);
    let _ = PageRequest::read(&params, &[("id", "task.id"), ("name", "task.name")]);
    for (name, _) in params.pairs() {
        let _ = params.get::<i64>(name);
        let _ = params.every::<i64>(name);
        let _ = params.truth(name);
        let _ = params.time(name);
        let _ = params.includes(name);
    }
    let mut headers = HeaderMap::new();
    if let Ok(value) = HeaderValue::from_str(text) {
        headers.insert("last-event-id", value);
    }
    let _ = event::cursor(&params, &headers);
}

/// A request's body.
pub fn body(bytes: &[u8]) {
    use crate::http::body::read;
    let _ = read::<NewTask>(bytes);
    let _ = read::<RunPatch>(bytes);
    let _ = read::<NewUser>(bytes);
    let _ = read::<NewRole>(bytes);
    let _ = read::<NewPeer>(bytes);
    let _ = read::<Value>(bytes);
}

/// A token, of whoever.
pub fn token(text: &str) {
    let Span(good) = Config::default().tokens.access_for;
    let tokens = Tokens::new(&[7; 32], good, good * 2);
    let now = Time::from_micros(1_800_000_000_000_000);
    assert!(tokens.verify_access(text, now).is_err(), "nobody has the secret");
    assert!(tokens.verify_refresh(text, now).is_err(), "nobody has the secret");
}

/// A file of settings.
pub fn settings(text: &str) {
    let _ = toml::from_str::<Config>(text).map(|config| config.check());
}
