use proptest::prelude::*;

use super::*;

const RULES: Rules = Rules { max_attempts: 2, max_concurrent: 100, accepting: true };

fn at(seconds: i64) -> Time {
    Time::from_micros(seconds * 1_000_000)
}

fn one(ledger: Ledger, live: Live) -> BTreeMap<RunId, Observed> {
    [(RunId::new(1), Observed { ledger, live })].into()
}

fn begun(attempts: u32) -> Ledger {
    Ledger::Recorded { accepted_at: at(10), stage: Stage::Begun { attempts } }
}

fn open(as_of: i64) -> Desired {
    Desired { open: [RunId::new(1)].into(), as_of: Some(at(as_of)) }
}

fn closed(as_of: i64) -> Desired {
    Desired { open: BTreeSet::new(), as_of: Some(at(as_of)) }
}

#[test]
fn each_situation_has_its_one_answer() {
    let run_id = RunId::new(1);
    let killed_outside = Live::Ended(ExitCause::Signal(9));
    let cases = [
        (open(20), Ledger::Absent, Live::Idle, Some(Action::Start { run_id, attempt: 1 })),
        (open(20), Ledger::Absent, Live::Busy, None),
        (open(20), Ledger::Absent, Live::Waiting { until: at(31) }, None),
        (open(20), Ledger::Absent, Live::Waiting { until: at(30) }, Some(Action::Start { run_id, attempt: 1 })),
        (open(20), begun(1), Live::Idle, Some(Action::Attach { run_id, attempt: 1 })),
        (Desired::default(), begun(1), Live::Idle, Some(Action::Attach { run_id, attempt: 1 })),
        (open(20), begun(1), Live::Running, None),
        (closed(20), begun(1), Live::Running, Some(Action::Kill { run_id })),
        // The list is older than the run.
        (closed(5), begun(1), Live::Running, None),
        (open(20), begun(1), killed_outside, Some(Action::Start { run_id, attempt: 2 })),
        (closed(20), begun(1), killed_outside, Some(Action::Conclude { run_id, cause: Conclusion::Withdrawn })),
        (Desired::default(), begun(1), killed_outside, None),
        (open(20), begun(2), killed_outside, Some(Action::Conclude { run_id, cause: Conclusion::LostTooOften })),
        (
            open(20),
            begun(1),
            Live::Ended(ExitCause::Code(1)),
            Some(Action::Conclude { run_id, cause: Conclusion::Exit }),
        ),
        (
            open(20),
            begun(1),
            Live::Ended(ExitCause::Killed),
            Some(Action::Conclude { run_id, cause: Conclusion::Exit }),
        ),
        (
            open(20),
            begun(1),
            Live::Ended(ExitCause::Signal(11)),
            Some(Action::Conclude { run_id, cause: Conclusion::Exit }),
        ),
        (
            closed(20),
            Ledger::Recorded { accepted_at: at(10), stage: Stage::Finished },
            Live::Idle,
            Some(Action::Deliver { run_id }),
        ),
        (
            open(20),
            Ledger::Recorded { accepted_at: at(10), stage: Stage::Delivered { at: at(15) } },
            Live::Idle,
            Some(Action::Deliver { run_id }),
        ),
        (open(20), Ledger::Recorded { accepted_at: at(10), stage: Stage::Delivered { at: at(25) } }, Live::Idle, None),
        (
            closed(20),
            Ledger::Recorded { accepted_at: at(10), stage: Stage::Delivered { at: at(15) } },
            Live::Idle,
            Some(Action::Forget { run_id }),
        ),
    ];
    for (desired, ledger, live, expected) in cases {
        let actions = plan(&desired, &one(ledger, live), &RULES, at(30));
        assert_eq!(actions, expected.into_iter().collect::<Vec<_>>(), "{desired:?} {ledger:?} {live:?}");
    }
}

#[test]
fn a_node_that_shuts_down_starts_nothing_but_delivers() {
    let rules = Rules { accepting: false, ..RULES };
    assert!(plan(&open(20), &BTreeMap::new(), &rules, at(30)).is_empty());
    assert!(plan(&open(20), &one(begun(1), Live::Ended(ExitCause::Vanished)), &rules, at(30)).is_empty());
    let finished = Ledger::Recorded { accepted_at: at(10), stage: Stage::Finished };
    assert_eq!(plan(&open(20), &one(finished, Live::Idle), &rules, at(30)).len(), 1);
}

