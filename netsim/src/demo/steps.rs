//! The analyses of the demonstration, one after the other, as a researcher would ask for them.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use serde_json::{Map, Value as Json, json};
use tokio::time::Instant;
use twinmesh_algorithms::IMAGE;
use twinmesh_client::researcher::NewTaskRequest;
use twinmesh_node::node::NodeStatus;
use twinmesh_overlay::Path;
use twinmesh_protocol::id::OrganizationId;
use twinmesh_protocol::time::Time;
use twinmesh_protocol::wire::NewTaskDatabase;

use super::plot::Curve;
use super::report::{Evidence, Latency, Row, Section, Value};
use crate::clock;
use crate::data::{GBSG2, gbsg2_reference, numeric_column};
use crate::evidence::{Marker, search};
use crate::federation::{DATABASE, Federation, Hospital};
use crate::process::POLL;

const FORMULA: &str = "cens ~ age + tsize + pnodes + horTh";
/// The value of the planted column in every row.
pub(super) const PLANTED_VALUE: &str = "8461937.25";
/// The times for which the reference has the survival of all patients.
const TIMES: [f64; 6] = [365.0, 730.0, 1000.0, 1500.0, 2000.0, 2500.0];

type Analysis<'a> = Pin<Box<dyn Future<Output = anyhow::Result<Section>> + Send + 'a>>;

/// An analysis of the demonstration.
pub(super) struct Step {
    pub(super) name: &'static str,
    pub(super) run: for<'a> fn(&'a Federation, &'a str, &'a mut Measured) -> Analysis<'a>,
}

pub(super) const ANALYSES: [Step; 5] = [
    Step {
        name: "federated summary",
        run: |federation, planted, measured| Box::pin(summary(federation, planted, measured)),
    },
    Step { name: "Kaplan-Meier curves", run: |federation, _, measured| Box::pin(survival(federation, measured)) },
    Step {
        name: "logistic regression by subtasks",
        run: |federation, _, measured| Box::pin(logistic(federation, measured)),
    },
    Step { name: "logistic regression by twins", run: |federation, _, measured| Box::pin(twins(federation, measured)) },
    Step { name: "secure sum by twins", run: |federation, _, measured| Box::pin(secure_sum(federation, measured)) },
];

/// What is measured along the way.
#[derive(Debug, Default)]
pub(super) struct Measured {
    post_to_start: Vec<f64>,
    end_to_client: Vec<f64>,
    /// Texts of results that must not be found at the coordinator.
    results: Vec<String>,
}

/// The opened results of a task by organization, and how long it took from asking.
struct Answer {
    by_organization: BTreeMap<OrganizationId, Json>,
    seconds: f64,
}

impl Answer {
    fn only(self) -> anyhow::Result<(Json, f64)> {
        let seconds = self.seconds;
        let value = self.by_organization.into_values().next().context("the task has no result")?;
        Ok((value, seconds))
    }
}

async fn ask(
    federation: &Federation,
    function: &str,
    everywhere: bool,
    kwargs: Json,
    measured: &mut Measured,
) -> anyhow::Result<Answer> {
    let Json::Object(kwargs) = kwargs else { bail!("arguments are given by name") };
    let client = &federation.researcher;
    let organizations: Vec<OrganizationId> =
        federation.hospitals.iter().map(|hospital| hospital.organization).collect();
    let request = NewTaskRequest {
        organizations: if everywhere { organizations } else { organizations.into_iter().take(1).collect() },
        kwargs: without_nulls(kwargs),
        databases: vec![NewTaskDatabase { label: DATABASE.into(), ..NewTaskDatabase::default() }],
        name: Some(function.into()),
        ..NewTaskRequest::new(federation.collaboration, IMAGE, function)
    };
    let asked = Instant::now();
    let task = client.task(request).await?;
    client.wait(task.id).await?;
    let results = client.results(task.id).await?;
    let opened = clock::now();
    let seconds = asked.elapsed().as_secs_f64();
    let mut by_organization = BTreeMap::new();
    let mut end = None;
    for run in results.runs {
        if let (Some(created), Some(started)) = (task.created_at, run.started_at) {
            measured.post_to_start.push(started.since(created).as_secs_f64() * 1e3);
        }
        end = end.max(run.finished_at);
        let content = run.outcome.with_context(|| format!("`{}` gave no result", run.organization))?;
        let value: Json = content.json().context("the result is no JSON")?;
        by_organization.insert(run.organization_id, value);
    }
    if let Some(end) = end {
        measured.end_to_client.push(opened.since(end).as_secs_f64() * 1e3);
    }
    Ok(Answer { by_organization, seconds })
}

