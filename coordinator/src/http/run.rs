//! Runs (contract A.7.8).

pub(crate) mod list;
pub(crate) mod view;

use axum::Json;
use axum::response::{IntoResponse, Response};
use twinmesh_protocol::id::RunId;
use twinmesh_protocol::payload::{PayloadForm, classify};
use twinmesh_protocol::wire::{Run, RunPatch};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use self::view::{find, find_kept, missing, target, view};
use super::AppState;
use super::body::Body;
use super::caller::{Caller, Visitor};
use super::params::Params;
use super::path::Id;
use super::problem::Problem;
use crate::authz::action::{ReportRun, ViewRun};
use crate::ledger::open::KeptPayload;
use crate::ledger::run::{IllegalTransition, Report};
use crate::store;
use crate::store::run::RunPlace;

pub(crate) fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(list::runs)).routes(routes!(fetch, report))
}

/// One run.
#[utoipa::path(
    get, path = "/run/{id}", tag = "run",
    params(("include" = Option<String>, Query, description = "`task`: the task in place of its link")),
    responses((status = 200, body = Run)),
)]
async fn fetch(mut caller: Caller, params: Params, Id(id): Id<RunId>) -> Result<Response, Problem> {
    let place = find(&mut caller, id).await?;
    caller.permit::<ViewRun>(place.id, &target(&place))?;
    let record = store::run::run_fetch(caller.tx.conn(), place.id).await?.ok_or_else(|| missing(id))?;
    let runs = list::complete(&mut caller, vec![record], params.includes("task")).await?;
    let run = runs.into_iter().next().ok_or_else(|| missing(id))?;
    Ok(Json(run).into_response())
}

/// Takes a node's word for what became of its run.
#[utoipa::path(
    patch, path = "/run/{id}", tag = "run",
    request_body = RunPatch,
    responses(
        (status = 200, body = Run),
        (status = 413, description = "The body is larger than the operator allows: 256 MiB unless said otherwise"),
    ),
    security(("node" = [])),
)]
#[tracing::instrument(name = "http.run.report", skip_all, fields(run.id = %id))]
async fn report(visitor: Visitor, Id(id): Id<RunId>, Body(patch): Body<RunPatch>) -> Result<Response, Problem> {
    // A result may be long in coming, and takes a while to look at; nobody waits for either.
    let looks = patch.result.as_ref().map(|result| Looks::of(result));
    let mut caller = visitor.begin_write().await?;
    let place = find(&mut caller, id).await?;
    let permit = caller.permit::<ReportRun>(place.id, &target(&place))?;
    let report = Report { status: patch.status, started_at: patch.started_at, finished_at: patch.finished_at };
    let before = place.state.status();
    let state = report.apply(place.state, place.assigned_at, caller.now).map_err(refuse)?;
    let mut kept = None;
    if let (Some(result), Some(looks)) = (&patch.result, looks) {
        kept = find_kept(&mut caller, result).await?;
        check_result(looks, kept.as_ref(), &place)?;
    }
    let change = store::run::RunChange { state, result: patch.result.as_deref(), kept, log: patch.log.as_deref() };
    store::run::run_report(&mut caller.tx, permit, &place, change, caller.now).await?;
    let pending = caller.now.since(place.assigned_at);
    caller.commit().await?;
    visitor.state.meter().run_moved(before, state.status(), pending);
    tracing::info!(status = %state.status(), "run reported");
    // The answer holds the input, which may be long: others write again while it is read. Who asks is known by now.
    let mut tx = visitor.state.store().read().await?;
    let record = store::run::run_fetch(tx.conn(), place.id).await?.ok_or_else(|| missing(id))?;
    Ok(Json(view(&visitor.state, record, None)).into_response())
}

/// What the text of a result shows.
#[derive(Debug, Clone, Copy)]
struct Looks {
    form: PayloadForm,
    is_empty: bool,
    /// Whether it is base64 of any bytes at all.
    is_base64: bool,
}

impl Looks {
    fn of(result: &str) -> Self {
        let form = classify(result);
        let is_base64 = form != PayloadForm::Malformed || twinmesh_protocol::payload::from_text(result).is_ok();
        Self { form, is_empty: result.is_empty(), is_base64 }
    }
}

/// A result leaves its node protected where the collaboration is; the coordinator never keeps it in clear.
fn check_result(looks: Looks, kept: Option<&KeptPayload>, place: &RunPlace) -> Result<(), Problem> {
    match (kept.map_or(looks.form, |kept| kept.form), place.encrypted) {
        // A run without a result delivers nothing, which there is nothing to protect about.
        _ if looks.is_empty => Ok(()),
        (PayloadForm::Plain, false) | (PayloadForm::Sealed | PayloadForm::Vantage6Envelope, true) => Ok(()),
        // Any bytes may be a result, not only text (contract D.3).
        (PayloadForm::Malformed, false) if kept.is_none() && looks.is_base64 => Ok(()),
        (PayloadForm::Plain | PayloadForm::Malformed, true) => {
            Err(Problem::bad_request("result_not_encrypted", "The result is not encrypted, but the collaboration is"))
        }
        (PayloadForm::Sealed | PayloadForm::Vantage6Envelope, false) => {
            Err(Problem::bad_request("result_encrypted", "The result is encrypted, but the collaboration is not"))
        }
        (PayloadForm::Malformed, false) => {
            Err(Problem::bad_request("result_malformed", "The result is not base64 with padding"))
        }
    }
}

fn refuse(illegal: IllegalTransition) -> Problem {
    match illegal {
        IllegalTransition::Finished { status } => {
            Problem::bad_request("run_finished", "Cannot update an already finished algorithm run!")
                .with_detail(format!("The run ended as `{status}`."))
        }
        IllegalTransition::Backwards { .. } => Problem::bad_request("run_backwards", illegal.to_string()),
    }
}
