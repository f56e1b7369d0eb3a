//! `twinmesh-node status`: one screen, with what to try where something is wrong.

use std::{fmt::Write as _, io, time::Duration};

use anyhow::Context as _;
use twinmesh_overlay::RelayStatus;
use twinmesh_protocol::time::Time;

use super::{Exit, complain, say};
use crate::{
    config::Config,
    node::{NodeStatus, STATUS_FILE, read_status, system_clock},
};

/// A status file that has not been renewed for so long is left over. It is renewed every two seconds.
const STALE: Duration = Duration::from_secs(30);

pub(super) fn show(config: &Config, json: bool) -> anyhow::Result<Exit> {
    let status = match read_status(&config.state_directory) {
        Ok(status) => status,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            complain("the node does not run");
            complain("hint: start it with `twinmesh-node start`; `twinmesh-node doctor` says what is in its way");
            return Ok(Exit::Unreachable);
        }
        Err(error) => {
            return Err(error).with_context(|| format!("cannot read `{}`", config.state_directory.join(STATUS_FILE)));
        }
    };
    let now = system_clock()();
    let exit = judge(&status, now);
    if json {
        say(&serde_json::to_string_pretty(&status)?);
    } else {
        say(render(&status, now).trim_end());
    }
    Ok(exit)
}

fn is_stale(status: &NodeStatus, now: Time) -> bool {
    now.since(status.updated_at) > STALE
}

fn judge(status: &NodeStatus, now: Time) -> Exit {
    if is_stale(status, now) || !status.coordinator.link.connected {
        Exit::Unreachable
    } else if status.runs.iter().any(|run| run.problem.is_some()) || status.keys.registration_error.is_some() {
        Exit::Failed
    } else {
        Exit::Done
    }
}

fn render(status: &NodeStatus, now: Time) -> String {
    let mut text = String::new();
    let mut line = |name: &str, value: &str| {
        // Writing to a text cannot fail.
        let _ = writeln!(text, "{name:<13} {value}");
    };
    let age = now.since(status.updated_at).as_secs();
    line(
        "NODE",
        &format!(
            "{} of organization {}, collaboration {}",
            status.node_id, status.organization_id, status.collaboration_id
        ),
    );
    if is_stale(status, now) {
        line("STATE", &format!("silent for {age} s: the process {} is gone or hangs", status.pid));
        line("  try", "`twinmesh-node start`; runs that still go on are found again");
    } else {
        line("STATE", &format!("works (process {}, release {})", status.pid, status.version));
    }
    let link = &status.coordinator.link;
    let since = link.since.map(|since| format!(" for {} s", now.since(since).as_secs())).unwrap_or_default();
    if link.connected {
        line("COORDINATOR", &format!("{}, connected{since}", status.coordinator.url));
    } else {
        line("COORDINATOR", &format!("{}, not connected{since}", status.coordinator.url));
        line("  why", link.error.as_deref().unwrap_or("not tried yet"));
        line("  try", "`twinmesh-node doctor`; runs go on meanwhile and are reported later");
    }
    match &status.keys.organization {
        Some(fingerprint) => line("KEY", fingerprint),
        None => line("KEY", "none: payloads are not encrypted and there are no twins"),
    }
    line("ENCRYPTION", if status.encrypted { "on" } else { "off" });
    match &status.runtime.reason {
        Some(reason) => line("CONFINEMENT", &format!("{}: {reason}", status.runtime.strength)),
        None => line("CONFINEMENT", &status.runtime.strength),
    }
    match &status.overlay {
        None => line("OVERLAY", "off"),
        Some(overlay) => {
            let relay = reachability(&overlay.relays);
            let carrier = status.carrier.as_deref().unwrap_or("none");
            line("OVERLAY", &format!("{relay}; carrier {carrier}"));
            for peer in &overlay.peers {
                line("  peer", &format!("{} {}", peer.peer_id, peer.best));
            }
            let traffic = &overlay.traffic;
            line(
                "  traffic",
                &format!(
                    "direct {} B out {} B in; relayed {} B out {} B in",
                    traffic.direct_sent, traffic.direct_received, traffic.relayed_sent, traffic.relayed_received
                ),
            );
        }
    }
    if let Some(error) = &status.keys.registration_error {
        line("  why not", error);
        line("  try", "it is tried again by itself; `twinmesh-node doctor` looks closer");
    }
    line("DATABASES", &list(&status.databases));
    line("ALGORITHMS", &list(&status.algorithms));
    if status.runs.is_empty() {
        line("RUNS", "none");
    }
    for (index, run) in status.runs.iter().enumerate() {
        let task = run.task_id.map(|task| format!(" of task {task}")).unwrap_or_default();
        line(if index == 0 { "RUNS" } else { "" }, &format!("{}{task} {}", run.run_id, run.state));
        if let Some(problem) = &run.problem {
            line("  why", problem);
        }
    }
    text
}

/// Whether others can reach the node through the relays.
fn reachability(relays: &[RelayStatus]) -> String {
    let reserved = relays.iter().filter(|relay| relay.reserved).count();
    match (relays, reserved) {
        ([], _) => "the coordinator has no relay".to_owned(),
        ([_], 1) => "reachable through the relay".to_owned(),
        (_, 0) => {
            let reason = relays.iter().find_map(|relay| relay.last_error.as_deref()).unwrap_or("connecting");
            format!("not reachable through the relay: {reason}")
        }
        (_, _) => format!("reachable through {reserved} of {} relays", relays.len()),
    }
}

fn list(items: &[String]) -> String {
    if items.is_empty() { "none".into() } else { items.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status() -> NodeStatus {
        let json = serde_json::json!({
            "version": "0.1.0", "pid": 7, "updated_at": "2026-11-23T02:21:12.000000",
            "coordinator": {"url": "http://c/api", "connected": true, "since": null, "error": null, "sequence": 3},
            "node_id": 1, "organization_id": 2, "collaboration_id": 3, "encrypted": true,
            "keys": {"organization": "ab12", "registered": true, "registration_error": null},
            "runtime": {"strength": "full", "reason": null}, "ready": true,
            "traffic": {"direct_sent": 0, "direct_received": 0, "relayed_sent": 0, "relayed_received": 0}, "overlay": null, "carrier": null, "databases": ["default"], "algorithms": [],
            "runs": [{"run_id": 9, "task_id": 4, "state": "runs", "problem": null}]
        });
        serde_json::from_value(json).unwrap()
    }

    #[test]
    fn one_screen_says_how_the_node_is_and_what_to_try() {
        let mut status = status();
        let now = status.updated_at.plus(Duration::from_secs(1));
        let text = render(&status, now);
        for part in ["connected", "ab12", "full", "default", "9 of task 4 runs"] {
            assert!(text.contains(part), "{part} in\n{text}");
        }
        assert!(text.lines().count() < 24, "{text}");
        assert_eq!(judge(&status, now), Exit::Done);
        let late = now.plus(Duration::from_secs(60));
        assert_eq!(judge(&status, late), Exit::Unreachable);
        assert!(render(&status, late).contains("silent"));
        status.coordinator.link.connected = false;
        status.coordinator.link.error = Some("cannot reach".into());
        assert!(render(&status, now).contains("try") && render(&status, now).contains("cannot reach"));
    }
}
