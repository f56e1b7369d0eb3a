//! Runs of an unpacked image, made of what this machine has.

use std::{fs, process::Command, time::Duration};

use camino::{Utf8Path, Utf8PathBuf};
use twinmesh_node::{
    runtime::{Entry, ExitCause, FileSource, RunFile, RunSpec, Runtime as _, RuntimeError},
    sandbox::SandboxRuntime,
};

use crate::support::{Entries, FULL, LITE, Place, Skip, ending, entries, report};

pub(crate) fn checks() -> Entries {
    entries! {
        FULL: a_command_of_an_image_runs;
        FULL: a_command_sees_only_itself;
        FULL: a_fork_bomb_is_bounded;
        FULL: a_missing_command_is_named;
        LITE: images_need_the_full_sandbox;
    }
}

const TOOLS: [&str; 6] = ["sh", "cat", "ls", "touch", "id", "sleep"];

/// A root file system with a shell and a few tools: copies of the host's, with the libraries that they name.
fn image(place: &Place) -> Result<Utf8PathBuf, Skip> {
    let root = place.join("image");
    fs::create_dir_all(root.join("bin")).unwrap();
    for tool in TOOLS {
        let source = ["/bin", "/usr/bin"]
            .iter()
            .map(|directory| Utf8Path::new(directory).join(tool))
            .find(|path| path.exists())
            .ok_or_else(|| Skip(format!("this machine has no `{tool}`")))?;
        fs::copy(&source, root.join("bin").join(tool)).unwrap();
        let libraries =
            Command::new("ldd").arg(&source).output().map_err(|error| Skip(format!("no `ldd`: {error}")))?;
        let libraries = String::from_utf8(libraries.stdout).unwrap();
        for library in libraries.split_whitespace().filter(|word| word.starts_with('/')) {
            let target = root.join(library.trim_start_matches('/'));
            fs::create_dir_all(target.parent().unwrap()).unwrap();
            fs::copy(library, target).unwrap();
        }
    }
    Ok(root)
}

fn spec(place: &Place, root: Utf8PathBuf, script: &str) -> RunSpec {
    let mut spec = place.spec("");
    spec.entry =
        Entry::Command { root, argv: vec!["sh".into(), "-c".into(), script.into()], working_directory: "/".into() };
    spec.environment = [("PATH".to_owned(), "/bin".to_owned())].into();
    spec
}

async fn a_command_of_an_image_runs(runtime: &SandboxRuntime) -> Result<(), Skip> {
    let place = Place::new();
    let mut spec = spec(
        &place,
        image(&place)?,
        r#"set -e; cat "$INPUT_FILE" "$TOKEN_FILE" /mnt/data/table.csv > "$OUTPUT_FILE"; id -u >> "$OUTPUT_FILE"; touch /tmp/x /mnt/tmp/y; echo on standard error >&2"#,
    );
    spec.files =
        vec![RunFile { path: "/mnt/data/table.csv".into(), source: FileSource::Bytes(b", a table, ".to_vec()) }];
    let (handle, exit) = ending(runtime, spec).await;
    let log = String::from_utf8(handle.log().await.unwrap()).unwrap();
    assert_eq!(exit.cause, ExitCause::Code(0), "{log}");
    assert_eq!(log, "on standard error\n");
    assert_eq!(handle.output().await.unwrap(), b"the inputthe token, a table, 65534\n");
    Ok(())
}

async fn a_command_sees_only_itself(runtime: &SandboxRuntime) -> Result<(), Skip> {
    let place = Place::new();
    let script = r#"exec > "$OUTPUT_FILE" 2>&1
        for p in /proc/[0-9]*; do echo "process $p"; done
        ls /proc/self/fd | while read f; do echo "descriptor $f"; done
        touch /x; touch /bin/x; touch /mnt/data/x; cat /etc/passwd
        cat /proc/self/environ > /dev/null && echo own environment
        (echo 1 > /proc/sys/kernel/hostname) ; (echo 1 > /proc/self/oom_score_adj)
        true"#;
    let text = report(runtime, spec(&place, image(&place)?, script)).await;
    assert!(!text.contains("process /proc/2\nprocess /proc/3\nprocess /proc/4\nprocess /proc/5"), "{text}");
    for name in ["/x", "/bin/x", "/mnt/data/x"] {
        assert!(
            text.contains(&format!("'{name}': Read-only file system"))
                || text.contains(&format!("'{name}': Permission denied")),
            "{text}"
        );
    }
    assert!(text.contains("/etc/passwd: No such file"), "{text}");
    assert!(text.contains("own environment"), "{text}");
    Ok(())
}

async fn a_fork_bomb_is_bounded(runtime: &SandboxRuntime) -> Result<(), Skip> {
    let place = Place::new();
    let mut spec = spec(&place, image(&place)?, "b() { b | b & }; b; sleep 60");
    spec.limits.processes = 30;
    spec.limits.wall_time = Duration::from_secs(2);
    let (_, exit) = ending(runtime, spec).await;
    // The shell gives up, or it goes on until its time is over, or it is seen to be at its limit.
    assert!(!matches!(exit.cause, ExitCause::Vanished | ExitCause::Signal(_)), "{}", exit.cause);
    Ok(())
}

async fn a_missing_command_is_named(runtime: &SandboxRuntime) -> Result<(), Skip> {
    let place = Place::new();
    let mut spec = spec(&place, image(&place)?, "");
    if let Entry::Command { argv, .. } = &mut spec.entry {
        argv[0] = "python".into();
    }
    let error = runtime.start(spec).await.unwrap_err();
    assert!(error.to_string().contains("executing `python`"), "{error}");
    Ok(())
}

async fn images_need_the_full_sandbox(runtime: &SandboxRuntime) -> Result<(), Skip> {
    let place = Place::new();
    let error = runtime.start(spec(&place, place.join("image"), "true")).await.unwrap_err();
    assert!(matches!(error, RuntimeError::BuiltinOnly { .. }));
    Ok(())
}
