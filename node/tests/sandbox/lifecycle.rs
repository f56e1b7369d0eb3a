//! How runs end, and how a node finds them again.

use std::{fs, sync::Arc, time::Duration};

use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use twinmesh_node::{
    runtime::{ExitCause, Limit, RunHandle, RunStream, Runtime as _, RuntimeError},
    sandbox::SandboxRuntime,
};

use crate::support::{BOTH, Entries, Place, Skip, ending, entries, soon, start, until, with_sources};

pub(crate) fn checks() -> Entries {
    entries! {
        BOTH: an_exit_code_is_told;
        BOTH: a_crash_is_told_by_its_signal;
        BOTH: a_panic_is_a_failure_with_a_log;
        BOTH: a_deadline_ends_a_run_that_ignores_signals;
        BOTH: a_killed_run_says_so;
        BOTH: a_run_killed_from_outside_is_told_apart;
        BOTH: a_run_whose_agent_is_killed_vanishes;
        BOTH: a_node_that_comes_back_finds_its_run;
        BOTH: an_agent_that_cannot_be_asked_is_not_taken_for_gone;
        BOTH: a_run_that_never_began_is_told_apart;
        BOTH: a_second_attachment_replaces_the_first;
        BOTH: an_exit_without_a_node_is_kept;
        BOTH: an_abandoned_run_ends;
        BOTH: nothing_is_found_where_nothing_ran;
        BOTH: a_directory_serves_one_attempt;
        BOTH: a_failed_start_says_at_what;
        BOTH: runs_do_not_disturb_each_other;
    }
}

async fn an_exit_code_is_told(runtime: &SandboxRuntime) -> Result<(), Skip> {
    let place = Place::new();
    let mut spec = place.spec("exit");
    spec.environment.insert("CODE".into(), "42".into());
    let (handle, exit) = ending(runtime, spec).await;
    assert_eq!(exit.cause, ExitCause::Code(42));
    assert_eq!(handle.wait().await, exit);
    Ok(())
}

async fn a_crash_is_told_by_its_signal(runtime: &SandboxRuntime) -> Result<(), Skip> {
    let (_, exit) = ending(runtime, Place::new().spec("crash")).await;
    // The first process of its own tree does not get the signal that it sends itself; libc then makes it fail harder.
    assert!(matches!(exit.cause, ExitCause::Signal(libc::SIGABRT | libc::SIGSEGV)), "{}", exit.cause);
    assert!(!exit.cause.is_from_outside());
    Ok(())
}

async fn a_panic_is_a_failure_with_a_log(runtime: &SandboxRuntime) -> Result<(), Skip> {
    let place = Place::new();
    let (handle, exit) = ending(runtime, place.spec("panic")).await;
    assert_eq!(exit.cause, ExitCause::Code(101));
    assert!(String::from_utf8(handle.log().await.unwrap()).unwrap().contains("this algorithm panics"));
    Ok(())
}

async fn a_deadline_ends_a_run_that_ignores_signals(runtime: &SandboxRuntime) -> Result<(), Skip> {
    let place = Place::new();
    let mut spec = place.spec("stubborn");
    spec.limits.wall_time = Duration::from_millis(300);
    let (_, exit) = ending(runtime, spec).await;
    assert_eq!(exit.cause, ExitCause::LimitExceeded(Limit::WallTime));
    Ok(())
}

async fn a_killed_run_says_so(runtime: &SandboxRuntime) -> Result<(), Skip> {
    let place = Place::new();
    let handle = start(runtime, place.spec("stubborn")).await;
    handle.kill().await;
    assert_eq!(soon(handle.wait()).await.cause, ExitCause::Killed);
    Ok(())
}

async fn a_run_killed_from_outside_is_told_apart(runtime: &SandboxRuntime) -> Result<(), Skip> {
    let place = Place::new();
    let handle = start(runtime, place.spec("stubborn")).await;
    let agent = agent_of(&place);
    let run = children(agent)[0];
    kill_process(Pid::from_raw(run).unwrap(), Signal::KILL).unwrap();
    let exit = soon(handle.wait()).await;
    assert_eq!(exit.cause, ExitCause::Signal(libc::SIGKILL));
    assert!(exit.cause.is_from_outside());
    Ok(())
}

async fn a_run_whose_agent_is_killed_vanishes(runtime: &SandboxRuntime) -> Result<(), Skip> {
    let place = Place::new();
    let handle = start(runtime, place.spec("stubborn")).await;
    let agent = agent_of(&place);
    let run = children(agent)[0];
    kill_process(Pid::from_raw(agent).unwrap(), Signal::KILL).unwrap();
    assert_eq!(soon(handle.wait()).await.cause, ExitCause::Vanished);
    until("the end of the run", || !is_alive(run)).await;
    assert!(runtime.attach(&place.join("run")).await.unwrap().is_none());
    Ok(())
}

