//! What connects a run with its node.

use std::net::{Ipv4Addr, SocketAddrV4};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use twinmesh_node::{
    runtime::{ExitCause, Runtime as _, Strength},
    sandbox::SandboxRuntime,
};

use crate::{
    lifecycle::answer,
    support::{BOTH, Entries, Place, Skip, entries, report, soon, start, until},
};

pub(crate) fn checks() -> Entries {
    entries! {
        BOTH: a_run_reaches_its_gateway;
        BOTH: a_run_dials_what_the_node_opened;
        BOTH: a_run_dials_nothing_else;
        BOTH: a_closed_listener_is_gone;
        BOTH: a_run_is_dialed_where_it_listens;
        BOTH: two_runs_talk_through_the_node;
        BOTH: a_run_without_network_has_none;
    }
}

const TWIN: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(100, 64, 0, 2), 49152);

async fn a_run_reaches_its_gateway(runtime: &SandboxRuntime) -> Result<(), Skip> {
    let place = Place::new();
    let mut spec = place.spec("ask_gateway");
    spec.environment.insert("ROUNDS".into(), "3".into());
    let handle = start(runtime, spec).await;
    for word in ["a", "b", "c"] {
        answer(soon(handle.accept_gateway()).await.unwrap(), word).await;
    }
    assert_eq!(soon(handle.accept_gateway()).await.unwrap_err().kind(), std::io::ErrorKind::NotConnected);
    assert_eq!(handle.output().await.unwrap(), b"question 0 a\nquestion 1 b\nquestion 2 c\n");
    Ok(())
}

/// A run that dials the twin only after its gateway answered, so that listeners can be opened before.
async fn a_run_dials_what_the_node_opened(runtime: &SandboxRuntime) -> Result<(), Skip> {
    let gate = Place::new();
    let mut spec = gate.spec("dial");
    spec.environment.insert("ADDRESS".into(), TWIN.to_string());
    spec.environment.insert("WAIT".into(), "yes".into());
    let handle = start(runtime, spec).await;
    let gateway = soon(handle.accept_gateway()).await.unwrap();
    let listener = handle.listen(TWIN).await.unwrap();
    assert_eq!(handle.listen(TWIN).await.unwrap_err().kind(), std::io::ErrorKind::AddrInUse);
    answer(gateway, "go").await;
    answer(soon(listener.accept()).await.unwrap(), "from afar").await;
    assert_eq!(soon(handle.wait()).await.cause, ExitCause::Code(0));
    assert_eq!(handle.output().await.unwrap(), b"hello twin from afar\n");
    Ok(())
}

async fn a_run_dials_nothing_else(runtime: &SandboxRuntime) -> Result<(), Skip> {
    let place = Place::new();
    let mut spec = place.spec("dial");
    spec.environment.insert("ADDRESS".into(), TWIN.to_string());
    let text = report(runtime, spec).await;
    assert!(text.contains("refused"), "{text}");
    Ok(())
}

async fn a_closed_listener_is_gone(runtime: &SandboxRuntime) -> Result<(), Skip> {
    let place = Place::new();
    let mut spec = place.spec("dial");
    spec.environment.insert("ADDRESS".into(), TWIN.to_string());
    spec.environment.insert("WAIT".into(), "yes".into());
    let handle = start(runtime, spec).await;
    let gateway = soon(handle.accept_gateway()).await.unwrap();
    let elsewhere = handle.listen("10.0.0.1:80".parse().unwrap()).await.unwrap_err();
    assert_eq!(elsewhere.kind(), std::io::ErrorKind::AddrNotAvailable);
    drop(handle.listen(TWIN).await.unwrap());
    // Asked after the closing, so it is answered after it.
    drop(handle.listen(SocketAddrV4::new(*TWIN.ip(), 49153)).await.unwrap());
    answer(gateway, "go").await;
    assert_eq!(soon(handle.wait()).await.cause, ExitCause::Code(0));
    let text = String::from_utf8(handle.output().await.unwrap()).unwrap();
    assert!(text.contains("refused"), "{text}");
    Ok(())
}

async fn a_run_is_dialed_where_it_listens(runtime: &SandboxRuntime) -> Result<(), Skip> {
    let place = Place::new();
    let handle = start(runtime, place.spec("serve")).await;
    let log = place.join("run/log");
    until("listening", || std::fs::read_to_string(&log).unwrap().contains("listening")).await;
    let refused = handle.connect(None, 9999).await.unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
    let mut stream = handle.connect(Some(*TWIN.ip()), 8888).await.unwrap();
    stream.write_all(b"knock\n").await.unwrap();
    let mut text = String::new();
    soon(stream.read_to_string(&mut text)).await.unwrap();
    assert_eq!(text, "served\n");
    soon(handle.wait()).await;
    let expected = if *runtime.strength() == Strength::Full { "100.64.0.2 knock" } else { "knock" };
    assert_eq!(handle.output().await.unwrap(), expected.as_bytes());
    Ok(())
}

async fn two_runs_talk_through_the_node(runtime: &SandboxRuntime) -> Result<(), Skip> {
    let (here, there) = (Place::new(), Place::new());
    let server = start(runtime, there.spec("serve")).await;
    let log = there.join("run/log");
    until("listening", || std::fs::read_to_string(&log).unwrap().contains("listening")).await;
    let mut spec = here.spec("dial");
    spec.environment.insert("ADDRESS".into(), TWIN.to_string());
    spec.environment.insert("WAIT".into(), "yes".into());
    let caller = start(runtime, spec).await;
    let gateway = soon(caller.accept_gateway()).await.unwrap();
    let listener = caller.listen(TWIN).await.unwrap();
    answer(gateway, "go").await;
    let mut from = soon(listener.accept()).await.unwrap();
    let mut to = server.connect(Some(*TWIN.ip()), 8888).await.unwrap();
    soon(tokio::io::copy_bidirectional(&mut from, &mut to)).await.unwrap();
    drop((from, to));
    assert_eq!(soon(caller.wait()).await.cause, ExitCause::Code(0));
    assert_eq!(caller.output().await.unwrap(), b"served\n");
    assert_eq!(soon(server.wait()).await.cause, ExitCause::Code(0));
    Ok(())
}

async fn a_run_without_network_has_none(runtime: &SandboxRuntime) -> Result<(), Skip> {
    let place = Place::new();
    let mut spec = place.spec("dial");
    spec.network = false;
    spec.environment.insert("ADDRESS".into(), "127.0.0.1:8080".into());
    let handle = start(runtime, spec).await;
    assert!(handle.listen(TWIN).await.is_err());
    assert_eq!(soon(handle.accept_gateway()).await.unwrap_err().kind(), std::io::ErrorKind::NotConnected);
    let text = String::from_utf8(handle.output().await.unwrap()).unwrap();
    assert!(text.contains("refused"), "{text}");
    Ok(())
}
