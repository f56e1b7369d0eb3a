//! Taking one's place: logging in, checking the collaboration, publishing keys, registering with the overlay.

use std::{sync::Arc, time::Duration};

use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;
use twinmesh_client::{Api, ApiError, key::read_private_key};
use twinmesh_overlay::{Clock, Credentials, JobMeshes, Overlay, OverlayConfig, Paths, RelayAddress};
use twinmesh_protocol::{
    certificate::{CERTIFICATE_VERSION, NodeCertificate, SignedCertificate},
    id::{CollaborationId, NodeId, OrganizationId},
    key::{OrganizationKey, PrivateKey},
    signed::Signed,
    time::Time,
    wire::{NewPeer, NodeDetails, OverlayInfo},
};

use super::StartError;
use crate::{
    config::{BUILTIN_IMAGE, Config, ConfigError},
    data,
    mesh::{KnownNodes, Peers, RunMeshes},
    runtime::Secret,
    trust::Keyring,
};

/// How long a node certificate is valid. Renewed when a third is left, so a node may be off for a month.
const CERTIFICATE_LIFE: Duration = Duration::from_secs(90 * 24 * 60 * 60);

/// The pauses between attempts to reach the coordinator at start.
const PAUSE: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(10));

/// How often the registration is looked after although nothing changed.
const PRESENCE_INTERVAL: Duration = Duration::from_secs(300);

/// Who the coordinator says this node is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Identity {
    pub(super) node_id: NodeId,
    pub(super) organization_id: OrganizationId,
    pub(super) collaboration_id: CollaborationId,
    pub(super) collaboration_name: String,
    pub(super) encrypted: bool,
}

/// Tells the coordinator what this node offers and to whom, or takes back what it told before. The node works without:
/// it decides by its own configuration.
pub(super) async fn publish_details(config: &Config, identity: &Identity, api: &Api) {
    let mut details = if config.share_config { details(config) } else { NodeDetails::default() };
    if identity.encrypted {
        // There the coordinator learns nothing of the data, and that is where its columns belong.
        details.databases.iter_mut().for_each(|database| database.columns = None);
    }
    if let Err(error) = api.node_details_put(identity.node_id, &details).await {
        tracing::warn!(%error, "the coordinator was not told what this node offers");
    }
}

fn details(config: &Config) -> NodeDetails {
    let policies = &config.policies;
    // The same default as the policy's own.
    let images = policies.allowed_algorithms.clone().unwrap_or_else(|| [BUILTIN_IMAGE.to_owned()].into());
    NodeDetails {
        encryption: Some(config.encryption.enabled),
        allowed_algorithms: Some(images.into_iter().collect()),
        allowed_users: policies.allowed_users.as_ref().map(|users| users.iter().copied().collect()),
        allowed_orgs: policies.allowed_organizations.as_ref().map(|all| all.iter().copied().collect()),
        databases: data::details(&config.databases),
    }
}

/// Logs in and learns who this node is; waits for a coordinator that is away.
pub(super) async fn identify(api: &Api, api_key: &Secret) -> Result<Identity, StartError> {
    let mut pause = PAUSE.0;
    loop {
        let error = match try_identify(api, api_key).await {
            Ok(identity) => return Ok(identity),
            Err(StartError::Api(error)) if error.is_transient() => error,
            Err(StartError::Api(error)) if matches!(error.status(), Some(401)) => {
                return Err(StartError::LogIn { url: api.base().into(), source: error });
            }
            Err(error) => return Err(error),
        };
        tracing::warn!(%error, "waiting for the coordinator");
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(PAUSE.1);
    }
}

async fn try_identify(api: &Api, api_key: &Secret) -> Result<Identity, StartError> {
    let node_id = api.log_in_node(api_key.expose()).await?;
    let node = api.node_get(node_id).await?;
    let missing = |what: &'static str| StartError::Incomplete { node_id, what };
    let organization_id = OrganizationId::new(node.organization.ok_or_else(|| missing("organization"))?.id);
    let collaboration_id = CollaborationId::new(node.collaboration.ok_or_else(|| missing("collaboration"))?.id);
    let collaboration = api.collaboration_get(collaboration_id).await?;
    Ok(Identity {
        node_id,
        organization_id,
        collaboration_id,
        collaboration_name: collaboration.name,
        encrypted: collaboration.encrypted,
    })
}

