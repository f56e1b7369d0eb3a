use std::{
    collections::{BTreeMap, VecDeque},
    io::{Read, Write},
    net::{IpAddr, Shutdown, TcpListener, TcpStream},
    sync::{Mutex, atomic::AtomicI64},
    thread,
};

use proptest::prelude::*;

use super::{network::DialError, *};
use crate::{
    maths::{
        collective::{all_gather, all_reduce},
        secret_sharing::{Seed, secure_sum},
    },
    sdk::stream::Stream,
};

/// A network of loopback ports whose connections break as planned.
struct Loopback {
    ports: Mutex<BTreeMap<OrganizationId, u16>>,
    /// After how many bytes the next connections break.
    cuts: Mutex<VecDeque<i64>>,
    /// Whose connections are not proven to be its own.
    stranger: Option<OrganizationId>,
}

impl Loopback {
    fn new(cuts: impl IntoIterator<Item = i64>) -> Arc<Self> {
        Arc::new(Self { ports: Mutex::default(), cuts: Mutex::new(cuts.into_iter().collect()), stranger: None })
    }

    fn listen(&self, organization: OrganizationId) -> Arc<dyn Listener> {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        self.ports.lock().unwrap().insert(organization, listener.local_addr().unwrap().port());
        Arc::new(listener)
    }

    fn connect(&self, organization: OrganizationId) -> Option<TcpStream> {
        let port = *self.ports.lock().unwrap().get(&organization)?;
        let stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
        stream.set_nodelay(true).unwrap();
        Some(stream)
    }
}

impl Network for Loopback {
    fn dial(&self, organization: OrganizationId) -> Result<Stream, DialError> {
        let far = self.connect(organization).ok_or_else(|| DialError::Later("nobody listens".to_owned()))?;
        let Some(bytes) = self.cuts.lock().unwrap().pop_front() else { return Ok(Stream::Tcp(far)) };
        let entrance = TcpListener::bind("127.0.0.1:0").unwrap();
        let near = TcpStream::connect(entrance.local_addr().unwrap()).unwrap();
        let (inner, _) = entrance.accept().unwrap();
        let budget = Arc::new(AtomicI64::new(bytes));
        for (mut from, mut to) in
            [(inner.try_clone().unwrap(), far.try_clone().unwrap()), (far.try_clone().unwrap(), inner)]
        {
            let budget = Arc::clone(&budget);
            thread::spawn(move || {
                let mut buffer = [0; 1000];
                while let Ok(count @ 1..) = from.read(&mut buffer) {
                    let left = budget.fetch_sub(count as i64, Ordering::SeqCst);
                    let passed = usize::try_from(left).unwrap_or(0).min(count);
                    if to.write_all(&buffer[..passed]).is_err() || passed < count {
                        break;
                    }
                }
                let _ended = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
            });
        }
        Ok(Stream::Tcp(near))
    }

    fn admits(&self, organization: OrganizationId, address: Option<IpAddr>) -> Result<(), &'static str> {
        assert!(address.is_some_and(|address| address.is_loopback()));
        if Some(organization) == self.stranger { Err("somebody else is there") } else { Ok(()) }
    }
}

fn organization(rank: usize) -> OrganizationId {
    OrganizationId::new(10 * (rank as i64 + 1))
}

fn join(network: &Arc<Loopback>, rank: usize, size: usize, options: Options) -> TwinGroup {
    let identity = Identity { task: TaskId::new(7), organization: organization(rank) };
    let organizations = (0..size).map(organization).collect();
    let listener = network.listen(organization(rank));
    TwinGroup::start(identity, &organizations, Arc::clone(network) as _, Some(listener), options).unwrap()
}

fn patient(replay: Replay) -> Options {
    Options { replay, patience: Some(Duration::from_secs(60)), ..Options::default() }
}

/// A group that is lost, as if the process were killed, after a number of messages.
struct Mortal<'a> {
    group: &'a mut TwinGroup,
    steps: Option<usize>,
}

