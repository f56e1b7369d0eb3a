//! Studies and who takes part in them.

use std::collections::{BTreeMap, BTreeSet};

use sqlx::any::AnyRow;
use sqlx::{AnyConnection, Row as _};
use twinmesh_protocol::id::{CollaborationId, OrganizationId, StudyId};
use twinmesh_protocol::time::Time;

use super::filter::{self, Filter};
use super::page::PageRequest;
use super::{Result, Tx, expect_one, removal};
use crate::authz::Permit;
use crate::authz::action::{CreateStudy, DeleteStudy, EditStudy};

/// A study's row, with who takes part.
#[derive(Debug, Clone)]
pub(crate) struct StudyRecord {
    pub(crate) id: StudyId,
    pub(crate) name: String,
    pub(crate) collaboration: CollaborationId,
    pub(crate) organizations: BTreeSet<OrganizationId>,
}

const COLUMNS: &str = "study.id, study.name, study.collaboration_id";

pub(crate) const SORTABLE: &[(&str, &str)] =
    &[("id", "study.id"), ("name", "study.name"), ("collaboration_id", "study.collaboration_id")];

pub(crate) async fn study_fetch(conn: &mut AnyConnection, id: StudyId) -> Result<Option<StudyRecord>> {
    let mut filter = Filter::default();
    filter.and_equal("study.id", Some(id.get()));
    let rows = filter::all(conn, COLUMNS, "study", &filter, "study.id").await?;
    Ok(complete(conn, rows).await?.pop())
}

/// Whether another has the name.
pub(crate) async fn study_name_taken(conn: &mut AnyConnection, name: &str, besides: Option<StudyId>) -> Result<bool> {
    let row = sqlx::query("SELECT id FROM study WHERE name = $1 AND id <> $2")
        .bind(name)
        .bind(besides.map_or(0, StudyId::get))
        .fetch_optional(conn)
        .await?;
    Ok(row.is_some())
}

pub(crate) async fn study_page(
    conn: &mut AnyConnection,
    filter: &Filter,
    request: &PageRequest,
) -> Result<(Vec<StudyRecord>, i64)> {
    let (rows, total) = filter::page(conn, COLUMNS, "study", filter, request, SORTABLE, "study.id").await?;
    Ok((complete(conn, rows).await?, total))
}

async fn complete(conn: &mut AnyConnection, rows: Vec<AnyRow>) -> Result<Vec<StudyRecord>> {
    let mut studies = rows
        .iter()
        .map(|row| {
            Ok(StudyRecord {
                id: StudyId::new(row.try_get(0)?),
                name: row.try_get(1)?,
                collaboration: CollaborationId::new(row.try_get(2)?),
                organizations: BTreeSet::new(),
            })
        })
        .collect::<Result<Vec<_>>>()?;
    let ids = ("study_id", studies.iter().map(|study| study.id.get()).collect());
    let filter = Filter::default();
    let mut members: BTreeMap<i64, BTreeSet<OrganizationId>> = BTreeMap::new();
    for row in filter::all_in(conn, "study_id, organization_id", "study_organization", &filter, ids, "1, 2").await? {
        members.entry(row.try_get(0)?).or_default().insert(OrganizationId::new(row.try_get(1)?));
    }
    for study in &mut studies {
        study.organizations = members.remove(&study.id.get()).unwrap_or_default();
    }
    Ok(studies)
}

pub(crate) async fn study_insert(
    tx: &mut Tx,
    permit: Permit<CreateStudy>,
    name: &str,
    organizations: &BTreeSet<OrganizationId>,
) -> Result<StudyId> {
    let row = sqlx::query("INSERT INTO study (name, collaboration_id) VALUES ($1, $2) RETURNING id")
        .bind(name)
        .bind(permit.subject().get())
        .fetch_one(tx.conn())
        .await?;
    let id = StudyId::new(row.try_get(0)?);
    for organization in organizations {
        member_insert(tx, id, *organization).await?;
    }
    Ok(id)
}

pub(crate) async fn study_update(
    tx: &mut Tx,
    permit: Permit<EditStudy>,
    name: &str,
    organizations: &BTreeSet<OrganizationId>,
) -> Result<()> {
    let id = permit.subject();
    let done =
        sqlx::query("UPDATE study SET name = $1 WHERE id = $2").bind(name).bind(id.get()).execute(tx.conn()).await?;
    expect_one(done.rows_affected())?;
    sqlx::query("DELETE FROM study_organization WHERE study_id = $1").bind(id.get()).execute(tx.conn()).await?;
    for organization in organizations {
        member_insert(tx, id, *organization).await?;
    }
    Ok(())
}

async fn member_insert(tx: &mut Tx, id: StudyId, organization: OrganizationId) -> Result<()> {
    sqlx::query("INSERT INTO study_organization (study_id, organization_id) VALUES ($1, $2)")
        .bind(id.get())
        .bind(organization.get())
        .execute(tx.conn())
        .await?;
    Ok(())
}

/// What would go with a study, in words; nothing when it stands alone.
pub(crate) async fn study_dependents(conn: &mut AnyConnection, id: StudyId) -> Result<Vec<&'static str>> {
    removal::dependents(conn, id.get(), &[("tasks", "SELECT COUNT(*) FROM task WHERE study_id = $1")]).await
}

/// Removes a study with its tasks.
pub(crate) async fn study_delete(tx: &mut Tx, permit: Permit<DeleteStudy>, now: Time) -> Result<()> {
    let id = permit.subject().get();
    removal::tasks(tx, "study_id = $1", id, now).await?;
    let done = sqlx::query("DELETE FROM study WHERE id = $1").bind(id).execute(tx.conn()).await?;
    expect_one(done.rows_affected())
}
