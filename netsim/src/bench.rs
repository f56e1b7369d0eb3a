//! What things cost, measured on this machine in one run. Figures are printed, never judged.

mod coordinator;
mod link;

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use camino::{Utf8Path, Utf8PathBuf};
use clap::{Args, ValueEnum};
use serde::Serialize;
use serde_json::{Map, Value as Json, json};
use sha2::Digest as _;
use tokio::time::Instant;
use twinmesh_algorithms::IMAGE;
use twinmesh_client::ObjectSource;
use twinmesh_client::researcher::NewTaskRequest;
use twinmesh_protocol::digest::Digest;
use twinmesh_protocol::id::{CollaborationId, OrganizationId};
use twinmesh_protocol::key::OrganizationKey;
use twinmesh_protocol::manifest::Nonce;
use twinmesh_protocol::payload::SEALED_MAGIC;
use twinmesh_protocol::sealed::{Direction, SealContext, open, seal};
use twinmesh_protocol::wire::NewTaskDatabase;

use crate::clock;
use crate::data::GBSG2;
use crate::federation::{DATABASE, Federation, Hospital, Plan};
use crate::process::this_program;

const MIB: usize = 1 << 20;

/// What to measure.
#[derive(Debug, Args)]
pub struct Bench {
    /// Only these; all when absent.
    #[arg(value_enum)]
    only: Vec<Subject>,
    /// How many tasks the latencies are taken from.
    #[arg(long, default_value_t = 200)]
    tasks: usize,
    /// How much the coordinator is given.
    #[command(flatten)]
    scale: Scale,
    /// Prints JSON.
    #[arg(long)]
    json: bool,
}

/// How much a coordinator is given to carry.
#[derive(Debug, Args)]
pub struct Scale {
    /// How long each rate of the coordinator is measured.
    #[arg(long, default_value = "5", value_name = "SECONDS", value_parser = seconds)]
    span: Duration,
    /// From how many requests each latency of the coordinator is taken, unless the time is over before.
    #[arg(long, default_value_t = 500, value_name = "N")]
    samples: usize,
    /// How many finished tasks the coordinator has behind it, each with three runs.
    #[arg(long, default_value_t = 100_000, value_name = "N")]
    history: usize,
    /// How many event streams it holds open.
    #[arg(long, default_value_t = 1000, value_name = "N")]
    streams: usize,
}

fn seconds(text: &str) -> Result<Duration, String> {
    match text.parse() {
        Ok(seconds) if seconds > 0 => Ok(Duration::from_secs(seconds)),
        Ok(_) | Err(_) => Err("give whole seconds, at least 1".into()),
    }
}

/// A thing to measure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Subject {
    /// From POST to start, and from result to client.
    Latency,
    /// The same over two coordinators on one PostgreSQL: who asks is at the one, the node at the other.
    Instances,
    /// Sealing and opening payloads.
    Sealing,
    /// Sums of vectors over four twins, beside plain TCP.
    AllReduce,
    /// Memory of idle daemons, and the programs' sizes.
    Footprint,
    /// Tasks, lists, log-ins and events at a coordinator, on each engine.
    Coordinator,
    /// A payload of 1 GiB through the coordinator, and the memory that takes.
    Objects,
}

/// A measured figure.
#[derive(Debug, Clone, Serialize)]
struct Figure {
    what: String,
    value: f64,
    unit: &'static str,
}

