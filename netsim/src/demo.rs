//! The demonstration: a federation of real processes analyses real data, and every answer stands beside the one that
//! the pooled data gives.

mod plot;
mod report;
mod steps;
mod table;

use std::fmt::Write as _;
use std::io::ErrorKind;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, bail};
use camino::Utf8PathBuf;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::Instant;

pub use report::{Evidence, Latency, Report, Row, Section, Value};

use crate::data::{GBSG2, shuffle_rows, with_constant_column};
use crate::federation::{COLLABORATION, Federation, Plan, RESEARCHER};
use crate::process::{POLL, this_program};

/// How many hospitals may be asked for: a secure sum among fewer than three hides nothing, and each needs rows enough to
/// answer.
pub const NODES: std::ops::RangeInclusive<usize> = 3..=16;

/// What to demonstrate.
#[derive(Debug, Clone)]
pub struct Options {
    /// How many hospitals.
    pub nodes: usize,
    /// Deals the rows to the hospitals in another order; row i to hospital i modulo `nodes` without.
    pub seed: Option<u64>,
    /// Prints the report as JSON.
    pub json: bool,
    /// Leaves the federation running until Ctrl-C, and tells how to talk to it.
    pub keep: bool,
}

/// Runs the demonstration, prints its report, and returns whether everything is as it must be.
///
/// # Errors
/// What went wrong. All processes are stopped and all files removed in any case.
pub async fn run(options: &Options) -> anyhow::Result<bool> {
    if !NODES.contains(&options.nodes) {
        bail!("`--nodes {}`: choose {} to {}", options.nodes, NODES.start(), NODES.end());
    }
    // Heard from the beginning, so that a demonstration that is called off leaves nothing behind.
    let mut signals = Signals::listen()?;
    let home = tempfile::Builder::new().prefix("twinmesh-demo-").tempdir().context("cannot make a temporary folder")?;
    let directory = Utf8PathBuf::from_path_buf(home.path().to_owned())
        .map_err(|path| anyhow::anyhow!("the temporary folder {} is not UTF-8: set TMPDIR", path.display()))?;
    let mut federation = None;
    let outcome = tokio::select! {
        outcome = demonstrate(options, directory, &mut federation) => outcome,
        () = signals.any() => Err(Interrupted.into()),
    };
    let outcome = match (outcome, options.keep) {
        (Ok(ok), true) => {
            signals.any().await;
            tell("\nstopping …\n");
            Ok(ok)
        }
        (outcome, _) => outcome,
    };
    let stopped = match &mut federation {
        Some(federation) => federation.stop().await,
        None => Ok(()),
    };
    let removed = remove(home.path()).await;
    stopped?;
    removed?;
    outcome
}

/// Removes a folder. What a run's agent still writes on its way out may be in the way for a moment.
async fn remove(folder: &Path) -> anyhow::Result<()> {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        match std::fs::remove_dir_all(folder) {
            Err(error) if error.kind() != ErrorKind::NotFound && Instant::now() < deadline => {
                tokio::time::sleep(POLL).await;
            }
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("cannot remove the temporary folder {}", folder.display()));
            }
            Ok(()) | Err(_) => return Ok(()),
        }
    }
}

/// A person pressed Ctrl-C.
#[derive(Debug, thiserror::Error)]
#[error("interrupted; everything was stopped and removed")]
pub struct Interrupted;

