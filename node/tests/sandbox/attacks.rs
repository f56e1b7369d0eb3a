//! What runs try. Each function is the algorithm of a run; it writes what it found as its result.

#![expect(unsafe_code, reason = "attacks make system calls that no safe wrapper offers")]

use std::{
    env, fs,
    io::{self, Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream, UdpSocket},
    os::{
        fd::{AsRawFd as _, BorrowedFd, OwnedFd},
        unix::net::UnixStream,
    },
    time::Duration,
};

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendFlags};

/// Executes the attack that the environment names.
pub(crate) fn main() -> i32 {
    let attack = env::var("ATTACK").unwrap_or_default();
    let report = match attack.as_str() {
        "look_around" => look_around(),
        "read" => read(),
        "identity" => identity(),
        "descriptors" => descriptors(),
        "calls" => calls(),
        "outside_network" => outside_network(),
        "signals" => signals(),
        "change_modes" => change_modes(),
        "fork" => fork(),
        "threads" => threads(),
        "fill_memory" => fill_memory(),
        "fill_temporary" => fill(&format!("{}/big", env::var("TEMPORARY_FOLDER").unwrap())),
        "fill_many" => fill_many(),
        "fill_unseen" => fill_unseen(),
        "fill_output" => return fill_output(),
        "replace_output" => replace_output(),
        "write_data" => write_data(),
        "flood" => flood(),
        "burn" => burn(),
        "exit" => return env::var("CODE").unwrap().parse().unwrap(),
        "crash" => std::process::abort(),
        "panic" => panic!("this algorithm panics"),
        "stubborn" => stubborn(),
        "ask_gateway" => ask_gateway(),
        "dial" => dial(),
        "serve" => serve(),
        other => panic!("there is no attack `{other}`"),
    };
    fs::write(env::var("OUTPUT_FILE").unwrap(), report).unwrap();
    0
}

fn outcome<T>(result: io::Result<T>) -> String {
    match result {
        Ok(_) => "possible".into(),
        Err(error) => error.raw_os_error().map_or_else(|| error.to_string(), |code| format!("errno {code}")),
    }
}

fn look_around() -> String {
    let read = |name: &str| fs::read_to_string(env::var(name).unwrap()).unwrap();
    let temporary = env::var("TEMPORARY_FOLDER").unwrap();
    fs::write(format!("{temporary}/note"), "kept").unwrap();
    let mut names: Vec<String> = env::vars().map(|(name, _)| name).collect();
    names.sort();
    let mut root: Vec<String> = fs::read_dir("/").map_or_else(
        |error| vec![error.kind().to_string()],
        |entries| entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect(),
    );
    root.sort();
    let data = env::var("DATA_0").map_or_else(|_| String::new(), |path| fs::read_to_string(path).unwrap());
    let more = env::var("DATA_1").map_or_else(|_| String::new(), |path| fs::read_to_string(path).unwrap());
    [
        read("INPUT_FILE"),
        read("TOKEN_FILE"),
        data,
        more,
        fs::read_to_string(format!("{temporary}/note")).unwrap(),
        names.join(" "),
        root.join(" "),
    ]
    .join("\n")
}

fn read() -> String {
    env::var("PATHS").unwrap().split(':').map(|path| format!("{path} {}\n", outcome(fs::read(path)))).collect()
}

fn identity() -> String {
    let capabilities = rustix::thread::capabilities(None).unwrap();
    let bounding = rustix::thread::CapabilitySet::all()
        .iter()
        .filter(|capability| rustix::thread::capability_is_in_bounding_set(*capability).unwrap_or(false))
        .count();
    format!(
        "uid {} gid {} effective {} permitted {} bounding {bounding} no_new_privs {}",
        rustix::process::getuid().as_raw(),
        rustix::process::getgid().as_raw(),
        capabilities.effective.bits(),
        capabilities.permitted.bits(),
        rustix::thread::no_new_privs().unwrap(),
    )
}

fn descriptors() -> String {
    (0..1024)
        .filter(|&descriptor| {
            // SAFETY: asks about a number.
            unsafe { libc::fcntl(descriptor, libc::F_GETFD) >= 0 }
        })
        .map(|descriptor| format!("{descriptor} "))
        .collect()
}

