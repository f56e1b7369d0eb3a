//! Tasks, runs, results and events.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Map, Value, json};
use twinmesh_protocol::id::{CollaborationId, EventSequence, OrganizationId, TaskId};
use twinmesh_protocol::manifest::SignedManifest;
use twinmesh_protocol::status::RunStatus;
use twinmesh_protocol::wire::{Event, NewTask, NewTaskDatabase, Task};

use super::Context;
use super::account::confirm;
use super::args::{ResultVerb, RunVerb, TaskCreate, TaskVerb};
use super::exit::{CliError, Exit};
use super::find;
use super::output::{note, printable, status_cell, to_json};
use super::table::{Cell, clean};
use crate::api::{Api, TaskFilter};
use crate::events::{After, Update};
use crate::file;
use crate::researcher::{Client, Delegate, NewTaskRequest, RunOutcome, TaskResults};

pub(super) async fn task(context: &Context<'_>, verb: TaskVerb) -> anyhow::Result<Exit> {
    let output = context.output;
    match verb {
        TaskVerb::Create(create) => return self::create(context, *create).await,
        TaskVerb::List { collaboration, status, subtasks } => {
            let api = context.api()?;
            let filter = TaskFilter {
                collaboration_id: find::collaboration_id(&api, collaboration.as_deref()).await?,
                parent_id: None,
                status,
                is_user_created: (!subtasks).then_some(true),
            };
            let tasks = api.task_list(&filter).await?;
            output.list(&tasks, &["ID", "NAME", "STATUS", "CREATED", "JOB", "IMAGE"], |task| {
                vec![
                    task.id.into(),
                    Cell::optional(task.name.as_deref().filter(|name| !name.is_empty())),
                    status_cell(task.status),
                    output.ago(task.created_at),
                    task.job_id.into(),
                    (&task.image).into(),
                ]
            })?;
        }
        TaskVerb::Get { task } => {
            let api = context.api()?;
            let task = find::found("task", task, api.task_get(task).await)?;
            show_task(context, &task)?;
            if !output.json {
                output.line("")?;
                list_runs(context, &api, task.id).await?;
            }
        }
        TaskVerb::Status { task } => {
            // The coordinator holds its answer to the question for the status alone.
            let status = find::found("task", task, context.api()?.task_get(task).await)?.status;
            if output.json {
                output.json(&json!({"status": status}))?;
            } else {
                output.line(status)?;
            }
        }
        TaskVerb::Wait { task } => {
            let client = context.client().await?;
            let status = wait(context, &client, task).await?;
            if output.json {
                output.json(&json!({"id": task, "status": status}))?;
            } else {
                output.line(status)?;
            }
            return Ok(if status.is_failed() { Exit::Failed } else { Exit::Done });
        }
        TaskVerb::Kill { task, yes } => {
            confirm(yes.yes, &format!("End task {task} and its subtasks?"))?;
            let words = find::found("task", task, context.api()?.task_kill(task).await)?;
            output.say(clean(&words));
        }
        TaskVerb::Delete { task, yes } => {
            confirm(yes.yes, &format!("Delete task {task} with its runs, subtasks and results?"))?;
            let words = find::found("task", task, context.api()?.task_delete(task).await)?;
            output.say(clean(&words));
        }
    }
    Ok(Exit::Done)
}

async fn create(context: &Context<'_>, create: TaskCreate) -> anyhow::Result<Exit> {
    let client = context.client().await?;
    let api = client.api();
    let kwargs = arguments(&create)?;
    let collaboration = find::collaboration(api, &create.collaboration).await?.id;
    let mut request = NewTaskRequest::new(collaboration, create.image, create.function);
    request.kwargs = kwargs;
    request.organizations = find::organizations(api, &create.organizations).await?;
    request.study = match &create.study {
        Some(study) => Some(find::study(api, study).await?.id),
        None => None,
    };
    request.databases =
        create.databases.into_iter().map(|label| NewTaskDatabase { label, ..NewTaskDatabase::default() }).collect();
    request.name = create.name;
    request.description = create.description;
    request.valid_for = create.valid_for;
    request.delegation = match (create.no_subtasks, create.delegate) {
        (true, _) => Delegate::Nothing,
        (false, functions) if functions.is_empty() => Delegate::ByConvention,
        (false, functions) => Delegate::Functions(functions.into_iter().collect()),
    };
    let new = client.prepare(request).await?;
    if create.dry_run {
        show_prepared(context, &new)?;
        return Ok(Exit::Done);
    }
    let task = client.submit(&new).await?;
    if !create.wait {
        context.output.say(format_args!(
            "Task {} was recorded; read its results with `twinmesh result get --task {}`.",
            task.id, task.id
        ));
        show_task(context, &task)?;
        return Ok(Exit::Done);
    }
    wait(context, &client, task.id).await?;
    print_results(context, &client.results(task.id).await?, None)
}

