//! Identity, authorization and the task ledger of a Twinmesh federation.
//!
//! * [`config`] – settings. [`clock`] – where time comes in. [`cli`] – the program.
//! * [`authn`] – who somebody is. `authz` – what they may do: one pure decision over the 86 rules.
//! * `ledger` – what may happen to tasks and runs, purely.
//! * `store` – all SQL. `objects` – large payloads. `tidy` – what is removed by age. `http` – the v4 contract and our
//!   additions. `relay` – the overlay's meeting point. `algorithm_store` – asks services of others.
//! * `mail` – what users are told by mail.
//! * `server`, `tls` – connections. `tally` – how many of something each has. `metrics`, `telemetry`, `notify` – what
//!   operators watch. `files` – the data directory. `doctor` – whether it works, and why not.
//! * `import`, `admin` – what an operator does at the machine. `house` – the database for them. `print` – what they print.
//!
//! [`Coordinator::start`] runs one within any process.

mod admin;
mod algorithm_store;
mod ask;
pub mod authn;
mod authz;
pub mod cli;
pub mod clock;
pub mod config;
mod doctor;
mod files;
#[doc(hidden)]
pub mod fuzzing;
mod house;
mod http;
mod import;
mod ledger;
mod limits;
mod mail;
mod metrics;
mod notify;
mod objects;
mod print;
mod relay;
mod server;
mod store;
mod tally;
mod telemetry;
mod tidy;
mod tls;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use anyhow::Context as _;
use axum::Router;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};

use algorithm_store::StoreCaller;
use authn::limiter::{Allowance, Limiter};
use authn::lockout::Lockout;
use authn::password::{Cost, Hasher, check_hash, check_policy};
use authn::token::Tokens;
use authn::two_factor::SecondFactor;
use clock::Clock;
use config::{Config, Network, Secret, Synchronous};
pub use files::FileError;
use http::AppState;
use http::event::presence::Instance;
use http::intake::Memory;
use http::state::Recovery;
pub use mail::MailError;
use mail::{Mailer, Postman, Rounds};
use objects::Objects;
pub use objects::ObjectsError;
use relay::Relay;
use server::Manner;
use store::instance::InstanceId;
pub use store::{BackupError, StoreError};
use store::{Location, Store};
pub use tidy::{Tidied, Tidier, TidyError};
use tls::Tls;
pub use tls::TlsError;

