//! A coordinator that is killed (SIGKILL) at random moments while everybody works.
//!
//! * [`world`] – who asks, again and again until there is an answer. [`actor`] – researchers, nodes and followers.
//! * [`books`] – what was acknowledged, and whether all of it is there at the end and nothing else.
//!
//! `TWINMESH_CRASHES` says how many times (15 unless given), `TWINMESH_SEED` repeats the choices of an earlier run: what
//! is asked for and when it is killed. What exactly is under way at that moment remains chance.

mod actor;
mod books;
mod world;

use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use tokio::time::Instant;

use self::actor::{follow, node, researcher};
use self::books::Books;
use self::world::{Address, World};
use crate::daemon::Daemon;
use crate::database::database;
use crate::ledger::federation::{DEADLINE, Federation};

/// Researchers, and nodes: every one of them asks on a connection of its own.
const MEMBERS: usize = 3;
/// A moment is so many answers after the last start, at most …
const MAX_ANSWERS: u64 = 40;
/// … and so long after that answer, at most: within a transaction, while it is committed, or before its answer.
const MAX_DELAY: Duration = Duration::from_millis(4);
/// How often one in so many starts is itself interrupted, and how late at most.
const INTERRUPTED: (u32, Duration) = (8, Duration::from_millis(80));

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name} is a number")))
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_acknowledged_is_lost_and_no_event_skipped_or_invented_however_often_it_is_killed() {
    let kills = number("TWINMESH_CRASHES").unwrap_or(15);
    let seed = number("TWINMESH_SEED").unwrap_or_else(rand::random);
    eprintln!("TWINMESH_CRASHES={kills} TWINMESH_SEED={seed}");
    let mut rng = StdRng::seed_from_u64(seed);

    let mut federation = Federation::today(MEMBERS, |_| {}).await;
    federation.end();
    let mut daemon = Daemon::new(Some(federation.directory.path()));
    if let Some(url) = database(federation.directory.path()).await.url {
        daemon = daemon.with("COORDINATOR__DATABASE__URL", url.reveal());
    }
    daemon.start().await;
    let address = Address::new(daemon.host());
    let world = World::new(&federation, address.clone());

    let mut followers = vec![tokio::spawn(follow(world.clone(), "root", federation.root.clone(), None))];
    let mut researchers = Vec::new();
    for member in federation.members.clone() {
        let seed = rng.random();
        researchers.push(tokio::spawn(researcher(world.clone(), member.clone(), seed)));
        let (assigned, work) = tokio::sync::mpsc::unbounded_channel();
        followers.push(tokio::spawn(follow(world.clone(), "node", member.node_token.clone(), Some(assigned))));
        followers.push(tokio::spawn(node(world.clone(), member.clone(), work, rng.random())));
    }
    let mut starts = Vec::new();
    for _ in 0..kills {
        world.answered(rng.random_range(0..=MAX_ANSWERS)).await;
        tokio::time::sleep(rng.random_range(Duration::ZERO..MAX_DELAY)).await;
        daemon.kill().await;
        while rng.random_ratio(1, INTERRUPTED.0) {
            daemon.spawn();
            tokio::time::sleep(rng.random_range(Duration::ZERO..INTERRUPTED.1)).await;
            daemon.kill().await;
        }
        let begun = Instant::now();
        daemon.start().await;
        starts.push(begun.elapsed());
        address.set(daemon.host());
    }
    world.stop();
    for researcher in researchers {
        researcher.await.unwrap();
    }
    // Seen by all, and the last thing that happens.
    let last = world.last_task(&federation).await;
    let books = world.books_at(last).await;
    let there = Books::read(&daemon, &federation).await;
    for follower in followers {
        follower.abort();
    }
    daemon.kill().await;
    let (tasks, events) = books.balance(&there, &federation);
    starts.sort();
    eprintln!(
        "{kills} kills: {tasks} tasks, {events} events; from start to ready: median {:?}, at most {:?}",
        starts.get(starts.len() / 2),
        starts.last()
    );
}

/// Waits for what must happen.
async fn in_time<T>(what: &str, work: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, work).await.unwrap_or_else(|_| panic!("waited in vain for {what}"))
}
