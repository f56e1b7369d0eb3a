//! Payloads that are kept outside of the rows: uploads, the segments they are made of, and who needs them.
//!
//! A segment's row is there before the segment is stored, and the segment is removed after its row has gone, so
//! nothing is stored of which no row tells. Rows go only while nothing refers to them, decided in the transaction
//! that removes them; whoever wants to refer to one finds it there or stores it anew.

use sqlx::any::AnyRow;
use sqlx::{AnyConnection, Row as _};
use twinmesh_protocol::digest::Digest;
use twinmesh_protocol::id::{NodeId, ObjectId, OrganizationId, RunId, UserId};
use twinmesh_protocol::payload::PayloadForm;
use twinmesh_protocol::time::Time;

use super::{Result, StoreError, Tx};
use crate::authz::Permit;
use crate::authz::action::{HandleUpload, UploadInput, UploadPayload};
use crate::authz::actor::{Actor, Who};
use crate::ledger::open::KeptPayload;
use crate::objects::SegmentKey;

/// The most pieces that an upload may come in. A full-sized one of 16 GiB has 4096; each break adds one.
const MAX_SEGMENTS: i64 = 20_000;

/// The row of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ObjectRow(i64);

/// Who uploaded something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Uploader {
    User(UserId),
    Node(NodeId),
    Run(RunId),
}

impl Uploader {
    pub(crate) fn of(actor: &Actor) -> Self {
        match &actor.who {
            Who::User { id, .. } => Self::User(*id),
            Who::Node { id, .. } => Self::Node(*id),
            Who::Container(container) => Self::Run(container.run),
        }
    }

    fn kind(self) -> &'static str {
        match self {
            Self::User(_) => "user",
            Self::Node(_) => "node",
            Self::Run(_) => "run",
        }
    }

    fn id(self) -> i64 {
        match self {
            Self::User(id) => id.get(),
            Self::Node(id) => id.get(),
            Self::Run(id) => id.get(),
        }
    }
}

/// An object, whole or not.
#[derive(Debug, Clone)]
pub(crate) struct ObjectRecord {
    pub(crate) row: ObjectRow,
    pub(crate) id: ObjectId,
    pub(crate) size: u64,
    pub(crate) stage: ObjectStage,
    pub(crate) uploader: Uploader,
    pub(crate) organization_id: OrganizationId,
}

/// How far an object is.
#[derive(Debug, Clone)]
pub(crate) enum ObjectStage {
    /// The state of the hash over what is there.
    Uploading { hash_state: String },
    /// What it hashes to, and what its beginning looks like.
    Complete { digest: Digest, form: PayloadForm },
}

/// By what right something is uploaded.
#[derive(Debug)]
pub(crate) enum UploadPermit {
    Input(Permit<UploadInput>),
    Payload(Permit<UploadPayload>),
}

impl UploadPermit {
    fn organization(&self) -> OrganizationId {
        match self {
            Self::Input(permit) => permit.subject(),
            Self::Payload(permit) => permit.subject(),
        }
    }
}

/// The right to add to an upload, from who began it or may go on with it.
#[derive(Debug)]
pub(crate) struct Upload {
    row: ObjectRow,
    /// What it goes by.
    pub(crate) id: ObjectId,
    /// How much of it is there.
    pub(crate) size: u64,
    /// The state of the hash over what is there.
    pub(crate) hash_state: String,
}

/// Begins an upload; `None` when those like the uploader – users, nodes or runs – of the organization have begun `most`
/// that have not ended: so what researchers leave half done keeps no result out.
pub(crate) async fn object_insert(
    tx: &mut Tx,
    permit: UploadPermit,
    uploader: Uploader,
    id: ObjectId,
    hash_state: String,
    most: u64,
    now: Time,
) -> Result<Option<Upload>> {
    let row = sqlx::query(
        "INSERT INTO object (uuid, state, size, hash_state, uploader_kind, uploader_id, organization_id, created_at, \
         touched_at) SELECT $1, 'uploading', 0, $2, $3, $4, $5, $6, $6 \
         WHERE (SELECT COUNT(*) FROM object WHERE organization_id = $5 AND state = 'uploading' \
         AND uploader_kind = $3) < $7 RETURNING id",
    )
    .bind(id.to_string())
    .bind(hash_state.as_str())
    .bind(uploader.kind())
    .bind(uploader.id())
    .bind(permit.organization().get())
    .bind(now.micros())
    .bind(i64::try_from(most).unwrap_or(i64::MAX))
    .fetch_optional(tx.conn())
    .await?;
    row.map(|row| Ok(Upload { row: ObjectRow(row.try_get(0)?), id, size: 0, hash_state })).transpose()
}

