//! The command line of `twinmesh-node`.

mod doctor;
mod pin;
mod status;

use std::{
    ffi::OsString,
    io::{IsTerminal as _, Write as _},
    process::ExitCode,
    sync::Arc,
};

use anyhow::Context as _;
use camino::{Utf8Path, Utf8PathBuf};
use clap::{Parser, Subcommand};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use twinmesh_client::{
    ApiError,
    key::{KeyCreation, create_organization_key},
};
use twinmesh_protocol::id::OrganizationId;

use crate::{
    config::{Config, EXAMPLE, Minimum},
    node::{Node, OnStop, Parts, StartError},
    notify::Manager,
    runtime::Runtime,
    sandbox,
};

/// How a command ended (style section 11).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Exit {
    Done = 0,
    Failed = 1,
    Unreachable = 3,
    NotAllowed = 4,
    NotFound = 5,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// One organization's node of a Twinmesh federation.
#[derive(Debug, Parser)]
#[command(
    name = "twinmesh-node",
    version,
    after_help = "Example: twinmesh-node create-private-key --output key.pem && twinmesh-node start --config node.toml"
)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Take the node's place in its collaboration and work until SIGTERM or Ctrl-C.
    ///
    /// Runs go on when the node stops, and are found again when it starts within `runtime.orphan_grace`.
    /// Under systemd this needs `KillMode=process`, as a run's agent is a process of its own; `Type=notify` is told when
    /// the node has taken its place.
    #[command(after_help = "Example: twinmesh-node start --config /etc/twinmesh/node.toml")]
    Start {
        /// The configuration file.
        #[arg(long)]
        config: Utf8PathBuf,
        /// Kill the runs when the node stops, instead of leaving them to the next start.
        #[arg(long)]
        stop_runs_on_exit: bool,
    },
    /// Make the organization's private key, or reuse the one that is there.
    #[command(after_help = "Example: twinmesh-node create-private-key --output key.pem")]
    CreatePrivateKey {
        /// The file to write.
        #[arg(long, default_value = "private_key.pem")]
        output: Utf8PathBuf,
        /// Replace a key that is there. What was sealed to it cannot be opened any more.
        #[arg(long)]
        force: bool,
    },
    /// Show on one screen how the node is doing.
    #[command(after_help = "Example: twinmesh-node status --config node.toml")]
    Status {
        /// The configuration file.
        #[arg(long)]
        config: Utf8PathBuf,
        /// Print the status file as it is.
        #[arg(long)]
        json: bool,
    },
    /// Whose keys this node believes: those of the members at its first start, and those pinned since.
    Pin {
        #[command(subcommand)]
        command: PinCommand,
    },
    /// Look at the configuration.
    Config {
        #[command(subcommand)]
        command: ConfigCommand,
    },
    /// Try everything that the node needs, and say how to mend what fails. Changes nothing.
    #[command(after_help = "Example: twinmesh-node doctor --config node.toml")]
    Doctor {
        /// The configuration file.
        #[arg(long)]
        config: Utf8PathBuf,
    },
}

#[derive(Debug, Subcommand)]
enum PinCommand {
    /// Print the pinned keys: organization, fingerprint, name, and whether a person confirmed it.
    #[command(after_help = "Example: twinmesh-node pin list --config node.toml")]
    List {
        /// The configuration file.
        #[arg(long)]
        config: Utf8PathBuf,
    },
    /// Believe the key of an organization that joined after the node's first start, or that has a new key.
    ///
    /// A node that runs sees it at once.
    #[command(
        after_help = "Example: twinmesh-node pin add 5 --fingerprint 0123456789abcdef0123456789abcdef --config node.toml"
    )]
    Add {
        /// The organization's id.
        organization: OrganizationId,
        /// The key's fingerprint, as the organization itself told you.
        #[arg(long)]
        fingerprint: Option<String>,
        /// The configuration file.
        #[arg(long)]
        config: Utf8PathBuf,
    },
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Check the file; touches nothing.
    Check {
        /// The configuration file.
        #[arg(long)]
        config: Utf8PathBuf,
    },
    /// Print what is in effect, without secrets.
    Show {
        /// The configuration file.
        #[arg(long)]
        config: Utf8PathBuf,
    },
    /// Print a file to begin with: every setting, its default and its meaning.
    #[command(after_help = "Example: twinmesh-node config example > node.toml")]
    Example,
}

