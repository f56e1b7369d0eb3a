//! What the tests share: relays, nodes, and waiting for what must come.

use std::{collections::BTreeSet, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::oneshot,
};
use twinmesh_overlay::{
    Incoming, Multiaddr, Overlay, OverlayConfig, Paths, PeerId, RelayAddress, TwinStream,
    mesh::peer_id,
    relay::{Relay, RelayConfig, RelayHandle},
};
use twinmesh_protocol::key::OrganizationKey;

/// How long anything may take on a machine that is busy with other tests.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) async fn within<F: Future>(what: &str, future: F) -> F::Output {
    match tokio::time::timeout(PATIENCE, future).await {
        Ok(output) => output,
        Err(_) => panic!("{what}: nothing happened within {PATIENCE:?}"),
    }
}

/// Asks again and again until the answer is there.
pub(crate) async fn eventually<T>(what: &str, mut question: impl AsyncFnMut() -> Option<T>) -> T {
    within(what, async {
        loop {
            if let Some(answer) = question().await {
                return answer;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await
}

pub(crate) fn identity(seed: u8) -> PeerId {
    peer_id(&OrganizationKey::from_seed(&[seed; 32]).public()).unwrap()
}

pub(crate) const RELAY_SEED: u8 = 200;

pub(crate) async fn relay(admitted: &[u8]) -> RelayHandle {
    relay_at(&["/ip4/127.0.0.1/tcp/0", "/ip4/127.0.0.1/udp/0/quic-v1"], admitted).await
}

pub(crate) async fn relay_at(listen: &[&str], admitted: &[u8]) -> RelayHandle {
    relay_of(RELAY_SEED, listen, admitted).await
}

/// A relay with an identity of its own.
pub(crate) async fn relay_of(seed: u8, listen: &[&str], admitted: &[u8]) -> RelayHandle {
    let config = RelayConfig {
        identity_seed: [seed; 32],
        listen: listen.iter().map(|address| address.parse().unwrap()).collect(),
        external: Vec::new(),
        admitted: admitted.iter().map(|seed| identity(*seed)).collect::<BTreeSet<_>>(),
    };
    within("the relay starts", Relay::start(config)).await.unwrap()
}

/// A relay in a thread of its own, which can be made to hang: its connections stay, and nothing answers.
pub(crate) struct Hanging {
    pub(crate) address: RelayAddress,
    hang: oneshot::Sender<()>,
}

impl Hanging {
    pub(crate) async fn start(seed: u8, listen: &'static [&'static str], admitted: &'static [u8]) -> Self {
        let (hang, told) = oneshot::channel();
        let (started, address) = oneshot::channel();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let relay = relay_of(seed, listen, admitted).await;
                started.send(address_of(&relay)).unwrap();
                if told.await.is_ok() {
                    // Nothing on this thread goes on any more, until the tests end.
                    loop {
                        std::thread::park();
                    }
                }
            });
        });
        Self { address: address.await.unwrap(), hang }
    }

    pub(crate) fn hang(self) {
        self.hang.send(()).unwrap();
    }
}

pub(crate) fn address_of(relay: &RelayHandle) -> RelayAddress {
    RelayAddress { peer_id: relay.peer_id(), addresses: relay.addresses() }
}

pub(crate) async fn node(seed: u8, paths: Paths, relay: Option<&RelayHandle>) -> (Overlay, Incoming) {
    let relays = relay.map(address_of).into_iter().collect();
    let config = OverlayConfig { paths, relays, ..OverlayConfig::loopback([seed; 32]) };
    within("the overlay starts", Overlay::start(config)).await.unwrap()
}

/// A node that has its place at the relay.
pub(crate) async fn reserved(seed: u8, paths: Paths, relay: &RelayHandle) -> (Overlay, Incoming) {
    let (overlay, incoming) = node(seed, paths, Some(relay)).await;
    has_place(&overlay).await;
    (overlay, incoming)
}

pub(crate) async fn has_place(overlay: &Overlay) {
    within("a place at the relay", overlay.watch_relay().wait_for(|reserved| *reserved)).await.unwrap();
}

pub(crate) async fn lost_place(overlay: &Overlay) {
    within("the place is lost", overlay.watch_relay().wait_for(|reserved| !*reserved)).await.unwrap();
}

/// Sends back whatever arrives, on every stream.
pub(crate) fn echo(mut incoming: Incoming) {
    tokio::spawn(async move {
        while let Some(stream) = incoming.next().await {
            tokio::spawn(async move {
                let (mut reader, mut writer) = tokio::io::split(stream);
                if tokio::io::copy(&mut reader, &mut writer).await.is_ok() {
                    let _ = writer.shutdown().await;
                }
            });
        }
    });
}

pub(crate) async fn open(overlay: &Overlay, peer: PeerId, addresses: &[Multiaddr]) -> TwinStream {
    within("a stream opens", overlay.open(peer, addresses)).await.unwrap()
}

/// Sends some bytes to an echo and checks what comes back.
pub(crate) async fn converse(mut stream: TwinStream, bytes: usize) {
    within("the echo answers", async {
        let question: Vec<u8> = (0..bytes).map(|i| (i % 251) as u8).collect();
        let (mut reader, mut writer) = tokio::io::split(&mut stream);
        let mut answer = Vec::new();
        let (sent, received) = tokio::join!(
            async {
                writer.write_all(&question).await?;
                writer.shutdown().await
            },
            reader.read_to_end(&mut answer)
        );
        sent.unwrap();
        received.unwrap();
        assert!(answer == question, "{} bytes came back of {bytes}", answer.len());
    })
    .await;
}