#[test]
fn runs_beyond_the_limit_wait() {
    let rules = Rules { max_concurrent: 2, ..RULES };
    let desired = Desired { open: (1..=5).map(RunId::new).collect(), as_of: Some(at(1)) };
    let observed = one(begun(1), Live::Running);
    assert_eq!(plan(&desired, &observed, &rules, at(30)), [Action::Start { run_id: RunId::new(2), attempt: 1 }]);
}

/// What may happen between two plans. A lost event is one that does not occur here.
#[derive(Debug, Clone, Copy)]
enum Happening {
    /// The coordinator has a new run, and the node may hear of it.
    Assign { heard: bool },
    /// The coordinator finishes a run without us.
    Withdraw(usize),
    /// The node reads the whole list.
    List,
    /// A process ends.
    End(usize, ExitCause),
    /// An action is carried out to its end.
    Work(usize),
    /// Every process of the node dies; runs go on. Actions under way had their first step done, or not.
    NodeKilled { first_step_done: bool },
    /// The coordinator is restored from a backup that has this run open.
    Reopen(usize),
}

fn happening() -> impl Strategy<Value = Happening> {
    prop_oneof![
        any::<bool>().prop_map(|heard| Happening::Assign { heard }),
        (0..6_usize).prop_map(Happening::Withdraw),
        Just(Happening::List),
        (
            0..6_usize,
            prop::sample::select(vec![
                ExitCause::Code(0),
                ExitCause::Code(1),
                ExitCause::Signal(9),
                ExitCause::Signal(11),
                ExitCause::Vanished,
                ExitCause::Orphaned,
            ])
        )
            .prop_map(|(index, cause)| Happening::End(index, cause)),
        (0..6_usize).prop_map(Happening::Work),
        any::<bool>().prop_map(|first_step_done| Happening::NodeKilled { first_step_done }),
        (0..6_usize).prop_map(Happening::Reopen),
    ]
}

/// A small federation: what is really so, beside what the node knows.
#[derive(Default)]
struct World {
    now: i64,
    next_run: i64,
    coordinator_open: BTreeSet<RunId>,
    /// The journal, which survives.
    journal: BTreeMap<RunId, (Time, Stage)>,
    /// The processes, which survive the node: which attempt runs, or how it ended.
    processes: BTreeMap<RunId, Result<u32, ExitCause>>,
    desired: Desired,
    live: BTreeMap<RunId, Live>,
    under_way: BTreeMap<RunId, Action>,
    starts: BTreeMap<RunId, u32>,
    reports: BTreeMap<RunId, u32>,
}

impl World {
    fn observed(&self) -> BTreeMap<RunId, Observed> {
        let runs: BTreeSet<RunId> = self.journal.keys().chain(self.live.keys()).copied().collect();
        runs.into_iter()
            .map(|run_id| {
                let ledger = self.journal.get(&run_id).map_or(Ledger::Absent, |(accepted_at, stage)| {
                    Ledger::Recorded { accepted_at: *accepted_at, stage: *stage }
                });
                (run_id, Observed { ledger, live: self.live.get(&run_id).copied().unwrap_or(Live::Idle) })
            })
            .collect()
    }

    fn pick<T: Copy>(items: impl Iterator<Item = T>, index: usize) -> Option<T> {
        let items: Vec<T> = items.collect();
        (!items.is_empty()).then(|| items[index % items.len()])
    }

    fn step(&mut self, happening: Happening) {
        self.now += 1;
        let now = at(self.now);
        match happening {
            Happening::Assign { heard } => {
                self.next_run += 1;
                let run = RunId::new(self.next_run);
                self.coordinator_open.insert(run);
                if heard {
                    self.desired.open.insert(run);
                }
            }
            Happening::Withdraw(index) => {
                if let Some(run) = Self::pick(self.coordinator_open.iter().copied(), index) {
                    self.coordinator_open.remove(&run);
                }
            }
            Happening::List => {
                self.desired = Desired { open: self.coordinator_open.clone(), as_of: Some(now) };
            }
            Happening::End(index, cause) => {
                let running = self.processes.iter().filter(|(_, state)| state.is_ok()).map(|(run, _)| *run);
                if let Some(run) = Self::pick(running, index) {
                    self.end(run, cause);
                }
            }
            Happening::Work(index) => {
                if let Some(run) = Self::pick(self.under_way.keys().copied(), index) {
                    let action = self.under_way.remove(&run).unwrap();
                    self.carry_out(action);
                }
            }
            Happening::NodeKilled { first_step_done } => {
                for action in std::mem::take(&mut self.under_way).into_values() {
                    if first_step_done && let Action::Start { run_id, attempt } = action {
                        // Journaled, but nothing was started.
                        self.begin(run_id, attempt);
                        self.processes.insert(run_id, Err(ExitCause::Vanished));
                    }
                }
                self.live.clear();
                self.desired = Desired::default();
            }
            Happening::Reopen(index) => {
                // What was forgotten is run anew; that is as far as the node's memory goes.
                let delivered = self.journal.iter().filter(|(run, (_, stage))| {
                    matches!(stage, Stage::Delivered { .. }) && !self.under_way.contains_key(run)
                });
                if let Some(run) = Self::pick(delivered.map(|(run, _)| *run), index) {
                    self.coordinator_open.insert(run);
                }
            }
        }
        self.plan();
    }