async fn a_node_that_comes_back_finds_its_run(runtime: &SandboxRuntime) -> Result<(), Skip> {
    let place = Place::new();
    let mut spec = place.spec("ask_gateway");
    spec.environment.insert("ROUNDS".into(), "2".into());
    let handle = start(runtime, spec).await;
    let stream = soon(handle.accept_gateway()).await.unwrap();
    drop(handle);
    let handle = runtime.attach(&place.join("run")).await.unwrap().unwrap();
    // Only now does the run go on to its next question.
    answer(stream, "first").await;
    answer(soon(handle.accept_gateway()).await.unwrap(), "second").await;
    assert_eq!(soon(handle.wait()).await.cause, ExitCause::Code(0));
    assert_eq!(handle.output().await.unwrap(), b"question 0 first\nquestion 1 second\n");
    Ok(())
}

async fn an_agent_that_cannot_be_asked_is_not_taken_for_gone(runtime: &SandboxRuntime) -> Result<(), Skip> {
    let place = Place::new();
    let handle = start(runtime, place.spec("stubborn")).await;
    let socket = place.join("run/agent.sock");
    fs::rename(&socket, place.join("run/aside")).unwrap();
    let listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    assert!(matches!(runtime.attach(&place.join("run")).await, Err(RuntimeError::Attach { .. })));
    // Without its result file neither.
    fs::rename(place.join("run/files/output"), place.join("run/output")).unwrap();
    assert!(matches!(runtime.attach(&place.join("run")).await, Err(RuntimeError::Attach { .. })));
    fs::rename(place.join("run/output"), place.join("run/files/output")).unwrap();
    drop(listener);
    fs::rename(place.join("run/aside"), &socket).unwrap();
    drop(handle);
    let handle = runtime.attach(&place.join("run")).await.unwrap().unwrap();
    handle.kill().await;
    assert_eq!(soon(handle.wait()).await.cause, ExitCause::Killed);
    Ok(())
}

async fn a_run_that_never_began_is_told_apart(runtime: &SandboxRuntime) -> Result<(), Skip> {
    let place = Place::new();
    let handle = start(runtime, place.spec("stubborn")).await;
    assert!(runtime.has_begun(&place.join("run")));
    kill_process(Pid::from_raw(agent_of(&place)).unwrap(), Signal::KILL).unwrap();
    assert_eq!(soon(handle.wait()).await.cause, ExitCause::Vanished);
    assert!(runtime.attach(&place.join("run")).await.unwrap().is_none());
    assert!(runtime.has_begun(&place.join("run")), "it was at work");

    // The node dies when all is prepared, before the agent has its orders.
    let place = Place::new();
    let handle = start(runtime, place.spec("stubborn")).await;
    handle.kill().await;
    soon(handle.wait()).await;
    for file in ["exit.json", "begun"] {
        fs::remove_file(place.join("run").join(file)).unwrap();
    }
    assert!(runtime.attach(&place.join("run")).await.unwrap().is_none());
    assert!(!runtime.has_begun(&place.join("run")));
    Ok(())
}

async fn a_second_attachment_replaces_the_first(runtime: &SandboxRuntime) -> Result<(), Skip> {
    let place = Place::new();
    let first = start(runtime, place.spec("ask_gateway")).await;
    let second = runtime.attach(&place.join("run")).await.unwrap().unwrap();
    let stream = soon(async {
        // A connection that was on its way to the first one when it was replaced is its to serve.
        tokio::select! {
            stream = first.accept_gateway() => stream.unwrap(),
            stream = second.accept_gateway() => stream.unwrap(),
        }
    });
    answer(stream.await, "hello").await;
    assert_eq!(soon(second.wait()).await.cause, ExitCause::Code(0));
    assert_eq!(soon(first.wait()).await.cause, ExitCause::Code(0));
    Ok(())
}

async fn an_exit_without_a_node_is_kept(runtime: &SandboxRuntime) -> Result<(), Skip> {
    let place = Place::new();
    drop(start(runtime, place.spec("identity")).await);
    until("the record of the exit", || place.join("run/exit.json").exists()).await;
    let handle = runtime.attach(&place.join("run")).await.unwrap().unwrap();
    assert_eq!(soon(handle.wait()).await.cause, ExitCause::Code(0));
    assert!(String::from_utf8(handle.output().await.unwrap()).unwrap().contains("no_new_privs true"));
    assert_eq!(handle.accept_gateway().await.unwrap_err().kind(), std::io::ErrorKind::NotConnected);
    // What somebody put in place of the result is not read.
    fs::remove_file(place.join("run/files/output")).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", place.join("run/files/output")).unwrap();
    assert!(matches!(runtime.attach(&place.join("run")).await, Err(RuntimeError::Attach { .. })));
    fs::remove_file(place.join("run/files/output")).unwrap();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        place.join("run/files/output").as_str(),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RWXU,
        0,
    )
    .unwrap();
    assert!(matches!(soon(runtime.attach(&place.join("run"))).await, Err(RuntimeError::Attach { .. })));
    Ok(())
}

