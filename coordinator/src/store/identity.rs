//! Who a token speaks for, with everything a decision needs to know.

use std::collections::{BTreeMap, BTreeSet};

use sqlx::any::AnyRow;
use sqlx::{AnyConnection, Row as _};
use twinmesh_protocol::id::{CollaborationId, NodeId, OrganizationId, RoleId, RuleId, RunId, UserId};
use twinmesh_protocol::status::RunStatus;
use twinmesh_protocol::time::Time;

use super::filter::{self, Filter};
use super::rows::{gather, numbers};
use super::{Result, Store};
use crate::authn::token::{Access, ClientType, ContainerSubject, Subject};
use crate::authz::actor::{Actor, Container, Who};
use crate::authz::role;
use crate::authz::rule::RuleSet;

/// For whom an access token speaks.
#[derive(Debug)]
pub(crate) enum Bearer {
    /// For this actor.
    Known(Actor),
    /// For nobody any more: their log-ins were ended since.
    LoggedOut,
    /// For nobody: they are gone, or their run is finished.
    Gone,
}

/// For whom an access token speaks at this moment.
pub(crate) async fn bearer_fetch(conn: &mut AnyConnection, access: &Access) -> Result<Bearer> {
    Ok(match known(conn, &access.subject).await? {
        None => Bearer::Gone,
        Some(known) if known.log_ins_end.concerns(access) => Bearer::LoggedOut,
        Some(known) => Bearer::Known(known.actor),
    })
}

/// The actor, by whatever they proved who they are, unless they are gone, or their run is finished.
pub(crate) async fn actor_fetch(conn: &mut AnyConnection, subject: &Subject) -> Result<Option<Actor>> {
    Ok(known(conn, subject).await?.map(|known| known.actor))
}

/// An actor, and what ended their log-ins last.
struct Known {
    actor: Actor,
    log_ins_end: LogInsEnd,
}

/// When log-ins were ended, and the family of refresh tokens that was spared.
#[derive(Debug, Clone, Default, PartialEq)]
struct LogInsEnd {
    at: Option<Time>,
    spared: Option<String>,
}

impl LogInsEnd {
    /// Takes it from two columns of a row.
    fn read(row: &AnyRow, at: usize) -> Result<Self> {
        Ok(Self { at: super::time(row.try_get(at)?), spared: row.try_get(at + 1)? })
    }

    /// Whether it ended a token. Tokens tell whole seconds: those of the same second are good.
    fn concerns(&self, access: &Access) -> bool {
        let is_spared = access.family.is_some() && access.family == self.spared;
        self.at.is_some_and(|at| access.issued_at < at.seconds()) && !is_spared
    }
}

async fn known(conn: &mut AnyConnection, subject: &Subject) -> Result<Option<Known>> {
    match subject {
        Subject::Entity(ClientType::User, id) => user(conn, UserId::new(*id)).await,
        Subject::Entity(ClientType::Node, id) => node(conn, NodeId::new(*id)).await,
        // No such token is ever issued.
        Subject::Entity(ClientType::Container, _) => Ok(None),
        Subject::Container(subject) => {
            let actor = container(conn, subject).await?;
            Ok(actor.map(|actor| Known { actor, log_ins_end: LogInsEnd::default() }))
        }
    }
}

async fn user(conn: &mut AnyConnection, id: UserId) -> Result<Option<Known>> {
    // Every request asks this, so it is one question with one row for an answer: the user's organization,
    // what ended their log-ins, their collaborations, the roles, and the rules of these and of the user's own.
    let row = sqlx::query(concat!(
        "SELECT user_account.organization_id, authenticatable.tokens_valid_from, authenticatable.tokens_spared_family, \
         (SELECT ",
        gather!("collaboration_id"),
        " FROM collaboration_organization member WHERE member.organization_id = user_account.organization_id), \
         (SELECT ",
        gather!("role_id"),
        " FROM user_role WHERE user_id = $1), (SELECT ",
        gather!("rule_id"),
        " FROM (SELECT role_rule.rule_id FROM user_role JOIN role_rule ON role_rule.role_id = user_role.role_id \
         WHERE user_role.user_id = $1 UNION SELECT rule_id FROM user_rule WHERE user_id = $1) held) \
         FROM user_account JOIN authenticatable ON authenticatable.id = user_account.id WHERE user_account.id = $1"
    ))
    .bind(id.get())
    .fetch_optional(conn)
    .await?;
    let Some(row) = row else { return Ok(None) };
    let organization = OrganizationId::new(row.try_get(0)?);
    let log_ins_end = LogInsEnd::read(&row, 1)?;
    let collaborations = numbers(row.try_get(3)?)?.into_iter().map(CollaborationId::new).collect();
    let roles = numbers(row.try_get(4)?)?.into_iter().map(RoleId::new).collect();
    let rules = numbers(row.try_get(5)?)?.into_iter().map(RuleId::new).collect();
    let actor = Actor { who: Who::User { id, roles }, organization, collaborations, rules };
    Ok(Some(Known { actor, log_ins_end }))
}

