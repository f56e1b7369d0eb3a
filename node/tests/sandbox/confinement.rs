//! What a run can see and reach.

use std::{fs, os::unix::fs::PermissionsExt as _, time::Duration};

use camino::Utf8PathBuf;
use twinmesh_node::{
    runtime::{ExitCause, FileSource, Limit, OutputError, RunFile, Runtime as _, Strength},
    sandbox::SandboxRuntime,
};

use crate::support::{BOTH, Entries, FULL, LITE, Place, Skip, ending, entries, report, soon, start};

pub(crate) fn checks() -> Entries {
    entries! {
        BOTH: a_run_finds_its_files_and_environment;
        FULL: a_run_sees_an_empty_root;
        BOTH: a_run_reads_nothing_of_the_host;
        BOTH: a_run_has_no_powers;
        BOTH: a_run_inherits_no_descriptors;
        BOTH: dangerous_system_calls_are_refused;
        BOTH: a_run_reaches_no_network;
        BOTH: a_run_signals_nobody;
        LITE: a_run_changes_no_file_of_the_host;
        BOTH: a_builtin_run_makes_no_processes;
        BOTH: too_many_threads_are_stopped;
        BOTH: too_much_memory_is_stopped;
        FULL: a_full_temporary_folder_is_an_error;
        BOTH: a_full_shared_folder_ends_the_run;
        BOTH: files_that_are_removed_but_open_count;
        BOTH: a_file_is_no_larger_than_allowed;
        BOTH: a_result_that_is_too_large_is_refused;
        BOTH: the_result_file_cannot_be_replaced;
        BOTH: data_is_read_only;
        BOTH: a_flood_of_words_is_cut;
        BOTH: too_much_processor_time_is_stopped;
    }
}

fn file(path: &str, source: FileSource) -> RunFile {
    RunFile { path: path.into(), source }
}

async fn a_run_finds_its_files_and_environment(runtime: &SandboxRuntime) -> Result<(), Skip> {
    let place = Place::new();
    // A file that only its owner may read, in a directory that only its owner may enter.
    let private = place.join("private.csv");
    fs::write(&private, "a,b").unwrap();
    fs::set_permissions(&private, fs::Permissions::from_mode(0o600)).unwrap();
    let mut spec = place.spec("look_around");
    spec.files = vec![
        file("/mnt/data/private.csv", FileSource::Host(private)),
        file("/mnt/label.csv", FileSource::Bytes(b"c,d".to_vec())),
    ];
    spec.temporary = Some(place.join("shared"));
    let text = report(runtime, spec).await;
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[..5], ["the input", "the token", "a,b", "c,d", "kept"]);
    let control = if *runtime.strength() == Strength::Full { "" } else { " TWINMESH_CONTROL_FD" };
    let names = format!("ATTACK DATA_0 DATA_1 INPUT_FILE OUTPUT_FILE TEMPORARY_FOLDER TOKEN_FILE{control}");
    assert_eq!(lines[5], names);
    assert_eq!(fs::read_to_string(place.join("shared/note")).unwrap(), "kept");
    Ok(())
}

async fn a_run_sees_an_empty_root(runtime: &SandboxRuntime) -> Result<(), Skip> {
    let text = report(runtime, Place::new().spec("look_around")).await;
    assert_eq!(text.lines().last().unwrap(), "dev mnt proc tmp");
    Ok(())
}

async fn a_run_reads_nothing_of_the_host(runtime: &SandboxRuntime) -> Result<(), Skip> {
    let place = Place::new();
    fs::write(place.join("node.key"), "secret").unwrap();
    fs::create_dir_all(place.join("other/files")).unwrap();
    fs::write(place.join("other/files/input"), "secret").unwrap();
    let own = std::process::id();
    let paths: Vec<Utf8PathBuf> = vec![
        "/etc/passwd".into(),
        "/etc/hostname".into(),
        "/bin/sh".into(),
        place.join("node.key"),
        place.join("other/files/input"),
        place.join("run/run.json"),
        place.join("run/files/../../node.key"),
        "/proc/self/fd/4/../../node.key".into(),
        "/proc/1/environ".into(),
        format!("/proc/{own}/environ").into(),
        format!("/proc/{own}/mem").into(),
        format!("/proc/{own}/root/etc/passwd").into(),
        "/dev/mem".into(),
        "/dev/vda".into(),
    ];
    let mut spec = place.spec("read");
    spec.environment.insert("PATHS".into(), paths.iter().map(|path| path.as_str()).collect::<Vec<_>>().join(":"));
    let text = report(runtime, spec).await;
    assert_eq!(text.lines().count(), paths.len());
    assert!(!text.contains("possible"), "{text}");
    Ok(())
}