fn without_nulls(kwargs: Map<String, Json>) -> Map<String, Json> {
    kwargs.into_iter().filter(|(_, value)| !value.is_null()).collect()
}

async fn summary(federation: &Federation, planted: &str, measured: &mut Measured) -> anyhow::Result<Section> {
    let columns = ["age", "tsize", "pnodes", "progrec", "estrec", "time"];
    let mut asked: Vec<&str> = columns.to_vec();
    asked.push(planted);
    let (value, seconds) = ask(federation, "summary", false, json!({"columns": asked}), measured).await?.only()?;
    ensure!(value["columns"][planted]["n"] == json!(686), "the planted column did not come back");
    let reference = gbsg2_reference();
    let mut rows = Vec::new();
    for column in columns {
        let found = &value["columns"][column];
        let pooled = numeric_column(GBSG2, column).with_context(|| format!("no column `{column}`"))?;
        let (min, max) = pooled.iter().fold((f64::MAX, f64::MIN), |(min, max), &x| (min.min(x), max.max(x)));
        let mean_sd = &reference["mean_sd"][column];
        rows.push(Row {
            name: column.into(),
            values: vec![
                Value::count(number(&found["n"])?, pooled.len() as f64),
                Value::real(number(&found["mean"])?, number(&mean_sd[0])?),
                Value::real(number(&found["sd"])?, number(&mean_sd[1])?),
                Value::count(number(&found["min"])?, min),
                Value::count(number(&found["max"])?, max),
            ],
        });
        measured.results.push(found["mean"].to_string());
    }
    Ok(Section {
        title: "a. Federated summary".into(),
        how: "a central function at hospital-1 asks every hospital by a subtask and merges their moments".into(),
        seconds,
        name_header: "COLUMN",
        headers: vec!["N", "MEAN", "SD", "MIN", "MAX"],
        decimals: 6,
        rows,
        notes: Vec::new(),
        curves: Vec::new(),
    })
}

async fn survival(federation: &Federation, measured: &mut Measured) -> anyhow::Result<Section> {
    let kwargs = json!({"time": "time", "event": "cens", "group": "horTh"});
    let (grouped, seconds) = ask(federation, "kaplan_meier", false, kwargs, measured).await?.only()?;
    let kwargs = json!({"time": "time", "event": "cens", "at": TIMES});
    let (all, more_seconds) = ask(federation, "kaplan_meier", false, kwargs, measured).await?.only()?;
    let reference = gbsg2_reference();
    let mut rows = Vec::new();
    let mut curves = Vec::new();
    for (group, mark, label) in [("no", 'o', "no hormonal therapy"), ("yes", '#', "hormonal therapy")] {
        let found = &grouped["groups"][group];
        let pooled = &reference[format!("km_horTh_{group}")];
        let count = |name: &str| anyhow::Ok(Value::count(number(&found[name])?, number(&pooled[name])?));
        rows.push(Row { name: label.into(), values: vec![count("n")?, count("events")?, count("median")?] });
        let points = found["points"].as_array().context("the curve has no points")?;
        let steps: Vec<(f64, f64)> = points
            .iter()
            .map(|point| anyhow::Ok((number(&point["time"])?, number(&point["survival"])?)))
            .collect::<anyhow::Result<_>>()?;
        let label = format!("{label}, median {:.0} days", number(&found["median"])?);
        curves.push(Curve { label, mark, steps });
    }
    let all = &all["groups"]["all"];
    let mut notes = vec!["All patients: survival at some days, federated and pooled.".to_owned()];
    let mut survival_rows = Vec::new();
    for (at, time) in all["survival_at"].as_array().context("no survival at times")?.iter().zip(TIMES) {
        let pooled = number(&reference["km"][format!("S({time:.0})")])?;
        survival_rows.push((time, Value::real(number(&at["survival"])?, pooled)));
        measured.results.push(at["survival"].to_string());
    }
    let mut checked: Vec<Value> = survival_rows.iter().map(|(_, value)| value.clone()).collect();
    checked.push(Value::count(number(&all["median"])?, number(&reference["km"]["median"])?));
    for (time, value) in &survival_rows {
        let mark = if value.agrees() { "ok" } else { "DIFFERS" };
        notes.push(format!("S({time:>4.0}) = {:.9}   {:.9}  {mark}", value.federated, value.pooled));
    }
    ensure!(checked.iter().all(Value::agrees), "survival of all patients differs from the pooled one: {checked:?}");
    Ok(Section {
        title: "b. Kaplan-Meier by hormonal therapy".into(),
        how: "hospitals send counts of events and censorings by day; the central function multiplies".into(),
        seconds: seconds + more_seconds,
        name_header: "GROUP",
        headers: vec!["N", "EVENTS", "MEDIAN"],
        decimals: 9,
        rows,
        notes: vec![notes.join("\n  ")],
        curves,
    })
}

