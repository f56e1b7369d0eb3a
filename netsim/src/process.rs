//! Daemons as separate processes, each this program under another name.
//!
//! A child lives in its own process group, so that Ctrl-C reaches only this program, which then stops the children
//! in order; and it asks the kernel to be told when this program dies, so that none is left behind.

use std::ffi::OsString;
use std::fs::File;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context as _, bail};
use camino::{Utf8Path, Utf8PathBuf};
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};

/// How long a daemon may take to get ready or to stop before it counts as failed.
const PATIENCE: Duration = Duration::from_secs(30);

/// How often a condition outside this process is looked at.
pub const POLL: Duration = Duration::from_millis(5);

/// A daemon: how to start it, and the process while it runs.
#[derive(Debug)]
pub struct Daemon {
    name: String,
    program: Utf8PathBuf,
    arguments: Vec<OsString>,
    environment: Vec<(String, String)>,
    log: Utf8PathBuf,
    child: Option<Child>,
}

impl Daemon {
    /// Describes a daemon; nothing is started. Its log goes to `log`, appended at each start.
    pub fn new(name: &str, program: &Utf8Path, arguments: &[&str], log: Utf8PathBuf) -> Self {
        Self {
            name: name.into(),
            program: program.into(),
            arguments: arguments.iter().map(Into::into).collect(),
            environment: Vec::new(),
            log,
            child: None,
        }
    }

    /// Adds a variable to the daemon's environment.
    #[must_use]
    pub fn with_variable(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.into(), value.into()));
        self
    }

    /// The daemon's log file.
    #[must_use]
    pub fn log(&self) -> &Utf8Path {
        &self.log
    }

    /// The process id, while it runs.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().and_then(Child::id)
    }

    /// This description with the process of another one, which is what is running now.
    ///
    /// # Errors
    /// When the other one does not run.
    pub fn taking_over(mut self, mut other: Self) -> anyhow::Result<Self> {
        let child = other.child.take().with_context(|| format!("`{}` does not run", other.name))?;
        self.child = Some(child);
        Ok(self)
    }

    /// Whether the process has ended by itself.
    ///
    /// # Errors
    /// When it cannot be looked after.
    pub fn has_ended(&mut self) -> anyhow::Result<bool> {
        match &mut self.child {
            Some(child) => Ok(child.try_wait().context("cannot look after the process")?.is_some()),
            None => Ok(true),
        }
    }

    /// Starts the process.
    ///
    /// # Errors
    /// When the program or the log file cannot be opened, or it runs already.
    pub fn start(&mut self) -> anyhow::Result<()> {
        if self.pid().is_some() {
            bail!("`{}` runs already", self.name);
        }
        let log = File::options()
            .create(true)
            .append(true)
            .open(&self.log)
            .with_context(|| format!("cannot open the log `{}`", self.log))?;
        let child = Command::new(&self.program)
            .args(&self.arguments)
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(log.try_clone().context("cannot share the log file")?)
            .stderr(log)
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("cannot start `{}` ({})", self.name, self.program))?;
        self.child = Some(child);
        Ok(())
    }

    /// Waits until `ready` gives a value, looking every few milliseconds.
    ///
    /// # Errors
    /// When the process ends first or is not ready in time; the message shows the end of its log.
    pub async fn wait_until<T>(&mut self, mut ready: impl FnMut() -> Option<T>) -> anyhow::Result<T> {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            if let Some(value) = ready() {
                return Ok(value);
            }
            if let Some(child) = &mut self.child
                && let Some(status) = child.try_wait().context("cannot look after the process")?
            {
                bail!("`{}` ended with {status} before it was ready:\n{}", self.name, self.log_tail());
            }
            if tokio::time::Instant::now() > deadline {
                bail!("`{}` was not ready within {PATIENCE:?}:\n{}", self.name, self.log_tail());
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Sends SIGKILL and waits for the end: what a power cut does to the process.
    ///
    /// # Errors
    /// When it does not run.
    pub async fn kill(&mut self) -> anyhow::Result<()> {
        let mut child = self.child.take().with_context(|| format!("`{}` does not run", self.name))?;
        child.kill().await.with_context(|| format!("cannot kill `{}`", self.name))
    }

    /// Sends SIGTERM and waits for the end; SIGKILL when it does not come. `None` when it did not run.
    ///
    /// # Errors
    /// When the signal cannot be sent.
    pub async fn stop(&mut self) -> anyhow::Result<Option<ExitStatus>> {
        let Some(mut child) = self.child.take() else { return Ok(None) };
        let pid = child.id().and_then(|pid| i32::try_from(pid).ok()).and_then(Pid::from_raw);
        if let Some(pid) = pid {
            kill_process(pid, Signal::TERM).with_context(|| format!("cannot stop `{}`", self.name))?;
        }
        match tokio::time::timeout(PATIENCE, child.wait()).await {
            Ok(status) => Ok(Some(status.with_context(|| format!("cannot wait for `{}`", self.name))?)),
            Err(_) => {
                child.kill().await.with_context(|| format!("cannot kill `{}`", self.name))?;
                Ok(Some(ExitStatus::from_raw(Signal::KILL.as_raw())))
            }
        }
    }

    /// The last lines of the log.
    #[must_use]
    pub fn log_tail(&self) -> String {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(15)..].join("\n")
    }
}

impl Drop for Daemon {
    /// Kills the process and sees it gone, so that what it wrote can be removed.
    fn drop(&mut self) {
        let Some(child) = &mut self.child else { return };
        if child.start_kill().is_err() {
            return;
        }
        // A killed process goes within moments; a blocking wait needs no runtime, which may be ending too.
        for _ in 0..1000 {
            match child.try_wait() {
                Ok(None) => std::thread::sleep(Duration::from_millis(1)),
                Ok(Some(_)) | Err(_) => return,
            }
        }
    }
}

/// Asks the kernel to send SIGTERM to this process when the one that started it dies.
///
/// # Errors
/// When the kernel refuses, or the parent is gone already.
pub fn end_with_parent(parent: u32) -> anyhow::Result<()> {
    rustix::process::set_parent_process_death_signal(Some(Signal::TERM)).context("cannot follow the parent process")?;
    let alive = rustix::process::getppid().is_some_and(|pid| pid.as_raw_nonzero().get().unsigned_abs() == parent);
    if !alive {
        bail!("the parent process {parent} is gone");
    }
    Ok(())
}

/// The program that runs now, to be started again under another name.
///
/// # Errors
/// When its path cannot be had.
pub fn this_program() -> anyhow::Result<Utf8PathBuf> {
    let path = std::env::current_exe().context("cannot tell which program this is")?;
    Utf8PathBuf::from_path_buf(path).map_err(|path| anyhow::anyhow!("the path {} is not UTF-8", path.display()))
}

/// Writes a file that only its owner may read.
///
/// # Errors
/// When it cannot be written.
pub fn write_private(path: &Utf8Path, text: &str) -> anyhow::Result<()> {
    use std::io::Write as _;
    use std::os::unix::fs::OpenOptionsExt as _;
    File::options()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)
        .and_then(|mut file| file.write_all(text.as_bytes()))
        .with_context(|| format!("cannot write `{path}`"))
}