/// The error of starting a coordinator.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The data directory cannot be used.
    #[error(transparent)]
    Files(#[from] FileError),
    /// The database cannot be used.
    #[error("cannot open the database")]
    Store(#[from] StoreError),
    /// Large payloads cannot be kept.
    #[error(transparent)]
    Objects(#[from] ObjectsError),
    /// The address cannot be used.
    #[error("cannot listen at `{address}`: is something else there? Port 0 takes any that is free")]
    Listen {
        /// Which.
        address: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// The certificate or its key cannot be used.
    #[error("TLS cannot be spoken")]
    Tls(#[from] TlsError),
    /// The overlay's meeting point cannot be started.
    #[error("cannot start the overlay's meeting point")]
    Overlay(#[source] anyhow::Error),
    /// The first user's password is too weak.
    #[error("the first user's password is refused: {why}")]
    RootPassword {
        /// Why.
        why: String,
    },
    /// What sends mail cannot be set up.
    #[error("cannot set up what sends mail")]
    Mail(#[from] MailError),
    /// A setting about algorithm stores is wrong.
    #[error("{why}")]
    AlgorithmStores {
        /// Which, and why.
        why: String,
    },
    /// The machine's random source failed.
    #[error(transparent)]
    Hash(#[from] authn::password::HashError),
}

/// What a coordinator takes from its surroundings, for tests to replace.
#[derive(Debug, Clone)]
pub struct Surroundings {
    /// Tells the time.
    pub clock: Clock,
    /// What a password's hash costs.
    pub password_cost: Cost,
}

impl Default for Surroundings {
    fn default() -> Self {
        Self { clock: Clock::system(), password_cost: Cost::Standard }
    }
}

/// A coordinator that is set up, but listens nowhere yet.
#[derive(Debug)]
pub struct Coordinator {
    state: AppState,
    config: Config,
    tidier: Tidier,
    shutdown: CancellationToken,
    /// Ends what runs in the background should this never be served.
    abandon: DropGuard,
    lock: files::Lock,
    new_root_password: Option<String>,
}

impl Coordinator {
    /// Sets one up and serves it.
    ///
    /// # Errors
    /// When the directory is in use, or database, address or overlay cannot be had.
    pub async fn start(config: Config) -> Result<Running, StartError> {
        Self::prepare(config, Surroundings::default()).await?.serve().await
    }

    /// Opens the database and makes what a new one needs. Nothing is reachable yet.
    ///
    /// # Errors
    /// When the directory is in use, or the database cannot be opened.
    pub async fn prepare(config: Config, surroundings: Surroundings) -> Result<Self, StartError> {
        let directory = &config.data_dir;
        let lock = files::take(directory)?;
        let tls = config.tls.files().map(|(certificate, key)| Tls::load(certificate, key, surroundings.clock.clone()));
        let tls = tls.transpose()?;
        files::remove(&ready_file(directory))?;
        let location = match config.database.url()? {
            Some(url) => Location::Url(url),
            None => {
                let path = sqlite_file(directory);
                // SQLite would let others read it, and its journals follow its mode.
                files::make_private(&path)?;
                Location::File(path)
            }
        };
        let store = Store::open(&location, config.database.synchronous, config.database.readers).await?;
        let objects = Objects::open(&config.objects, directory, config.database.synchronous == Synchronous::Full)?;
        // Whoever shares the database takes each other's tokens.
        let (secret, instance) = if store.is_shared() {
            let secret = store::setup::token_secret(&store, &files::new_token_secret()).await?;
            (secret, InstanceId::new(files::instance_id(directory)?))
        } else {
            (files::token_secret(directory)?, InstanceId::new("this"))
        };
        store::setup::built_in_roles(&store).await?;
        let hasher = Hasher::new(surroundings.password_cost)?;
        let new_root_password = make_root(&store, &hasher, &config).await?;

        let algorithm_stores = StoreCaller::new(&config.algorithm_stores, &config.api_path)
            .map_err(|error| StartError::AlgorithmStores { why: error.to_string() })?;
        let relay = if config.overlay.listen.is_empty() {
            None
        } else {
            let relay = Relay::start(directory, &config.overlay.listen, &store).await;
            Some(Arc::new(relay.map_err(StartError::Overlay)?))
        };
        let shutdown = CancellationToken::new();
        let clock = surroundings.clock;
        let mailer = Mailer::new(&config)?;
        let lockout = Lockout {
            max_failed: config.password.max_failed_attempts.into(),
            locked_for: config.password.locked_for.0,
        };
        let allowance = |tries| Allowance { tries, within: config.limits.guesses_within.0 };
        let limiter =
            Limiter::new(allowance(config.limits.guesses_per_address), allowance(config.limits.guesses_per_account));
        let state = AppState::new(http::state::Parts {
            store,
            objects,
            tokens: Tokens::new(&secret, config.tokens.access_for.0, config.tokens.refresh_for.0),
            hasher,
            lockout,
            limiter: Mutex::new(limiter),
            trusted_proxies: config.limits.trusted_proxies.clone(),
            second_factor: SecondFactor { required: config.two_factor.required, issuer: config.name.clone() },
            recovery: Recovery { by_mail: mailer.is_some(), mail_every: config.recovery.mail_every.0 },
            clock: clock.clone(),
            api_path: config.api_path.clone(),
            body_limit: usize::try_from(config.limits.request_body.0).unwrap_or(usize::MAX),
            body_idle: config.limits.body_idle.0,
            body_memory: Memory::new(config.limits.request_memory.0, config.limits.request_body.0),
            held_per_caller: usize::try_from(config.limits.held_per_caller).unwrap_or(usize::MAX),
            status_hold: config.limits.status_hold.0,
            node_grace: config.limits.node_grace.0,
            instance: Instance {
                id: instance,
                words: authn::secret::Sealed::new(&secret, "guesses"),
                lease: config.limits.instance_lease.0,
                relay,
            },
            algorithm_stores,
            basics_image: config.basics_image.clone(),
            tls,
            data_dir: directory.clone(),
            shutdown: shutdown.clone(),
        });
        let tidier = Tidier {
            store: state.store().clone(),
            objects: state.objects().clone(),
            retention: config.retention.clone(),
            clock: clock.clone(),
        };
        tokio::spawn({
            let (tidier, shutdown) = (tidier.clone(), shutdown.clone());
            async move {
                tokio::select! {
                    () = shutdown.cancelled() => {}
                    () = tidier.keep_tidy() => {}
                }
            }
        });
        state.follow().start().await?;
        http::peer::keep_admitted(&state);
        http::origin::hear_of_guesses(&state);
        if let Some(mailer) = mailer {
            let rounds = Rounds {
                retry_after: config.mail.retry_after.0,
                give_up_after: config.mail.give_up_after.0,
                token_valid_for: config.recovery.valid_for.0,
                lockout,
                failed_log_ins_every: config.password.mail_every.0,
            };
            let postman = Postman { mailer, store: state.store().clone(), clock, rounds };
            tokio::spawn(postman.work(shutdown.clone()));
        }
        let abandon = shutdown.clone().drop_guard();
        Ok(Self { state, config, tidier, shutdown, abandon, lock, new_root_password })
    }

    /// The interface as a service, to be asked without a network.
    pub fn router(&self) -> Router {
        http::router(self.state.clone())
    }

    /// Who removes what has reached its age or belongs to nothing. It is done from time to time anyway.
    #[must_use]
    pub fn tidier(&self) -> Tidier {
        self.tidier.clone()
    }

    /// The first user's password, if this start made one up.
    #[must_use]
    pub fn new_root_password(&self) -> Option<&str> {
        self.new_root_password.as_deref()
    }

    /// Begins to listen, and says so in `coordinator.json`.
    ///
    /// # Errors
    /// When the address cannot be had.
    pub async fn serve(self) -> Result<Running, StartError> {
        let wanted = self.config.listen;
        let (listener, address) = bind(wanted).await?;
        let watched = match self.config.metrics.listen {
            Some(wanted) => Some(bind(wanted).await?),
            None => None,
        };
        let router = self.router();
        let Self { state, config, shutdown, abandon, lock, .. } = self;
        abandon.disarm();
        let scheme = if state.tls().is_some() { "https" } else { "http" };
        let url = format!("{scheme}://{address}{}", config.api_path);
        let metrics = watched.as_ref().map(|(_, address)| format!("http://{address}/metrics"));
        let overlay = state.relay().map(|relay| relay.info().addresses).unwrap_or_default();
        let ready = ready_file(&config.data_dir);
        let told = json!({"url": url, "overlay": overlay, "metrics": metrics, "pid": std::process::id()});
        let manner = Manner {
            header_timeout: config.limits.header_timeout.0,
            connections: usize::try_from(config.limits.connections).unwrap_or(usize::MAX),
            per_address: usize::try_from(config.limits.connections_per_address).unwrap_or(usize::MAX),
            uncounted: config.limits.trusted_proxies.iter().copied().chain(Network::own()).collect(),
            refused: state.meter().refused().clone(),
            tls: state.tls().cloned(),
        };
        let plain = Manner { tls: None, ..manner.clone() };
        let mut servers = vec![tokio::spawn(server::serve(listener, router, manner, shutdown.clone()))];
        if let Some((listener, _)) = watched {
            let router = metrics::router(state.clone());
            servers.push(tokio::spawn(server::serve(listener, router, plain, shutdown.clone())));
        }
        if let Some(tls) = state.tls().cloned() {
            let stop = shutdown.clone();
            tokio::spawn(async move { stop.run_until_cancelled(tls.keep_fresh()).await });
        }
        files::write_private(&ready, format!("{told:#}\n").as_bytes())?;
        Ok(Running { url, metrics, overlay, shutdown, servers, state, ready, _lock: lock })
    }
}

/// A coordinator that serves.
#[derive(Debug)]
pub struct Running {
    url: String,
    metrics: Option<String>,
    overlay: Vec<String>,
    shutdown: CancellationToken,
    servers: Vec<JoinHandle<()>>,
    state: AppState,
    ready: PathBuf,
    _lock: files::Lock,
}

impl Running {
    /// Where the API is, with its path: `http://127.0.0.1:7601/api`.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Where the figures for Prometheus are, if they are served.
    #[must_use]
    pub fn metrics_url(&self) -> Option<&str> {
        self.metrics.as_deref()
    }

    /// Reads certificate and key again, if TLS is spoken. What is wrong with them goes into the log, and those in use
    /// stay.
    pub fn reload(&self) {
        if let Some(tls) = self.state.tls() {
            tls.reload_or_tell();
        }
    }

    /// The multiaddresses of the overlay's meeting point.
    #[must_use]
    pub fn overlay(&self) -> &[String] {
        &self.overlay
    }

    /// Takes nothing new, ends what is held open without an answer, and lets go of the data directory. Takes less
    /// than two seconds.
    pub async fn shutdown(self) {
        self.shutdown.cancel();
        for server in self.servers {
            if let Err(error) = server.await {
                tracing::error!("the server ended badly: {error}");
            }
        }
        if let Some(relay) = self.state.relay() {
            relay.stop().await;
        }
        self.state.store().close().await;
        if let Err(error) = files::remove(&self.ready) {
            tracing::warn!("{error}");
        }
    }
}

async fn bind(address: SocketAddr) -> Result<(TcpListener, SocketAddr), StartError> {
    let bound = async {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        Ok((listener, address))
    };
    bound.await.map_err(|source| StartError::Listen { address, source })
}

/// The embedded database.
fn sqlite_file(directory: &Path) -> PathBuf {
    directory.join("coordinator.sqlite")
}

/// Says where a running coordinator is.
fn ready_file(directory: &Path) -> PathBuf {
    directory.join("coordinator.json")
}

/// Where the coordinator that runs on a data directory says it is: the API's URL, with its path.
fn url_told(directory: &Path) -> anyhow::Result<String> {
    let path = ready_file(directory);
    let text = std::fs::read(&path).with_context(|| format!("cannot read `{}`", path.display()))?;
    let told: serde_json::Value = serde_json::from_slice(&text)
        .with_context(|| format!("`{}` is not what a coordinator writes", path.display()))?;
    let url = told.get("url").and_then(serde_json::Value::as_str);
    Ok(url.with_context(|| format!("`{}` names no `url`", path.display()))?.to_owned())
}

/// On a new database, makes the first user; the password that was made up, if none was given.
async fn make_root(store: &Store, hasher: &Hasher, config: &Config) -> Result<Option<String>, StartError> {
    if !store::setup::is_new(&mut store.read().await?).await? {
        return Ok(None);
    }
    // Asked again by who may write: of several instances that start together one makes it.
    let mut tx = store.write().await?;
    if !store::setup::is_new(&mut tx).await? {
        return Ok(None);
    }
    let (hash, made_up) = root_password_hash(hasher, config).await?;
    store::setup::root_insert(&mut tx, &hash).await?;
    tx.commit().await?;
    Ok(made_up)
}

/// The hash of the first user's password, and the password if it was made up.
async fn root_password_hash(hasher: &Hasher, config: &Config) -> Result<(String, Option<String>), StartError> {
    let refused = |why: String| StartError::RootPassword { why };
    if let Some(hash) = given(config.root.password_hash.as_ref(), config.root.password_hash_file.as_deref())? {
        check_hash(&hash).map_err(|why| refused(why.to_string()))?;
        return Ok((hash, None));
    }
    let given = given(config.root.password.as_ref(), config.root.password_file.as_deref())?;
    let made_up = given.is_none();
    let password = given.unwrap_or_else(authn::secret::new_password);
    check_policy(&password).map_err(|why| refused(why.to_string()))?;
    let hash = hasher.hash(password.clone()).await?;
    if made_up {
        // Before the user: a password that nobody knows would lock everybody out.
        files::write_private(&config.data_dir.join("root-password"), format!("{password}\n").as_bytes())?;
    }
    Ok((hash, made_up.then_some(password)))
}

/// A secret that may be in a file.
fn given(secret: Option<&Secret>, file: Option<&Path>) -> Result<Option<String>, FileError> {
    match (secret, file) {
        (Some(secret), _) => Ok(Some(secret.reveal().to_owned())),
        (None, Some(path)) => files::read_secret(path).map(Some),
        (None, None) => Ok(None),
    }
}