/// Tells what a task would be.
fn show_prepared(context: &Context<'_>, new: &NewTask) -> anyhow::Result<()> {
    let list = |items: Vec<String>| Cell::optional((!items.is_empty()).then(|| items.join(", ")));
    let manifest = new.manifest.as_ref().map(SignedManifest::read_unverified).transpose()?;
    let delegation = manifest.as_ref().and_then(|manifest| manifest.delegation.as_ref());
    let databases = new.databases.iter().flatten().map(|database| database.label.clone()).collect();
    context.output.item(
        new,
        vec![
            ("image", (&new.image).into()),
            ("organizations", list(new.organizations.iter().map(|organization| organization.id.to_string()).collect())),
            ("databases", list(databases)),
            ("subtasks", list(delegation.iter().flat_map(|delegation| delegation.functions.clone()).collect())),
            ("sealed and signed", if manifest.is_some() { "yes" } else { "no" }.into()),
            ("input characters", list(new.organizations.iter().map(|item| item.input.len().to_string()).collect())),
        ],
    )
}

/// The named arguments of the file and the command line; the latter win.
fn arguments(create: &TaskCreate) -> anyhow::Result<Map<String, Value>> {
    let mut arguments = match &create.input {
        Some(path) => {
            let name = if path == Path::new("-") { "stdin".into() } else { path.display().to_string() };
            let text = if path == Path::new("-") {
                std::io::read_to_string(std::io::stdin())
            } else {
                std::fs::read_to_string(path)
            };
            let text = text.with_context(|| format!("cannot read the input `{name}`"))?;
            serde_json::from_str(&text).map_err(|error| CliError::Usage {
                what: format!("the input `{name}` is no JSON object: {error}"),
                hint: "write named arguments, as in {\"columns\": [\"age\"]}",
            })?
        }
        None => Map::new(),
    };
    for argument in &create.arguments {
        arguments.insert(argument.name.clone(), argument.value.clone());
    }
    Ok(arguments)
}

fn show_task(context: &Context<'_>, task: &Task) -> anyhow::Result<()> {
    let output = context.output;
    let databases: Vec<&str> = task.databases.iter().map(|database| &*database.label).collect();
    output.item(
        task,
        vec![
            ("id", task.id.into()),
            ("name", Cell::optional(task.name.as_deref().filter(|name| !name.is_empty()))),
            ("status", status_cell(task.status)),
            ("image", (&task.image).into()),
            ("databases", Cell::optional((!databases.is_empty()).then(|| databases.join(", ")))),
            ("job", task.job_id.into()),
            ("parent", Cell::optional(task.parent.as_ref().map(|link| link.id))),
            ("collaboration", Cell::optional(task.collaboration.as_ref().map(|link| link.id))),
            ("signed", if task.manifest.is_some() { "yes" } else { "no" }.into()),
            ("created", output.ago(task.created_at)),
            ("finished", output.ago(task.finished_at)),
        ],
    )
}

