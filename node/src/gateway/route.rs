//! The allow-list.

use axum::http::Method;

/// What a run may ask for (contract D.5, D.6).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Call {
    /// Needs no token.
    Open,
    /// The coordinator's answer as it is.
    Forward,
    CreateTask,
    TaskStatus,
    Runs,
    Run,
    Results,
    Result,
    Addresses,
    BlobStatus,
    /// Payloads out of line, which this node does not use.
    Blob,
}

/// Which call a request is; `None` for everything that is not allowed.
pub(super) fn route(method: &Method, path: &str) -> Option<Call> {
    let segments: Vec<&str> = path.split('/').collect();
    // In one form only: a path goes on to the coordinator as it is.
    let is_id = |text: &str| text.parse::<i64>().is_ok_and(|id| id > 0 && id.to_string() == text);
    if *method == Method::GET {
        return match *segments.as_slice() {
            ["version" | "health"] => Some(Call::Open),
            ["organization" | "collaboration" | "study" | "task"] => Some(Call::Forward),
            ["organization" | "collaboration" | "study" | "task" | "node", id] if is_id(id) => Some(Call::Forward),
            ["run"] => Some(Call::Runs),
            ["run", id] if is_id(id) => Some(Call::Run),
            ["task", id, "status"] if is_id(id) => Some(Call::TaskStatus),
            ["result"] => Some(Call::Results),
            ["result", id] if is_id(id) => Some(Call::Result),
            ["vpn", "algorithm", "addresses"] => Some(Call::Addresses),
            ["blobstream", "status"] => Some(Call::BlobStatus),
            ["blobstream", _] => Some(Call::Blob),
            _ => None,
        };
    }
    if *method == Method::POST {
        return match *segments.as_slice() {
            ["task"] => Some(Call::CreateTask),
            ["blobstream"] => Some(Call::Blob),
            _ => None,
        };
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_algorithms_need_is_allowed() {
        for (method, path, call) in [
            (Method::GET, "version", Some(Call::Open)),
            (Method::GET, "organization", Some(Call::Forward)),
            (Method::GET, "task/7", Some(Call::Forward)),
            (Method::GET, "task/7/status", Some(Call::TaskStatus)),
            (Method::GET, "task/007", None),
            (Method::GET, "task/+7", None),
            (Method::GET, "run/7", Some(Call::Run)),
            (Method::GET, "result", Some(Call::Results)),
            (Method::GET, "vpn/algorithm/addresses", Some(Call::Addresses)),
            (Method::POST, "task", Some(Call::CreateTask)),
            (Method::POST, "token/container", None),
            (Method::GET, "task/../user", None),
            (Method::GET, "task/%2e%2e", None),
            (Method::GET, "user", None),
            (Method::GET, "", None),
            (Method::GET, "event", None),
            (Method::POST, "kill/task", None),
            (Method::PATCH, "run/7", None),
            (Method::DELETE, "task/7", None),
        ] {
            assert_eq!(route(&method, path), call, "{method} {path}");
        }
    }
}
