//! Who hears of what.

use std::collections::BTreeSet;

use twinmesh_protocol::id::{CollaborationId, NodeId, OrganizationId};
use twinmesh_protocol::wire::{Event, EventKind};

use crate::authz::Reach;
use crate::store::event::JobParties;

/// Who follows the log, with what decides what they hear.
#[derive(Debug, Clone)]
pub(crate) enum Audience {
    /// A node hears what concerns it in its collaboration: its own runs, the jobs it takes part in, who comes and
    /// goes, and whose key changes.
    Node {
        /// Which.
        id: NodeId,
        /// Its organization.
        organization: OrganizationId,
        /// Its collaboration.
        collaboration: CollaborationId,
    },
    /// A user hears as far as the rules of receiving events go, and of the jobs that the own organization asked for.
    User {
        /// The user's organization.
        organization: OrganizationId,
        /// That organization's collaborations.
        collaborations: BTreeSet<CollaborationId>,
        /// How far the rules go; `None` when not at all.
        reach: Option<Reach>,
    },
}

/// Whether somebody hears of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hears {
    /// Yes or no.
    Decided(bool),
    /// If they run a task of the event's job.
    IfRunning(OrganizationId),
    /// If they made a task of the event's job.
    IfAsking(OrganizationId),
}

impl Hears {
    /// The answer, once the job's parties are known.
    pub(crate) fn resolve(self, parties: &JobParties) -> bool {
        match self {
            Self::Decided(hears) => hears,
            Self::IfRunning(organization) => parties.running.contains(&organization),
            Self::IfAsking(organization) => parties.asking.contains(&organization),
        }
    }
}

impl Audience {
    /// Whether they hear of the event.
    pub(crate) fn hears(&self, event: &Event) -> Hears {
        match self {
            Self::Node { id, organization, collaboration } => node_hears(*id, *organization, *collaboration, event),
            Self::User { organization, collaborations, reach } => {
                user_hears(*organization, collaborations, *reach, event)
            }
        }
    }
}

fn node_hears(id: NodeId, organization: OrganizationId, collaboration: CollaborationId, event: &Event) -> Hears {
    let within = event.collaboration_id == Some(collaboration);
    let own = event.organization_id == Some(organization);
    match event.kind {
        // A key is an organization's in all its collaborations; the event is written once for each.
        EventKind::KeyChanged | EventKind::NodeOnline | EventKind::NodeOffline => Hears::Decided(within),
        EventKind::RunAssigned => Hears::Decided(within && own),
        EventKind::KillRequested => Hears::Decided(within && (own || event.node_id == Some(id))),
        EventKind::RunStatus | EventKind::PortRegistered | EventKind::TaskCreated => {
            match (within, own, event.job_id) {
                (false, ..) => Hears::Decided(false),
                (true, true, _) => Hears::Decided(true),
                (true, false, None) => Hears::Decided(false),
                (true, false, Some(_)) => Hears::IfRunning(organization),
            }
        }
    }
}

fn user_hears(
    organization: OrganizationId,
    collaborations: &BTreeSet<CollaborationId>,
    reach: Option<Reach>,
    event: &Event,
) -> Hears {
    let within = event.collaboration_id.is_some_and(|id| collaborations.contains(&id));
    let own = event.organization_id == Some(organization);
    let by_rule = reach
        .is_some_and(|reach| reach.all || (reach.collaboration && within) || (reach.organization && within && own));
    if by_rule {
        return Hears::Decided(true);
    }
    // What their own organization asked for they hear of in any case, while it is a member.
    if within && event.job_id.is_some() { Hears::IfAsking(organization) } else { Hears::Decided(false) }
}

#[cfg(test)]
mod tests {
    use twinmesh_protocol::id::{EventSequence, JobId};
    use twinmesh_protocol::time::Time;

    use super::*;

    fn event(kind: EventKind, collaboration: i64, organization: i64, job: Option<i64>) -> Event {
        Event {
            sequence: EventSequence::new(1),
            time: Time::from_micros(0),
            kind,
            collaboration_id: Some(CollaborationId::new(collaboration)),
            organization_id: Some(OrganizationId::new(organization)),
            node_id: None,
            task_id: None,
            parent_id: None,
            job_id: job.map(JobId::new),
            run_id: None,
            status: None,
        }
    }

    fn node() -> Audience {
        Audience::Node {
            id: NodeId::new(9),
            organization: OrganizationId::new(2),
            collaboration: CollaborationId::new(1),
        }
    }

    fn user(reach: Option<Reach>) -> Audience {
        Audience::User { organization: OrganizationId::new(2), collaborations: [CollaborationId::new(1)].into(), reach }
    }

    const NONE: Reach = Reach { all: false, collaboration: false, organization: false, own: false };

    #[test]
    fn a_node_of_another_collaboration_hears_nothing() {
        for kind in EventKind::ALL {
            for organization in [2, 3] {
                let hears = node().hears(&event(kind, 7, organization, Some(4)));
                assert_eq!(hears, Hears::Decided(false), "{kind:?}");
            }
        }
    }

    #[test]
    fn a_node_hears_of_its_own_runs_and_of_the_jobs_it_takes_part_in() {
        let (asked, running) = (Hears::IfRunning(OrganizationId::new(2)), Hears::Decided(true));
        for (kind, own, others) in [
            (EventKind::RunAssigned, running, Hears::Decided(false)),
            (EventKind::KillRequested, running, Hears::Decided(false)),
            (EventKind::RunStatus, running, asked),
            (EventKind::PortRegistered, running, asked),
            (EventKind::TaskCreated, running, asked),
            (EventKind::NodeOnline, running, running),
            (EventKind::KeyChanged, running, running),
        ] {
            assert_eq!(node().hears(&event(kind, 1, 2, Some(4))), own, "{kind:?}");
            assert_eq!(node().hears(&event(kind, 1, 3, Some(4))), others, "{kind:?}");
        }
    }

    #[test]
    fn a_user_hears_as_far_as_the_rules_go() {
        let global = Some(Reach { all: true, ..NONE });
        let collaboration = Some(Reach { collaboration: true, ..NONE });
        let organization = Some(Reach { organization: true, ..NONE });
        let elsewhere = event(EventKind::NodeOnline, 7, 2, None);
        let others = event(EventKind::NodeOnline, 1, 3, None);
        let own = event(EventKind::NodeOnline, 1, 2, None);
        for (reach, expected) in [
            (global, [true, true, true]),
            (collaboration, [false, true, true]),
            (organization, [false, false, true]),
            (None, [false, false, false]),
        ] {
            for (event, expected) in [&elsewhere, &others, &own].into_iter().zip(expected) {
                assert_eq!(user(reach).hears(event), Hears::Decided(expected), "{reach:?} {event:?}");
            }
        }
        let job = event(EventKind::RunStatus, 1, 3, Some(4));
        assert_eq!(user(None).hears(&job), Hears::IfAsking(OrganizationId::new(2)));
    }
}
