//! What the checks share.

use std::{future::Future, pin::Pin, sync::Arc, time::Duration};

use camino::{Utf8Path, Utf8PathBuf};
use tempfile::TempDir;
use twinmesh_node::{
    runtime::{Entry, Exit, ExitCause, Layout, Limits, RunHandle, RunSpec, Runtime, Secret},
    sandbox::SandboxRuntime,
};
use twinmesh_protocol::id::RunId;

/// Why a check was not made.
pub(crate) struct Skip(pub(crate) String);

pub(crate) type Check = for<'a> fn(&'a SandboxRuntime) -> Pin<Box<dyn Future<Output = Result<(), Skip>> + 'a>>;

/// In which confinements, under which name, what.
pub(crate) type Entries = Vec<(&'static [Mode], &'static str, Check)>;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    Full,
    Lite,
}

pub(crate) const BOTH: &[Mode] = &[Mode::Full, Mode::Lite];
pub(crate) const FULL: &[Mode] = &[Mode::Full];
pub(crate) const LITE: &[Mode] = &[Mode::Lite];

impl Mode {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Lite => "lite",
        }
    }
}

/// Lists checks under their own names.
macro_rules! entries {
    ($($modes:ident: $name:ident;)*) => {
        vec![$(($modes, stringify!($name), (|runtime| Box::pin($name(runtime))) as $crate::support::Check)),*]
    };
}
pub(crate) use entries;

/// How long anything may take that should take an instant.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Waits for something that must come.
pub(crate) async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, what).await.expect("this takes too long")
}

/// A private directory in which runs live; only its owner may enter it.
pub(crate) struct Place {
    directory: TempDir,
}

impl Place {
    pub(crate) fn new() -> Self {
        Self { directory: tempfile::tempdir().unwrap() }
    }

    pub(crate) fn path(&self) -> &Utf8Path {
        Utf8Path::from_path(self.directory.path()).unwrap()
    }

    pub(crate) fn join(&self, name: &str) -> Utf8PathBuf {
        self.path().join(name)
    }

    /// A run of one of the attacks.
    pub(crate) fn spec(&self, attack: &str) -> RunSpec {
        let mut spec = RunSpec {
            run_id: RunId::new(7),
            directory: self.join("run"),
            entry: Entry::Builtin,
            environment: Default::default(),
            files: Vec::new(),
            input: b"the input".to_vec(),
            token: Secret::new("the token"),
            temporary: None,
            limits: Limits { wall_time: Duration::from_secs(60), ..Limits::default() },
            network: true,
            orphan_grace: PATIENCE,
        };
        spec.environment.insert("ATTACK".into(), attack.into());
        spec
    }
}

/// Starts a run that knows its paths.
pub(crate) async fn start(runtime: &SandboxRuntime, mut spec: RunSpec) -> Arc<dyn RunHandle> {
    let layout = runtime.layout(&spec);
    add_paths(&mut spec, &layout);
    runtime.start(spec).await.unwrap_or_else(|error| panic!("{}", with_sources(&error)))
}

pub(crate) fn with_sources(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(&format!(": {error}"));
        source = error.source();
    }
    text
}

fn add_paths(spec: &mut RunSpec, layout: &Layout) {
    for (name, path) in [
        ("INPUT_FILE", &layout.input),
        ("OUTPUT_FILE", &layout.output),
        ("TOKEN_FILE", &layout.token),
        ("TEMPORARY_FOLDER", &layout.temporary),
    ] {
        spec.environment.insert(name.into(), path.to_string());
    }
    for (index, path) in layout.files.iter().enumerate() {
        spec.environment.insert(format!("DATA_{index}"), path.to_string());
    }
}

/// Runs to the end and answers what was written, demanding success.
pub(crate) async fn report(runtime: &SandboxRuntime, spec: RunSpec) -> String {
    let handle = start(runtime, spec).await;
    let exit = soon(handle.wait()).await;
    let log = String::from_utf8_lossy(&handle.log().await.unwrap()).into_owned();
    assert_eq!(exit.cause, ExitCause::Code(0), "the log says: {log}");
    String::from_utf8(handle.output().await.unwrap()).unwrap()
}

/// Runs to the end.
pub(crate) async fn ending(runtime: &SandboxRuntime, spec: RunSpec) -> (Arc<dyn RunHandle>, Exit) {
    let handle = start(runtime, spec).await;
    let exit = soon(handle.wait()).await;
    (handle, exit)
}

/// Waits until something is so.
pub(crate) async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while !is_so() {
        assert!(tokio::time::Instant::now() < deadline, "{what} does not come about");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