/// Measures and prints.
///
/// # Errors
/// When a federation cannot be started or a task fails.
pub async fn run(bench: Bench) -> anyhow::Result<()> {
    let wanted = |subject| bench.only.is_empty() || bench.only.contains(&subject);
    let mut figures = Vec::new();
    if wanted(Subject::Sealing) {
        tokio::task::block_in_place(|| sealing(&mut figures))?;
    }
    if wanted(Subject::Footprint) || wanted(Subject::Latency) || wanted(Subject::Objects) {
        let mut lab = Lab::start(1, GBSG2).await?;
        let measured = async {
            if wanted(Subject::Footprint) {
                footprint(&lab.federation, &mut figures).await?;
            }
            if wanted(Subject::Latency) {
                latency(&lab.federation, "", bench.tasks, &mut figures).await?;
            }
            if wanted(Subject::Objects) {
                objects(&lab, &mut figures).await?;
            }
            anyhow::Ok(())
        }
        .await;
        lab.stop().await?;
        measured?;
    }
    if wanted(Subject::Instances) {
        instances(bench.tasks, &mut figures).await?;
    }
    if wanted(Subject::AllReduce) {
        let mut lab = Lab::start(4, GBSG2).await?;
        let measured = all_reduce(&lab.federation, &mut figures).await;
        lab.stop().await?;
        measured?;
    }
    if wanted(Subject::Coordinator) {
        coordinator::run(&bench.scale, &mut figures).await?;
    }
    print(&figures, bench.json)
}

/// A federation in a temporary folder.
struct Lab {
    federation: Federation,
    home: tempfile::TempDir,
}

impl Lab {
    async fn start(nodes: usize, data: &str) -> anyhow::Result<Self> {
        Self::with(nodes, data, |_| ()).await
    }

    async fn with(nodes: usize, data: &str, change: impl FnOnce(&mut Plan)) -> anyhow::Result<Self> {
        let home = tempfile::Builder::new().prefix("twinmesh-bench-").tempdir()?;
        let directory = Utf8PathBuf::from_path_buf(home.path().to_owned())
            .map_err(|path| anyhow::anyhow!("the temporary folder {} is not UTF-8", path.display()))?;
        let mut plan = Plan { nodes, ..Plan::new(&directory, data) };
        for node in 0..nodes {
            // Four vectors of 100 MiB and what is on its way have to fit.
            plan.extra_configuration.insert(node, "[runtime.limits]\nmemory = \"2GiB\"\n".into());
        }
        change(&mut plan);
        Ok(Self { federation: Federation::start(&plan, &this_program()?).await?, home })
    }

    async fn stop(&mut self) -> anyhow::Result<()> {
        self.federation.stop().await
    }
}

async fn ask(federation: &Federation, function: &str, kwargs: Json) -> anyhow::Result<(Vec<Json>, Timing)> {
    let Json::Object(kwargs) = kwargs else { bail!("arguments are given by name") };
    let organizations: Vec<OrganizationId> =
        federation.hospitals.iter().map(|hospital| hospital.organization).collect();
    ask_at(federation, function, kwargs, organizations).await
}

/// When what happened, in milliseconds.
struct Timing {
    post_to_start: f64,
    end_to_client: f64,
}

async fn ask_at(
    federation: &Federation,
    function: &str,
    kwargs: Map<String, Json>,
    organizations: Vec<OrganizationId>,
) -> anyhow::Result<(Vec<Json>, Timing)> {
    let client = &federation.researcher;
    let request = NewTaskRequest {
        organizations,
        kwargs,
        databases: vec![NewTaskDatabase { label: DATABASE.into(), ..NewTaskDatabase::default() }],
        ..NewTaskRequest::new(federation.collaboration, IMAGE, function)
    };
    let task = client.task(request).await?;
    client.wait(task.id).await?;
    let results = client.results(task.id).await?;
    let opened = clock::now();
    let created = task.created_at.context("the task has no time")?;
    let start = results.runs.iter().filter_map(|run| run.started_at).max().context("no run has a start")?;
    let end = results.runs.iter().filter_map(|run| run.finished_at).max().context("no run has an end")?;
    let timing = Timing {
        post_to_start: start.since(created).as_secs_f64() * 1e3,
        end_to_client: opened.since(end).as_secs_f64() * 1e3,
    };
    let values =
        results.contents()?.into_iter().map(|(_, content)| Ok(content.json()?)).collect::<anyhow::Result<_>>()?;
    Ok((values, timing))
}