/// Goes on with an upload; `None` when it is whole already.
pub(crate) fn upload_open(permit: Permit<HandleUpload>, object: &ObjectRecord) -> Option<Upload> {
    debug_assert_eq!(permit.subject(), object.id, "the permit is for this upload");
    match &object.stage {
        ObjectStage::Uploading { hash_state } => {
            let hash_state = hash_state.clone();
            Some(Upload { row: object.row, id: object.id, size: object.size, hash_state })
        }
        ObjectStage::Complete { .. } => None,
    }
}

/// One object.
pub(crate) async fn object_fetch(conn: &mut AnyConnection, id: ObjectId) -> Result<Option<ObjectRecord>> {
    let sql = "SELECT id, uuid, state, size, hash_state, digest, form, uploader_kind, uploader_id, organization_id \
               FROM object WHERE uuid = $1";
    let row = sqlx::query(sql).bind(id.to_string()).fetch_optional(conn).await?;
    row.as_ref().map(read).transpose()
}

/// The runs that have an object for their input or result.
pub(crate) async fn object_runs(conn: &mut AnyConnection, object: ObjectRow) -> Result<Vec<RunId>> {
    let rows = sqlx::query(
        "SELECT id FROM run WHERE input_object = $1 UNION SELECT id FROM run WHERE result_object = $1 ORDER BY 1",
    )
    .bind(object.0)
    .fetch_all(conn)
    .await?;
    rows.iter().map(|row| Ok(RunId::new(row.try_get(0)?))).collect()
}

/// What an organization has uploaded that belongs to no run, in bytes.
pub(crate) async fn pending_bytes(conn: &mut AnyConnection, organization: OrganizationId) -> Result<u64> {
    let row = sqlx::query(
        "SELECT CAST(COALESCE(SUM(size), 0) AS BIGINT) FROM object WHERE organization_id = $1 \
         AND NOT EXISTS (SELECT 1 FROM run WHERE run.input_object = object.id) \
         AND NOT EXISTS (SELECT 1 FROM run WHERE run.result_object = object.id)",
    )
    .bind(organization.get())
    .fetch_one(conn)
    .await?;
    Ok(count(row.try_get(0)?))
}

/// A segment that is about to be stored, or is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reserved {
    pub(crate) key: SegmentKey,
    /// Whether the store has it.
    pub(crate) stored: bool,
}

/// Says that a segment is to be stored.
pub(crate) async fn segment_reserve(tx: &mut Tx, digest: Digest, size: u64, now: Time) -> Result<Reserved> {
    let row = sqlx::query(
        "INSERT INTO segment (digest, size, stored, touched_at) VALUES ($1, $2, 0, $3) \
         ON CONFLICT (digest) DO UPDATE SET touched_at = excluded.touched_at RETURNING id, stored",
    )
    .bind(digest.to_string())
    .bind(i64::try_from(size).unwrap_or(i64::MAX))
    .bind(now.micros())
    .fetch_one(tx.conn())
    .await?;
    Ok(Reserved { key: SegmentKey { digest, number: row.try_get(0)? }, stored: row.try_get::<i64, _>(1)? != 0 })
}

/// What became of adding to an upload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Added {
    /// It is there.
    Kept,
    /// The segment has been removed since it was reserved: it is to be stored anew.
    Lost,
    /// The upload is not as far as was thought, or is no more.
    Moved,
    /// It came in too many pieces.
    TooMany,
}