/// Checks that the coordinator and this node's configuration agree about encryption, and brings the organization's key to
/// the coordinator.
pub(super) async fn settle_keys(
    config: &Config,
    identity: &Identity,
    api: &Api,
    keyring: &Keyring,
    now: Time,
) -> Result<Option<PrivateKey>, StartError> {
    if identity.encrypted != config.encryption.enabled {
        return Err(StartError::Encryption {
            collaboration: identity.collaboration_name.clone(),
            theirs: describe(identity.encrypted),
            ours: config.encryption.enabled,
        });
    }
    keyring
        .with_pins(|pins| {
            pins.check_encryption(identity.collaboration_id, &identity.collaboration_name, identity.encrypted)
        })
        .map_err(StartError::Pin)?;
    let Some(path) = &config.private_key else { return Ok(None) };
    let key = read_private_key(path.as_std_path())?;
    let public = key.public();
    let organization = identity.organization_id;
    let shown = retry(|| api.organization_get(organization)).await?;
    // Stock clients compare the texts.
    if shown.public_key != public.to_api() {
        if !shown.public_key.is_empty() {
            tracing::warn!("the coordinator shows another public key for this organization; uploading ours");
        }
        let refused = |error| match error {
            StartError::Api(error) if error.status() == Some(401) && !shown.public_key.is_empty() => {
                StartError::KeyRefused(error)
            }
            error => error,
        };
        retry(|| api.organization_key_update(organization, &public)).await.map_err(refused)?;
        tracing::info!("uploaded the organization's public key {}", public.fingerprint());
    }
    keyring
        .with_pins(|pins| {
            if pins.key(organization).as_ref() == Some(&public) {
                return Ok(());
            }
            pins.set(organization, &shown.name, public.clone(), now)
        })
        .map_err(StartError::Pin)?;
    Ok(Some(key))
}

/// At the node's first start, takes the collaboration's members for known.
pub(super) async fn enrol(identity: &Identity, api: &Api, keyring: &Keyring) -> Result<(), StartError> {
    if keyring.is_enrolled(identity.collaboration_id)? {
        return Ok(());
    }
    let members = retry(|| api.organization_list(Some(identity.collaboration_id))).await?;
    Ok(keyring.enrol(identity.collaboration_id, &members)?)
}

fn describe(encrypted: bool) -> &'static str {
    if encrypted { "encrypted" } else { "not encrypted" }
}

async fn retry<T, F, Fut>(request: F) -> Result<T, StartError>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Result<T, ApiError>>,
{
    Ok(twinmesh_client::api::retry(Duration::from_secs(24 * 60 * 60), request).await?)
}

/// The node's place in the overlay, which a task of its own keeps up.
#[derive(Debug, Clone)]
pub(super) struct Presence {
    wanted: Arc<Notify>,
    state: watch::Receiver<Registration>,
}

/// Whether the node is registered.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Registration {
    pub(super) registered: bool,
    pub(super) error: Option<String>,
}

impl Presence {
    /// A node without overlay.
    pub(super) fn none() -> Self {
        let (_, state) = watch::channel(Registration::default());
        Self { wanted: Arc::new(Notify::new()), state }
    }

    /// Registers anew: the coordinator may have been restarted.
    pub(super) fn renew(&self) {
        self.wanted.notify_one();
    }

    /// To be told when the registration changes.
    pub(super) fn watch(&self) -> watch::Receiver<Registration> {
        self.state.clone()
    }

    pub(super) fn state(&self) -> Registration {
        self.state.borrow().clone()
    }
}

/// Whom the node speaks for, and who it is.
#[derive(Clone, Copy)]
pub(super) struct Keys<'a> {
    pub(super) organization: &'a OrganizationKey,
    pub(super) node: &'a OrganizationKey,
}

/// Starts the overlay and keeps the node registered.
pub(super) async fn join_overlay(
    config: &Config,
    identity: &Identity,
    keys: Keys<'_>,
    api: &Api,
    keyring: &Arc<Keyring>,
    clock: &Clock,
    stop: CancellationToken,
) -> Result<(RunMeshes, Presence), StartError> {
    let door = Arc::new(KnownNodes::default());
    let overlay_config = OverlayConfig { gate: door.clone(), ..overlay_config(config, keys.node)? };
    let (overlay, incoming) = Overlay::start(overlay_config).await?;
    let certify = Certify {
        organization_id: identity.organization_id,
        collaboration_id: identity.collaboration_id,
        key: keys.organization.clone(),
        node_key: keys.node.clone(),
    };
    let (certificate, renew_at) = certify.certificate(clock())?;
    let credentials = Credentials { organization_id: identity.organization_id, certificate: certificate.clone() };
    let (meshes, arrivals) = JobMeshes::start(overlay, incoming, credentials, clock.clone());
    let peers = Peers::new(api.clone(), identity.collaboration_id, keyring.clone(), clock.clone(), door);
    let meshes = RunMeshes::start(meshes, arrivals, peers, identity.organization_id, identity.collaboration_id);
    let wanted = Arc::new(Notify::new());
    let (state_sender, state) = watch::channel(Registration::default());
    let keeper = Keeper {
        meshes: meshes.clone(),
        api: api.clone(),
        clock: clock.clone(),
        node_id: identity.node_id,
        certify,
        certificate,
        renew_at,
        wanted: wanted.clone(),
        state: state_sender,
    };
    tokio::spawn(async move {
        tokio::select! {
            () = keeper.run() => {}
            () = stop.cancelled() => {}
        }
    });
    wanted.notify_one();
    Ok((meshes, Presence { wanted, state }))
}