fn call(number: libc::c_long, arguments: [libc::c_long; 5]) -> io::Result<libc::c_long> {
    let [a, b, c, d, e] = arguments;
    // SAFETY: the arguments are numbers or null pointers, which the kernel refuses if it ever looks at them.
    let answer = unsafe { libc::syscall(number, a, b, c, d, e) };
    if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(answer) }
}

fn calls() -> String {
    let user = libc::c_long::from(libc::CLONE_NEWUSER);
    let mut report = String::new();
    for (name, number, arguments) in [
        ("unshare", libc::SYS_unshare, [user, 0, 0, 0, 0]),
        ("clone", libc::SYS_clone, [user | libc::c_long::from(libc::SIGCHLD), 0, 0, 0, 0]),
        ("clone3", libc::SYS_clone3, [0; 5]),
        ("mount", libc::SYS_mount, [0; 5]),
        ("umount", libc::SYS_umount2, [0; 5]),
        ("setns", libc::SYS_setns, [0; 5]),
        ("ptrace", libc::SYS_ptrace, [0; 5]),
        ("keyctl", libc::SYS_keyctl, [0; 5]),
        ("bpf", libc::SYS_bpf, [0; 5]),
        ("io_uring", libc::SYS_io_uring_setup, [0; 5]),
        ("userfaultfd", libc::SYS_userfaultfd, [0; 5]),
        ("perf", libc::SYS_perf_event_open, [0; 5]),
        ("memfd", libc::SYS_memfd_create, [0; 5]),
        ("shmget", libc::SYS_shmget, [0, 4096, 0o1600, 0, 0]),
        ("death_signal", libc::SYS_prctl, [1, 0, 0, 0, 0]),
        ("execve", libc::SYS_execve, [0; 5]),
        ("execveat", libc::SYS_execveat, [0; 5]),
        ("process_vm_readv", libc::SYS_process_vm_readv, [0; 5]),
        ("open_by_handle", libc::SYS_open_by_handle_at, [0; 5]),
        ("x32", libc::SYS_getpid | 0x4000_0000, [0; 5]),
    ] {
        report.push_str(&format!("{name} {}\n", outcome(call(number, arguments))));
    }
    for (name, family, kind, protocol) in [
        ("netlink", libc::AF_NETLINK, libc::SOCK_RAW, 0),
        ("packet", libc::AF_PACKET, libc::SOCK_RAW, 0),
        ("vsock", libc::AF_VSOCK, libc::SOCK_STREAM, 0),
        ("alg", libc::AF_ALG, libc::SOCK_SEQPACKET, 0),
        ("raw", libc::AF_INET, libc::SOCK_RAW, libc::IPPROTO_ICMP),
    ] {
        let arguments = [libc::c_long::from(family), libc::c_long::from(kind), libc::c_long::from(protocol), 0, 0];
        report.push_str(&format!("{name} {}\n", outcome(call(libc::SYS_socket, arguments))));
    }
    report
}

fn outside_network() -> String {
    let mut report = String::new();
    for address in env::var("ADDRESSES").unwrap().split(' ') {
        let address: SocketAddr = address.parse().unwrap();
        let connected = TcpStream::connect_timeout(&address, Duration::from_secs(2));
        report.push_str(&format!("tcp {address} {}\n", outcome(connected)));
        let sent = UdpSocket::bind("0.0.0.0:0").and_then(|socket| socket.send_to(b"out", address));
        report.push_str(&format!("udp {address} {}\n", outcome(sent)));
    }
    let path = env::var("UNIX").unwrap();
    report.push_str(&format!("unix {}\n", outcome(UnixStream::connect(path))));
    // A datagram pair could be turned elsewhere.
    let pair = call(libc::SYS_socketpair, [1, libc::c_long::from(libc::SOCK_DGRAM), 0, 0, 0]);
    report.push_str(&format!("pair {}\n", outcome(pair)));
    report
}

fn signals() -> String {
    let own = i32::try_from(std::process::id()).unwrap();
    let mut reached = Vec::new();
    let others = env::var("PIDS").unwrap();
    let others = others.split(' ').map(|pid| pid.parse::<i32>().unwrap());
    // In lite confinement the parent is the agent.
    let parent = i32::try_from(std::os::unix::process::parent_id()).unwrap();
    for pid in others
        .filter(|&pid| pid > 1)
        .chain([parent, -1].into_iter().filter(|&pid| pid != 0))
        .chain((1..64).filter(|&pid| pid != own))
    {
        // SAFETY: takes numbers; the signal is the null signal, which is not delivered.
        if unsafe { libc::kill(pid, 0) } == 0 {
            reached.push(pid);
        }
        for call_number in [libc::SYS_tkill, libc::SYS_pidfd_open] {
            if call(call_number, [libc::c_long::from(pid), 0, 0, 0, 0]).is_ok() {
                reached.push(pid);
            }
        }
    }
    format!("{reached:?}")
}

