//! The life of one run (contract A.8.2).

use twinmesh_protocol::status::RunStatus;
use twinmesh_protocol::time::Time;

/// Where a run stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RunState {
    /// Recorded; its node has not said that it took it up.
    Waiting {
        /// Somebody wants it ended.
        kill_requested: bool,
    },
    /// Its node has it.
    Taken {
        /// How far it is.
        stage: Stage,
        /// When its node took it up.
        started_at: Time,
        /// Somebody wants it ended; its node has not confirmed yet.
        kill_requested: bool,
    },
    /// It ended. Nothing changes any more.
    Finished {
        /// How.
        outcome: Outcome,
        /// When its node took it up, if it did.
        started_at: Option<Time>,
        /// When it ended.
        finished_at: Time,
    },
}

/// How far a run is that its node has taken up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Stage {
    /// Taken up, still `pending` in the contract's words.
    Accepted,
    /// Image and data are being prepared.
    Preparing,
    /// The algorithm runs.
    Running,
}

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Well.
    Completed,
    /// Somebody ended it.
    Killed,
    /// Otherwise.
    Failed(Failure),
}

/// Why a run ended without a result, by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Failure {
    /// It could not be carried out, or a sibling failed first.
    Failed,
    /// The runtime could not start it.
    StartFailed,
    /// Its image could not be had.
    NonExistingImage,
    /// The algorithm ended with an error.
    Crashed,
    /// The node's policy refused it.
    NotAllowed,
    /// It vanished.
    UnknownError,
}

/// Something that is so, and may change a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fact {
    /// Its node has it.
    Taken,
    /// Its node prepares it.
    Preparing,
    /// Its node runs it.
    Running,
    /// Its node says that it ended.
    Ended(Outcome),
    /// Somebody wants it ended, and its node may have it: the node is asked.
    KillRequested,
    /// Somebody wants it ended, and no node is there to ask.
    KilledUnasked,
    /// Another run of its task failed.
    SiblingFailed,
    /// Its node is no longer registered, so nobody will report on it.
    NodeRemoved,
}

/// A fact that cannot be, given what is known of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum IllegalTransition {
    /// Nothing changes after the end.
    #[error("the run is already finished as `{status}`")]
    Finished {
        /// How it ended.
        status: RunStatus,
    },
    /// A run does not go back.
    #[error("the run is already `{from}` and cannot become `{to}` again")]
    Backwards {
        /// Where it stands.
        from: RunStatus,
        /// What was reported.
        to: RunStatus,
    },
}

impl RunState {
    /// A run that was just recorded.
    pub(crate) const NEW: Self = Self::Waiting { kill_requested: false };

    /// Reads a state as it is kept: the contract's word and three columns beside it.
    ///
    /// A finished run without an end is taken to have ended when it started, or at the beginning of time: such rows are
    /// not written here, but an import may bring them.
    #[must_use]
    pub(crate) fn restore(
        status: RunStatus,
        started_at: Option<Time>,
        finished_at: Option<Time>,
        kill_requested: bool,
    ) -> Self {
        let taken =
            |stage| Self::Taken { stage, started_at: started_at.unwrap_or(Time::from_micros(0)), kill_requested };
        let finished = |outcome| Self::Finished {
            outcome,
            started_at,
            finished_at: finished_at.or(started_at).unwrap_or(Time::from_micros(0)),
        };
        match status {
            RunStatus::Pending if started_at.is_none() => Self::Waiting { kill_requested },
            RunStatus::Pending => taken(Stage::Accepted),
            RunStatus::Initializing => taken(Stage::Preparing),
            RunStatus::Active => taken(Stage::Running),
            RunStatus::Completed => finished(Outcome::Completed),
            RunStatus::Killed => finished(Outcome::Killed),
            RunStatus::Failed => finished(Outcome::Failed(Failure::Failed)),
            RunStatus::StartFailed => finished(Outcome::Failed(Failure::StartFailed)),
            RunStatus::NonExistingImage => finished(Outcome::Failed(Failure::NonExistingImage)),
            RunStatus::Crashed => finished(Outcome::Failed(Failure::Crashed)),
            RunStatus::NotAllowed => finished(Outcome::Failed(Failure::NotAllowed)),
            RunStatus::UnknownError => finished(Outcome::Failed(Failure::UnknownError)),
        }
    }

    /// The contract's word.
    #[must_use]
    pub(crate) const fn status(&self) -> RunStatus {
        match self {
            Self::Waiting { .. } => RunStatus::Pending,
            Self::Taken { stage, .. } => stage.status(),
            Self::Finished { outcome, .. } => outcome.status(),
        }
    }

    /// When its node took it up.
    #[must_use]
    pub(crate) const fn started_at(&self) -> Option<Time> {
        match self {
            Self::Waiting { .. } => None,
            Self::Taken { started_at, .. } => Some(*started_at),
            Self::Finished { started_at, .. } => *started_at,
        }
    }