/// Waits with a line on a terminal's stderr that tells how far the task is.
async fn wait(context: &Context<'_>, client: &Client, task: TaskId) -> anyhow::Result<RunStatus> {
    // Draws only where stderr is a terminal.
    let bar = if context.output.json { ProgressBar::hidden() } else { ProgressBar::new_spinner() };
    if bar.is_hidden() {
        return Ok(client.wait(task).await?);
    }
    if let Ok(style) = ProgressStyle::with_template("{spinner} {msg} ({elapsed})") {
        bar.set_style(style);
    }
    bar.set_message(format!("task {task}"));
    bar.enable_steady_tick(Duration::from_millis(120));
    let status = client
        .wait_with_progress(task, |progress| {
            let (finished, all) = (progress.finished(), progress.runs.len());
            bar.set_message(format!("task {task} is {}: {finished} of {all} organizations", progress.status));
        })
        .await;
    bar.finish_and_clear();
    Ok(status?)
}

pub(super) async fn run(context: &Context<'_>, verb: RunVerb) -> anyhow::Result<()> {
    let (api, output) = (context.api()?, context.output);
    match verb {
        RunVerb::List { task } => list_runs(context, &api, task).await,
        RunVerb::Logs { run } => {
            let run = find::found("run", run, api.run_get(run).await)?;
            let log = run.log.unwrap_or_default();
            if output.json {
                return output.json(&json!({"id": run.id, "status": run.status, "log": log}));
            }
            if log.trim().is_empty() {
                output.say(format_args!("Run {} ({}) wrote nothing.", run.id, run.status));
                return Ok(());
            }
            Ok(output.text(&format!("{}\n", printable(log.trim_end())))?)
        }
    }
}

async fn list_runs(context: &Context<'_>, api: &Api, task: TaskId) -> anyhow::Result<()> {
    let output = context.output;
    let mut runs = api.run_list(task).await?;
    if runs.is_empty() {
        // Tells an unknown task from one without runs.
        find::found("task", task, api.task_get(task).await)?;
    }
    runs.sort_by_key(|run| run.id);
    let names = organization_names(api).await?;
    output.list(&runs, &["RUN", "ORGANIZATION", "STATUS", "STARTED", "FINISHED", "NODE"], |run| {
        vec![
            run.id.into(),
            Cell::optional(run.organization.as_ref().map(|link| name_of(&names, link.id))),
            status_cell(run.status),
            output.ago(run.started_at),
            output.ago(run.finished_at),
            Cell::optional(run.node.as_ref().map(|node| &node.name)),
        ]
    })
}

async fn organization_names(api: &Api) -> anyhow::Result<BTreeMap<OrganizationId, String>> {
    let organizations = api.organization_list(None).await?;
    Ok(organizations.into_iter().map(|organization| (organization.id, organization.name)).collect())
}

fn name_of(names: &BTreeMap<OrganizationId, String>, id: i64) -> String {
    names.get(&OrganizationId::new(id)).cloned().unwrap_or_else(|| id.to_string())
}

pub(super) async fn result(context: &Context<'_>, verb: ResultVerb) -> anyhow::Result<Exit> {
    match verb {
        ResultVerb::List { task } => {
            let api = context.api()?;
            let mut results = api.result_list(task).await?;
            if results.is_empty() {
                // Tells an unknown task from one without results.
                find::found("task", task, api.task_get(task).await)?;
            }
            results.sort_by_key(|result| result.id);
            context.output.list(&results, &["RUN", "TASK", "CHARACTERS"], |result| {
                vec![
                    result.id.into(),
                    Cell::optional(result.task.as_ref().map(|link| link.id)),
                    Cell::optional(result.result.as_ref().map(String::len)),
                ]
            })?;
            Ok(Exit::Done)
        }
        ResultVerb::Get { task, collaboration, output } => {
            let client = context.client().await?;
            let collaboration = find::collaboration_id(client.api(), collaboration.as_deref()).await?;
            let results = client.results_in(task, collaboration).await?;
            if !results.is_made_here {
                let signed = match results.task.manifest {
                    Some(_) => "it is signed with your organization's key",
                    None => "nobody signed it",
                };
                note(&format!(
                    "note: task {task} was not made from here: {signed}, but that it is the task you mean is the \
                     coordinator's word"
                ));
            }
            print_results(context, &results, output.as_deref())
        }
    }
}