/// What tells a program to stop.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    fn listen() -> anyhow::Result<Self> {
        let listen = |kind| signal(kind).context("cannot listen for signals");
        Ok(Self { interrupt: listen(SignalKind::interrupt())?, terminate: listen(SignalKind::terminate())? })
    }

    async fn any(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

async fn demonstrate(options: &Options, directory: Utf8PathBuf, slot: &mut Option<Federation>) -> anyhow::Result<bool> {
    let begun = Instant::now();
    let progress = Steps::new(options.json);
    let planted = format!("planted_{:016x}", rand::random::<u64>());
    let dealt = match options.seed {
        Some(seed) => shuffle_rows(GBSG2, seed),
        None => GBSG2.to_owned(),
    };
    let data = with_constant_column(&dealt, &planted, steps::PLANTED_VALUE);
    let plan = Plan { nodes: options.nodes, ..Plan::new(&directory, &data) };
    progress.begin(&format!("starting a coordinator and {} hospitals", options.nodes));
    let mut starting = Federation::prepare(&plan, &this_program()?).await?;
    // From here on the caller can stop the processes, whatever happens.
    let outcome = starting.wait_online().await;
    let federation = slot.insert(starting);
    outcome?;
    let startup_seconds = begun.elapsed().as_secs_f64();
    progress.done(&format!("coordinator {} and {} hospitals online, keys pinned", federation.url, options.nodes));

    let mut measured = steps::Measured::default();
    let mut sections = Vec::new();
    for analysis in steps::ANALYSES {
        progress.begin(analysis.name);
        let section = (analysis.run)(federation, &planted, &mut measured)
            .await
            .with_context(|| format!("the analysis `{}` failed", analysis.name))?;
        progress.done(&section.title);
        sections.push(section);
    }
    progress.begin("looking for plaintext at the coordinator");
    let evidence = steps::evidence(federation, &planted, measured).await?;
    progress.finish();

    let report = Report {
        nodes: options.nodes,
        seed: options.seed,
        startup_seconds,
        total_seconds: begun.elapsed().as_secs_f64(),
        ok: Report::judge(&sections, &evidence),
        sections,
        evidence,
    };
    print(&if options.json { serde_json::to_string_pretty(&report)? + "\n" } else { report.text() })?;
    if options.keep {
        tell(&how_to_talk(federation)?);
    }
    Ok(report.ok)
}

/// How to talk to a federation that was left running.
fn how_to_talk(federation: &Federation) -> anyhow::Result<String> {
    let home = federation.directory().join("researcher");
    std::fs::create_dir_all(&home).with_context(|| format!("cannot create `{home}`"))?;
    let password = home.join("password");
    crate::process::write_private(&password, &federation.password)?;
    let program = this_program()?;
    let mut text = String::from("\nThe federation is still running. From another terminal:\n\n");
    let _ = writeln!(text, "  export TWINMESH_HOME={home} TWINMESH_KEY={}", federation.researcher_key);
    let _ = writeln!(text, "  twinmesh() {{ {program} twinmesh \"$@\"; }}");
    let _ = writeln!(text, "  twinmesh login {} --username {RESEARCHER} --password-stdin < {password}", federation.url);
    let _ = writeln!(text, "  twinmesh status");
    let _ = writeln!(
        text,
        "  twinmesh task create --collaboration {COLLABORATION} --organization hospital-1 --image {} \\",
        twinmesh_algorithms::IMAGE
    );
    let _ = writeln!(text, "      --function summary --argument 'columns=[\"age\"]' --database default --wait");
    let _ = writeln!(
        text,
        "\nLogs are in {}. Ctrl-C stops everything and removes it.",
        federation.directory().join("logs")
    );
    Ok(text)
}

/// What is being done, on a terminal's stderr; lines when stderr is none.
struct Steps {
    bar: ProgressBar,
}

impl Steps {
    fn new(quiet: bool) -> Self {
        let bar = ProgressBar::with_draw_target(
            None,
            if quiet { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr() },
        );
        let style = ProgressStyle::with_template("{spinner} {wide_msg} {elapsed}");
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()));
        Self { bar }
    }

    fn begin(&self, what: &str) {
        self.bar.reset_elapsed();
        self.bar.set_message(what.to_owned());
        self.bar.enable_steady_tick(Duration::from_millis(100));
    }

    fn done(&self, what: &str) {
        self.bar.println(format!("done  {what}"));
    }

    fn finish(&self) {
        self.bar.finish_and_clear();
    }
}

#[expect(clippy::print_stderr, reason = "words for the person at the terminal")]
fn tell(text: &str) {
    eprint!("{text}");
}

/// Writes data to stdout; a reader that has gone away is no error.
fn print(text: &str) -> anyhow::Result<()> {
    use std::io::Write as _;
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        other => other.context("cannot write the report"),
    }
}