    /// When it ended.
    #[must_use]
    pub(crate) const fn finished_at(&self) -> Option<Time> {
        match self {
            Self::Waiting { .. } | Self::Taken { .. } => None,
            Self::Finished { finished_at, .. } => Some(*finished_at),
        }
    }

    /// Whether somebody wants it ended and it has not ended.
    #[must_use]
    pub(crate) const fn kill_requested(&self) -> bool {
        match self {
            Self::Waiting { kill_requested } | Self::Taken { kill_requested, .. } => *kill_requested,
            Self::Finished { .. } => false,
        }
    }

    /// Whether it has ended.
    #[must_use]
    pub(crate) const fn is_finished(&self) -> bool {
        matches!(self, Self::Finished { .. })
    }

    /// The state after `fact`, which became so at `at`.
    ///
    /// What is already known changes nothing: the first time given stands. What somebody else wants of a run
    /// (`KillRequested`, `KilledUnasked`, `SiblingFailed`, `NodeRemoved`) changes nothing when it comes too late.
    ///
    /// # Errors
    /// When its node reports what cannot be: anything about a finished run, or a stage before the one it is in.
    pub(crate) fn apply(self, fact: Fact, at: Time) -> Result<Self, IllegalTransition> {
        match fact {
            Fact::Taken => self.advance(Stage::Accepted, at),
            Fact::Preparing => self.advance(Stage::Preparing, at),
            Fact::Running => self.advance(Stage::Running, at),
            Fact::Ended(outcome) => match self {
                Self::Waiting { .. } | Self::Taken { .. } => Ok(self.finish(outcome, at)),
                Self::Finished { .. } => Err(IllegalTransition::Finished { status: self.status() }),
            },
            Fact::KillRequested => Ok(match self {
                Self::Waiting { .. } => Self::Waiting { kill_requested: true },
                Self::Taken { stage, started_at, .. } => Self::Taken { stage, started_at, kill_requested: true },
                Self::Finished { .. } => self,
            }),
            Fact::KilledUnasked => Ok(match self {
                Self::Waiting { .. } | Self::Taken { .. } => self.finish(Outcome::Killed, at),
                Self::Finished { .. } => self,
            }),
            Fact::SiblingFailed => Ok(match self {
                Self::Waiting { .. } => self.finish(Outcome::Failed(Failure::Failed), at),
                Self::Taken { .. } | Self::Finished { .. } => self,
            }),
            Fact::NodeRemoved => Ok(match self {
                Self::Waiting { .. } | Self::Taken { .. } => self.finish(Outcome::Failed(Failure::Failed), at),
                Self::Finished { .. } => self,
            }),
        }
    }

    fn advance(self, to: Stage, at: Time) -> Result<Self, IllegalTransition> {
        match self {
            Self::Waiting { kill_requested } => Ok(Self::Taken { stage: to, started_at: at, kill_requested }),
            // That it was taken up stays true however far it is.
            Self::Taken { .. } if to == Stage::Accepted => Ok(self),
            Self::Taken { stage, .. } if stage > to => {
                Err(IllegalTransition::Backwards { from: stage.status(), to: to.status() })
            }
            Self::Taken { started_at, kill_requested, .. } => Ok(Self::Taken { stage: to, started_at, kill_requested }),
            Self::Finished { .. } => Err(IllegalTransition::Finished { status: self.status() }),
        }
    }

    fn finish(self, outcome: Outcome, at: Time) -> Self {
        // What ran at all was started; a report that only tells the end leaves no more than that to say.
        let started_at = self.started_at().or((outcome == Outcome::Completed).then_some(at));
        Self::Finished { outcome, started_at, finished_at: at }
    }
}

impl Stage {
    const fn status(self) -> RunStatus {
        match self {
            Self::Accepted => RunStatus::Pending,
            Self::Preparing => RunStatus::Initializing,
            Self::Running => RunStatus::Active,
        }
    }
}

impl Outcome {
    /// The contract's word.
    #[must_use]
    pub(crate) const fn status(self) -> RunStatus {
        match self {
            Self::Completed => RunStatus::Completed,
            Self::Killed => RunStatus::Killed,
            Self::Failed(failure) => match failure {
                Failure::Failed => RunStatus::Failed,
                Failure::StartFailed => RunStatus::StartFailed,
                Failure::NonExistingImage => RunStatus::NonExistingImage,
                Failure::Crashed => RunStatus::Crashed,
                Failure::NotAllowed => RunStatus::NotAllowed,
                Failure::UnknownError => RunStatus::UnknownError,
            },
        }
    }
}

