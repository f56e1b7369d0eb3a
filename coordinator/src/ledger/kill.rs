//! What ending a task means for each run of its tree.
//!
//! Stock ends a task and its children at once in the books, whether the nodes heard of it or not (contract A.8.4,
//! F.1-12). Here the whole tree is meant, and the node that has a run says when it is dead.

use twinmesh_protocol::id::RunId;
use twinmesh_protocol::time::Time;

use super::run::{Fact, RunState};

/// An unfinished run of the tree that is to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Victim {
    /// Which.
    pub(crate) id: RunId,
    /// Where it stands.
    pub(crate) state: RunState,
    /// Whether its node is connected and can confirm.
    pub(crate) node_online: bool,
}

/// What is to be recorded of a run that is to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct KillStep {
    /// Which.
    pub(crate) id: RunId,
    /// Its state afterwards: finished, or waiting for its node to confirm.
    pub(crate) state: RunState,
}

/// What is to be recorded: runs that no node took up or whose node is away end at once, for the others the node is
/// asked. Finished runs are left out; every other run appears, also when asked before, so that the node hears again.
#[must_use]
pub(crate) fn kill(victims: &[Victim], at: Time) -> Vec<KillStep> {
    victims
        .iter()
        .filter_map(|victim| {
            let fact = match victim.state {
                RunState::Finished { .. } => return None,
                RunState::Waiting { .. } => Fact::KilledUnasked,
                RunState::Taken { .. } if victim.node_online => Fact::KillRequested,
                RunState::Taken { .. } => Fact::KilledUnasked,
            };
            let state = victim.state.apply(fact, at).unwrap_or(victim.state);
            Some(KillStep { id: victim.id, state })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use twinmesh_protocol::status::RunStatus;

    use super::*;
    use crate::ledger::run::Outcome;

    fn at(micros: i64) -> Time {
        Time::from_micros(micros)
    }

    #[test]
    fn a_node_that_has_a_run_is_asked_and_nobody_else() {
        let taken = RunState::NEW.apply(Fact::Running, at(1)).unwrap();
        let victim = |id, state, node_online| Victim { id: RunId::new(id), state, node_online };
        let steps = kill(
            &[
                victim(1, RunState::NEW, true),
                victim(2, taken, true),
                victim(3, taken, false),
                victim(4, taken.apply(Fact::Ended(Outcome::Completed), at(2)).unwrap(), true),
            ],
            at(5),
        );
        let told: Vec<_> = steps.iter().map(|step| (step.id.get(), step.state.status())).collect();
        assert_eq!(told, [(1, RunStatus::Killed), (2, RunStatus::Active), (3, RunStatus::Killed)]);
        assert!(steps[1].state.kill_requested());
    }

    proptest! {
        #[test]
        fn once_every_node_confirms_nothing_is_left(
            runs in proptest::collection::vec((0_u8..4, any::<bool>()), 0..20)
        ) {
            let victims: Vec<_> = runs
                .iter()
                .zip(1..)
                .map(|((stage, node_online), id)| {
                    let fact = [None, Some(Fact::Taken), Some(Fact::Running), Some(Fact::Ended(Outcome::Completed))][usize::from(*stage)];
                    let state = fact.map_or(RunState::NEW, |fact| RunState::NEW.apply(fact, at(1)).unwrap());
                    Victim { id: RunId::new(id), state, node_online: *node_online }
                })
                .collect();
            for step in kill(&victims, at(2)) {
                let end = match step.state {
                    RunState::Finished { .. } => step.state,
                    open => open.apply(Fact::Ended(Outcome::Killed), at(3)).unwrap(),
                };
                prop_assert_eq!(end.status(), RunStatus::Killed);
            }
        }
    }
}
