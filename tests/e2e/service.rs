//! What a service manager hears of a node.

use tokio::net::UnixDatagram;
use twinmesh_netsim::process::Daemon;

use crate::lab::{Lab, PATIENCE, PROGRAM, until};

#[tokio::test]
async fn systemd_hears_when_a_node_has_taken_its_place_that_it_lives_and_when_it_stops() {
    let mut lab = Lab::start().await;
    lab.kill_node(0).await;
    until("the node is offline", async || (!lab.are_online().await).then_some(())).await;
    let directory = lab.federation.directory().to_owned();
    let (path, configuration) = (directory.join("notify"), directory.join("hospital-1.toml"));
    let ear = UnixDatagram::bind(&path).unwrap();
    let parent = std::process::id().to_string();
    let arguments = ["--parent", &parent, "node", "start", "--config", configuration.as_str()];
    let mut node = Daemon::new("hospital-1", PROGRAM.into(), &arguments, directory.join("logs/service.log"))
        .with_variable("NOTIFY_SOCKET", path.as_str())
        .with_variable("WATCHDOG_USEC", "200000");
    node.start().unwrap();
    hear(&ear, "STATUS=").await;
    hear(&ear, "READY=1").await;
    until("the node is online", async || lab.are_online().await.then_some(())).await;
    hear(&ear, "WATCHDOG=1").await;
    assert!(node.stop().await.unwrap().unwrap().success());
    hear(&ear, "STOPPING=1").await;
    lab.end().await;
}

/// Waits for something that begins like this.
async fn hear(ear: &UnixDatagram, beginning: &str) {
    let mut buffer = [0; 256];
    let heard = async {
        loop {
            let length = ear.recv(&mut buffer).await.unwrap();
            if buffer[..length].starts_with(beginning.as_bytes()) {
                return;
            }
        }
    };
    tokio::time::timeout(PATIENCE, heard).await.unwrap_or_else(|_| panic!("`{beginning}` is never heard"));
}