/// Whoever asks is connected to one coordinator, the only node to another.
async fn instances(tasks: usize, figures: &mut Vec<Figure>) -> anyhow::Result<()> {
    let Some(server) = coordinator::server() else { return Ok(()) };
    let database = coordinator::Database::server(&server).await?;
    let mut lab = Lab::with(1, GBSG2, |plan| {
        plan.instances = 2;
        plan.database = Some(database.url().into());
    })
    .await?;
    let measured = async {
        let federation = &lab.federation;
        let node = federation.hospitals.first().and_then(Hospital::status).context("the node has no status")?;
        ensure!(node.coordinator.url != federation.researcher.api().base(), "all are at the same coordinator");
        latency(federation, "over two coordinators: ", tasks, figures).await
    }
    .await;
    lab.stop().await?;
    database.remove().await?;
    measured
}

async fn latency(
    federation: &Federation,
    where_from: &str,
    tasks: usize,
    figures: &mut Vec<Figure>,
) -> anyhow::Result<()> {
    let kwargs = || json!({"columns": ["age"]});
    // The first task also pays for what is made once.
    ask(federation, "summary_partial", kwargs()).await?;
    let (mut starts, mut ends, mut whole) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..tasks {
        let asked = Instant::now();
        let (_, timing) = ask(federation, "summary_partial", kwargs()).await?;
        whole.push(asked.elapsed().as_secs_f64() * 1e3);
        starts.push(timing.post_to_start);
        ends.push(timing.end_to_client);
    }
    for (what, mut values) in
        [("task recorded to run start", starts), ("run end to opened result", ends), ("asked to opened result", whole)]
    {
        values.sort_by(f64::total_cmp);
        for (name, share) in [("p50", 0.5), ("p99", 0.99), ("slowest", 1.0)] {
            let at = ((values.len() as f64 * share).ceil() as usize).clamp(1, values.len().max(1)) - 1;
            let value = *values.get(at).context("no task was measured: give --tasks of 1 or more")?;
            figures.push(Figure { what: format!("{where_from}{what}, {name} of {tasks}"), value, unit: "ms" });
        }
    }
    Ok(())
}

fn sealing(figures: &mut Vec<Figure>) -> anyhow::Result<()> {
    let (sender, receiver) = (OrganizationKey::generate(), OrganizationKey::generate());
    let context = SealContext {
        direction: Direction::Input,
        collaboration_id: CollaborationId::new(1),
        sender: OrganizationId::new(1),
        receiver: OrganizationId::new(2),
        nonce: Nonce::random(),
    };
    let content = vec![7; 256 * MIB];
    let mut best = [f64::MAX; 2];
    for _ in 0..3 {
        let begun = Instant::now();
        let sealed = seal(&sender, &receiver.public(), &context, &content)?;
        best[0] = best[0].min(begun.elapsed().as_secs_f64());
        let begun = Instant::now();
        let opened = open(&receiver, &sender.public(), &context, &sealed)?;
        best[1] = best[1].min(begun.elapsed().as_secs_f64());
        if opened != content {
            bail!("what was opened is not what was sealed");
        }
    }
    for (what, seconds) in ["sealing 256 MiB, one thread", "opening 256 MiB, one thread"].into_iter().zip(best) {
        figures.push(Figure { what: what.into(), value: content.len() as f64 / seconds / 1e6, unit: "MB/s" });
    }
    Ok(())
}