/// Runs a command as if from the command line; the first argument is the program's name.
///
/// A program that calls this must call [`sandbox::intercept`] first in its `main`.
pub async fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let arguments = match Arguments::try_parse_from(arguments) {
        Ok(arguments) => arguments,
        Err(error) => {
            // Prints help and versions to stdout, mistakes to stderr.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    start_logging();
    match perform(arguments.command).await {
        Ok(exit) => exit.into(),
        Err(error) => {
            let exit = classify(&error);
            complain(&format!("error: {error:#}"));
            if let Some(hint) = hint(&error) {
                complain(&format!("hint: {hint}"));
            }
            exit.into()
        }
    }
}

async fn perform(command: Command) -> anyhow::Result<Exit> {
    match command {
        Command::Start { config, stop_runs_on_exit } => start(&config, stop_runs_on_exit).await,
        Command::CreatePrivateKey { output, force } => create_private_key(&output, force),
        Command::Status { config, json } => status::show(&Config::load(&config)?, json),
        Command::Pin { command: PinCommand::List { config } } => pin::list(&config),
        Command::Pin { command: PinCommand::Add { organization, fingerprint, config } } => {
            pin::add(&config, organization, fingerprint.as_deref()).await
        }
        Command::Config { command: ConfigCommand::Check { config } } => {
            Config::load(&config)?;
            say(&format!("{config} is valid"));
            Ok(Exit::Done)
        }
        Command::Config { command: ConfigCommand::Show { config } } => {
            say(Config::load(&config)?.redacted().trim_end());
            Ok(Exit::Done)
        }
        Command::Config { command: ConfigCommand::Example } => {
            say(EXAMPLE.trim_end());
            Ok(Exit::Done)
        }
        Command::Doctor { config } => doctor::examine(&config).await,
    }
}

async fn start(path: &Utf8Path, stop_runs_on_exit: bool) -> anyhow::Result<Exit> {
    // Heard from the beginning, so that a start that is called off leaves nothing behind.
    let mut stopped = std::pin::pin!(stop_signal()?);
    let manager = Manager::of_this_process();
    let work = async {
        let config = Config::load(path)?;
        raise_file_limit();
        manager.starting();
        let start = async {
            let runtime = sandbox_runtime(&config).await?;
            anyhow::Ok(Node::start(config, Parts::new(runtime)).await?)
        };
        let mut running = tokio::select! {
            running = start => running?,
            () = &mut stopped => return Ok(Exit::Done),
        };
        manager.ready();
        let failed = tokio::select! {
            () = &mut stopped => false,
            () = running.failed() => true,
        };
        if failed {
            anyhow::bail!("the node failed; its log says why");
        }
        manager.stopping();
        let on_stop = if stop_runs_on_exit { OnStop::KillRuns } else { OnStop::LeaveRuns };
        running.shutdown(on_stop).await;
        Ok(Exit::Done)
    };
    tokio::select! {
        exit = work => exit,
        never = manager.live() => match never {},
    }
}

/// Lets this process have as many files open as the system allows: each connection of a run is at least one. Runs have a limit
/// of their own.
fn raise_file_limit() {
    let limit = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum }) {
        tracing::debug!(%error, "the limit of open files stays at {:?}", limit.current);
    }
}

/// The sandbox as configured.
async fn sandbox_runtime(config: &Config) -> anyhow::Result<Arc<dyn Runtime>> {
    let state = &config.state_directory;
    crate::journal::make_private_directory(state)
        .with_context(|| format!("cannot write to the state directory `{state}`"))?;
    let settings =
        sandbox::Settings { lite: config.runtime.lite, scratch: Some(state.clone()), ..sandbox::Settings::default() };
    let minimum = match config.runtime.minimum {
        Minimum::Full => sandbox::Minimum::Full,
        Minimum::Lite => sandbox::Minimum::Lite,
    };
    let runtime = sandbox::SandboxRuntime::new(settings, minimum).await.context(
        "algorithms cannot be confined as `runtime.minimum` demands; `minimum = \"lite\"` is content with less",
    )?;
    Ok(Arc::new(runtime))
}

/// Completes on SIGTERM, SIGINT or Ctrl-C.
fn stop_signal() -> anyhow::Result<impl Future<Output = ()>> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for SIGINT")?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}

fn create_private_key(output: &Utf8Path, force: bool) -> anyhow::Result<Exit> {
    let (key, creation) = create_organization_key(output.as_std_path(), force)?;
    let what = match creation {
        KeyCreation::Created => "made a new key in",
        KeyCreation::Reused => "the key is there already, in",
        KeyCreation::Replaced => "replaced the key in",
    };
    complain(&format!("{what} {output}"));
    say(&key.public().fingerprint());
    Ok(Exit::Done)
}

fn classify(error: &anyhow::Error) -> Exit {
    let start = error.downcast_ref::<StartError>();
    let api = error.downcast_ref::<ApiError>().or(match start {
        Some(StartError::Api(error)) => Some(error),
        _ => None,
    });
    match (start, api) {
        (Some(StartError::LogIn { .. } | StartError::KeyRefused(_)), _) => Exit::NotAllowed,
        (_, Some(error)) if error.is_transient() => Exit::Unreachable,
        (_, Some(error)) if matches!(error.status(), Some(401 | 403)) => Exit::NotAllowed,
        (_, Some(error)) if error.is_not_found() => Exit::NotFound,
        _ => Exit::Failed,
    }
}

fn hint(error: &anyhow::Error) -> Option<String> {
    match error.downcast_ref::<StartError>() {
        Some(StartError::Api(error)) => error.hint(),
        Some(StartError::KeyRefused(_)) => Some(
            "a member of the organization uploads the key (`twinmesh key upload`) or renews this node's API key; or \
             `private_key` names the key that is shown. Nothing is lost: runs go on, and what ended is delivered then"
                .into(),
        ),
        Some(StartError::Key(_)) => {
            Some("`twinmesh-node create-private-key` makes a key; `private_key` names its file".into())
        }
        _ => error.downcast_ref::<ApiError>().and_then(ApiError::hint),
    }
}

fn start_logging() {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info,libp2p=warn"));
    // Fails when the program that embeds this has its own, which is then used.
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr)
        .try_init();
}

/// Prints data. A closed pipe is nobody's fault.
fn say(text: &str) {
    let _ = writeln!(std::io::stdout().lock(), "{text}");
}

/// Prints conversation.
fn complain(text: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}
