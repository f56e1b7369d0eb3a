//! Paths: relayed, direct, upgraded, lost and found again.

use std::{collections::BTreeSet, time::Duration};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use twinmesh_overlay::{OpenError, Overlay, Path, Paths, RelayAddress, Traffic};

use crate::support::{
    Hanging, address_of, converse, echo, eventually, has_place, identity, lost_place, node, open, relay, relay_at,
    relay_of, reserved, within,
};

#[tokio::test]
async fn the_relayed_path_works_when_no_direct_one_exists() {
    let relay = relay(&[1, 2]).await;
    let (a, _a) = reserved(1, Paths::RelayedOnly, &relay).await;
    let (b, incoming) = reserved(2, Paths::RelayedOnly, &relay).await;
    echo(incoming);
    let stream = open(&a, b.peer_id(), &[]).await;
    assert_eq!((stream.path(), stream.peer()), (Path::Relayed, b.peer_id()));
    converse(stream, 100_000).await;
    let expected = Traffic { relayed_sent: 100_000, relayed_received: 100_000, ..Traffic::default() };
    assert_eq!(a.traffic(), expected);
    assert_eq!(relay.stats().circuits_opened, 1);
    assert_eq!(b.listen_addresses(), []);
    let why = a.explain(b.peer_id()).await.unwrap();
    assert!(why.summary.contains("relayed because no direct address"), "{}", why.summary);
}

#[tokio::test]
async fn the_direct_path_is_preferred_and_the_relay_not_touched() {
    let relay = relay(&[1, 2]).await;
    let (a, _a) = reserved(1, Paths::Any, &relay).await;
    let (b, incoming) = reserved(2, Paths::Any, &relay).await;
    echo(incoming);
    let stream = open(&a, b.peer_id(), &b.listen_addresses()).await;
    assert_eq!(stream.path(), Path::DirectTcp);
    converse(stream, 50_000).await;
    let expected = Traffic { direct_sent: 50_000, direct_received: 50_000, ..Traffic::default() };
    assert_eq!(a.traffic(), expected);
    assert_eq!(b.traffic(), expected);
    assert_eq!(relay.stats().circuits_opened, 0);
}

#[tokio::test]
async fn nodes_that_know_each_other_need_no_relay() {
    let (a, _a) = node(1, Paths::Any, None).await;
    let (b, incoming) = node(2, Paths::Any, None).await;
    echo(incoming);
    converse(open(&a, b.peer_id(), &b.listen_addresses()).await, 10).await;
    let quic: Vec<_> = b.listen_addresses().into_iter().filter(|a| Path::of_address(a) == Path::DirectQuic).collect();
    let (c, _c) = node(3, Paths::Any, None).await;
    let stream = open(&c, b.peer_id(), &quic).await;
    assert_eq!(stream.path(), Path::DirectQuic);
    converse(stream, 1_000_000).await;
    // Both connections are there; the better one is used, and no second is made.
    let stream = open(&c, b.peer_id(), &b.listen_addresses()).await;
    assert_eq!(stream.path(), Path::DirectQuic);
    assert_eq!(c.status().await.unwrap().peers[0].connections.len(), 1);
}

#[tokio::test]
async fn later_streams_take_the_direct_path_once_it_is_known() {
    let relay = relay(&[1, 2]).await;
    let (a, _a) = reserved(1, Paths::Any, &relay).await;
    let (b, incoming) = reserved(2, Paths::Any, &relay).await;
    echo(incoming);
    let relayed = open(&a, b.peer_id(), &[]).await;
    assert_eq!(relayed.path(), Path::Relayed);
    let direct = open(&a, b.peer_id(), &b.listen_addresses()).await;
    assert!(direct.path().is_direct());
    converse(relayed, 1000).await;
    converse(direct, 1000).await;
}

#[tokio::test]
async fn hole_punching_finds_a_direct_path_without_known_addresses() {
    let relay = relay(&[1, 2]).await;
    let (a, _a) = reserved(1, Paths::Any, &relay).await;
    let (b, incoming) = reserved(2, Paths::Any, &relay).await;
    echo(incoming);
    eventually("a direct path", async || {
        let stream = open(&a, b.peer_id(), &[]).await;
        stream.path().is_direct().then_some(())
    })
    .await;
}