async fn an_abandoned_run_ends(runtime: &SandboxRuntime) -> Result<(), Skip> {
    let place = Place::new();
    let mut spec = place.spec("stubborn");
    spec.orphan_grace = Duration::from_millis(200);
    drop(start(runtime, spec).await);
    until("the record of the exit", || place.join("run/exit.json").exists()).await;
    let handle = runtime.attach(&place.join("run")).await.unwrap().unwrap();
    assert_eq!(soon(handle.wait()).await.cause, ExitCause::Orphaned);
    Ok(())
}

async fn nothing_is_found_where_nothing_ran(runtime: &SandboxRuntime) -> Result<(), Skip> {
    let place = Place::new();
    assert!(runtime.attach(&place.join("nothing")).await.unwrap().is_none());
    assert!(runtime.attach(place.path()).await.unwrap().is_none());
    Ok(())
}

async fn a_directory_serves_one_attempt(runtime: &SandboxRuntime) -> Result<(), Skip> {
    let place = Place::new();
    let handle = start(runtime, place.spec("stubborn")).await;
    let again = runtime.start(place.spec("stubborn")).await;
    assert!(matches!(again, Err(RuntimeError::DirectoryInUse { .. })));
    handle.kill().await;
    soon(handle.wait()).await;
    Ok(())
}

async fn a_failed_start_says_at_what(runtime: &SandboxRuntime) -> Result<(), Skip> {
    let place = Place::new();
    let mut spec = place.spec("identity");
    let missing = place.join("missing.csv");
    spec.files = vec![twinmesh_node::runtime::RunFile {
        path: "/mnt/data/missing.csv".into(),
        source: twinmesh_node::runtime::FileSource::Host(missing.clone()),
    }];
    let error = runtime.start(spec).await.unwrap_err();
    assert!(with_sources(&error).contains(missing.as_str()), "{}", with_sources(&error));
    assert!(runtime.attach(&place.join("run")).await.unwrap().is_none());
    Ok(())
}

async fn runs_do_not_disturb_each_other(runtime: &SandboxRuntime) -> Result<(), Skip> {
    let places: Vec<Place> = (0..8).map(|_| Place::new()).collect();
    let mut handles = Vec::new();
    for place in &places {
        handles.push(start(runtime, place.spec("ask_gateway")).await);
    }
    for (index, handle) in handles.iter().enumerate() {
        answer(soon(handle.accept_gateway()).await.unwrap(), &index.to_string()).await;
    }
    for (index, handle) in handles.iter().enumerate() {
        assert_eq!(soon(handle.wait()).await.cause, ExitCause::Code(0));
        assert_eq!(handle.output().await.unwrap(), format!("question 0 {index}\n").into_bytes());
    }
    Ok(())
}

/// Reads a line and sends it back with a word behind it.
pub(crate) async fn answer(mut stream: RunStream, word: &str) {
    let mut line = Vec::new();
    while line.last() != Some(&b'\n') {
        line.push(soon(stream.read_u8()).await.unwrap());
    }
    line.pop();
    line.extend_from_slice(format!(" {word}\n").as_bytes());
    stream.write_all(&line).await.unwrap();
    stream.shutdown().await.unwrap();
}

/// The process that attends to the run of a place: found among this process's children by its open directory.
fn agent_of(place: &Place) -> i32 {
    let directory = place.join("run").canonicalize_utf8().unwrap();
    let own = i32::try_from(std::process::id()).unwrap();
    children(own)
        .into_iter()
        .find(|agent| {
            fs::read_dir(format!("/proc/{agent}/fd")).is_ok_and(|descriptors| {
                descriptors.flatten().any(|descriptor| {
                    fs::read_link(descriptor.path()).is_ok_and(|target| target == directory.as_std_path())
                })
            })
        })
        .expect("the run has an agent")
}

fn children(of: i32) -> Vec<i32> {
    let mut children = Vec::new();
    for thread in fs::read_dir(format!("/proc/{of}/task")).unwrap().flatten() {
        let list = fs::read_to_string(thread.path().join("children")).unwrap_or_default();
        children.extend(list.split_whitespace().map(|child| child.parse::<i32>().unwrap()));
    }
    children
}

fn is_alive(process: i32) -> bool {
    fs::read_to_string(format!("/proc/{process}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

#[expect(dead_code, reason = "says that handles can be shared")]
fn handles_are_shared(handle: Arc<dyn RunHandle>) -> impl Send + Sync + Clone {
    handle
}
