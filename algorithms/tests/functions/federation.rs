//! A federation in one process: every run a thread, every node's gateway played by a few lines of HTTP.

use std::{
    collections::BTreeMap,
    io::{self, BufRead, BufReader, Read, Write},
    mem::MaybeUninit,
    net::{Ipv4Addr, TcpListener},
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::net::UnixStream,
    },
    path::PathBuf,
    sync::{
        Arc, Condvar, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use base64::{
    Engine,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use rustix::net::{
    AddressFamily, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recv,
    sendmsg, socketpair,
};
use serde_json::{Value, json};
use twinmesh_algorithms::{
    IMAGE, describe, run_in_thread,
    sdk::{Host, HostParts},
};
use twinmesh_protocol::environment::encode_value;

const DEADLINE: Duration = Duration::from_secs(60);

pub(crate) struct Federation {
    folder: tempfile::TempDir,
    port: u16,
    organizations: Vec<i64>,
    state: Mutex<State>,
    changed: Condvar,
    /// How many connections to the gateway are cut before they are answered.
    pub(crate) cut: AtomicUsize,
    /// How many requests the gateway answers with 503.
    pub(crate) unavailable: AtomicUsize,
}

#[derive(Default)]
struct State {
    tasks: BTreeMap<i64, Task>,
    runs: i64,
    keys: BTreeMap<String, i64>,
    /// Where connections for the listening runs go, by task and organization.
    listeners: BTreeMap<(i64, i64), OwnedFd>,
}

struct Task {
    parent: Option<i64>,
    runs: Vec<Run>,
}

struct Run {
    id: i64,
    organization: i64,
    status: &'static str,
    log: String,
    result: Option<Vec<u8>>,
}

impl Federation {
    /// Gives row i of the data to organization i mod `count`.
    pub(crate) fn new(csv: &str, count: usize) -> Arc<Self> {
        let folder = tempfile::tempdir().unwrap();
        let organizations: Vec<i64> = (1..=count as i64).collect();
        let (header, rows) = csv.split_once('\n').unwrap();
        for (index, organization) in organizations.iter().enumerate() {
            let mut part = format!("{header}\n");
            for row in rows.lines().skip(index).step_by(count) {
                part.push_str(row);
                part.push('\n');
            }
            std::fs::write(folder.path().join(format!("{organization}.csv")), part).unwrap();
        }
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let federation = Arc::new(Self {
            folder,
            port: listener.local_addr().unwrap().port(),
            organizations,
            state: Mutex::default(),
            changed: Condvar::new(),
            cut: AtomicUsize::new(0),
            unavailable: AtomicUsize::new(0),
        });
        let weak = Arc::downgrade(&federation);
        thread::spawn(move || {
            while let Ok((stream, _)) = listener.accept() {
                let Some(federation) = weak.upgrade() else { return };
                thread::spawn(move || federation.serve(stream.try_clone().unwrap(), stream));
            }
        });
        federation
    }

    pub(crate) fn tasks(&self) -> usize {
        self.state.lock().unwrap().tasks.len()
    }

    /// Runs a task and returns its results by organization, or the logs of the runs that failed.
    pub(crate) fn run(
        self: &Arc<Self>,
        organizations: &[i64],
        method: &str,
        kwargs: Value,
    ) -> Result<Vec<Value>, Vec<String>> {
        let input = json!({"method": method, "kwargs": kwargs}).to_string();
        let inputs = organizations.iter().map(|id| (*id, input.clone().into_bytes())).collect();
        let task = self.start(None, inputs, None);
        let state = self.await_end(task);
        let runs = &state.tasks[&task].runs;
        let failed: Vec<String> = runs.iter().filter(|run| run.result.is_none()).map(|run| run.log.clone()).collect();
        if !failed.is_empty() {
            return Err(failed);
        }
        Ok(runs.iter().map(|run| serde_json::from_slice(run.result.as_deref().unwrap()).unwrap()).collect())
    }

    fn await_end(&self, task: i64) -> std::sync::MutexGuard<'_, State> {
        let state = self.state.lock().unwrap();
        let open = |state: &mut State| state.tasks[&task].runs.iter().any(|run| run.status == "active");
        let (state, timeout) = self.changed.wait_timeout_while(state, DEADLINE, open).unwrap();
        assert!(!timeout.timed_out(), "task {task} does not end");
        state
    }

    fn start(self: &Arc<Self>, parent: Option<i64>, inputs: Vec<(i64, Vec<u8>)>, key: Option<String>) -> i64 {
        let mut state = self.state.lock().unwrap();
        if let Some(known) = key.as_ref().and_then(|key| state.keys.get(key)) {
            return *known;
        }
        let task = state.tasks.len() as i64 + 1;
        let mut runs = Vec::new();
        let mut hosts = Vec::new();
        for (organization, input) in inputs {
            state.runs += 1;
            let id = state.runs;
            hosts.push((id, self.environment(task, id, organization, &input)));
            runs.push(Run { id, organization, status: "active", log: String::new(), result: None });
        }
        state.tasks.insert(task, Task { parent, runs });
        state.keys.extend(key.map(|key| (key, task)));
        drop(state);
        for (run, mut environment) in hosts {
            let federation = Arc::clone(self);
            thread::spawn(move || {
                let control = environment.remove("CONTROL").map(|organization| {
                    let (near, far) = pair();
                    let federation = Arc::clone(&federation);
                    thread::spawn(move || federation.control(task, organization.parse().unwrap(), &far));
                    near
                });
                let outcome = Host::new(HostParts { environment, control })
                    .map_err(|error| describe(&error))
                    .and_then(|host| run_in_thread(host).map_err(|error| describe(&error)));
                federation.end(task, run, outcome);
            });
        }
        task
    }

    fn end(&self, task: i64, run: i64, outcome: Result<Vec<u8>, String>) {
        let mut state = self.state.lock().unwrap();
        let runs = &mut state.tasks.get_mut(&task).unwrap().runs;
        let run = runs.iter_mut().find(|other| other.id == run).unwrap();
        match outcome {
            Ok(result) => (run.status, run.result) = ("completed", Some(result)),
            Err(log) => (run.status, run.log) = ("crashed", log),
        }
        self.changed.notify_all();
    }

    /// The variables of a run. Runs without parent get a control channel instead of a network.
    fn environment(&self, task: i64, run: i64, organization: i64, input: &[u8]) -> BTreeMap<String, String> {
        let mut environment = self.variables(task, run, organization, input);
        if input.windows(5).any(|word| word == b"_twin") {
            environment.insert("CONTROL".to_owned(), organization.to_string());
        }
        environment
    }

    /// Runs a task's function once more at an organization, as if its process had been killed.
    pub(crate) fn again(&self, task: i64, organization: i64, method: &str, kwargs: &Value) -> Value {
        let input = json!({"method": method, "kwargs": kwargs}).to_string();
        let environment = self.variables(task, 1000, organization, input.as_bytes());
        let host = Host::new(HostParts { environment, control: None }).unwrap();
        serde_json::from_slice(&run_in_thread(host).unwrap()).unwrap()
    }

    pub(crate) fn output(&self, run: i64) -> PathBuf {
        self.folder.path().join(format!("run-{run}")).join("output")
    }

    pub(crate) fn variables(&self, task: i64, run: i64, organization: i64, input: &[u8]) -> BTreeMap<String, String> {
        let folder = self.folder.path().join(format!("run-{run}"));
        std::fs::create_dir_all(&folder).unwrap();
        let subject = json!({"sub": {
            "client_type": "container", "image": IMAGE, "databases": [{"label": "default"}], "node_id": organization,
            "collaboration_id": 1, "organization_id": organization, "task_id": task, "study_id": null, "store_id": null,
        }});
        let token = format!("e30.{}.c2ln", URL_SAFE_NO_PAD.encode(subject.to_string()));
        std::fs::write(folder.join("input"), input).unwrap();
        std::fs::write(folder.join("token"), token).unwrap();
        let path = |name: &str| folder.join(name).display().to_string();
        let data = self.folder.path().join(format!("{organization}.csv"));
        [
            ("INPUT_FILE", path("input")),
            ("OUTPUT_FILE", path("output")),
            ("TOKEN_FILE", path("token")),
            ("HOST", "http://127.0.0.1".to_owned()),
            ("PORT", self.port.to_string()),
            ("API_PATH", String::new()),
            ("USER_REQUESTED_DATABASE_LABELS", "default".to_owned()),
            ("DEFAULT_DATABASE_URI", data.display().to_string()),
            ("DEFAULT_DATABASE_TYPE", "csv".to_owned()),
            ("TWINMESH_RUN_SEED", format!("{:064x}", 1000 * task + organization)),
        ]
        .map(|(name, value)| (name.to_owned(), encode_value(&value)))
        .into()
    }

    /// Answers one request to a gateway.
    fn serve(self: &Arc<Self>, reader: impl Read, mut writer: impl Write) {
        if take_one(&self.cut) {
            return;
        }
        let Ok(request) = Request::read(reader) else { return };
        let (status, body) = if take_one(&self.unavailable) {
            (503, json!({"msg": "the coordinator is away"}))
        } else {
            self.answer(&request)
        };
        let body = body.to_string();
        let head = format!("HTTP/1.1 {status} X\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", body.len());
        let _sent = writer.write_all(format!("{head}{body}").as_bytes());
    }

    fn answer(self: &Arc<Self>, request: &Request) -> (u16, Value) {
        let (path, query) = request.target.split_once('?').unwrap_or((&request.target, ""));
        let query: BTreeMap<&str, &str> = query.split('&').filter_map(|pair| pair.split_once('=')).collect();
        let number = |name: &str| query[name].parse::<i64>().unwrap();
        let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
        match (request.method.as_str(), parts.as_slice()) {
            ("GET", ["organization"]) => {
                // Two pages, to see that both are read.
                let (first, second) = self.organizations.split_at(1);
                let page = if query.contains_key("page") { second } else { first };
                let data: Vec<_> = page.iter().map(|id| json!({"id": id, "name": format!("hospital {id}")})).collect();
                let next = (!query.contains_key("page")).then_some("/api/organization?page=2");
                (200, json!({"data": data, "links": {"next": next}}))
            }
            ("POST", ["task"]) => {
                let inputs: Vec<_> = request.body["organizations"]
                    .as_array()
                    .unwrap()
                    .iter()
                    .map(|entry| {
                        let input = STANDARD.decode(entry["input"].as_str().unwrap()).unwrap();
                        (entry["id"].as_i64().unwrap(), input)
                    })
                    .collect();
                if inputs.iter().any(|(id, _)| !self.organizations.contains(id)) {
                    return (400, json!({"msg": "Organization is not in the collaboration"}));
                }
                assert_eq!(request.body["image"], IMAGE);
                (201, json!({"id": self.start(Some(request.task), inputs, request.key.clone())}))
            }
            ("GET", ["task", task, "status"]) => {
                let task = task.parse().unwrap();
                let state = self.await_end(task);
                let done = state.tasks[&task].runs.iter().all(|run| run.status == "completed");
                (200, json!({"status": if done { "completed" } else { "failed" }}))
            }
            ("GET", ["run"]) => {
                let state = self.state.lock().unwrap();
                let runs = state.tasks[&number("task_id")].runs.iter().rev();
                let run = |run: &Run| json!({"id": run.id, "status": run.status, "log": run.log, "organization": {"id": run.organization}});
                (200, json!({"data": runs.map(run).collect::<Vec<_>>(), "links": {}}))
            }
            ("GET", ["result"]) => {
                let state = self.state.lock().unwrap();
                let runs = state.tasks[&number("task_id")].runs.iter().rev();
                let result = |run: &Run| {
                    let result = run.result.as_ref().map(|bytes| STANDARD.encode(bytes));
                    json!({"id": run.id, "result": result, "run": {"id": run.id}, "blob_storage_used": false})
                };
                (200, json!({"data": runs.map(result).collect::<Vec<_>>(), "links": {}}))
            }
            ("GET", ["vpn", "algorithm", "addresses"]) => {
                assert_eq!(query["label"], "twin");
                let state = self.state.lock().unwrap();
                let task = &state.tasks[&request.task];
                let address = |run: &Run| {
                    json!({
                        "ip": format!("100.64.0.{}", run.organization), "port": 49152, "label": "twin",
                        "organization_id": run.organization, "task_id": request.task, "parent_id": task.parent,
                    })
                };
                (200, json!({"addresses": task.runs.iter().map(address).collect::<Vec<_>>()}))
            }
            _ => (404, json!({"msg": format!("no route {path}")})),
        }
    }

    /// Plays the node's end of a run's control channel.
    fn control(self: &Arc<Self>, task: i64, own: i64, socket: &OwnedFd) {
        let mut text = [0; 4096];
        while let Ok((length @ 1.., _)) = recv(socket, &mut text[..], RecvFlags::empty()) {
            let request: Value = serde_json::from_slice(&text[..length]).unwrap();
            match request["op"].as_str().unwrap() {
                "gateway" => {
                    let (near, far) = UnixStream::pair().unwrap();
                    let federation = Arc::clone(self);
                    thread::spawn(move || federation.serve(near.try_clone().unwrap(), near));
                    pass(socket, far.as_fd());
                }
                "listen" => {
                    assert_eq!(request["port"], 8888);
                    let (near, far) = pair();
                    self.state.lock().unwrap().listeners.insert((task, own), near);
                    pass(socket, far.as_fd());
                }
                "dial" => {
                    let address = request["address"].as_str().unwrap();
                    let ip: Ipv4Addr = address.strip_suffix(":49152").unwrap().parse().unwrap();
                    let (near, far) = UnixStream::pair().unwrap();
                    match self.state.lock().unwrap().listeners.get(&(task, i64::from(ip.octets()[3]))) {
                        Some(listener) => {
                            let from = json!({"ok": true, "source": format!("100.64.0.{own}")});
                            say(listener, &from.to_string(), Some(near.as_fd()));
                            pass(socket, far.as_fd());
                        }
                        None => say(socket, r#"{"error":"nobody listens"}"#, None),
                    }
                }
                other => say(socket, &json!({"error": format!("no operation {other}")}).to_string(), None),
            }
        }
    }
}

struct Request {
    method: String,
    target: String,
    key: Option<String>,
    task: i64,
    body: Value,
}

impl Request {
    fn read(reader: impl Read) -> io::Result<Self> {
        let mut reader = BufReader::new(reader);
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let mut words = line.split(' ').map(str::to_owned);
        let (Some(method), Some(target)) = (words.next(), words.next()) else {
            return Err(io::ErrorKind::InvalidData.into());
        };
        let mut headers = BTreeMap::new();
        loop {
            let mut line = String::new();
            reader.read_line(&mut line)?;
            let Some((name, value)) = line.trim().split_once(": ") else { break };
            headers.insert(name.to_lowercase(), value.to_owned());
        }
        let length = headers.get("content-length").map_or(0, |length| length.parse().unwrap());
        let mut body = vec![0; length];
        reader.read_exact(&mut body)?;
        let payload = headers["authorization"].strip_prefix("Bearer ").unwrap().split('.').nth(1).unwrap();
        let claims: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload).unwrap()).unwrap();
        Ok(Self {
            method,
            target,
            key: headers.get("idempotency-key").cloned(),
            task: claims["sub"]["task_id"].as_i64().unwrap(),
            body: serde_json::from_slice(&body).unwrap_or_default(),
        })
    }
}

fn take_one(counter: &AtomicUsize) -> bool {
    counter.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |count| count.checked_sub(1)).is_ok()
}

fn pair() -> (OwnedFd, OwnedFd) {
    socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap()
}

fn pass(socket: &OwnedFd, descriptor: BorrowedFd<'_>) {
    say(socket, r#"{"ok":true}"#, Some(descriptor));
}

fn say(socket: &OwnedFd, text: &str, descriptor: Option<BorrowedFd<'_>>) {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    let descriptors = descriptor.as_slice();
    if !descriptors.is_empty() {
        assert!(ancillary.push(SendAncillaryMessage::ScmRights(descriptors)));
    }
    // The run may be gone.
    let _sent = sendmsg(socket, &[io::IoSlice::new(text.as_bytes())], &mut ancillary, SendFlags::NOSIGNAL);
}