#[tokio::test]
async fn the_relay_turns_strangers_away_and_lets_them_in_once_admitted() {
    let relay = relay(&[2]).await;
    let (b, incoming) = reserved(2, Paths::RelayedOnly, &relay).await;
    echo(incoming);
    let (stranger, _stranger) = node(1, Paths::RelayedOnly, Some(&relay)).await;
    eventually("the stranger is refused", async || {
        let link = stranger.status().await.unwrap().relays.remove(0);
        (link.failures > 0 && !link.reserved).then_some(())
    })
    .await;
    assert_eq!(relay.stats().reservations, 1);
    relay.admit(stranger.peer_id());
    has_place(&stranger).await;
    converse(open(&stranger, b.peer_id(), &[]).await, 10).await;
    relay.set_admitted(BTreeSet::from([b.peer_id()])).await;
    lost_place(&stranger).await;
}

#[tokio::test]
async fn a_peer_that_is_nowhere_is_reported_with_every_path_tried() {
    let relay = relay(&[1]).await;
    let (a, _a) = reserved(1, Paths::Any, &relay).await;
    let (gone, _gone) = node(2, Paths::Any, None).await;
    let (peer, addresses) = (gone.peer_id(), gone.listen_addresses());
    gone.shutdown().await;
    let error = within("the failure", a.open(peer, &addresses)).await.unwrap_err();
    let OpenError::Unreachable { reasons, .. } = &error else { panic!("{error}") };
    assert!(reasons.contains_key(&Path::DirectTcp) && reasons.contains_key(&Path::Relayed), "{error}");
    assert!(a.explain(peer).await.unwrap().summary.contains("no connection"));
    assert!(matches!(a.open(a.peer_id(), &[]).await, Err(OpenError::Own { .. })));
}

#[tokio::test]
async fn another_node_at_the_address_is_not_taken_for_the_peer() {
    let (a, _a) = node(1, Paths::Any, None).await;
    let (b, _b) = node(2, Paths::Any, None).await;
    let error = within("the failure", a.open(identity(3), &b.listen_addresses())).await.unwrap_err();
    assert!(matches!(error, OpenError::Unreachable { .. }), "{error}");
}

#[tokio::test]
async fn the_streams_of_a_killed_peer_fail_soon_and_it_can_be_reached_when_it_is_back() {
    let relay = relay(&[1, 2]).await;
    for paths in [Paths::Any, Paths::RelayedOnly] {
        let (a, _a) = reserved(1, paths, &relay).await;
        let (b, incoming) = reserved(2, paths, &relay).await;
        echo(incoming);
        let mut stream = open(&a, b.peer_id(), &b.listen_addresses()).await;
        stream.write_all(b"x").await.unwrap();
        stream.flush().await.unwrap();
        let mut byte = [0];
        within("the echo", stream.read_exact(&mut byte)).await.unwrap();
        b.shutdown().await;
        let failed = tokio::time::timeout(Duration::from_secs(10), stream.read(&mut byte)).await;
        assert!(failed.expect("the loss must show").is_err(), "a loss must not look like an end");
        let (b, incoming) = reserved(2, paths, &relay).await;
        echo(incoming);
        converse(open(&a, b.peer_id(), &b.listen_addresses()).await, 1000).await;
        a.shutdown().await;
        b.shutdown().await;
    }
}

#[tokio::test]
async fn nodes_find_their_place_again_after_the_relay_has_restarted() {
    let first = relay(&[1, 2]).await;
    let (a, _a) = reserved(1, Paths::RelayedOnly, &first).await;
    let (b, incoming) = reserved(2, Paths::RelayedOnly, &first).await;
    echo(incoming);
    let listen: Vec<String> = first.addresses().iter().map(ToString::to_string).collect();
    first.shutdown().await;
    lost_place(&a).await;
    lost_place(&b).await;
    let listen: Vec<&str> = listen.iter().map(String::as_str).collect();
    let _second = relay_at(&listen, &[1, 2]).await;
    has_place(&a).await;
    has_place(&b).await;
    converse(open(&a, b.peer_id(), &[]).await, 1000).await;
}