/// What a node reports of its run (contract A.8.3), as far as the run's life goes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Report {
    /// The new status.
    pub(crate) status: Option<RunStatus>,
    /// When it took the run up.
    pub(crate) started_at: Option<Time>,
    /// When the run ended.
    pub(crate) finished_at: Option<Time>,
}

impl Report {
    /// What the report says has happened, and when, in the order of a run's life.
    ///
    /// A report of `pending` says nothing new: that a node has a run it says by `started_at`. An end without a status
    /// says nothing either; stock nodes send both together.
    ///
    /// Nothing is taken to have happened before `since` or after `now`, whatever the node's clock shows: how long things
    /// are kept counts from a run's end.
    #[must_use]
    pub(crate) fn facts(&self, since: Time, now: Time) -> Vec<(Fact, Time)> {
        let mut facts = Vec::new();
        let now = now.max(since);
        let started_at = self.started_at.map(|at| at.clamp(since, now));
        if let Some(started_at) = started_at {
            facts.push((Fact::Taken, started_at));
        }
        let finished_at = self.finished_at.unwrap_or(now).clamp(started_at.unwrap_or(since), now);
        let ended = |outcome| Some((Fact::Ended(outcome), finished_at));
        let failed = |failure| ended(Outcome::Failed(failure));
        facts.extend(match self.status {
            None | Some(RunStatus::Pending) => None,
            Some(RunStatus::Initializing) => Some((Fact::Preparing, now)),
            Some(RunStatus::Active) => Some((Fact::Running, now)),
            Some(RunStatus::Completed) => ended(Outcome::Completed),
            Some(RunStatus::Killed) => ended(Outcome::Killed),
            Some(RunStatus::Failed) => failed(Failure::Failed),
            Some(RunStatus::StartFailed) => failed(Failure::StartFailed),
            Some(RunStatus::NonExistingImage) => failed(Failure::NonExistingImage),
            Some(RunStatus::Crashed) => failed(Failure::Crashed),
            Some(RunStatus::NotAllowed) => failed(Failure::NotAllowed),
            Some(RunStatus::UnknownError) => failed(Failure::UnknownError),
        });
        facts
    }