/// Adds a stored segment to an upload.
pub(crate) async fn segment_add(
    tx: &mut Tx,
    upload: &Upload,
    segment: SegmentKey,
    length: u64,
    hash_state: &str,
    now: Time,
) -> Result<Added> {
    let done = sqlx::query("UPDATE segment SET stored = 1, touched_at = $1 WHERE id = $2")
        .bind(now.micros())
        .bind(segment.number)
        .execute(tx.conn())
        .await?;
    if done.rows_affected() == 0 {
        return Ok(Added::Lost);
    }
    let start = i64::try_from(upload.size).unwrap_or(i64::MAX);
    let done = sqlx::query(
        "UPDATE object SET size = size + $1, hash_state = $2, touched_at = $3 \
         WHERE id = $4 AND size = $5 AND state = 'uploading'",
    )
    .bind(i64::try_from(length).unwrap_or(i64::MAX))
    .bind(hash_state)
    .bind(now.micros())
    .bind(upload.row.0)
    .bind(start)
    .execute(tx.conn())
    .await?;
    if done.rows_affected() == 0 {
        return Ok(Added::Moved);
    }
    let done = sqlx::query(
        "INSERT INTO object_segment (object_id, start, segment_id) SELECT $1, $2, $3 \
         WHERE (SELECT COUNT(*) FROM object_segment WHERE object_id = $1) < $4",
    )
    .bind(upload.row.0)
    .bind(start)
    .bind(segment.number)
    .bind(MAX_SEGMENTS)
    .execute(tx.conn())
    .await?;
    Ok(if done.rows_affected() == 0 { Added::TooMany } else { Added::Kept })
}