impl Mortal<'_> {
    fn step(&mut self) -> Result<(), TwinError> {
        if let Some(steps) = &mut self.steps {
            *steps = steps.checked_sub(1).ok_or(TwinError::Failed(OrganizationId::new(999)))?;
        }
        Ok(())
    }
}

impl Links for Mortal<'_> {
    type Error = TwinError;

    fn rank(&self) -> usize {
        self.group.rank()
    }
    fn size(&self) -> usize {
        self.group.size()
    }
    fn send(&mut self, to: usize, message: Bytes) -> Result<(), TwinError> {
        self.step()?;
        self.group.send(to, message)
    }
    fn receive(&mut self, from: usize) -> Result<Bytes, TwinError> {
        self.step()?;
        self.group.receive(from)
    }
}

/// Some rounds of everything; the same on every twin.
fn program(links: &mut Mortal<'_>) -> Option<Vec<u64>> {
    let rank = links.rank();
    let mut digest = Vec::new();
    let mut values: Vec<f64> = (0..3000).map(|i| 1.0 / f64::from(i + 1 + rank as i32)).collect();
    for _ in 0..3 {
        all_reduce(links, &mut values).ok()?;
        values.iter_mut().for_each(|value| *value /= 3.0);
        let sum = secure_sum(links, &Seed([rank as u8; 32]), "program", &[rank as i64 + 1]).ok()?;
        digest.extend(sum.partials.concat());
        digest.push(sum.totals[0].cast_unsigned());
        let texts = all_gather(links, Bytes::from(vec![rank as u8; 3])).ok()?;
        digest.extend(texts.iter().map(|text| text.iter().map(|byte| u64::from(*byte)).sum::<u64>()));
    }
    digest.extend(values.iter().map(|value| value.to_bits()));
    Some(digest)
}

/// Runs the program on twins; the one of rank `mortal.0` dies after `mortal.1` messages and starts over.
fn run(size: usize, cuts: Vec<i64>, mortal: Option<(usize, usize)>, replay: Replay) -> Vec<Vec<u64>> {
    let network = Loopback::new(cuts);
    thread::scope(|scope| {
        let twins: Vec<_> = (0..size)
            .map(|rank| {
                let network = &network;
                scope.spawn(move || {
                    let steps = mortal.filter(|(mortal, _)| *mortal == rank).map(|(_, steps)| steps);
                    if steps.is_some() {
                        let mut group = join(network, rank, size, patient(replay));
                        // Whether it got its result or not, it dies before that is written.
                        let _lost = program(&mut Mortal { group: &mut group, steps });
                        group.shared.close();
                    }
                    let mut group = join(network, rank, size, patient(replay));
                    let digest = program(&mut Mortal { group: &mut group, steps: None }).unwrap();
                    Parting(Arc::clone(&group.shared)).finish().unwrap();
                    digest
                })
            })
            .collect();
        twins.into_iter().map(|twin| twin.join().unwrap()).collect()
    })
}

#[track_caller]
fn assert_same(digests: &[Vec<u64>]) {
    assert!(digests.windows(2).all(|pair| pair[0] == pair[1]));
}

#[test]
fn twins_find_each_other_and_agree() {
    for size in 1..=4 {
        let digests = run(size, vec![], None, Replay::Whole);
        assert_same(&digests);
        let total = (size * (size + 1) / 2) as u64;
        assert_eq!(digests[0][size], total);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]

    #[test]
    fn connections_that_break_anywhere_lose_nothing(
        size in 2..=3_usize,
        cuts in proptest::collection::vec(0..60_000_i64, 0..8),
        whole in any::<bool>(),
    ) {
        let undisturbed = run(size, vec![], None, Replay::Whole);
        let digests = run(size, cuts, None, if whole { Replay::Whole } else { Replay::Connection });
        prop_assert_eq!(digests, undisturbed);
    }

    #[test]
    fn a_twin_that_starts_over_anywhere_changes_nothing(
        size in 2..=3_usize,
        rank in 0..3_usize,
        steps in 0..90_usize,
        cuts in proptest::collection::vec(0..60_000_i64, 0..4),
    ) {
        let undisturbed = run(size, vec![], None, Replay::Whole);
        let digests = run(size, cuts, Some((rank % size, steps)), Replay::Whole);
        prop_assert_eq!(digests, undisturbed);
    }
}

