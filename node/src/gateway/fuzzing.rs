//! What a run asks of its gateway and what the coordinator answers, for those who throw anything at it.

use std::collections::BTreeSet;

use axum::http::Method;
use twinmesh_protocol::{
    id::{OrganizationId, TaskId},
    manifest::TaskManifest,
    payload,
    wire::{AlgorithmAddresses, Run, RunResult},
};

use super::{
    query::{Arguments, LABEL},
    results::checked,
    route::{Call, route},
    subtask::{conceal, content_key, method_of, read},
};

/// A request: `METHOD path?query` on the first line, its idempotency key on the second, then its body.
pub(crate) fn request(bytes: &[u8]) {
    let mut lines = bytes.splitn(3, |byte| *byte == b'\n');
    let mut line = || lines.next().unwrap_or_default();
    let (head, key, body) = (line(), line(), line());
    ask(&String::from_utf8_lossy(head));
    subtask(&String::from_utf8_lossy(key), body);
    // Without the lines before it.
    subtask("", bytes);
}

/// Nothing of a run's own words goes on: only names that are known and values of few characters.
fn ask(head: &str) {
    let (method, target) = head.split_once(' ').unwrap_or(("GET", head));
    let Ok(method) = method.parse::<Method>() else { return };
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let path = path.trim_matches('/');
    let Some(call) = route(&method, path) else { return };
    let Ok(arguments) = Arguments::read(path, query) else { return };
    let _ = (arguments.one("include"), arguments.number("task_id"), arguments.number("page"), arguments.one(LABEL));
    let target = arguments.target(path);
    if call != Call::Blob {
        let is_ours = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"/?&=,-_%".contains(&byte);
        assert!(target.bytes().all(is_ours), "{head:?} becomes {target:?}");
    }
}

fn subtask(key: &str, body: &[u8]) {
    let Ok(mut new) = read(body) else { return };
    let first = content_key(&new, Some(key)).ok();
    assert_eq!(first, content_key(&new, Some(key)).ok(), "the same words are the same subtask");
    for organization in &new.organizations {
        if let Ok(content) = payload::from_text(&organization.input) {
            let _ = method_of(&content, organization.id);
        }
    }
    conceal(&mut new);
    assert!(new.description.is_none() && new.name.as_deref() == Some("subtask"));
}

/// What the coordinator says of a subtask's runs, results and twins.
pub(crate) fn answer(bytes: &[u8], manifest: &TaskManifest) {
    if let Ok(runs) = serde_json::from_slice::<Vec<Run>>(bytes)
        && let Ok(checked) = checked(TaskId::new(1), manifest, &runs)
    {
        let found: BTreeSet<OrganizationId> = checked.values().copied().collect();
        let asked: BTreeSet<OrganizationId> = manifest.receivers.iter().map(|to| to.organization_id).collect();
        assert_eq!((found, checked.len()), (asked, manifest.receivers.len()), "one run for each who was asked");
    }
    let _ = serde_json::from_slice::<RunResult>(bytes);
    let _ = serde_json::from_slice::<AlgorithmAddresses>(bytes);
}