/// Ends an upload: it is whole. `false` when it is not as far as was thought, or is no more.
pub(crate) async fn upload_finish(
    tx: &mut Tx,
    upload: &Upload,
    digest: Digest,
    form: PayloadForm,
    now: Time,
) -> Result<bool> {
    let done = sqlx::query(
        "UPDATE object SET state = 'complete', hash_state = NULL, digest = $1, form = $2, touched_at = $3 \
         WHERE id = $4 AND size = $5 AND state = 'uploading'",
    )
    .bind(digest.to_string())
    .bind(form_word(form))
    .bind(now.micros())
    .bind(upload.row.0)
    .bind(i64::try_from(upload.size).unwrap_or(i64::MAX))
    .execute(tx.conn())
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Forgets an upload that is not whole, or not what was announced.
pub(crate) async fn upload_drop(tx: &mut Tx, upload: &Upload, now: Time) -> Result<()> {
    object_delete(tx, upload.row, now).await?;
    Ok(())
}

/// Forgets an upload that belongs to no run; whether it did belong to none.
pub(crate) async fn object_discard(
    tx: &mut Tx,
    permit: Permit<HandleUpload>,
    object: &ObjectRecord,
    now: Time,
) -> Result<bool> {
    debug_assert_eq!(permit.subject(), object.id, "the permit is for this upload");
    object_delete(tx, object.row, now).await
}

/// Removes an object to which no run refers; whether it was there and is not any more. Its segments go later.
async fn object_delete(tx: &mut Tx, object: ObjectRow, now: Time) -> Result<bool> {
    // From now on they wait for who may still be reading them.
    sqlx::query(
        "UPDATE segment SET touched_at = $1 WHERE id IN (SELECT segment_id FROM object_segment WHERE object_id = $2)",
    )
    .bind(now.micros())
    .bind(object.0)
    .execute(tx.conn())
    .await?;
    let done = sqlx::query(
        "DELETE FROM object WHERE id = $1 AND NOT EXISTS (SELECT 1 FROM run WHERE run.input_object = $1) \
         AND NOT EXISTS (SELECT 1 FROM run WHERE run.result_object = $1)",
    )
    .bind(object.0)
    .execute(tx.conn())
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Where the pieces of an object are: each with the place in the object at which it begins, and its length.
pub(crate) async fn segment_list(conn: &mut AnyConnection, object: ObjectRow) -> Result<Vec<(SegmentKey, u64, u64)>> {
    let rows = sqlx::query(
        "SELECT segment.digest, segment.id, object_segment.start, segment.size FROM object_segment \
         JOIN segment ON segment.id = object_segment.segment_id WHERE object_segment.object_id = $1 \
         ORDER BY object_segment.start",
    )
    .bind(object.0)
    .fetch_all(conn)
    .await?;
    rows.iter()
        .map(|row| {
            let key = SegmentKey { digest: read_digest(row.try_get(0)?)?, number: row.try_get(1)? };
            Ok((key, count(row.try_get(2)?), count(row.try_get(3)?)))
        })
        .collect()
}

/// As [`segment_list`], for an upload that goes on.
pub(crate) async fn upload_segments(conn: &mut AnyConnection, upload: &Upload) -> Result<Vec<(SegmentKey, u64, u64)>> {
    segment_list(conn, upload.row).await
}

/// Objects from `after` on to which no run refers and that nobody touched since `before`: some of them, and where to go
/// on; `None` at the end.
pub(crate) async fn unused_list(
    conn: &mut AnyConnection,
    after: ObjectRow,
    before: Time,
    limit: i64,
) -> Result<(Vec<ObjectRow>, Option<ObjectRow>)> {
    let rows = sqlx::query(
        "SELECT id, touched_at, CAST(CASE WHEN EXISTS (SELECT 1 FROM run WHERE run.input_object = object.id) \
         OR EXISTS (SELECT 1 FROM run WHERE run.result_object = object.id) THEN 1 ELSE 0 END AS BIGINT) \
         FROM object WHERE id > $1 ORDER BY id LIMIT $2",
    )
    .bind(after.0)
    .bind(limit)
    .fetch_all(conn)
    .await?;
    let mut unused = Vec::new();
    let mut last = None;
    for row in &rows {
        let object = ObjectRow(row.try_get(0)?);
        if row.try_get::<i64, _>(1)? < before.micros() && row.try_get::<i64, _>(2)? == 0 {
            unused.push(object);
        }
        last = Some(object);
    }
    Ok((unused, last))
}

impl ObjectRow {
    /// Before the first.
    pub(crate) const START: Self = Self(0);
}

/// Removes an object if still no run refers to it and nobody touched it since `before`; whether it did.
pub(crate) async fn unused_delete(tx: &mut Tx, object: ObjectRow, before: Time, now: Time) -> Result<bool> {
    let row =
        sqlx::query("SELECT touched_at FROM object WHERE id = $1").bind(object.0).fetch_optional(tx.conn()).await?;
    match row {
        Some(row) if row.try_get::<i64, _>(0)? < before.micros() => object_delete(tx, object, now).await,
        Some(_) | None => Ok(false),
    }
}

/// Marks segments that no object has and that nobody touched since `before` as being removed: some of those after
/// `after`, and where to go on; `None` at the end.
pub(crate) async fn segments_doom(
    tx: &mut Tx,
    after: i64,
    before: Time,
    limit: i64,
) -> Result<(Vec<SegmentKey>, Option<i64>)> {
    let rows = sqlx::query("SELECT id FROM segment WHERE id > $1 ORDER BY id LIMIT $2")
        .bind(after)
        .bind(limit)
        .fetch_all(tx.conn())
        .await?;
    let Some(last) = rows.last() else { return Ok((Vec::new(), None)) };
    let last: i64 = last.try_get(0)?;
    let rows = sqlx::query(
        "DELETE FROM segment WHERE id > $1 AND id <= $2 AND touched_at < $3 \
         AND NOT EXISTS (SELECT 1 FROM object_segment WHERE object_segment.segment_id = segment.id) \
         RETURNING id, digest",
    )
    .bind(after)
    .bind(last)
    .bind(before.micros())
    .fetch_all(tx.conn())
    .await?;
    let mut doomed = Vec::new();
    for row in &rows {
        let (number, digest): (i64, String) = (row.try_get(0)?, row.try_get(1)?);
        sqlx::query("INSERT INTO doomed_segment (id, digest) VALUES ($1, $2)")
            .bind(number)
            .bind(digest.as_str())
            .execute(tx.conn())
            .await?;
        doomed.push(SegmentKey { digest: read_digest(digest)?, number });
    }
    Ok((doomed, Some(last)))
}

/// Segments that are being removed.
pub(crate) async fn doomed_list(conn: &mut AnyConnection, limit: i64) -> Result<Vec<SegmentKey>> {
    let rows = sqlx::query("SELECT id, digest FROM doomed_segment ORDER BY id LIMIT $1").bind(limit).fetch_all(conn);
    let read = |row: &AnyRow| Ok(SegmentKey { digest: read_digest(row.try_get(1)?)?, number: row.try_get(0)? });
    rows.await?.iter().map(read).collect()
}

/// Forgets a segment that is removed.
pub(crate) async fn doomed_delete(tx: &mut Tx, segment: SegmentKey) -> Result<()> {
    sqlx::query("DELETE FROM doomed_segment WHERE id = $1").bind(segment.number).execute(tx.conn()).await?;
    Ok(())
}

/// An object that an organization has uploaded whole. To be attached in the transaction in which it is asked for, so
/// that it is not removed in between.
pub(crate) async fn object_claim(
    tx: &mut Tx,
    id: ObjectId,
    organization: OrganizationId,
) -> Result<Option<KeptPayload>> {
    let object = object_fetch(tx.conn(), id).await?.filter(|object| object.organization_id == organization);
    Ok(object.and_then(|object| match object.stage {
        ObjectStage::Complete { digest, form } => Some(KeptPayload { number: object.row.0, digest, form }),
        ObjectStage::Uploading { .. } => None,
    }))
}

/// Takes up a chore that is due; whether it was due. The next time is set, so nobody else does it meanwhile.
pub(crate) async fn chore_take(tx: &mut Tx, name: &'static str, next: Time, now: Time) -> Result<bool> {
    let done = sqlx::query("UPDATE chore SET due_at = $1 WHERE name = $2 AND due_at <= $3")
        .bind(next.micros())
        .bind(name)
        .bind(now.micros())
        .execute(tx.conn())
        .await?;
    Ok(done.rows_affected() == 1)
}

/// Payloads that have an age at which they are removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Payload {
    Inputs,
    Results,
    Logs,
}

/// Removes payloads of runs that ended before an instant: of up to `limit` runs; of how many.
pub(crate) async fn payloads_clear(tx: &mut Tx, what: Payload, before: Time, limit: i64, now: Time) -> Result<u64> {
    let sql = match what {
        Payload::Inputs => {
            "UPDATE run SET input = NULL, input_object = NULL, cleanup_at = $1 WHERE id IN (SELECT id FROM run \
             WHERE finished_at IS NOT NULL AND input IS NOT NULL AND finished_at < $2 ORDER BY finished_at LIMIT $3)"
        }
        Payload::Results => {
            "UPDATE run SET result = NULL, result_object = NULL, cleanup_at = $1 WHERE id IN (SELECT id FROM run \
             WHERE finished_at IS NOT NULL AND result IS NOT NULL AND finished_at < $2 ORDER BY finished_at LIMIT $3)"
        }
        Payload::Logs => {
            "UPDATE run SET log = NULL, cleanup_at = $1 WHERE id IN (SELECT id FROM run \
             WHERE finished_at IS NOT NULL AND log IS NOT NULL AND finished_at < $2 ORDER BY finished_at LIMIT $3)"
        }
    };
    let done = sqlx::query(sql).bind(now.micros()).bind(before.micros()).bind(limit).execute(tx.conn()).await?;
    Ok(done.rows_affected())
}

fn read(row: &AnyRow) -> Result<ObjectRecord> {
    let corrupt = |value: &str, expected| StoreError::Corrupt { value: value.into(), expected };
    let (uuid, state): (String, String) = (row.try_get(1)?, row.try_get(2)?);
    let stage = match state.as_str() {
        "uploading" => ObjectStage::Uploading { hash_state: row.try_get(4)? },
        _ => {
            let form: String = row.try_get(6)?;
            let form = read_form(&form).ok_or_else(|| corrupt(&form, "a payload's form"))?;
            ObjectStage::Complete { digest: read_digest(row.try_get(5)?)?, form }
        }
    };
    let (kind, number): (String, i64) = (row.try_get(7)?, row.try_get(8)?);
    let uploader = match kind.as_str() {
        "user" => Uploader::User(UserId::new(number)),
        "node" => Uploader::Node(NodeId::new(number)),
        "run" => Uploader::Run(RunId::new(number)),
        _ => return Err(corrupt(&kind, "an uploader")),
    };
    Ok(ObjectRecord {
        row: ObjectRow(row.try_get(0)?),
        id: uuid.parse().map_err(|_| corrupt(&uuid, "a UUID"))?,
        size: count(row.try_get(3)?),
        stage,
        uploader,
        organization_id: OrganizationId::new(row.try_get(9)?),
    })
}

fn count(number: i64) -> u64 {
    u64::try_from(number).unwrap_or_default()
}

fn read_digest(text: String) -> Result<Digest> {
    text.parse().map_err(|_| StoreError::Corrupt { value: text, expected: "a SHA-256 digest" })
}

fn form_word(form: PayloadForm) -> &'static str {
    match form {
        PayloadForm::Plain => "plain",
        PayloadForm::Sealed => "sealed",
        PayloadForm::Vantage6Envelope => "vantage6_envelope",
        PayloadForm::Malformed => "malformed",
    }
}

fn read_form(word: &str) -> Option<PayloadForm> {
    let forms = [PayloadForm::Plain, PayloadForm::Sealed, PayloadForm::Vantage6Envelope, PayloadForm::Malformed];
    forms.into_iter().find(|form| form_word(*form) == word)
}