#[tokio::test]
async fn a_node_follows_its_relay_to_another_address() {
    let first = relay(&[1, 2]).await;
    let (a, _a) = reserved(1, Paths::RelayedOnly, &first).await;
    let (b, incoming) = node(2, Paths::RelayedOnly, None).await;
    echo(incoming);
    b.set_relays(vec![address_of(&first)]).await;
    has_place(&b).await;
    first.shutdown().await;
    lost_place(&a).await;
    let second = relay(&[1, 2]).await;
    for overlay in [&a, &b] {
        overlay.set_relays(vec![address_of(&second)]).await;
        has_place(overlay).await;
    }
    converse(open(&a, b.peer_id(), &[]).await, 1000).await;
    // One that is not named any more serves as long as it lives.
    b.set_relays(Vec::new()).await;
    converse(open(&a, b.peer_id(), &[]).await, 1000).await;
    second.shutdown().await;
    lost_place(&b).await;
    assert_eq!(b.status().await.unwrap().relays, []);
    assert_eq!(a.status().await.unwrap().relays.len(), 1);
}

const ANYWHERE: [&str; 2] = ["/ip4/127.0.0.1/tcp/0", "/ip4/127.0.0.1/udp/0/quic-v1"];

#[tokio::test]
async fn a_relay_that_hangs_is_gone_around_before_anybody_knows_that_it_is_gone() {
    let hanging = Hanging::start(203, &ANYWHERE, &[1, 2]).await;
    let (a, _a) = node(1, Paths::RelayedOnly, None).await;
    let (b, incoming) = node(2, Paths::RelayedOnly, None).await;
    echo(incoming);
    for overlay in [&a, &b] {
        overlay.set_relays(vec![hanging.address.clone()]).await;
        has_place(overlay).await;
    }
    // There is a connection over it, which looks as good as ever.
    converse(open(&a, b.peer_id(), &[]).await, 1000).await;
    let second = relay_of(204, &ANYWHERE, &[1, 2]).await;
    for overlay in [&a, &b] {
        overlay.set_relays(vec![hanging.address.clone(), address_of(&second)]).await;
        eventually("a place at the second relay", async || {
            overlay.status().await?.relays.iter().all(|relay| relay.reserved).then_some(())
        })
        .await;
    }
    hanging.hang();
    converse(open(&a, b.peer_id(), &[]).await, 1000).await;
    assert_eq!(second.stats().circuits_opened, 1);
}

#[tokio::test]
async fn nodes_meet_at_whichever_relay_lives() {
    let first = relay_of(201, &ANYWHERE, &[1, 2, 3]).await;
    let second = relay_of(202, &ANYWHERE, &[1, 2, 3]).await;
    let both = vec![address_of(&first), address_of(&second)];
    let (a, _a) = node(1, Paths::RelayedOnly, None).await;
    let (b, incoming) = node(2, Paths::RelayedOnly, None).await;
    echo(incoming);
    let places = async |overlay: &Overlay, count: usize| {
        eventually("places at the relays", async || {
            let status = overlay.status().await?;
            (status.relays.iter().filter(|relay| relay.reserved).count() == count).then_some(())
        })
        .await;
    };
    for overlay in [&a, &b] {
        overlay.set_relays(both.clone()).await;
        places(overlay, 2).await;
    }
    // Whoever knows only one of them meets them there.
    for relay in [&first, &second] {
        let (c, _c) = reserved(3, Paths::RelayedOnly, relay).await;
        converse(open(&c, b.peer_id(), &[]).await, 1000).await;
        c.shutdown().await;
    }
    let addresses: Vec<String> = first.addresses().iter().map(ToString::to_string).collect();
    first.shutdown().await;
    converse(open(&a, b.peer_id(), &[]).await, 1000).await;
    // The first comes back and is found again; then the second goes.
    let addresses: Vec<&str> = addresses.iter().map(String::as_str).collect();
    let _first = relay_of(201, &addresses, &[1, 2, 3]).await;
    places(&a, 2).await;
    places(&b, 2).await;
    second.shutdown().await;
    converse(open(&a, b.peer_id(), &[]).await, 1000).await;
    places(&a, 1).await;
}