/// Prints each organization's result, and what went wrong where there is none.
fn print_results(context: &Context<'_>, results: &TaskResults, file: Option<&Path>) -> anyhow::Result<Exit> {
    let output = context.output;
    let items: Vec<Value> = results.runs.iter().map(result_json).collect();
    if let Some(path) = file {
        let mut bytes = serde_json::to_vec_pretty(&to_json(&items)?)?;
        bytes.push(b'\n');
        file::replace_private(path, &bytes).with_context(|| format!("cannot write `{}`", path.display()))?;
        output.say(format_args!("Wrote {} results to {}.", items.len(), path.display()));
    } else if output.json {
        output.json(&items)?;
    } else {
        for run in &results.runs {
            output.heading(&format!("{} (run {}, {})", clean(&run.organization), run.run_id, run.status))?;
            if let Ok(content) = &run.outcome {
                let text = match content.json::<Value>() {
                    Ok(value) => serde_json::to_string_pretty(&value)?,
                    Err(_) => String::from_utf8_lossy(content.bytes()).into_owned(),
                };
                output.line(printable(&text))?;
            }
        }
    }
    let unproven = results.runs.iter().filter(|run| run.outcome.is_ok() && !run.is_proven);
    let unproven: Vec<String> = unproven.map(|run| clean(&run.organization)).collect();
    if results.is_encrypted && !unproven.is_empty() {
        note(&format!(
            "note: that the results of {} are theirs, unaltered, is the coordinator's word: RSA keys prove nothing",
            unproven.join(", ")
        ));
    }
    let mut exit = Exit::Done;
    for error in results.runs.iter().filter_map(|run| run.outcome.as_ref().err()) {
        exit = Exit::Failed;
        let mut text = printable(&error.to_string());
        let mut cause: &dyn std::error::Error = error;
        while let Some(source) = cause.source() {
            text.push_str(&format!("\n  because: {source}"));
            cause = source;
        }
        note(&format!("error: {text}"));
    }
    Ok(exit)
}

fn result_json(run: &RunOutcome) -> Value {
    let (result, error) = match &run.outcome {
        Ok(content) => {
            let value = content.json::<Value>();
            (value.unwrap_or_else(|_| String::from_utf8_lossy(content.bytes()).into()), None)
        }
        Err(error) => (Value::Null, Some(error.to_string())),
    };
    json!({
        "run_id": run.run_id, "organization_id": run.organization_id, "organization": run.organization,
        "status": run.status, "started_at": run.started_at, "finished_at": run.finished_at,
        "result": result, "error": error,
    })
}

/// Prints events until stopped, or until so many came.
pub(super) async fn follow(
    context: &Context<'_>,
    after: Option<EventSequence>,
    count: Option<u64>,
) -> anyhow::Result<()> {
    let api = context.api()?;
    let output = context.output;
    let mut left = count.unwrap_or(u64::MAX);
    let mut events = api.events(after.map_or(After::Latest, After::Event));
    while left > 0 {
        match events.next().await {
            Some(Update::Event(event)) => {
                left -= 1;
                if output.json {
                    output.json_line(&event)?;
                } else {
                    output.line(event_line(&event))?;
                }
            }
            Some(Update::Connected { sequence }) => {
                output.say(format_args!("Following events after {sequence} of {}.", api.base()));
            }
            Some(Update::Disconnected { error }) if error.is_transient() => {
                output.say(format_args!("{error}; trying again."));
            }
            Some(Update::Disconnected { error }) => return Err(error.into()),
            None => break,
        }
    }
    Ok(())
}

fn event_line(event: &Event) -> String {
    let mut line = format!("{}  {:<15}", event.time.to_rfc3339(), event.kind.as_str());
    let mut field = |name: &str, value: Option<String>| {
        if let Some(value) = value {
            line.push_str(&format!("  {name} {value}"));
        }
    };
    field("task", event.task_id.map(|id| id.to_string()));
    field("run", event.run_id.map(|id| id.to_string()));
    field("status", event.status.map(|status| status.to_string()));
    field("organization", event.organization_id.map(|id| id.to_string()));
    field("node", event.node_id.map(|id| id.to_string()));
    field("collaboration", event.collaboration_id.map(|id: CollaborationId| id.to_string()));
    line
}
