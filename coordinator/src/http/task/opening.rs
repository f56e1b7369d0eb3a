//! Small tasks that are asked for at the same time are opened in one turn.
//!
//! Who finds nobody waiting starts a [`Call`], which stands in the line of those who want to write and takes along who
//! has come by the time it is its turn. Each is weighed as if they were alone, in the order in which they came; then all
//! are recorded by as many statements as one of them needs. So the time that a database takes to answer is waited for
//! once, and not by everybody one after the other. What is refused leaves the others alone, and when the database
//! objects to one, each is tried by itself. Large tasks have a turn of their own: a batch is short, and no large body
//! stays in memory when whoever sent it has left.

use std::collections::{BTreeSet, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::{io, mem};

use serde::Serialize;
use sqlx::AnyConnection;
use tokio::sync::oneshot;
use tracing::{Instrument as _, Span};
use twinmesh_protocol::digest::Digest;
use twinmesh_protocol::manifest::SignedManifest;
use twinmesh_protocol::wire::NewTask;

use super::repeat::find_repeated;
use super::weigh::{Places, Weighed, check_manifest, weigh};
use crate::authz::Actor;
use crate::http::AppState;
use crate::http::caller::{Caller, Visitor};
use crate::http::intake;
use crate::http::problem::Problem;
use crate::ledger::open::KnownInput;
use crate::store::opening::{CallerKey, Opening, task_insert_all};
use crate::store::task::TaskRecord;
use crate::store::{self, StoreError, Tx};

/// How many tasks are opened in one turn.
const MOST: usize = 32;
/// How many runs and databases they may have together: they are recorded in some tenths of a second, and others wait
/// meanwhile.
const MOST_ROWS: usize = 2048;
/// A task with more runs and databases is large.
const SMALL_ROWS: usize = 256;
/// So is one with more bytes than a body may have that needs no room in memory.
const SMALL_BYTES: usize = intake::SMALL;

/// A task that is asked for, and by whom.
#[derive(Debug, Clone)]
pub(crate) struct Asking {
    visitor: Visitor,
    /// The key that they chose for the request.
    key: Option<String>,
    request: NewTask,
    /// What its inputs look like.
    known: Vec<KnownInput>,
    /// Its image as a store has reviewed it, if one was asked.
    reviewed: Option<String>,
    /// What its manifest hashes to.
    digest: Option<Digest>,
}

impl Asking {
    pub(super) fn new(
        visitor: Visitor,
        key: Option<String>,
        request: NewTask,
        known: Vec<KnownInput>,
        reviewed: Option<String>,
    ) -> Self {
        let digest = request.manifest.as_ref().map(SignedManifest::digest);
        Self { visitor, key, request, known, reviewed, digest }
    }

    /// How many runs and databases it has.
    fn rows(&self) -> usize {
        self.request.organizations.len() + self.request.databases.as_ref().map_or(0, Vec::len)
    }

    fn is_small(&self) -> bool {
        let inputs = self.request.organizations.iter().map(|entry| entry.input.len()).sum::<usize>();
        self.rows() <= SMALL_ROWS && inputs <= SMALL_BYTES && is_within(&self.request, SMALL_BYTES)
    }
}

/// What has become of a task that was asked for.
#[derive(Debug)]
pub(super) enum Opened {
    /// It was opened.
    New(TaskRecord),
    /// The same request has opened it before.
    Repeated(TaskRecord),
}

type Answer = Result<Opened, Problem>;

/// Who waits for a small task to be opened. There is a [`Call`] on its way whenever there is somebody.
#[derive(Debug, Default)]
pub(crate) struct Openings(Mutex<VecDeque<Waiting>>);

#[derive(Debug)]
struct Waiting {
    asking: Asking,
    /// What their request is logged under.
    span: Span,
    answer: oneshot::Sender<Answer>,
}

impl Openings {
    fn lock(&self) -> MutexGuard<'_, VecDeque<Waiting>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Opens a task. Whoever stops waiting before it is their turn has not asked.
pub(super) async fn open(asking: Asking) -> Answer {
    let state = asking.visitor.state.clone();
    let runs = asking.request.organizations.len();
    if !asking.is_small() {
        let answer = open_alone(asking).await;
        note(&state, &answer, runs);
        return answer;
    }
    let (sender, answer) = oneshot::channel();
    let is_first = {
        let mut waiting = state.openings().lock();
        waiting.push_back(Waiting { asking, span: Span::current(), answer: sender });
        waiting.len() == 1
    };
    if is_first {
        tokio::spawn(serve(Call { state, was_taken: false }));
    }
    answer.await.unwrap_or_else(|_| Err(StoreError::NotCommitted.into()))
}

/// A job on its way to its turn to write, for those who wait.
struct Call {
    state: AppState,
    was_taken: bool,
}

impl Call {
    /// Who is served in this turn. For those who remain there is another call.
    fn take(mut self) -> Vec<Waiting> {
        let (mut batch, mut rows) = (Vec::new(), 0);
        let is_rest = {
            let mut waiting = self.state.openings().lock();
            while let Some(next) = waiting.front() {
                rows += next.asking.rows();
                if batch.len() == MOST || (rows > MOST_ROWS && !batch.is_empty()) {
                    break;
                }
                batch.extend(waiting.pop_front());
            }
            !waiting.is_empty()
        };
        self.was_taken = true;
        if is_rest {
            tokio::spawn(serve(Self { state: self.state.clone(), was_taken: false }));
        }
        batch.retain(|waiting| !waiting.answer.is_closed());
        batch
    }
}

impl Drop for Call {
    /// When it never comes to its turn, nobody comes for those who wait: each of them is told so.
    fn drop(&mut self) {
        if !self.was_taken {
            let waiting = mem::take(&mut *self.state.openings().lock());
            drop(waiting);
        }
    }
}

/// Waits for the turn, and answers who is there by then.
async fn serve(call: Call) {
    let state = call.state.clone();
    let turn = async {
        let tx = match state.store().write().await {
            Ok(tx) => tx,
            Err(error) => {
                tracing::error!("whoever asks for tasks cannot have their turn to write: {error}");
                drop(call);
                return (Vec::new(), Ok(Vec::new()));
            }
        };
        let batch = call.take();
        let asked: Vec<Asking> = batch.iter().map(|waiting| waiting.asking.clone()).collect();
        let span = match batch.as_slice() {
            [only] => only.span.clone(),
            _ => Span::none(),
        };
        let answers = open_all(tx, asked).instrument(span).await;
        (batch, answers)
    };
    // Who gets no answer is told that nothing was written; why stands in the log.
    match store::settled(turn).await {
        Ok((batch, Ok(answers))) => {
            for (waiting, answer) in batch.into_iter().zip(answers) {
                if let Some(answer) = answer {
                    waiting.tell(&state, answer);
                }
            }
        }
        Ok((mut batch, Err(Failure::Undone(problem)))) => {
            if batch.len() == 1
                && let Some(only) = batch.pop()
            {
                return only.tell(&state, Err(problem));
            }
            tracing::warn!(tasks = batch.len(), "one of several tasks stopped them all: each is tried by itself");
            let alone = batch.into_iter().map(async |waiting: Waiting| {
                let opened = open_alone(waiting.asking.clone()).instrument(waiting.span.clone());
                let answer = store::settled(opened).await.unwrap_or_else(|error| Err(error.into()));
                waiting.tell(&state, answer);
            });
            futures::future::join_all(alone).await;
        }
        Ok((_, Err(Failure::NotCommitted(error)))) | Err(error) => {
            tracing::error!("tasks that were opened could not be committed: {error}");
        }
    }
}

impl Waiting {
    fn tell(self, state: &AppState, answer: Answer) {
        self.span.in_scope(|| note(state, &answer, self.asking.request.organizations.len()));
        // Who has left has left.
        let _ = self.answer.send(answer);
    }
}

/// Counts and logs a new task.
fn note(state: &AppState, answer: &Answer, runs: usize) {
    if let Ok(Opened::New(task)) = answer {
        state.meter().task_created();
        tracing::info!(task.id = %task.id, runs, "task created");
    }
}

/// Opens a task in a turn of its own.
async fn open_alone(asking: Asking) -> Answer {
    let tx = asking.visitor.state.store().write().await?;
    match open_all(tx, vec![asking]).await {
        Ok(mut answers) => answers.pop().flatten().unwrap_or_else(|| Err(StoreError::NotCommitted.into())),
        Err(Failure::Undone(problem)) => Err(problem),
        Err(Failure::NotCommitted(error)) => Err(error.into()),
    }
}

/// Why nobody has an answer.
enum Failure {
    /// Something went wrong for one of them, and nothing was done.
    Undone(Problem),
    /// It is not known whether everything was done.
    NotCommitted(StoreError),
}

impl From<Problem> for Failure {
    fn from(problem: Problem) -> Self {
        Self::Undone(problem)
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self::Undone(error.into())
    }
}

/// Opens what may be opened, and makes it durable; an answer for each in their order.
async fn open_all(mut tx: Tx, asked: Vec<Asking>) -> Result<Vec<Option<Answer>>, Failure> {
    let mut answers: Vec<Option<Answer>> = asked.iter().map(|_| None).collect();
    let mut openings: Vec<(usize, Opening)> = Vec::new();
    // By which a later request would be seen to repeat an earlier one, once that is recorded.
    let (mut keys, mut digests) = (BTreeSet::new(), BTreeSet::new());
    // Nobody else writes meanwhile, so who they are and where they ask is asked once.
    let (mut actors, mut places) = (Actors::default(), Places::default());
    let mut is_written = false;
    for (place, asking) in asked.into_iter().enumerate() {
        let is_new_key = asking.key.as_ref().is_none_or(|key| keys.insert(key.clone()));
        let is_new_manifest = asking.digest.is_none_or(|digest| digests.insert(digest));
        if !is_new_key || !is_new_manifest {
            is_written |= insert(&mut tx, &mut openings, &mut answers).await?;
        }
        let weighed = match actors.find(tx.conn(), &asking.visitor).await {
            Ok(actor) => {
                let mut caller = asking.visitor.caller(actor, tx);
                let weighed = weigh_one(&mut caller, &mut places, asking).await;
                tx = caller.tx;
                weighed
            }
            Err(problem) => Err(problem),
        };
        match weighed {
            Ok(Decision::Open(opening)) => openings.push((place, *opening)),
            Ok(Decision::Repeat(task)) => answers[place] = Some(Ok(Opened::Repeated(*task))),
            Err(problem) if problem.is_ours() => return Err(problem.into()),
            Err(problem) => answers[place] = Some(Err(problem)),
        }
    }
    is_written |= insert(&mut tx, &mut openings, &mut answers).await?;
    if is_written {
        tx.commit().await.map_err(Failure::NotCommitted)?;
    }
    Ok(answers)
}

/// Who was asked about in a turn, and is as they were.
#[derive(Default)]
struct Actors(Vec<(Visitor, Actor)>);

impl Actors {
    async fn find(&mut self, conn: &mut AnyConnection, visitor: &Visitor) -> Result<Actor, Problem> {
        if let Some((_, actor)) = self.0.iter().find(|(known, _)| known.is(visitor)) {
            return Ok(actor.clone());
        }
        let actor = visitor.actor(conn).await?;
        self.0.push((visitor.clone(), actor.clone()));
        Ok(actor)
    }
}

/// Records tasks for those who are waiting at their places; whether there were any.
async fn insert(
    tx: &mut Tx,
    openings: &mut Vec<(usize, Opening)>,
    answers: &mut [Option<Answer>],
) -> Result<bool, StoreError> {
    if openings.is_empty() {
        return Ok(false);
    }
    let (places, openings): (Vec<usize>, Vec<Opening>) = mem::take(openings).into_iter().unzip();
    let tasks = task_insert_all(tx, openings).await?;
    for (place, task) in places.iter().zip(tasks) {
        answers[*place] = Some(Ok(Opened::New(task)));
    }
    Ok(true)
}

enum Decision {
    Open(Box<Opening>),
    Repeat(Box<TaskRecord>),
}

/// Decides what becomes of one. Nothing is written.
async fn weigh_one(caller: &mut Caller, places: &mut Places, asking: Asking) -> Result<Decision, Problem> {
    let Asking { key, request, known, reviewed, .. } = asking;
    if let Some(task) = find_repeated(caller, key.as_deref(), &request).await? {
        return Ok(Decision::Repeat(Box::new(task)));
    }
    let Weighed { mut task, opener, parent_manifest } = weigh(caller, places, request, &known).await?;
    if let Some(image) = reviewed {
        task.image = image;
    }
    check_manifest(caller, &task, parent_manifest.as_ref()).await?;
    let key = key.map(|key| CallerKey { caller: caller.actor.key(), key });
    Ok(Decision::Open(Box::new(Opening { opener, task, key, at: caller.now })))
}

/// Whether something has at most so many bytes as JSON.
fn is_within(value: &impl Serialize, most: usize) -> bool {
    struct Room(usize);
    impl io::Write for Room {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0 = self.0.checked_sub(bytes.len()).ok_or(io::ErrorKind::StorageFull)?;
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    serde_json::to_writer(Room(most), value).is_ok()
}