async fn a_run_has_no_powers(runtime: &SandboxRuntime) -> Result<(), Skip> {
    let text = report(runtime, Place::new().spec("identity")).await;
    assert!(text.contains("effective 0 permitted 0 "), "{text}");
    assert!(text.ends_with("no_new_privs true"), "{text}");
    // Without namespaces an ordinary user may not shrink this set, and gains nothing from it either.
    if *runtime.strength() == Strength::Full || rustix::process::geteuid().is_root() {
        assert!(text.contains(" bounding 0 "), "{text}");
    }
    // Root of a user namespace that knows nobody else is an ordinary user outside, and can become nobody else.
    let knows_others = !fs::read_to_string("/proc/self/uid_map").unwrap().trim_end().ends_with(" 1");
    assert!(!knows_others || !text.starts_with("uid 0 "), "{text}");
    if *runtime.strength() == Strength::Full {
        assert!(text.starts_with("uid 65534 gid 65534 "), "{text}");
    }
    Ok(())
}

async fn a_run_inherits_no_descriptors(runtime: &SandboxRuntime) -> Result<(), Skip> {
    let text = report(runtime, Place::new().spec("descriptors")).await;
    let expected = if *runtime.strength() == Strength::Full { "0 1 2 " } else { "0 1 2 3 4 5 " };
    assert_eq!(text, expected);
    Ok(())
}

async fn dangerous_system_calls_are_refused(runtime: &SandboxRuntime) -> Result<(), Skip> {
    let text = report(runtime, Place::new().spec("calls")).await;
    for line in text.lines() {
        let (name, outcome) = line.split_once(' ').unwrap();
        let expected = match name {
            "clone3" | "io_uring" | "memfd" | "shmget" | "x32" => "errno 38",
            _ => "errno 1",
        };
        assert_eq!(outcome, expected, "{name}");
    }
    Ok(())
}

async fn a_run_reaches_no_network(runtime: &SandboxRuntime) -> Result<(), Skip> {
    let place = Place::new();
    let loopback = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let anywhere = std::net::TcpListener::bind("0.0.0.0:0").unwrap();
    // Asks the routing table for this machine's own address; nothing is sent.
    let probe = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
    let own = probe.connect("192.0.2.1:9").and_then(|()| probe.local_addr()).map(|address| address.ip());
    let mut addresses = vec![loopback.local_addr().unwrap().to_string(), "192.0.2.1:80".into()];
    if let Ok(own) = own {
        addresses.push(format!("{own}:{}", anywhere.local_addr().unwrap().port()));
    }
    let socket = place.join("host.sock");
    let _unix = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let mut spec = place.spec("outside_network");
    spec.environment.insert("ADDRESSES".into(), addresses.join(" "));
    spec.environment.insert("UNIX".into(), socket.to_string());
    let text = report(runtime, spec).await;
    let is_full = *runtime.strength() == Strength::Full;
    for line in text.lines() {
        // In full confinement loopback is the run's own, where a datagram to a closed port can be sent; a pair reaches nothing,
        // because there are no other sockets in its file system and network.
        let is_harmless = is_full && (line.starts_with("udp 127.") || line.starts_with("pair"));
        assert!(is_harmless || !line.contains("possible"), "{text}");
    }
    Ok(())
}

async fn a_run_signals_nobody(runtime: &SandboxRuntime) -> Result<(), Skip> {
    let place = Place::new();
    let mut spec = place.spec("signals");
    spec.environment.insert("PIDS".into(), std::process::id().to_string());
    let text = report(runtime, spec).await;
    assert_eq!(text, "[]");
    Ok(())
}

async fn a_run_changes_no_file_of_the_host(runtime: &SandboxRuntime) -> Result<(), Skip> {
    let place = Place::new();
    let path = place.join("node.key");
    fs::write(&path, "secret").unwrap();
    let mut spec = place.spec("change_modes");
    spec.environment.insert("PATHS".into(), path.to_string());
    let text = report(runtime, spec).await;
    assert!(!text.contains("possible"), "{text}");
    assert_eq!(fs::read_to_string(&path).unwrap(), "secret");
    Ok(())
}

async fn a_builtin_run_makes_no_processes(runtime: &SandboxRuntime) -> Result<(), Skip> {
    assert_eq!(report(runtime, Place::new().spec("fork")).await, "errno 1");
    Ok(())
}

async fn too_many_threads_are_stopped(runtime: &SandboxRuntime) -> Result<(), Skip> {
    let place = Place::new();
    let mut spec = place.spec("threads");
    spec.limits.processes = 40;
    let (handle, exit) = ending(runtime, spec).await;
    match exit.cause {
        ExitCause::LimitExceeded(Limit::Processes) => {}
        ExitCause::Code(0) => assert_eq!(handle.output().await.unwrap(), b"39"),
        other => panic!("{other}"),
    }
    Ok(())
}