fn overlay_config(config: &Config, node_key: &OrganizationKey) -> Result<OverlayConfig, StartError> {
    let address = |key: &'static str, text: &String| {
        text.parse().map_err(|_| {
            let problem = format!("`{text}` is no multiaddress such as /ip4/0.0.0.0/tcp/0");
            StartError::Config(ConfigError::Value { key: key.into(), problem })
        })
    };
    let mut overlay = OverlayConfig::everywhere(*node_key.seed());
    if let Some(listen) = &config.overlay.listen {
        overlay.listen =
            listen.iter().map(|text| address("overlay.listen", text)).collect::<Result<_, StartError>>()?;
    }
    overlay.external = config
        .overlay
        .external
        .iter()
        .map(|text| address("overlay.external", text))
        .collect::<Result<_, StartError>>()?;
    if config.overlay.relayed_only {
        overlay.paths = Paths::RelayedOnly;
    }
    Ok(overlay)
}

/// Signs certificates of this node.
struct Certify {
    organization_id: OrganizationId,
    collaboration_id: CollaborationId,
    key: OrganizationKey,
    node_key: OrganizationKey,
}

impl Certify {
    /// A new certificate, and when to make the next.
    fn certificate(&self, now: Time) -> Result<(SignedCertificate, Time), StartError> {
        let certificate = NodeCertificate {
            version: CERTIFICATE_VERSION,
            organization_id: self.organization_id,
            collaboration_id: self.collaboration_id,
            node_key: self.node_key.public(),
            issued_at: now.seconds(),
            not_after: now.plus(CERTIFICATE_LIFE).seconds(),
        };
        let signed = Signed::sign(&certificate, &self.key).map_err(StartError::Certificate)?;
        Ok((signed, now.plus(CERTIFICATE_LIFE * 2 / 3)))
    }
}

/// The relays of all instances, that of the one that answered first. One that cannot be used does not keep the node from
/// the others.
fn relays(info: &OverlayInfo) -> Vec<RelayAddress> {
    let own = info.relay.iter().map(|relay| (&relay.peer_id, &relay.addresses));
    let all = info.relays.iter().map(|relay| (&relay.peer_id, &relay.addresses));
    let mut relays: Vec<RelayAddress> = Vec::new();
    for (peer_id, addresses) in own.chain(all) {
        match RelayAddress::parse(peer_id, addresses) {
            Ok(relay) if relays.iter().all(|known| known.peer_id != relay.peer_id) => relays.push(relay),
            Ok(_) => {}
            Err(error) => tracing::warn!(%error, "cannot use a relay that the coordinator tells of"),
        }
    }
    relays
}

struct Keeper {
    meshes: RunMeshes,
    api: Api,
    clock: Clock,
    node_id: NodeId,
    certify: Certify,
    certificate: SignedCertificate,
    renew_at: Time,
    wanted: Arc<Notify>,
    state: watch::Sender<Registration>,
}

impl Keeper {
    async fn run(mut self) {
        let mut addresses = self.meshes.job_meshes().overlay().watch_addresses();
        let mut pause = PAUSE.0;
        let mut due = true;
        loop {
            if due {
                match self.register().await {
                    Ok(()) => {
                        pause = PAUSE.0;
                        due = false;
                        self.state.send_replace(Registration { registered: true, error: None });
                    }
                    Err(error) => {
                        tracing::debug!(error, "not registered with the overlay yet");
                        self.state.send_modify(|state| state.error = Some(error));
                    }
                }
            }
            let wait = if due { pause } else { PRESENCE_INTERVAL };
            tokio::select! {
                () = self.wanted.notified() => {}
                changed = addresses.changed() => {
                    if changed.is_err() {
                        return;
                    }
                }
                () = tokio::time::sleep(wait) => pause = (pause * 2).min(PAUSE.1),
            }
            due = true;
        }
    }

    async fn register(&mut self) -> Result<(), String> {
        let now = (self.clock)();
        if now >= self.renew_at {
            let (certificate, renew_at) = self.certify.certificate(now).map_err(|error| error.to_string())?;
            self.certificate = certificate;
            self.renew_at = renew_at;
            self.meshes.job_meshes().set_credentials(Credentials {
                organization_id: self.certify.organization_id,
                certificate: self.certificate.clone(),
            });
            tracing::info!("renewed the node's certificate");
        }
        let info = self.api.overlay_get().await.map_err(|error| error.to_string())?;
        let overlay = self.meshes.job_meshes().overlay();
        let peer = NewPeer {
            certificate: self.certificate.clone(),
            addresses: overlay.listen_addresses().iter().map(ToString::to_string).collect(),
        };
        self.api.peer_put(self.node_id, &peer).await.map_err(|error| error.to_string())?;
        // Only then do they let it in.
        overlay.set_relays(relays(&info)).await;
        Ok(())
    }
}
