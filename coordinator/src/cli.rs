//! The program: `twinmesh-coordinator start | import | admin | config check | config show | config example | doctor |
//! health | backup`.

use std::ffi::OsString;
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Args, Parser, Subcommand};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde::Serialize;
use tokio::signal::unix::{SignalKind, signal};

use crate::admin::{Admin, NotFound};
use crate::clock::Clock;
use crate::config::{Config, EXAMPLE, RootConfig, Secret};
use crate::doctor::Finding;
use crate::import::{Options, Outcome};
use crate::notify::Supervisor;
use crate::{Coordinator, Surroundings};

/// The variable that may hold the first user's password.
const ROOT_PASSWORD: &str = "TWINMESH_ROOT_PASSWORD";
/// The variables that may hold its hash, or name the file that does: those of vantage6 (contract A.3).
const ROOT_PASSWORD_HASH: &str = "V6_INIT_SUPER_PASS_HASHED";
const ROOT_PASSWORD_HASH_FILE: &str = "V6_INIT_SUPER_PASS_HASHED_FILE";

/// The exit code when something that was named is not there.
const EXIT_NOT_FOUND: u8 = 5;

/// Identity, authorization and the task ledger of a federation.
#[derive(Debug, Parser)]
#[command(
    name = "twinmesh-coordinator",
    version,
    after_help = "Example:\n  twinmesh-coordinator start --data-dir ./coordinator --listen 127.0.0.1:7601"
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve until told to stop (SIGTERM or Ctrl-C).
    ///
    /// The first start makes the organization and the user `root`. The password is taken from
    /// TWINMESH_ROOT_PASSWORD or --root-password-file, its hash (argon2id or bcrypt) from V6_INIT_SUPER_PASS_HASHED or
    /// the file that V6_INIT_SUPER_PASS_HASHED_FILE names; without any a password is made up, printed once and kept in the
    /// data directory's `root-password`.
    Start(Flags),
    /// Make organizations, users, roles, collaborations, nodes and studies from a file, all of them or none.
    ///
    /// Takes the batch files of vantage6 (`v6 server import`) and what docs/import.yaml shows besides. What exists is kept
    /// as it is, what it lacks is added. Works on the embedded database while no coordinator runs, and on PostgreSQL also
    /// beside them.
    #[command(
        after_help = "Example:\n  twinmesh-coordinator import federation.yaml --data-dir ./coordinator --dry-run"
    )]
    Import(ImportFlags),
    /// Mend accounts at the machine, when nobody can log in: passwords, locks, second factors, node keys.
    ///
    /// Works on the embedded database while no coordinator runs, and on PostgreSQL also beside them.
    #[command(
        after_help = "Example:\n  twinmesh-coordinator admin user reset-password root --data-dir ./coordinator\n\n\
            Exit codes: 0 done, 1 failed, 2 usage, 5 not found"
    )]
    Admin(AdminFlags),
    /// Look at the settings.
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Try what a start needs, ask the coordinator that runs on the data directory if there is one, and say how to
    /// mend what fails. Changes nothing.
    Doctor(Flags),
    /// Ask the coordinator that runs on the data directory whether requests should be sent to it: 0 if so, else 1.
    ///
    /// For health checks of containers and the like; `doctor` tells people more.
    Health(Flags),
    /// Copy the embedded database into a new file, also while the coordinator runs.
    ///
    /// The copy is whole and as of one moment. Keep the data directory's `token-secret` and `relay.key` beside it:
    /// without the first everybody has to log in again, without the second nodes see another relay.
    ///
    /// To restore: stop the coordinator, remove `coordinator.sqlite-wal` and `coordinator.sqlite-shm` from the data
    /// directory, put the copy there as `coordinator.sqlite`, and start.
    ///
    /// With `database.url` the data is in PostgreSQL: use pg_dump, which also works while the coordinators run.
    #[command(after_help = "Example:\n  twinmesh-coordinator backup --data-dir ./coordinator --output monday.sqlite")]
    Backup(BackupFlags),
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Check the settings without touching anything.
    Check(Flags),
    /// Print the settings in effect, without secrets.
    Show(Flags),
    /// Print a file to begin with: every setting, its default and its meaning.
    Example,
}

/// Which coordinator's database.
#[derive(Debug, Args, Serialize)]
struct HouseFlags {
    /// A TOML file with settings.
    #[arg(long, value_name = "FILE", global = true)]
    #[serde(skip)]
    config: Option<PathBuf>,
    /// The coordinator's directory.
    #[arg(long, value_name = "DIR", global = true)]
    #[serde(skip_serializing_if = "Option::is_none")]
    data_dir: Option<PathBuf>,
    /// Print JSON instead of tables.
    #[arg(long, global = true)]
    #[serde(skip)]
    json: bool,
}

impl HouseFlags {
    fn load(&self) -> anyhow::Result<Config> {
        let mut config = Config::load(self.config.as_deref(), self)?;
        if let Ok(password) = std::env::var(ROOT_PASSWORD) {
            config.root.password = Some(Secret::new(password));
            config.root.password_file = None;
        }
        Ok(config)
    }
}