    /// The state after the report on a run that was recorded at `assigned_at`.
    ///
    /// # Errors
    /// As [`RunState::apply`]; a report about a finished run is refused even if it says nothing.
    pub(crate) fn apply(&self, state: RunState, assigned_at: Time, now: Time) -> Result<RunState, IllegalTransition> {
        if state.is_finished() {
            return Err(IllegalTransition::Finished { status: state.status() });
        }
        let since = state.started_at().unwrap_or(assigned_at);
        self.facts(since, now).into_iter().try_fold(state, |state, (fact, at)| state.apply(fact, at))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const OUTCOMES: [Outcome; 8] = [
        Outcome::Completed,
        Outcome::Killed,
        Outcome::Failed(Failure::Failed),
        Outcome::Failed(Failure::StartFailed),
        Outcome::Failed(Failure::NonExistingImage),
        Outcome::Failed(Failure::Crashed),
        Outcome::Failed(Failure::NotAllowed),
        Outcome::Failed(Failure::UnknownError),
    ];

    fn fact() -> impl Strategy<Value = Fact> {
        prop_oneof![
            3 => Just(Fact::Taken),
            2 => Just(Fact::Preparing),
            2 => Just(Fact::Running),
            1 => proptest::sample::select(OUTCOMES.to_vec()).prop_map(Fact::Ended),
            1 => Just(Fact::KillRequested),
            1 => Just(Fact::KilledUnasked),
            1 => Just(Fact::SiblingFailed),
            1 => Just(Fact::NodeRemoved),
        ]
    }

    fn states() -> impl Strategy<Value = (RunState, i64)> {
        proptest::collection::vec(fact(), 0..12).prop_map(|facts| {
            let mut state = RunState::NEW;
            let mut clock = 0;
            for fact in facts {
                clock += 1;
                state = state.apply(fact, Time::from_micros(clock)).unwrap_or(state);
            }
            (state, clock + 1)
        })
    }

    fn rank(state: &RunState) -> u8 {
        match state {
            RunState::Waiting { .. } => 0,
            RunState::Taken { stage, .. } => 1 + *stage as u8,
            RunState::Finished { .. } => 9,
        }
    }

    proptest! {
        #[test]
        fn a_finished_run_never_changes((state, clock) in states(), outcome in proptest::sample::select(OUTCOMES.to_vec()), fact in fact()) {
            let at = Time::from_micros(clock);
            let finished = state.apply(Fact::Ended(outcome), at).unwrap_or(state);
            prop_assert!(finished.is_finished());
            let after = finished.apply(fact, Time::from_micros(clock + 1));
            match fact {
                Fact::Taken | Fact::Preparing | Fact::Running | Fact::Ended(_) => {
                    prop_assert_eq!(after, Err(IllegalTransition::Finished { status: finished.status() }));
                }
                Fact::KillRequested | Fact::KilledUnasked | Fact::SiblingFailed | Fact::NodeRemoved => {
                    prop_assert_eq!(after, Ok(finished));
                }
            }
        }

        #[test]
        fn a_run_never_goes_back((state, clock) in states(), fact in fact()) {
            if let Ok(next) = state.apply(fact, Time::from_micros(clock)) {
                prop_assert!(rank(&next) >= rank(&state));
                if state.started_at().is_some() {
                    prop_assert_eq!(next.started_at(), state.started_at());
                }
                prop_assert_eq!(next.is_finished(), next.finished_at().is_some());
            }
        }

        #[test]
        fn what_is_said_twice_counts_once((state, clock) in states(), fact in fact()) {
            if let Ok(once) = state.apply(fact, Time::from_micros(clock)) {
                match once.apply(fact, Time::from_micros(clock + 1)) {
                    Ok(twice) => prop_assert_eq!(twice, once),
                    Err(_) => prop_assert!(once.is_finished()),
                }
            }
        }

        #[test]
        fn a_state_is_kept_and_read_back_without_loss((state, _) in states()) {
            let read = RunState::restore(state.status(), state.started_at(), state.finished_at(), state.kill_requested());
            prop_assert_eq!(read, state);
        }

        #[test]
        fn whatever_a_nodes_clock_shows_a_run_starts_and_ends_between_its_record_and_now(
            (state, clock) in states(),
            started_at in proptest::option::of(any::<i64>()),
            finished_at in proptest::option::of(any::<i64>()),
            status in proptest::option::of(proptest::sample::select(RunStatus::ALL.to_vec())),
            later in 0_i64..100,
        ) {
            let (assigned_at, now) = (Time::from_micros(0), Time::from_micros(clock + later));
            let at = |micros: Option<i64>| micros.map(Time::from_micros);
            let report = Report { status, started_at: at(started_at), finished_at: at(finished_at) };
            if let Ok(after) = report.apply(state, assigned_at, now) {
                let started = after.started_at().unwrap_or(assigned_at);
                let finished = after.finished_at().unwrap_or(now);
                prop_assert!(assigned_at <= started && started <= finished && finished <= now, "{after:?}");
            }
        }

        #[test]
        fn only_what_no_node_took_up_fails_with_a_sibling((state, clock) in states()) {
            let after = state.apply(Fact::SiblingFailed, Time::from_micros(clock)).unwrap();
            match state {
                RunState::Waiting { .. } => prop_assert_eq!(after.status(), RunStatus::Failed),
                RunState::Taken { .. } | RunState::Finished { .. } => prop_assert_eq!(after, state),
            }
        }
    }

    #[test]
    fn nothing_waits_for_a_node_that_was_removed() {
        let at = Time::from_micros(5);
        let taken = RunState::NEW.apply(Fact::Running, at).unwrap();
        for state in [RunState::NEW, taken] {
            assert_eq!(state.apply(Fact::NodeRemoved, at).unwrap().status(), RunStatus::Failed);
        }
    }

    #[test]
    fn a_run_goes_its_ordinary_way() {
        let at = Time::from_micros;
        let mut state = RunState::NEW;
        for (fact, status) in [
            (Fact::Taken, RunStatus::Pending),
            (Fact::Preparing, RunStatus::Initializing),
            (Fact::Running, RunStatus::Active),
            (Fact::Taken, RunStatus::Active),
            (Fact::Ended(Outcome::Completed), RunStatus::Completed),
        ] {
            state = state.apply(fact, at(7)).unwrap();
            assert_eq!(state.status(), status);
        }
    }

    #[test]
    fn a_stage_that_lies_behind_is_refused() {
        let state = RunState::NEW.apply(Fact::Running, Time::from_micros(1)).unwrap();
        let error = state.apply(Fact::Preparing, Time::from_micros(2)).unwrap_err();
        assert_eq!(error, IllegalTransition::Backwards { from: RunStatus::Active, to: RunStatus::Initializing });
    }

    #[test]
    fn one_report_may_tell_a_whole_life() {
        let report = Report {
            status: Some(RunStatus::Crashed),
            started_at: Some(Time::from_micros(3)),
            finished_at: Some(Time::from_micros(5)),
        };
        let state = report.apply(RunState::NEW, Time::from_micros(1), Time::from_micros(9)).unwrap();
        assert_eq!(state.status(), RunStatus::Crashed);
        assert_eq!(state.started_at(), Some(Time::from_micros(3)));
        assert_eq!(state.finished_at(), Some(Time::from_micros(5)));
        assert!(Report::default().apply(state, Time::from_micros(1), Time::from_micros(10)).is_err());
    }
}