    fn plan(&mut self) {
        let actions = plan(&self.desired, &self.observed(), &RULES, at(self.now));
        let again = plan(&self.desired, &self.observed(), &RULES, at(self.now));
        assert_eq!(actions, again, "a plan is the same when made twice");
        for action in actions {
            let run = action.run_id();
            assert!(!self.under_way.contains_key(&run), "{action:?} while {:?} is under way", self.under_way[&run]);
            if let Action::Kill { run_id } = action {
                self.live.insert(run_id, Live::Ending);
                self.end(run_id, ExitCause::Killed);
                continue;
            }
            self.live.insert(run, Live::Busy);
            self.under_way.insert(run, action);
        }
        let busy: BTreeSet<RunId> = self.under_way.keys().copied().collect();
        for action in plan(&self.desired, &self.observed(), &RULES, at(self.now)) {
            assert!(!busy.contains(&action.run_id()), "{action:?} is asked for twice");
        }
    }

    fn begin(&mut self, run: RunId, attempt: u32) {
        let accepted_at = self.journal.get(&run).map_or(at(self.now), |(at, _)| *at);
        self.journal.insert(run, (accepted_at, Stage::Begun { attempts: attempt }));
    }

    fn end(&mut self, run: RunId, cause: ExitCause) {
        self.processes.insert(run, Err(cause));
        if let Some(live) = self.live.get_mut(&run)
            && matches!(live, Live::Running | Live::Ending)
        {
            *live = Live::Ended(cause);
        }
    }

    fn carry_out(&mut self, action: Action) {
        match action {
            Action::Start { run_id, attempt } => {
                assert!(!matches!(self.processes.get(&run_id), Some(Ok(_))), "run {run_id} runs already");
                assert!(!matches!(self.processes.get(&run_id), Some(Err(ExitCause::Killed))), "killed stays killed");
                assert_eq!(self.reports.get(&run_id), None, "run {run_id} was delivered");
                *self.starts.entry(run_id).or_default() += 1;
                assert!(self.starts[&run_id] <= RULES.max_attempts);
                self.begin(run_id, attempt);
                self.processes.insert(run_id, Ok(attempt));
                self.live.insert(run_id, Live::Running);
            }
            Action::Attach { run_id, .. } => {
                let live = match self.processes.get(&run_id) {
                    Some(Ok(_)) => Live::Running,
                    Some(Err(cause)) => Live::Ended(*cause),
                    None => Live::Ended(ExitCause::Vanished),
                };
                self.live.insert(run_id, live);
            }
            Action::Conclude { run_id, .. } => {
                self.journal.get_mut(&run_id).unwrap().1 = Stage::Finished;
                self.live.insert(run_id, Live::Idle);
            }
            Action::Deliver { run_id } => {
                self.coordinator_open.remove(&run_id);
                self.desired.open.remove(&run_id);
                *self.reports.entry(run_id).or_default() += 1;
                self.journal.get_mut(&run_id).unwrap().1 = Stage::Delivered { at: at(self.now) };
                self.live.insert(run_id, Live::Idle);
            }
            Action::Forget { run_id } => {
                self.journal.remove(&run_id);
                self.live.remove(&run_id);
            }
            Action::Kill { .. } => unreachable!("killed at once"),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_no_run_is_started_twice_and_each_ends_delivered(
        happenings in prop::collection::vec(happening(), 0..80),
    ) {
        let mut world = World::default();
        for happening in happenings {
            world.step(happening);
        }
        // Quiet: processes end, lists arrive, work is done.
        for _ in 0..40 {
            world.step(Happening::List);
            while !world.under_way.is_empty() {
                world.step(Happening::Work(0));
            }
            world.step(Happening::End(0, ExitCause::Code(0)));
        }
        prop_assert!(world.coordinator_open.is_empty(), "open: {:?}", world.coordinator_open);
        prop_assert!(world.journal.is_empty(), "left over: {:?}", world.journal);
    }
}
