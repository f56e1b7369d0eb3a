//! Decoders that see the network, for those who throw anything at them. Not part of the interface.

use axum::http::{HeaderMap, HeaderName, HeaderValue};
use serde::de::DeserializeOwned;
use serde_json::Value;
use twinmesh_protocol::time::Time;
use twinmesh_protocol::wire::{ColumnRequest, NewPeer, NewRole, NewTask, NewUser, NodeDetails, RunPatch};

use crate::algorithm_store;
use crate::authn::password::{check_hash, check_policy};
use crate::authn::secret;
use crate::authn::token::Tokens;
use crate::authn::two_factor::{Enrolled, SecondFactor, SharedSecret, Verdict};
use crate::config::{Config, Span};
use crate::http::body::read;
use crate::http::page::PageRequest;
use crate::http::params::Params;
use crate::http::{self, event};
use crate::limits::{Bounded, faults};

/// A request's query, and where in the log its caller left off.
pub fn query(text: &str) {
    let params = Params::parse("/api/task", text);
    let _ = PageRequest::read(&params, &[("id", "task.id"), ("name", "task.name")]);
    for (name, _) in params.pairs() {
        let _ = params.get::<i64>(name);
        let _ = params.several::<i64>(name);
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
    fn decode<T: DeserializeOwned + Bounded>(bytes: &[u8]) {
        if let Ok(body) = read::<T>(bytes) {
            let _ = faults(&body);
        }
    }
    decode::<NewTask>(bytes);
    decode::<ColumnRequest>(bytes);
    decode::<RunPatch>(bytes);
    decode::<NewUser>(bytes);
    decode::<NewRole>(bytes);
    decode::<NewPeer>(bytes);
    decode::<NodeDetails>(bytes);
    let _ = read::<Value>(bytes);
}

/// A request's headers: all of them this text, but for their names, or one on each line with its name.
pub fn headers(text: &str) {
    const NAMES: [&str; 7] =
        ["range", "if-range", "upload-offset", "upload-complete", "repr-digest", "content-length", "x-forwarded-for"];
    let value = |text: &str| HeaderValue::from_str(text).ok();
    let same = NAMES.iter().filter_map(|name| Some((HeaderName::from_static(name), value(text)?)));
    let lines = text.lines().filter_map(|line| {
        let (name, text) = line.split_once(':')?;
        Some((name.parse::<HeaderName>().ok()?, value(text.trim())?))
    });
    let (same, mut lined) = (same.collect::<HeaderMap>(), HeaderMap::new());
    for (name, value) in lines {
        lined.append(name, value);
    }
    for headers in [same, lined] {
        let range = headers.get("range").and_then(|value| value.to_str().ok()).unwrap_or_default();
        http::object::fuzzing::headers(range, &headers);
        let ours = ["127.0.0.0/8".parse(), "10.0.0.0/8".parse()].into_iter().flatten().collect::<Vec<_>>();
        for peer in [[127, 0, 0, 1], [192, 0, 2, 1]] {
            let origin = http::origin::behind(peer.into(), &headers, &ours);
            assert!(peer[0] == 127 || origin == std::net::IpAddr::from(peer), "a stranger's word counts");
        }
    }
}

/// What proves who somebody is, besides tokens: codes, mailed tokens, hashes made elsewhere, and addresses for mail.
pub fn secrets(text: &str) {
    let factor = SecondFactor { required: true, issuer: "here".into() };
    let now = Time::from_micros(1_800_000_000_000_000);
    let enrolled = |secret: &str| Enrolled { secret: Some(SharedSecret(secret.into())), last_step: Some(i64::MAX) };
    for (secret, code) in [("JBSWY3DPEHPK3PXPJBSWY3DPEHPK3PXP", text), (text, "123456")] {
        let verdict = factor.judge(&enrolled(secret), Some(code), now);
        assert!(!matches!(verdict, Ok(Verdict::Right { .. })), "no step is later than the last");
    }
    assert_eq!(secret::hash(text).len(), 64);
    let _ = (check_policy(text), check_hash(text));
    crate::mail::fuzzing::letter(text);
}

/// A token, of whoever.
pub fn token(text: &str) {
    let Span(good) = Config::default().tokens.access_for;
    let tokens = Tokens::new(&[7; 32], good, good * 2);
    let now = Time::from_micros(1_800_000_000_000_000);
    assert!(tokens.verify_access(text, now).is_err(), "nobody has the secret");
    assert!(tokens.verify_refresh(text, now).is_err(), "nobody has the secret");
}

/// An operator's files: of settings, and of what is to be imported.
pub fn files(text: &str) {
    let _ = toml::from_str::<Config>(text).map(|config| config.check());
    crate::import::fuzzing::file(text);
}

/// What an algorithm store answers about an image: it names that one, by digest.
pub fn review(bytes: &[u8]) {
    let Ok(answer) = serde_json::from_slice::<Value>(bytes) else { return };
    for image in ["registry.example.org:5000/image:1", "image"] {
        if let Ok(named) = algorithm_store::reviewed(image, &answer) {
            let same = algorithm_store::repository(&named) == algorithm_store::repository(image);
            assert!(same && named.contains("@sha256:"), "{named} for {image}");
        }
    }
}
