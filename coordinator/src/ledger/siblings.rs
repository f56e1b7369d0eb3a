//! What one run's end means for the others of its task (contract A.8.3).

use twinmesh_protocol::id::{OrganizationId, RunId};
use twinmesh_protocol::status::RunStatus;
use twinmesh_protocol::time::Time;

use super::run::{Fact, RunState};

/// Another run of the same task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Sibling {
    /// Which.
    pub(crate) id: RunId,
    /// Where it stands.
    pub(crate) state: RunState,
}

/// A run that ends because another failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SiblingEnd {
    /// Which.
    pub(crate) id: RunId,
    /// Its last state.
    pub(crate) state: RunState,
    /// What to tell who reads its log.
    pub(crate) log: String,
}

/// The runs that end because `failed`, at `organization`, ended as `status`: those that no node took up.
///
/// None when `status` is no failure.
#[must_use]
pub(crate) fn fail_fast(
    failed: RunId,
    organization: OrganizationId,
    status: RunStatus,
    siblings: &[Sibling],
    at: Time,
) -> Vec<SiblingEnd> {
    if !status.is_failed() {
        return Vec::new();
    }
    siblings
        .iter()
        .filter(|sibling| sibling.id != failed)
        .filter_map(|sibling| {
            let state = sibling.state.apply(Fact::SiblingFailed, at).unwrap_or(sibling.state);
            (state != sibling.state).then(|| SiblingEnd {
                id: sibling.id,
                state,
                log: format!(
                    "This run was not started, because run {failed} of the same task ended as `{status}` at \
                     organization {organization}."
                ),
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::run::Outcome;

    #[test]
    fn a_failure_ends_the_runs_that_nobody_started_and_no_others() {
        let at = Time::from_micros(9);
        let taken = RunState::NEW.apply(Fact::Taken, at).unwrap();
        let done = taken.apply(Fact::Ended(Outcome::Completed), at).unwrap();
        let siblings: Vec<_> = [RunState::NEW, taken, done, RunState::NEW]
            .into_iter()
            .zip(1..)
            .map(|(state, id)| Sibling { id: RunId::new(id), state })
            .collect();
        let ends = fail_fast(RunId::new(4), OrganizationId::new(2), RunStatus::Crashed, &siblings, at);
        assert_eq!(ends.iter().map(|end| end.id.get()).collect::<Vec<_>>(), [1]);
        assert_eq!(ends[0].state.status(), RunStatus::Failed);
        assert!(ends[0].log.contains("run 4"), "{}", ends[0].log);
        for status in [RunStatus::Completed, RunStatus::Active, RunStatus::Pending] {
            assert!(fail_fast(RunId::new(4), OrganizationId::new(2), status, &siblings, at).is_empty());
        }
    }
}
