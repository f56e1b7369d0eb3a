//! `twinmesh-node doctor`: tries the outside world, in the order in which a start needs it.

use camino::Utf8Path;
use twinmesh_client::{Api, key::read_private_key, pins::shown_key};
use twinmesh_protocol::{
    id::{CollaborationId, OrganizationId},
    key::{PrivateKey, PublicKey},
};

use super::{Exit, say};
use crate::{
    config::{Config, Minimum},
    data, sandbox,
};

#[derive(Default)]
struct Findings {
    failures: usize,
}

impl Findings {
    fn note(&mut self, what: &str, finding: Result<String, (String, &str)>) -> bool {
        match finding {
            Ok(text) => {
                say(&format!("ok      {what}: {text}"));
                true
            }
            Err((problem, hint)) => {
                self.failures += 1;
                say(&format!("failed  {what}: {problem}"));
                say(&format!("        hint: {hint}"));
                false
            }
        }
    }
}

fn chain(error: impl Into<anyhow::Error>) -> String {
    format!("{:#}", error.into())
}

pub(super) async fn examine(path: &Utf8Path) -> anyhow::Result<Exit> {
    let config = Config::load(path)?;
    let mut findings = Findings::default();
    findings.note("configuration", Ok(format!("{path} is valid")));
    let state = &config.state_directory;
    findings.note(
        "state directory",
        match tempfile::tempfile_in(if state.exists() { state.as_path() } else { state.parent().unwrap_or(state) }) {
            Ok(_) => Ok(format!("{state} can be written to")),
            Err(error) => Err((chain(error), "give this user the right to write there, or free some space")),
        },
    );
    findings.note(
        "databases",
        match data::check(&config.databases) {
            Ok(()) => Ok(format!("{} can be read", config.databases.len())),
            Err(error) => Err((chain(error), "correct its `path`, or this user's rights")),
        },
    );
    confinement(&config, &mut findings).await;
    let key = match &config.private_key {
        None => None,
        Some(path) => match read_private_key(path.as_std_path()) {
            Ok(key) => {
                findings.note("private key", Ok(describe(&key, config.policies.require_signed_tasks)));
                Some(key)
            }
            Err(error) => {
                findings.note("private key", Err((chain(error), "make it with `twinmesh-node create-private-key`")));
                None
            }
        },
    };
    coordinator(&config, key.map(|key| key.public()), &mut findings).await;
    Ok(if findings.failures == 0 { Exit::Done } else { Exit::Failed })
}

/// A key, and what an RSA key means.
fn describe(key: &PrivateKey, require_signed_tasks: Option<bool>) -> String {
    let fingerprint = key.public().fingerprint();
    match (key, require_signed_tasks) {
        (PrivateKey::Ed25519(_), _) => fingerprint,
        (PrivateKey::Rsa(_), Some(false)) => {
            format!("{fingerprint} (RSA: no twins; unsigned tasks of organizations with RSA keys are run)")
        }
        (PrivateKey::Rsa(_), Some(true) | None) => {
            format!(
                "{fingerprint} (RSA: no twins; unsigned tasks are refused unless `policies.require_signed_tasks = false`)"
            )
        }
    }
}

async fn confinement(config: &Config, findings: &mut Findings) {
    let settings = sandbox::Settings { lite: config.runtime.lite, ..sandbox::Settings::default() };
    let (text, is_enough) = match sandbox::probe(&settings).await {
        sandbox::Probe::Full => ("full".to_owned(), true),
        sandbox::Probe::Lite { reason } => (format!("lite: {reason}"), config.runtime.minimum == Minimum::Lite),
        sandbox::Probe::None { reason } => (format!("none: {reason}"), false),
    };
    findings.note(
        "confinement of algorithms",
        if is_enough {
            Ok(text)
        } else {
            Err((text, "allow unprivileged user namespaces on this machine, or set `runtime.minimum = \"lite\"`"))
        },
    );
}

async fn coordinator(config: &Config, key: Option<PublicKey>, findings: &mut Findings) {
    let options = match config.api_options() {
        Ok(options) => options,
        Err(error) => {
            findings.note("authority", Err((chain(error), "correct `ca_file`")));
            return;
        }
    };
    let api = match Api::new(&config.coordinator_url.to_string(), options) {
        Ok(api) => api,
        Err(error) => {
            findings.note("coordinator", Err((chain(error), "correct `coordinator_url`")));
            return;
        }
    };
    let reached = match api.health().await {
        Ok(true) => Ok(format!("{} answers", api.base())),
        Ok(false) => Err(("it answers, but its database does not".into(), "ask its operator")),
        Err(error) => Err((chain(error), "correct `coordinator_url`, or look at proxies and firewalls in between")),
    };
    if !findings.note("coordinator", reached) {
        return;
    }
    let api_key = match config.read_api_key() {
        Ok(key) => key,
        Err(error) => {
            findings.note("API key", Err((chain(error), "correct `api_key_file`")));
            return;
        }
    };
    let node_id = match api.log_in_node(api_key.expose()).await {
        Ok(id) => id,
        Err(error) => {
            let hint = "it was shown once, when the node was registered; an administrator can make a new one";
            findings.note("log-in", Err((chain(error), hint)));
            return;
        }
    };
    findings.note("log-in", Ok(format!("as node {node_id}")));
    let node = match api.node_get(node_id).await {
        Ok(node) => node,
        Err(error) => {
            findings.note("registration", Err((chain(error), "ask the coordinator's operator")));
            return;
        }
    };
    if let Some(collaboration) = node.collaboration
        && let Ok(collaboration) = api.collaboration_get(CollaborationId::new(collaboration.id)).await
    {
        findings.note(
            "encryption",
            if collaboration.encrypted == config.encryption.enabled {
                Ok(if collaboration.encrypted { "on, on both sides".into() } else { "off, on both sides".into() })
            } else {
                Err((
                    format!(
                        "the collaboration says {}, this node says {}",
                        collaboration.encrypted, config.encryption.enabled
                    ),
                    "correct `encryption.enabled`, having asked the collaboration's administrator",
                ))
            },
        );
    }
    if let (Some(key), Some(organization)) = (key, node.organization)
        && let Ok(organization) = api.organization_get(OrganizationId::new(organization.id)).await
    {
        findings.note(
            "public key",
            match shown_key(&organization) {
                Ok(shown) if shown == key => Ok("the coordinator shows ours".into()),
                Ok(_) | Err(_) => Ok("the coordinator does not show ours; the node uploads it when it starts".into()),
            },
        );
    }
    findings.note(
        "overlay",
        match api.overlay_get().await {
            Ok(info) => {
                let relays =
                    info.relays.iter().map(|relay| format!("{} at {}", relay.peer_id, relay.addresses.join(", ")));
                let relays: Vec<String> = relays.collect();
                Ok(match &relays[..] {
                    [] => "the coordinator has no relay: twins need direct connections".into(),
                    [one] => format!("the coordinator's relay is {one}"),
                    several => format!("the coordinators' relays are {}", several.join("; ")),
                })
            }
            Err(error) => Err((chain(error), "ask the coordinator's operator")),
        },
    );
}