async fn all_reduce(federation: &Federation, figures: &mut Vec<Figure>) -> anyhow::Result<()> {
    for (name, elements, rounds) in [("1 MB", 125_000, 20), ("100 MB", 12_500_000, 3)] {
        let (results, _) =
            ask(federation, "allreduce_bench_twin", json!({"elements": elements, "rounds": rounds})).await?;
        // A round is over when the slowest twin has its sum.
        let round = |at: usize| {
            results.iter().filter_map(|twin| twin["seconds_per_round"][at].as_f64()).fold(f64::NAN, f64::max)
        };
        let mut seconds: Vec<f64> = (0..rounds).map(round).collect();
        seconds.sort_by(f64::total_cmp);
        let twins = seconds[rounds / 2];
        // What each twin sends in a ring: twice the vector less its own share.
        let bytes = elements * 8 * 2 * 3 / 4;
        let mut plain = Vec::new();
        for _ in 0..rounds.max(3) {
            plain.push(tokio::task::block_in_place(|| plain_ring(4, bytes))?);
        }
        plain.sort_by(f64::total_cmp);
        let plain = plain[plain.len() / 2];
        let mut figure = |what: String, value, unit| figures.push(Figure { what, value, unit });
        figure(format!("all-reduce of {name} over 4 twins, median of {rounds}"), twins * 1e3, "ms");
        figure(format!("plain loopback TCP, the same bytes in a ring of 4 ({name})"), plain * 1e3, "ms");
        figure(format!("all-reduce of {name}: times plain TCP"), twins / plain, "x");
    }
    Ok(())
}

/// Lets `members` threads in a ring each send `bytes` to the next one over loopback TCP at the same time, and returns
/// the seconds until all have received everything.
fn plain_ring(members: usize, bytes: usize) -> anyhow::Result<f64> {
    let listeners: Vec<TcpListener> =
        (0..members).map(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0))).collect::<Result<_, _>>()?;
    let mut pairs = Vec::new();
    for listener in &listeners {
        let sender = TcpStream::connect(listener.local_addr()?)?;
        sender.set_nodelay(true)?;
        pairs.push((sender, listener.accept()?.0));
    }
    let chunk = vec![1_u8; MIB.min(bytes)];
    let begun = Instant::now();
    std::thread::scope(|scope| -> anyhow::Result<()> {
        let mut threads = Vec::new();
        for (sender, receiver) in &pairs {
            threads.push(scope.spawn(|| -> std::io::Result<()> {
                let mut sender: &TcpStream = sender;
                let mut left = bytes;
                while left > 0 {
                    let part = left.min(chunk.len());
                    sender.write_all(&chunk[..part])?;
                    left -= part;
                }
                Ok(())
            }));
            threads.push(scope.spawn(|| -> std::io::Result<()> {
                let mut receiver: &TcpStream = receiver;
                let mut buffer = vec![0; MIB];
                let mut left = bytes;
                while left > 0 {
                    match receiver.read(&mut buffer)? {
                        0 => return Err(std::io::ErrorKind::UnexpectedEof.into()),
                        read => left -= read,
                    }
                }
                Ok(())
            }));
        }
        for thread in threads {
            thread.join().map_err(|_| anyhow::anyhow!("a thread of the ring ended early"))??;
        }
        Ok(())
    })?;
    Ok(begun.elapsed().as_secs_f64())
}

/// A figure of a process in MiB, by its name in `/proc/PID/status`.
fn memory(pid: u32, name: &str) -> anyhow::Result<f64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find(|line| line.starts_with(name));
    let line = line.with_context(|| format!("no {name} in /proc"))?;
    let kib: f64 = line.split_whitespace().nth(1).with_context(|| format!("{name} has no value"))?.parse()?;
    Ok(kib / 1024.0)
}