/// The roles of a user, and all rules they hold by roles or themselves.
pub(crate) async fn user_rights(conn: &mut AnyConnection, id: UserId) -> Result<(BTreeSet<RoleId>, RuleSet)> {
    let rows = sqlx::query(
        "SELECT user_role.role_id, role_rule.rule_id FROM user_role \
         LEFT JOIN role_rule ON role_rule.role_id = user_role.role_id WHERE user_role.user_id = $1 \
         UNION ALL SELECT NULL, rule_id FROM user_rule WHERE user_id = $1",
    )
    .bind(id.get())
    .fetch_all(conn)
    .await?;
    let (mut roles, mut rules) = (BTreeSet::new(), RuleSet::EMPTY);
    for row in &rows {
        roles.extend(row.try_get::<Option<i64>, _>(0)?.map(RoleId::new));
        if let Some(rule) = row.try_get::<Option<i64>, _>(1)? {
            rules = rules.with(RuleId::new(rule));
        }
    }
    Ok((roles, rules))
}

/// The collaborations in which an organization takes part.
pub(crate) async fn collaborations_of(
    conn: &mut AnyConnection,
    organization: OrganizationId,
) -> Result<BTreeSet<CollaborationId>> {
    let rows = sqlx::query("SELECT collaboration_id FROM collaboration_organization WHERE organization_id = $1")
        .bind(organization.get())
        .fetch_all(conn)
        .await?;
    rows.iter().map(|row| Ok(CollaborationId::new(row.try_get(0)?))).collect()
}

/// The same for each of several.
pub(crate) async fn collaborations_of_each(
    conn: &mut AnyConnection,
    organizations: impl IntoIterator<Item = OrganizationId>,
) -> Result<BTreeMap<OrganizationId, BTreeSet<CollaborationId>>> {
    let ids = ("organization_id", organizations.into_iter().map(OrganizationId::get).collect());
    let (columns, filter) = ("organization_id, collaboration_id", Filter::default());
    let rows = filter::all_in(conn, columns, "collaboration_organization", &filter, ids, "1, 2").await?;
    let mut found: BTreeMap<_, BTreeSet<_>> = BTreeMap::new();
    for row in rows {
        found.entry(OrganizationId::new(row.try_get(0)?)).or_default().insert(CollaborationId::new(row.try_get(1)?));
    }
    Ok(found)
}

async fn node(conn: &mut AnyConnection, id: NodeId) -> Result<Option<Known>> {
    // An organization that left the collaboration has no node there any more, whatever rows remain.
    let row = sqlx::query(
        "SELECT node.organization_id, node.collaboration_id, \
         CASE WHEN node.member_key_hash = node.api_key_hash THEN 1 ELSE 0 END, \
         authenticatable.tokens_valid_from, authenticatable.tokens_spared_family FROM node \
         JOIN authenticatable ON authenticatable.id = node.id \
         JOIN collaboration_organization ON collaboration_organization.organization_id = node.organization_id \
         AND collaboration_organization.collaboration_id = node.collaboration_id WHERE node.id = $1",
    )
    .bind(id.get())
    .fetch_optional(conn)
    .await?;
    let Some(row) = row else { return Ok(None) };
    let collaboration = CollaborationId::new(row.try_get(1)?);
    let in_own_hands = row.try_get::<i64, _>(2)? != 0;
    let actor = Actor {
        who: Who::Node { id, collaboration, in_own_hands },
        organization: OrganizationId::new(row.try_get(0)?),
        collaborations: BTreeSet::from([collaboration]),
        rules: role::node_rules(),
    };
    Ok(Some(Known { actor, log_ins_end: LogInsEnd::read(&row, 3)? }))
}

/// A container's token is good while its run is unfinished and its node is there; nothing else in it is trusted more
/// than the rows.
async fn container(conn: &mut AnyConnection, subject: &ContainerSubject) -> Result<Option<Actor>> {
    let row = sqlx::query(
        "SELECT run.id, run.status, task.collaboration_id FROM run \
         JOIN task ON task.id = run.task_id \
         JOIN node ON node.organization_id = run.organization_id AND node.collaboration_id = task.collaboration_id \
         JOIN collaboration_organization ON collaboration_organization.organization_id = run.organization_id \
         AND collaboration_organization.collaboration_id = task.collaboration_id \
         WHERE run.task_id = $1 AND run.organization_id = $2 AND node.id = $3",
    )
    .bind(subject.task_id.get())
    .bind(subject.organization_id.get())
    .bind(subject.node_id.get())
    .fetch_optional(conn)
    .await?;
    let Some(row) = row else { return Ok(None) };
    let status: String = row.try_get(1)?;
    if !status.parse::<RunStatus>().is_ok_and(|status| !status.is_finished()) {
        return Ok(None);
    }
    let collaboration = CollaborationId::new(row.try_get(2)?);
    Ok(Some(Actor {
        who: Who::Container(Container {
            run: RunId::new(row.try_get(0)?),
            task: subject.task_id,
            collaboration,
            image: subject.image.clone(),
        }),
        organization: subject.organization_id,
        collaborations: BTreeSet::from([collaboration]),
        rules: role::container_rules(),
    }))
}

/// Notes when a user or node was last seen.
pub(crate) async fn seen(store: &Store, id: i64, now: Time) -> Result<()> {
    let mut tx = store.note().await?;
    sqlx::query("UPDATE authenticatable SET last_seen = $1 WHERE id = $2")
        .bind(now.micros())
        .bind(id)
        .execute(tx.conn())
        .await?;
    tx.commit().await
}