async fn logistic(federation: &Federation, measured: &mut Measured) -> anyhow::Result<Section> {
    let (fit, seconds) = ask(federation, "logistic", false, json!({"formula": FORMULA}), measured).await?.only()?;
    measured.results.push(fit["deviance"].to_string());
    regression_section(
        "c. Logistic regression by subtasks",
        "iteratively reweighted least squares, one subtask at every hospital per iteration",
        &fit,
        seconds,
    )
}

async fn twins(federation: &Federation, measured: &mut Measured) -> anyhow::Result<Section> {
    let answer = ask(federation, "logistic_twin", true, json!({"formula": FORMULA}), measured).await?;
    let fits: Vec<String> = answer.by_organization.values().map(|fit| fit["coefficients"].to_string()).collect();
    ensure!(fits.windows(2).all(|pair| pair[0] == pair[1]), "twins came to different coefficients: {fits:?}");
    let (fit, seconds) = answer.only()?;
    regression_section(
        "d. The same regression by twins",
        "twins all-reduce gradient and information among themselves over the overlay; every one has the same bits",
        &fit,
        seconds,
    )
}

fn regression_section(title: &str, how: &str, fit: &Json, seconds: f64) -> anyhow::Result<Section> {
    let reference = gbsg2_reference();
    let reference = &reference["logistic cens ~ age+tsize+pnodes+horTh"];
    let mut rows = Vec::new();
    for coefficient in fit["coefficients"].as_array().context("the fit has no coefficients")? {
        let name = coefficient["name"].as_str().context("a coefficient has no name")?;
        let pooled = if name.contains("ntercept") { "const" } else { name };
        rows.push(Row {
            name: name.into(),
            values: vec![
                Value::real(number(&coefficient["estimate"])?, number(&reference["coef"][pooled])?),
                Value::real(number(&coefficient["standard_error"])?, number(&reference["se"][pooled])?),
            ],
        });
    }
    let deviance = Value::real(number(&fit["deviance"])?, number(&reference["deviance"])?);
    let note = format!(
        "deviance {:.9}, pooled {:.9}  {}; {} iterations",
        deviance.federated,
        deviance.pooled,
        if deviance.agrees() { "ok" } else { "DIFFERS" },
        fit["iterations"],
    );
    ensure!(deviance.agrees(), "{note}");
    ensure!(rows.len() == 5, "the fit has {} coefficients, not 5", rows.len());
    Ok(Section {
        title: title.into(),
        how: how.into(),
        seconds,
        name_header: "TERM",
        headers: vec!["COEFFICIENT", "STD ERROR"],
        decimals: 10,
        rows,
        notes: vec![note],
        curves: Vec::new(),
    })
}

async fn secure_sum(federation: &Federation, measured: &mut Measured) -> anyhow::Result<Section> {
    let answer = ask(federation, "secure_sum_twin", true, json!({"column": "pnodes"}), measured).await?;
    let pooled: f64 = numeric_column(GBSG2, "pnodes").context("no column `pnodes`")?.iter().sum();
    let names: BTreeMap<OrganizationId, &str> =
        federation.hospitals.iter().map(|hospital| (hospital.organization, hospital.name.as_str())).collect();
    let mut rows = Vec::new();
    for (organization, value) in &answer.by_organization {
        let name = names.get(organization).copied().unwrap_or("?");
        rows.push(Row {
            name: format!("total at {name}"),
            values: vec![Value::count(number(&value["total"])?, pooled)],
        });
    }
    Ok(Section {
        title: "e. Secure sum of positive lymph nodes".into(),
        how: "each twin splits its term into random shares modulo 2^64, one per twin; none sees another's term".into(),
        seconds: answer.seconds,
        name_header: "RESULT",
        headers: vec!["SUM"],
        decimals: 0,
        rows,
        notes: Vec::new(),
        curves: Vec::new(),
    })
}