#[tokio::test]
async fn an_unreachable_relay_is_reported_and_does_not_hinder_direct_paths() {
    let nowhere = RelayAddress { peer_id: identity(9), addresses: vec!["/ip4/127.0.0.1/tcp/1".parse().unwrap()] };
    let (a, _a) = node(1, Paths::Any, None).await;
    let (b, incoming) = node(2, Paths::Any, None).await;
    echo(incoming);
    a.set_relays(vec![nowhere]).await;
    eventually("the failure shows", async || a.status().await?.relays.first()?.last_error.clone()).await;
    converse(open(&a, b.peer_id(), &b.listen_addresses()).await, 1000).await;
}

#[tokio::test]
async fn eight_streams_at_once_carry_eight_mebibytes_each_way_intact() {
    let relay = relay(&[1, 2]).await;
    for paths in [Paths::Any, Paths::RelayedOnly] {
        let (a, _a) = reserved(1, paths, &relay).await;
        let (b, incoming) = reserved(2, paths, &relay).await;
        echo(incoming);
        let addresses = b.listen_addresses();
        let streams = (0..8).map(|_| async { converse(open(&a, b.peer_id(), &addresses).await, 8 << 20).await });
        futures::future::join_all(streams).await;
        let traffic = a.traffic();
        let (direct, relayed) = if paths == Paths::Any { (64 << 20, 0) } else { (0, 64 << 20) };
        assert_eq!((traffic.direct_sent, traffic.direct_received), (direct, direct));
        assert_eq!((traffic.relayed_sent, traffic.relayed_received), (relayed, relayed));
        assert_eq!(b.traffic(), traffic);
        a.shutdown().await;
        b.shutdown().await;
    }
}

#[tokio::test]
async fn many_streams_wait_their_turn_and_none_is_dropped() {
    let (a, _a) = node(1, Paths::Any, None).await;
    let (b, mut incoming) = node(2, Paths::Any, None).await;
    let addresses = b.listen_addresses();
    let opened = futures::future::join_all((0..150).map(|_| open(&a, b.peer_id(), &addresses)));
    let opened = within("all streams open", opened).await;
    // Nobody has taken one yet; more than the channel holds are there, and each still arrives.
    for mut stream in opened {
        stream.write_all(b"here").await.unwrap();
        stream.shutdown().await.unwrap();
    }
    for _ in 0..150 {
        let mut stream = within("a stream", incoming.next()).await.unwrap();
        let mut text = String::new();
        within("its bytes", stream.read_to_string(&mut text)).await.unwrap();
        assert_eq!(text, "here");
    }
}

#[tokio::test]
async fn a_stream_beyond_the_limit_is_refused_and_the_others_live_on() {
    let (a, _a) = node(1, Paths::Any, None).await;
    let (b, incoming) = node(2, Paths::Any, None).await;
    echo(incoming);
    let addresses = b.listen_addresses();
    let mut streams = futures::future::join_all((0..200).map(|_| open(&a, b.peer_id(), &addresses))).await;
    let error = within("the refusal", a.open(b.peer_id(), &addresses)).await.unwrap_err();
    assert!(matches!(error, OpenError::TooMany { .. }), "{error}");
    converse(streams.remove(0), 1000).await;
    converse(open(&a, b.peer_id(), &addresses).await, 1000).await;
    for stream in streams {
        converse(stream, 10).await;
    }
}

#[tokio::test]
async fn a_peer_that_does_not_read_holds_its_sender_back_and_nobody_else() {
    let (a, _a) = node(1, Paths::Any, None).await;
    let (b, mut incoming) = node(2, Paths::Any, None).await;
    let mut slow = open(&a, b.peer_id(), &b.listen_addresses()).await;
    slow.write_all(b"x").await.unwrap();
    slow.flush().await.unwrap();
    let held = within("the slow stream", incoming.next()).await.unwrap();
    let chunk = vec![0; 1 << 20];
    let mut sent = 0;
    while let Ok(written) = tokio::time::timeout(Duration::from_millis(500), slow.write_all(&chunk)).await {
        written.unwrap();
        sent += 1;
        assert!(sent < 64, "64 MiB were taken for a peer that reads nothing");
    }
    echo(incoming);
    converse(open(&a, b.peer_id(), &[]).await, 1 << 20).await;
    drop(held);
    // The other side has dropped its end: the sender must not wait for ever.
    let failed = within("the reset", async {
        loop {
            if slow.write_all(&chunk).await.is_err() {
                return true;
            }
        }
    });
    assert!(failed.await);
}
