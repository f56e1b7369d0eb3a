//! The permission matrix: each role and each rule, each action, each relation of the caller to the target, as a text
//! that people review. It is kept in `tests/permissions.txt`; run the test with `UPDATE_SNAPSHOTS=1` to write it anew.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::Path;

use twinmesh_protocol::id::{CollaborationId, NodeId, OrganizationId, RoleId, RuleId, RunId, TaskId, UserId};

use super::action::ACTIONS;
use super::actor::{Actor, Container, Kind, Who};
use super::role::{BuiltInRole, ROLES};
use super::rule::{RULES, RuleSet};
use super::{Requirement, Target, judge};

const MY_ORGANIZATION: OrganizationId = OrganizationId::new(1);
const PARTNER: OrganizationId = OrganizationId::new(2);
const STRANGER: OrganizationId = OrganizationId::new(3);
const MINE: CollaborationId = CollaborationId::new(1);
const OTHER: CollaborationId = CollaborationId::new(2);
const ME: i64 = 7;
const SOMEBODY: i64 = 8;

const LEGEND: &str = "\
Who may do what, by role. Each cell names the targets for which the answer is yes:

  o  one's own: oneself, what one made, one's own node or role
  g  of one's own organization, in a collaboration in which it takes part
  e  of one's own organization, in a collaboration in which it does not take part (any more)
  c  of another organization, in a shared collaboration
  f  of another organization, in a collaboration that is none of one's own
  b  built in, nobody's

";

fn targets() -> [(char, Target); 6] {
    let of = |organization, collaboration, owner: i64| {
        Target::organization_in(organization, collaboration)
            .owned_by(Some(UserId::new(owner)))
            .at_node(Some(NodeId::new(owner)))
            .made_by_run(Some(RunId::new(owner)))
    };
    [
        ('o', Target { role: Some(RoleId::new(ME)), ..of(MY_ORGANIZATION, MINE, ME) }),
        ('g', of(MY_ORGANIZATION, MINE, SOMEBODY)),
        ('e', of(MY_ORGANIZATION, OTHER, SOMEBODY)),
        ('c', of(PARTNER, MINE, SOMEBODY)),
        ('f', of(STRANGER, OTHER, SOMEBODY)),
        ('b', Target { built_in: true, ..Target::anywhere() }),
    ]
}

fn actor(role: &BuiltInRole) -> Actor {
    let who = match role.name {
        "node" => Who::Node { id: NodeId::new(ME), collaboration: MINE, in_own_hands: true },
        "container" => Who::Container(Container {
            run: RunId::new(ME),
            task: TaskId::new(1),
            collaboration: MINE,
            image: String::new(),
        }),
        _ => Who::User { id: UserId::new(ME), roles: BTreeSet::from([RoleId::new(ME)]) },
    };
    Actor { who, organization: MY_ORGANIZATION, collaborations: BTreeSet::from([MINE]), rules: role.rules() }
}

fn matrix() -> String {
    let mut text = LEGEND.to_owned();
    let _ = write!(text, "{:<40}", "");
    for role in &ROLES {
        let _ = write!(text, " {:>12}", role.name.replace("Organization", "Org.").replace("Collaboration", "Col."));
    }
    for (action, requirement) in ACTIONS {
        let _ = write!(text, "\n{action:<40}");
        for role in &ROLES {
            let allowed = allowed(&actor(role), action, requirement);
            let _ = write!(text, " {:>12}", if allowed.is_empty() { "-" } else { &allowed });
        }
    }
    text.push('\n');
    text.push_str(&by_rule());
    text
}

/// The letters of the targets for which the answer is yes.
fn allowed(actor: &Actor, action: &'static str, requirement: &Requirement) -> String {
    let is_allowed = |target: &Target| judge(actor, action, requirement, target).is_ok();
    targets().iter().filter(|(_, target)| is_allowed(target)).map(|(letter, _)| *letter).collect()
}

const RULE_LEGEND: &str = "
What each rule lets a user do who holds no other, beside what needs none:

";

/// Each operation at each scope, one by one.
fn by_rule() -> String {
    let user = |rules| Actor {
        who: Who::User { id: UserId::new(ME), roles: BTreeSet::from([RoleId::new(ME)]) },
        organization: MY_ORGANIZATION,
        collaborations: BTreeSet::from([MINE]),
        rules,
    };
    let without = user(RuleSet::EMPTY);
    let mut text = RULE_LEGEND.to_owned();
    for rule in &RULES {
        let id = RuleId::new(rule.id.into());
        let holder = user(RuleSet::EMPTY.with(id));
        let name = format!("{} {} {}", rule.resource, rule.operation, rule.scope);
        let _ = write!(text, "{id:>2} {name:<34}");
        let mut separator = " ";
        for (action, requirement) in ACTIONS {
            let cell = allowed(&holder, action, requirement);
            if cell != allowed(&without, action, requirement) {
                let _ = write!(text, "{separator}{action} {cell}");
                separator = "; ";
            }
        }
        text.push('\n');
    }
    text
}

#[test]
fn the_permission_matrix_is_the_one_that_was_reviewed() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/permissions.txt");
    let actual = matrix();
    if std::env::var_os("UPDATE_SNAPSHOTS").is_some() {
        std::fs::write(&path, &actual).unwrap();
    }
    let reviewed = std::fs::read_to_string(&path).unwrap();
    assert!(reviewed == actual, "the matrix changed; review it with UPDATE_SNAPSHOTS=1 and git diff:\n{actual}");
}

#[test]
fn nobody_below_root_reaches_what_is_foreign() {
    let foreign = targets().into_iter().find(|(letter, _)| *letter == 'f').unwrap().1;
    for role in ROLES.iter().skip(1) {
        let actor = actor(role);
        let reached: Vec<_> = ACTIONS
            .iter()
            .filter(|(action, requirement)| judge(&actor, action, requirement, &foreign).is_ok())
            .map(|(action, _)| *action)
            .collect();
        // Rule 20 of collaboration administrators: they see all organizations.
        let expected: &[&str] = if role.name == "Collaboration Admin" { &["see an organization"] } else { &[] };
        assert_eq!(reached, expected, "{}", role.name);
    }
}

#[test]
fn a_node_and_its_containers_stay_in_their_collaboration() {
    let elsewhere = targets().into_iter().find(|(letter, _)| *letter == 'e').unwrap().1;
    for role in &ROLES {
        let actor = actor(role);
        if actor.kind() != Kind::User {
            for (action, requirement) in ACTIONS {
                assert!(judge(&actor, action, requirement, &elsewhere).is_err(), "{} may {action}", role.name);
            }
        }
    }
}