/// Gathers what was measured, and searches the coordinator for what it must not have.
pub(super) async fn evidence(federation: &Federation, planted: &str, measured: Measured) -> anyhow::Result<Evidence> {
    let mut direct = 0;
    let mut relayed = 0;
    let mut paths: BTreeMap<Path, usize> = BTreeMap::new();
    let mut runtimes: BTreeMap<String, usize> = BTreeMap::new();
    let asked = clock::now();
    for hospital in &federation.hospitals {
        let status = fresh_status(hospital, asked).await?;
        direct += status.traffic.direct_sent;
        relayed += status.traffic.relayed_sent;
        for peer in status.overlay.into_iter().flat_map(|overlay| overlay.peers) {
            *paths.entry(peer.best).or_default() += 1;
        }
        let reason = status.runtime.reason.unwrap_or_else(|| "own namespaces, Landlock, seccomp and limits".into());
        *runtimes.entry(format!("sandbox {}: {reason}", status.runtime.strength)).or_default() += 1;
    }
    let markers = markers(federation, planted, &measured.results);
    let coordinator = federation.instances.first().context("there is no coordinator")?;
    let found = search(&coordinator.data, &markers).context("cannot search the coordinator's data")?;
    let log = crate::evidence::search_file(coordinator.daemon.log(), &markers)
        .context("cannot search the coordinator's log")?;
    let control = search(federation.directory(), &markers).context("cannot search the hospitals' data")?;
    let control: std::collections::BTreeSet<&str> = control
        .findings
        .iter()
        .filter(|finding| !finding.file.starts_with(&coordinator.data))
        .map(|finding| finding.marker.as_str())
        .collect();
    Ok(Evidence {
        post_to_start: Latency::of(measured.post_to_start),
        end_to_client: Latency::of(measured.end_to_client),
        twin_bytes_direct: direct,
        twin_bytes_relayed: relayed,
        paths: paths.into_iter().map(|(path, count)| format!("{path}: {} ({count} node ends)", why(path))).collect(),
        runtimes: runtimes.into_iter().map(|(runtime, count)| format!("{runtime} ({count} nodes)")).collect(),
        coordinator: found.and(log),
        control: control.len(),
    })
}

/// Why a stream between two nodes takes this path and no other.
fn why(path: Path) -> &'static str {
    match path {
        Path::DirectTcp => "the nodes can dial each other, and TCP carries bulk best",
        Path::DirectQuic => "the nodes can dial each other by UDP only",
        Path::Relayed => "no node could dial the other",
    }
}

/// A node's status that was written after `asked`: nodes write it every few seconds.
async fn fresh_status(hospital: &Hospital, asked: Time) -> anyhow::Result<NodeStatus> {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        match hospital.status() {
            Some(status) if status.updated_at > asked => return Ok(status),
            Some(_) | None if Instant::now() > deadline => bail!("`{}` writes no status", hospital.name),
            Some(_) | None => tokio::time::sleep(POLL).await,
        }
    }
}

/// What must not be found at the coordinator: the planted column's name and value, every patient's row, the texts of
/// inputs and results, and private keys.
fn markers(federation: &Federation, planted: &str, results: &[String]) -> Vec<Marker> {
    let text = |name: &str, text: &str| Marker { name: name.into(), bytes: text.as_bytes().to_vec() };
    let mut markers =
        vec![text("planted column name", planted), text("planted value", PLANTED_VALUE), text("formula", FORMULA)];
    for (row, line) in GBSG2.lines().enumerate().skip(1) {
        markers.push(text(&format!("row {row}"), line));
    }
    for (at, result) in results.iter().enumerate() {
        markers.push(text(&format!("result {at}"), result));
    }
    for hospital in &federation.hospitals {
        markers.push(Marker { name: format!("private key of {}", hospital.name), bytes: hospital.key.seed().to_vec() });
    }
    markers
}

fn number(value: &Json) -> anyhow::Result<f64> {
    value.as_f64().with_context(|| format!("`{value}` stands where a number should"))
}