async fn too_much_memory_is_stopped(runtime: &SandboxRuntime) -> Result<(), Skip> {
    let place = Place::new();
    let mut spec = place.spec("fill_memory");
    spec.limits.memory_bytes = 128 << 20;
    let (_, exit) = ending(runtime, spec).await;
    assert_eq!(exit.cause, ExitCause::LimitExceeded(Limit::Memory));
    Ok(())
}

async fn a_full_temporary_folder_is_an_error(runtime: &SandboxRuntime) -> Result<(), Skip> {
    let place = Place::new();
    let mut spec = place.spec("fill_temporary");
    spec.limits.temporary_bytes = 8 << 20;
    let text = report(runtime, spec).await;
    assert_eq!(text, format!("{} errno 28", 8 << 20));
    Ok(())
}

async fn a_full_shared_folder_ends_the_run(runtime: &SandboxRuntime) -> Result<(), Skip> {
    let place = Place::new();
    let mut spec = place.spec("fill_many");
    spec.limits.temporary_bytes = 8 << 20;
    spec.temporary = Some(place.join("shared"));
    let (_, exit) = ending(runtime, spec).await;
    assert_eq!(exit.cause, ExitCause::LimitExceeded(Limit::Temporary));
    Ok(())
}

async fn files_that_are_removed_but_open_count(runtime: &SandboxRuntime) -> Result<(), Skip> {
    let place = Place::new();
    let mut spec = place.spec("fill_unseen");
    spec.limits.temporary_bytes = 8 << 20;
    spec.temporary = Some(place.join("shared"));
    let (_, exit) = ending(runtime, spec).await;
    assert_eq!(exit.cause, ExitCause::LimitExceeded(Limit::Temporary));
    Ok(())
}

async fn a_file_is_no_larger_than_allowed(runtime: &SandboxRuntime) -> Result<(), Skip> {
    let place = Place::new();
    let mut spec = place.spec("fill_temporary");
    spec.limits.file_bytes = 1 << 20;
    spec.temporary = Some(place.join("shared"));
    let (handle, exit) = ending(runtime, spec).await;
    match exit.cause {
        // The first process of its own tree is spared the signal and gets the error instead.
        ExitCause::Code(0) => assert_eq!(handle.output().await.unwrap(), format!("{} errno 27", 1 << 20).as_bytes()),
        ExitCause::Signal(libc::SIGXFSZ) => {}
        other => panic!("{other}"),
    }
    assert_eq!(fs::metadata(place.join("shared/big")).unwrap().len(), 1 << 20);
    Ok(())
}

async fn a_result_that_is_too_large_is_refused(runtime: &SandboxRuntime) -> Result<(), Skip> {
    let place = Place::new();
    let mut spec = place.spec("fill_output");
    spec.limits.file_bytes = 4 << 20;
    spec.limits.output_bytes = 1 << 20;
    let (handle, _) = ending(runtime, spec).await;
    assert!(matches!(handle.output().await, Err(OutputError::TooLarge { limit: 1_048_576 })));
    Ok(())
}

async fn the_result_file_cannot_be_replaced(runtime: &SandboxRuntime) -> Result<(), Skip> {
    let text = report(runtime, Place::new().spec("replace_output")).await;
    assert!(!text.contains("possible"), "{text}");
    Ok(())
}

async fn data_is_read_only(runtime: &SandboxRuntime) -> Result<(), Skip> {
    let place = Place::new();
    let data = place.join("data.csv");
    fs::write(&data, "a,b").unwrap();
    let mut spec = place.spec("write_data");
    spec.files = vec![file("/mnt/data/data.csv", FileSource::Host(data.clone()))];
    let text = report(runtime, spec).await;
    assert!(!text.contains("possible"), "{text}");
    assert_eq!(fs::read_to_string(data).unwrap(), "a,b");
    Ok(())
}

async fn a_flood_of_words_is_cut(runtime: &SandboxRuntime) -> Result<(), Skip> {
    let place = Place::new();
    let mut spec = place.spec("flood");
    spec.limits.log_bytes = 64 << 10;
    let (handle, exit) = ending(runtime, spec).await;
    assert_eq!(exit.cause, ExitCause::Code(0));
    let log = String::from_utf8(handle.log().await.unwrap()).unwrap();
    assert!(log.len() < 65 << 10, "{}", log.len());
    assert!(log.starts_with("the first line\n") && log.ends_with("the last line\n"));
    assert!(log.contains("bytes omitted"));
    Ok(())
}

async fn too_much_processor_time_is_stopped(runtime: &SandboxRuntime) -> Result<(), Skip> {
    let place = Place::new();
    let mut spec = place.spec("burn");
    spec.limits.cpu_time = Some(Duration::from_millis(200));
    let handle = start(runtime, spec).await;
    assert_eq!(soon(handle.wait()).await.cause, ExitCause::LimitExceeded(Limit::CpuTime));
    Ok(())
}