#[derive(Debug, Args)]
struct ImportFlags {
    #[command(flatten)]
    house: HouseFlags,
    /// The YAML file.
    file: PathBuf,
    /// Show what would be done, and do nothing.
    #[arg(long)]
    dry_run: bool,
    /// A directory to write generated API keys to, a file each, for their owner only; printed once if not given.
    #[arg(long, value_name = "DIR")]
    keys_dir: Option<PathBuf>,
    /// Give users without `roles` every rule, in a role `super` of their organization, as vantage6 does.
    #[arg(long)]
    all_rules: bool,
    /// Take passwords that the policy refuses.
    #[arg(long)]
    weak_passwords: bool,
}

#[derive(Debug, Args)]
struct AdminFlags {
    #[command(flatten)]
    house: HouseFlags,
    #[command(subcommand)]
    verb: Admin,
}

#[derive(Debug, Args)]
struct BackupFlags {
    #[command(flatten)]
    flags: Flags,
    /// The file to make; there must be none yet.
    #[arg(long, value_name = "FILE")]
    output: PathBuf,
}

#[derive(Debug, Args, Serialize)]
struct Flags {
    /// A TOML file with settings.
    #[arg(long, value_name = "FILE")]
    #[serde(skip)]
    config: Option<PathBuf>,
    /// Where everything that must outlive the process is kept.
    #[arg(long, value_name = "DIR")]
    #[serde(skip_serializing_if = "Option::is_none")]
    data_dir: Option<PathBuf>,
    /// The address to listen at; port 0 takes any that is free.
    #[arg(long, value_name = "ADDRESS")]
    #[serde(skip_serializing_if = "Option::is_none")]
    listen: Option<SocketAddr>,
    /// A multiaddress at which to host the overlay's meeting point; may be repeated.
    #[arg(long, value_name = "MULTIADDR")]
    #[serde(skip)]
    overlay_listen: Vec<String>,
    /// A file that holds the first user's password.
    #[arg(long, value_name = "FILE")]
    #[serde(skip)]
    root_password_file: Option<PathBuf>,
    /// What to log: `info`, `debug`, `twinmesh_coordinator=trace`.
    #[arg(long, value_name = "FILTER")]
    #[serde(skip_serializing_if = "Option::is_none")]
    log: Option<String>,
}

impl Flags {
    fn load(&self) -> anyhow::Result<Config> {
        let mut config = Config::load(self.config.as_deref(), self)?;
        if !self.overlay_listen.is_empty() {
            config.overlay.listen.clone_from(&self.overlay_listen);
        }
        if let Some(root) = self.root_password() {
            config.root = root;
        }
        config.check()?;
        Ok(config)
    }

    /// The first user's password as flags or the environment give it, instead of the file.
    fn root_password(&self) -> Option<RootConfig> {
        let variable = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
        if let Some(path) = &self.root_password_file {
            Some(RootConfig { password_file: Some(path.clone()), ..RootConfig::default() })
        } else if let Ok(password) = std::env::var(ROOT_PASSWORD) {
            Some(RootConfig { password: Some(Secret::new(password)), ..RootConfig::default() })
        } else if let Some(hash) = variable(ROOT_PASSWORD_HASH) {
            Some(RootConfig { password_hash: Some(Secret::new(hash)), ..RootConfig::default() })
        } else {
            let path = variable(ROOT_PASSWORD_HASH_FILE)?;
            Some(RootConfig { password_hash_file: Some(path.into()), ..RootConfig::default() })
        }
    }
}

/// Runs the program with its arguments, the program's own name first.
pub async fn run(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let cli = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are not errors, and go to stdout.
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { 2 } else { 0 });
        }
    };
    let done = match cli.command {
        Command::Start(flags) => start(&flags).await,
        Command::Import(flags) => import(&flags).await,
        Command::Admin(flags) => admin(flags).await,
        Command::Config(ConfigCommand::Check(flags)) => flags.load().map(|_| say("the settings are valid")),
        Command::Config(ConfigCommand::Show(flags)) => show(&flags),
        Command::Config(ConfigCommand::Example) => print(EXAMPLE),
        Command::Doctor(flags) => doctor(&flags).await,
        Command::Health(flags) => health(&flags).await,
        Command::Backup(flags) => backup(&flags).await,
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&format!("error: {error:#}"));
            if error.is::<NotFound>() { ExitCode::from(EXIT_NOT_FOUND) } else { ExitCode::FAILURE }
        }
    }
}

async fn admin(AdminFlags { house, verb }: AdminFlags) -> anyhow::Result<()> {
    crate::admin::run(&house.load()?, verb, house.json).await
}

