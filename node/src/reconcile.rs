//! What to do next, decided purely: from what the coordinator wants, what the journal and the runtime say, and the time.
//!
//! [`plan`] takes no hints and may be called at any time; after every event, every lost event and every restart it is the
//! same decision. Whoever carries out an action first marks the run as [`Live::Busy`], so that the next plan does not ask for
//! it again.

use std::collections::{BTreeMap, BTreeSet};

use twinmesh_protocol::{id::RunId, time::Time};

use crate::{journal::Stage, runtime::ExitCause};

/// What the coordinator wants, as far as it is known.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Desired {
    /// The runs of this node that have not finished at the coordinator.
    pub open: BTreeSet<RunId>,
    /// When the last complete list of them was asked for; `None` if there never was one.
    pub as_of: Option<Time>,
}

/// What is known here about a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Observed {
    pub ledger: Ledger,
    pub live: Live,
}

/// What the journal says about a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ledger {
    /// Nothing: it was not accepted yet, and not refused.
    Absent,
    Recorded {
        accepted_at: Time,
        stage: Stage,
    },
}

/// What goes on with a run in this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Live {
    /// Nothing; after a restart of the node it may run all the same.
    Idle,
    /// An action is being carried out.
    Busy,
    /// It runs, and its end will be noticed.
    Running,
    /// It runs, and was told to end.
    Ending,
    /// It ended.
    Ended(ExitCause),
    /// An action failed; try again then.
    Waiting { until: Time },
}

/// What the node's administrator decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rules {
    /// How often a run is started at most.
    pub max_attempts: u32,
    /// How many runs are under way at most.
    pub max_concurrent: usize,
    /// Whether runs may be started: not while the node shuts down.
    pub accepting: bool,
}

/// One thing to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Action {
    /// Decide whether to run it, and if so start it.
    Start { run_id: RunId, attempt: u32 },
    /// Find it again after a restart of the node.
    Attach { run_id: RunId, attempt: u32 },
    /// The coordinator does not want it any more.
    Kill { run_id: RunId },
    /// It ended for good: make and record its report.
    Conclude { run_id: RunId, cause: Conclusion },
    /// Bring its report to the coordinator.
    Deliver { run_id: RunId },
    /// Nobody asks for it any more.
    Forget { run_id: RunId },
}

impl Action {
    /// The run it is about.
    pub fn run_id(&self) -> RunId {
        match *self {
            Self::Start { run_id, .. }
            | Self::Attach { run_id, .. }
            | Self::Kill { run_id }
            | Self::Conclude { run_id, .. }
            | Self::Deliver { run_id }
            | Self::Forget { run_id } => run_id,
        }
    }
}

/// Why a run ended for good.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Conclusion {
    /// By itself, by a limit, or by the node.
    Exit,
    /// From outside, as often as is tolerated.
    LostTooOften,
    /// The coordinator had finished it before: killed, or its task deleted.
    Withdrawn,
}

/// Decides what to do about every run.
pub fn plan(desired: &Desired, observed: &BTreeMap<RunId, Observed>, rules: &Rules, now: Time) -> Vec<Action> {
    let runs: BTreeSet<RunId> = desired.open.iter().chain(observed.keys()).copied().collect();
    let under_way = observed.values().filter(|run| matches!(run.live, Live::Running | Live::Ending)).count();
    let starting = observed.values().filter(|run| run.live == Live::Busy && !is_finished(run.ledger)).count();
    let mut room = rules.max_concurrent.saturating_sub(under_way + starting);
    let mut actions = Vec::new();
    for run_id in runs {
        let run = observed.get(&run_id).copied().unwrap_or(Observed { ledger: Ledger::Absent, live: Live::Idle });
        let Some(action) = decide(run_id, run, desired, rules, now) else { continue };
        if let Action::Start { .. } = action {
            if room == 0 {
                continue;
            }
            room -= 1;
        }
        actions.push(action);
    }
    actions
}

fn is_finished(ledger: Ledger) -> bool {
    match ledger {
        Ledger::Absent => false,
        Ledger::Recorded { stage, .. } => !matches!(stage, Stage::Begun { .. }),
    }
}

fn decide(run_id: RunId, run: Observed, desired: &Desired, rules: &Rules, now: Time) -> Option<Action> {
    let open = desired.open.contains(&run_id);
    match run.live {
        Live::Busy | Live::Ending => return None,
        Live::Waiting { until } if until > now => return None,
        Live::Idle | Live::Running | Live::Ended(_) | Live::Waiting { .. } => {}
    }
    let (accepted_at, stage) = match run.ledger {
        Ledger::Absent => {
            return match run.live {
                Live::Idle | Live::Waiting { .. } if open && rules.accepting => {
                    Some(Action::Start { run_id, attempt: 1 })
                }
                Live::Idle | Live::Waiting { .. } if !open && desired.as_of.is_some() => {
                    Some(Action::Forget { run_id })
                }
                Live::Idle | Live::Waiting { .. } | Live::Busy | Live::Running | Live::Ending | Live::Ended(_) => None,
            };
        }
        Ledger::Recorded { accepted_at, stage } => (accepted_at, stage),
    };
    // A list that was asked for before the run was known says nothing about it.
    let listed_since = |moment: Time| desired.as_of.is_some_and(|as_of| as_of > moment);
    let withdrawn = !open && listed_since(accepted_at);
    match stage {
        Stage::Begun { attempts } => match run.live {
            Live::Running if withdrawn => Some(Action::Kill { run_id }),
            Live::Running => None,
            Live::Ended(_) if withdrawn => Some(Action::Conclude { run_id, cause: Conclusion::Withdrawn }),
            Live::Ended(cause) if !cause.is_from_outside() => {
                Some(Action::Conclude { run_id, cause: Conclusion::Exit })
            }
            Live::Ended(_) if attempts >= rules.max_attempts => {
                Some(Action::Conclude { run_id, cause: Conclusion::LostTooOften })
            }
            Live::Ended(_) if open && rules.accepting => Some(Action::Start { run_id, attempt: attempts + 1 }),
            Live::Ended(_) => None,
            Live::Idle | Live::Waiting { .. } => Some(Action::Attach { run_id, attempt: attempts }),
            Live::Busy | Live::Ending => None,
        },
        Stage::Finished => Some(Action::Deliver { run_id }),
        // The coordinator asks again for what it had confirmed: it was restored from a backup.
        Stage::Delivered { at } if open && listed_since(at) => Some(Action::Deliver { run_id }),
        Stage::Delivered { at } if !open && listed_since(at) => Some(Action::Forget { run_id }),
        Stage::Delivered { .. } => None,
    }
}

#[cfg(test)]
mod tests;