#[test]
fn a_twin_that_never_comes_is_named() {
    let network = Loopback::new([]);
    let options = Options { patience: Some(Duration::from_millis(300)), ..Options::default() };
    let group = join(&network, 0, 2, options);
    let error = group.await_twins().unwrap_err().to_string();
    assert!(error.starts_with("the twin of organization 20 was out of reach"), "{error}");
    assert!(error.ends_with("nobody listens"), "{error}");
}

#[test]
fn a_failing_twin_takes_the_others_along() {
    let network = Loopback::new([]);
    let mut groups = [0, 1].map(|rank| join(&network, rank, 2, patient(Replay::Whole)));
    groups.iter().for_each(|group| group.await_twins().unwrap());
    Parting(Arc::clone(&groups[1].shared)).abort();
    assert!(matches!(groups[0].receive(1), Err(TwinError::Failed(id)) if id == organization(1)));
}

#[test]
fn a_twin_that_finished_sends_no_more() {
    let network = Loopback::new([]);
    let [mut one, two] = [0, 1].map(|rank| join(&network, rank, 2, patient(Replay::Whole)));
    thread::scope(|scope| {
        scope.spawn(|| Parting(Arc::clone(&two.shared)).finish().unwrap());
        assert!(matches!(one.receive(1), Err(TwinError::Finished(_))));
        Parting(Arc::clone(&one.shared)).finish().unwrap();
    });
}

#[test]
fn bulk_that_was_not_kept_cannot_be_sent_again() {
    let network = Loopback::new([]);
    let [mut one, mut two] = [0, 1].map(|rank| join(&network, rank, 2, patient(Replay::Connection)));
    let (to_two, to_one) = (1, 0);
    for _ in 0..8 {
        one.send(to_two, vec![1; 128 * 1024].into()).unwrap();
        two.receive(to_one).unwrap();
        two.send(to_one, Bytes::from_static(b"go on")).unwrap();
        one.receive(to_two).unwrap();
    }
    two.shared.close();
    let mut again = join(&network, 1, 2, patient(Replay::Connection));
    let error = again.receive(to_one).unwrap_err().to_string();
    assert!(error.contains("one of the two started over"), "{error}");
    assert!(one.receive(to_two).is_err());
}

#[test]
fn what_is_kept_is_bounded() {
    let network = Loopback::new([]);
    let options = Options { kept_bytes: 100, ..patient(Replay::Whole) };
    let mut group = join(&network, 0, 2, options);
    group.send(1, vec![0; 60].into()).unwrap();
    assert!(matches!(group.send(1, vec![0; 60].into()), Err(TwinError::TooMuchKept { limit: 100 })));
}

#[test]
fn strangers_are_turned_away() {
    let network =
        Arc::new(Loopback { ports: Mutex::default(), cuts: Mutex::default(), stranger: Some(organization(1)) });
    let group = join(&network, 2, 3, patient(Replay::Whole));
    let greet = |from, to, task| {
        let hello = frame::Hello {
            protocol: frame::PROTOCOL.to_owned(),
            task: TaskId::new(task),
            from: organization(from),
            to: organization(to),
            received: 0,
        };
        let mut stream = network.connect(organization(2)).unwrap();
        frame::write_json(&mut stream, &hello).unwrap();
        frame::read_json::<frame::Answer>(&mut stream).unwrap()
    };
    assert!(matches!(greet(5, 2, 7), frame::Answer::Refused { .. }));
    assert!(matches!(greet(0, 1, 7), frame::Answer::Refused { .. }));
    assert!(matches!(greet(0, 2, 8), frame::Answer::Refused { .. }));
    let impersonated = greet(1, 2, 7);
    assert!(matches!(impersonated, frame::Answer::Refused { refused, .. } if refused == "somebody else is there"));
    assert!(matches!(greet(0, 2, 7), frame::Answer::Hello(_)));
    group.shared.close();
}