fn change_modes() -> String {
    let path = std::ffi::CString::new(env::var("PATHS").unwrap()).unwrap();
    let pointer = path.as_ptr() as libc::c_long;
    [
        ("chmod", libc::SYS_fchmodat, [libc::c_long::from(libc::AT_FDCWD), pointer, 0o777, 0, 0]),
        ("truncate", libc::SYS_truncate, [pointer, 0, 0, 0, 0]),
        ("times", libc::SYS_utimensat, [libc::c_long::from(libc::AT_FDCWD), pointer, 0, 0, 0]),
        ("unlink", libc::SYS_unlinkat, [libc::c_long::from(libc::AT_FDCWD), pointer, 0, 0, 0]),
    ]
    .into_iter()
    .map(|(name, number, arguments)| format!("{name} {}\n", outcome(call(number, arguments))))
    .collect()
}

fn fork() -> String {
    // SAFETY: the child, if there should be one, ends at once.
    match unsafe { libc::fork() } {
        0 => std::process::exit(0),
        -1 => outcome::<()>(Err(io::Error::last_os_error())),
        _ => "possible".into(),
    }
}

fn threads() -> String {
    let mut count = 0;
    loop {
        let spawned =
            std::thread::Builder::new().stack_size(16 * 1024).spawn(|| std::thread::sleep(Duration::from_secs(60)));
        match spawned {
            Ok(_) => count += 1,
            Err(_) => return count.to_string(),
        }
        if count > 20_000 {
            return "no end".into();
        }
    }
}

fn fill_memory() -> String {
    let mut held = Vec::new();
    loop {
        held.push(vec![1_u8; 1 << 20]);
        std::thread::sleep(Duration::from_millis(1));
        if held.len() > 4096 {
            return format!("{} MiB", std::hint::black_box(&held).len());
        }
    }
}

fn fill(path: &str) -> String {
    let mut file = fs::File::create(path).unwrap();
    let part = vec![1; 1 << 16];
    let mut written = 0_u64;
    loop {
        match file.write(&part) {
            Ok(count) => written += count as u64,
            Err(error) => return format!("{written} {}", outcome::<()>(Err(error))),
        }
        if written > 1 << 30 {
            return "no end".into();
        }
    }
}