/// What nodes and clients do with large results and inputs: up from a file, down in pieces.
async fn objects(lab: &Lab, figures: &mut Vec<Figure>) -> anyhow::Result<()> {
    const SIZE: usize = 1 << 30;
    let path = lab.home.path().join("payload");
    let mut hash = sha2::Sha256::new();
    {
        let mut file = std::io::BufWriter::new(std::fs::File::create(&path)?);
        // Begins as what is sealed does; every piece is another one, so that all of them are stored.
        let mut piece = vec![0_u8; MIB];
        for number in 0..SIZE / MIB {
            piece[..5].copy_from_slice(&SEALED_MAGIC);
            piece[5..13].copy_from_slice(&number.to_be_bytes());
            hash.update(&piece);
            file.write_all(&piece)?;
        }
        file.flush()?;
    }
    let digest = Digest::from_bytes(hash.finalize().into());
    let api = lab.federation.researcher.api();
    let pid = coordinator_pid(&lab.federation).context("the coordinator does not run")?;
    // What is made once is not counted.
    let small = bytes::Bytes::from_static(b"AAAA");
    api.object_upload(&ObjectSource::Memory(small.clone()), Digest::of(&small)).await?;
    // The peak is counted from here on (proc_pid_clear_refs(5)).
    std::fs::write(format!("/proc/{pid}/clear_refs"), "5").context("cannot count the coordinator's memory anew")?;
    let before = memory(pid, "VmRSS:")?;
    let begun = Instant::now();
    let id = api.object_upload(&ObjectSource::File { path, size: SIZE as u64 }, digest).await?;
    let up = begun.elapsed().as_secs_f64();
    let begun = Instant::now();
    let mut reader = api.object_open(id).await?;
    let mut hash = sha2::Sha256::new();
    while let Some(piece) = reader.next().await? {
        hash.update(&piece);
    }
    let down = begun.elapsed().as_secs_f64();
    if Digest::from_bytes(hash.finalize().into()) != digest {
        bail!("what came down is not what went up");
    }
    let mut figure = |what: &str, value, unit| figures.push(Figure { what: what.into(), value, unit });
    figure("payload of 1 GiB, up", SIZE as f64 / up / 1e6, "MB/s");
    figure("payload of 1 GiB, down", SIZE as f64 / down / 1e6, "MB/s");
    figure("payload of 1 GiB: growth of the coordinator's memory", memory(pid, "VmHWM:")? - before, "MiB");
    Ok(())
}

async fn footprint(federation: &Federation, figures: &mut Vec<Figure>) -> anyhow::Result<()> {
    // Idle means that what start-up needed has been given back.
    tokio::time::sleep(Duration::from_secs(3)).await;
    let hospital = federation.hospitals.first().context("no hospital")?;
    for (what, pid) in [("coordinator", coordinator_pid(federation)), ("node", hospital.daemon.pid())] {
        let pid = pid.with_context(|| format!("the {what} does not run"))?;
        let value = resident(pid)?;
        figures.push(Figure { what: format!("{what}, resident memory when idle"), value, unit: "MiB" });
    }
    let program = this_program()?;
    let directory = program.parent().unwrap_or(Utf8Path::new("."));
    for name in ["twinmesh-coordinator", "twinmesh-node", "twinmesh", "twinmesh-algorithms", "twinmesh-netsim"] {
        // Only what was built beside this program can be measured.
        if let Ok(metadata) = std::fs::metadata(directory.join(name)) {
            let value = metadata.len() as f64 / MIB as f64;
            figures.push(Figure { what: format!("program {name}"), value, unit: "MiB" });
        }
    }
    Ok(())
}

fn coordinator_pid(federation: &Federation) -> Option<u32> {
    federation.instances.first()?.daemon.pid()
}

/// Resident memory of a process, in MiB.
fn resident(pid: u32) -> anyhow::Result<f64> {
    memory(pid, "VmRSS:")
}

fn print(figures: &[Figure], json: bool) -> anyhow::Result<()> {
    let mut text = String::new();
    if json {
        text = serde_json::to_string_pretty(figures)? + "\n";
    } else {
        let width = figures.iter().map(|figure| figure.what.chars().count()).max().unwrap_or(0);
        for Figure { what, value, unit } in figures {
            text.push_str(&format!("{what:<width$}  {value:>10.2} {unit}\n"));
        }
    }
    std::io::stdout().write_all(text.as_bytes()).context("cannot write the figures")
}