async fn import(flags: &ImportFlags) -> anyhow::Result<()> {
    let ImportFlags { house, file, dry_run, keys_dir, all_rules, weak_passwords } = flags;
    let config = house.load()?;
    let options = Options {
        dry_run: *dry_run,
        keys_dir: keys_dir.clone(),
        all_rules: *all_rules,
        weak_passwords: *weak_passwords,
    };
    let report = crate::import::import(&config, file, &options).await?;
    for warning in &report.warnings {
        say(&format!("warning: {warning}"));
    }
    if let Some(password) = &report.new_root_password {
        say(&format!(
            "The first user is `root` with the password {password}\nIt is kept in {} until you remove that file, and not \
             shown again.",
            config.data_dir.join("root-password").display()
        ));
    }
    crate::print::list(house.json, &report.lines, &["OUTCOME", "KIND", "NAME", "API KEY"], |line| {
        let outcome = match (line.outcome, dry_run) {
            (Outcome::Kept, _) => "kept",
            (Outcome::Created, false) => "created",
            (Outcome::Created, true) => "would be created",
        };
        let file = line.api_key_file.as_ref().map(|path| format!("in {}", path.display()));
        vec![outcome.into(), line.kind.into(), line.name.clone(), line.api_key.clone().or(file).unwrap_or_default()]
    })
}

async fn start(flags: &Flags) -> anyhow::Result<()> {
    let config = flags.load()?;
    crate::telemetry::start(&config)?;
    let supervisor = Supervisor::from_environment();
    let mut terminate = signal(SignalKind::terminate()).context("cannot wait for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot wait for SIGINT")?;
    let mut reload = signal(SignalKind::hangup()).context("cannot wait for SIGHUP")?;

    raise_file_limit(config.limits.connections);
    let data_dir = config.data_dir.clone();
    let coordinator = Coordinator::prepare(config, Surroundings::default()).await?;
    if let Some(password) = coordinator.new_root_password() {
        say(&format!(
            "The first user is `root` with the password {password}\n\
             It is kept in {} until you remove that file, and not shown again.",
            data_dir.join("root-password").display()
        ));
    }
    let running = coordinator.serve().await?;
    tracing::info!(url = running.url(), data_dir = %data_dir.display(), "the coordinator is ready");
    supervisor.tell("READY=1");
    let reloading = async {
        while reload.recv().await.is_some() {
            running.reload();
        }
    };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
        () = reloading => {}
        () = supervisor.keep_awake() => {}
    }
    supervisor.tell("STOPPING=1");
    tracing::info!("the coordinator stops");
    running.shutdown().await;
    Ok(())
}

/// Lets this process have as many files open as the system allows: each connection is one.
fn raise_file_limit(connections: u32) {
    let limit = getrlimit(Resource::Nofile);
    let wanted = u64::from(connections) + 256;
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum }) {
        tracing::debug!("the limit of open files stays at {:?}: {error}", limit.current);
    }
    if getrlimit(Resource::Nofile).current.is_some_and(|current| current < wanted) {
        tracing::warn!(
            "`limits.connections` allows {connections} connections, but the system fewer open files: raise its limit \
             (`LimitNOFILE=` in systemd)"
        );
    }
}

fn show(flags: &Flags) -> anyhow::Result<()> {
    let text = toml::to_string_pretty(&flags.load()?).context("cannot write the settings as TOML")?;
    print(&text)
}

/// To a program, or a file.
fn print(text: &str) -> anyhow::Result<()> {
    std::io::stdout().write_all(text.as_bytes()).context("cannot write to stdout")
}

async fn backup(BackupFlags { flags, output }: &BackupFlags) -> anyhow::Result<()> {
    let config = flags.load()?;
    anyhow::ensure!(
        config.database.url()?.is_none(),
        "`database.url` is set: the data is there, not in the data directory\n\
         hint: with PostgreSQL, pg_dump --format=custom --file={} copies it while the coordinators run; pg_restore puts \
         it back",
        output.display()
    );
    crate::store::back_up(&crate::sqlite_file(&config.data_dir), output).await?;
    say(&format!("the database is copied to {}", output.display()));
    Ok(())
}

async fn health(flags: &Flags) -> anyhow::Result<()> {
    let config = flags.load()?;
    let url = format!("{}/health/ready", crate::url_told(&config.data_dir)?);
    let certificate = config.tls.files().map(|(certificate, _)| certificate.as_path());
    let (status, body) = crate::ask::get(&url, certificate).await?;
    anyhow::ensure!(status.is_success(), "it is not ready: {}", String::from_utf8_lossy(&body));
    Ok(())
}

async fn doctor(flags: &Flags) -> anyhow::Result<()> {
    let config = flags.load()?;
    say("ok    settings: they make sense");
    let findings = crate::doctor::examine(&config, Clock::system().now()).await;
    let mut failed = 0;
    for (name, finding) in &findings {
        match finding {
            Finding::Well(text) => say(&format!("ok    {name}: {text}")),
            Finding::Odd { what, hint } => say(&format!("odd   {name}: {what}\n      hint: {hint}")),
            Finding::Bad { what, hint } => {
                failed += 1;
                say(&format!("FAIL  {name}: {what}\n      hint: {hint}"));
            }
        }
    }
    anyhow::ensure!(failed == 0, "{failed} of {} checks failed", findings.len() + 1);
    Ok(())
}

/// To the person, not to a program.
fn say(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}