fn fill_many() -> String {
    let folder = env::var("TEMPORARY_FOLDER").unwrap();
    for index in 0.. {
        if fs::write(format!("{folder}/{index}"), vec![1; 1 << 20]).is_err() {
            return index.to_string();
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    String::new()
}

/// Removes each file that it has made, and keeps it open.
fn fill_unseen() -> String {
    let name = format!("{}/file", env::var("TEMPORARY_FOLDER").unwrap());
    let mut held = Vec::new();
    for index in 0..60 {
        let mut file = fs::File::create(&name).unwrap();
        fs::remove_file(&name).unwrap();
        if file.write_all(&vec![1; 1 << 20]).is_err() {
            return index.to_string();
        }
        held.push(file);
        std::thread::sleep(Duration::from_millis(100));
    }
    String::new()
}

fn fill_output() -> i32 {
    let report = fill(&env::var("OUTPUT_FILE").unwrap());
    println!("{report}");
    0
}

fn replace_output() -> String {
    let output = env::var("OUTPUT_FILE").unwrap();
    let other = format!("{output}-other");
    let temporary = format!("{}/other", env::var("TEMPORARY_FOLDER").unwrap());
    fs::write(&temporary, "another").unwrap();
    [
        outcome(fs::remove_file(&output)),
        outcome(std::os::unix::fs::symlink("/etc/passwd", &other)),
        outcome(fs::rename(&temporary, &output)),
        outcome(fs::rename(&output, &other)),
        outcome(fs::hard_link(&output, &other)),
        outcome(fs::write(&other, "x")),
    ]
    .join("\n")
}

fn write_data() -> String {
    ["DATA_0", "INPUT_FILE", "TOKEN_FILE"]
        .map(|name| {
            let path = env::var(name).unwrap();
            format!("{} {}", outcome(fs::write(&path, "changed")), outcome(fs::remove_file(&path)))
        })
        .join("\n")
}

fn flood() -> String {
    println!("the first line");
    let line = "x".repeat(1023);
    for _ in 0..40 * 1024 {
        println!("{line}");
    }
    println!("the last line");
    "done".into()
}

fn burn() -> String {
    loop {
        std::hint::spin_loop();
    }
}

fn stubborn() -> String {
    // SAFETY: ignoring a signal runs no code of ours.
    unsafe { libc::signal(libc::SIGTERM, libc::SIG_IGN) };
    println!("started");
    loop {
        std::thread::sleep(Duration::from_secs(3600));
    }
}

/// A stream to the gateway or a twin, by whichever way this run has.
trait Stream: io::Read + io::Write {}
impl<T: io::Read + io::Write> Stream for T {}

fn open(address: Option<SocketAddrV4>) -> io::Result<Box<dyn Stream>> {
    match env::var("TWINMESH_CONTROL_FD") {
        Ok(control) => {
            let request = match address {
                Some(address) => format!(r#"{{"op":"dial","address":"{address}"}}"#),
                None => r#"{"op":"gateway"}"#.into(),
            };
            let stream: UnixStream = ask(control.parse().unwrap(), &request)?.into();
            stream.set_read_timeout(Some(Duration::from_secs(20)))?;
            Ok(Box::new(stream))
        }
        Err(_) => {
            let address = address.unwrap_or(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 8080));
            let stream = TcpStream::connect(address)?;
            stream.set_read_timeout(Some(Duration::from_secs(20)))?;
            Ok(Box::new(stream))
        }
    }
}

fn ask(control: i32, request: &str) -> io::Result<OwnedFd> {
    // SAFETY: the runtime says that this descriptor is open, and nobody closes it.
    let control = unsafe { BorrowedFd::borrow_raw(control) };
    rustix::net::send(control, request.as_bytes(), SendFlags::empty())?;
    receive(control)
}

fn receive(channel: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let mut text = [0; 1024];
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let received =
        rustix::net::recvmsg(channel, &mut [io::IoSliceMut::new(&mut text)], &mut ancillary, RecvFlags::empty())?;
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(mut descriptors) = message {
            return descriptors.next().ok_or_else(|| io::Error::other("no descriptor"));
        }
    }
    Err(io::Error::other(String::from_utf8_lossy(&text[..received.bytes]).into_owned()))
}

fn ask_gateway() -> String {
    let rounds = env::var("ROUNDS").map_or(1, |rounds| rounds.parse().unwrap());
    let mut report = String::new();
    for round in 0..rounds {
        let mut stream = open(None).unwrap();
        stream.write_all(format!("question {round}\n").as_bytes()).unwrap();
        stream.read_to_string(&mut report).unwrap();
    }
    report
}

fn dial() -> String {
    let address: SocketAddrV4 = env::var("ADDRESS").unwrap().parse().unwrap();
    let mut report = String::new();
    if env::var("WAIT").is_ok() {
        // The node opens what is to be dialed before its gateway answers.
        ask_gateway();
    }
    match open(Some(address)) {
        Ok(mut stream) => {
            stream.write_all(b"hello twin\n").unwrap();
            stream.read_to_string(&mut report).unwrap();
        }
        Err(error) => report = format!("refused: {error}"),
    }
    report
}

fn serve() -> String {
    let mut report = String::new();
    let mut stream: Box<dyn Stream> = match env::var("TWINMESH_CONTROL_FD") {
        Ok(control) => {
            let listening = ask(control.parse().unwrap(), r#"{"op":"listen","port":8888}"#).unwrap();
            println!("listening");
            // SAFETY: `listening` is open and outlives this.
            let channel = unsafe { BorrowedFd::borrow_raw(listening.as_raw_fd()) };
            Box::new(UnixStream::from(receive(channel).unwrap()))
        }
        Err(_) => {
            let listener = TcpListener::bind("0.0.0.0:8888").unwrap();
            println!("listening");
            let (stream, peer) = listener.accept().unwrap();
            report.push_str(&format!("{} ", peer.ip()));
            Box::new(stream)
        }
    };
    let mut byte = [0];
    while stream.read(&mut byte).unwrap() == 1 && byte[0] != b'\n' {
        report.push(char::from(byte[0]));
    }
    stream.write_all(b"served\n").unwrap();
    report
}
