//! What confined runs can and cannot do, tried with real processes.
//!
//! This program is its own sandbox init, so that attacks are functions of it ([`attacks`]); hence it has no test harness and
//! understands the usual arguments itself: a filter, `--exact`, `--list`. No root is needed; under root the runs become `nobody`.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a test program"
)]

mod attacks;
mod confinement;
mod image;
mod lifecycle;
mod network;
mod support;

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    process::ExitCode,
    time::Instant,
};

use support::{Check, Mode, Skip};
use twinmesh_node::sandbox::{self, Minimum, SandboxRuntime, Settings};

fn main() -> ExitCode {
    sandbox::intercept(attacks::main);

    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let is_set = |name: &str| arguments.iter().any(|argument| argument == name);
    let filters: Vec<&String> =
        arguments.iter().filter(|argument| !argument.starts_with('-') && *argument != "terse").collect();
    let wanted = |name: &str| {
        filters.is_empty()
            || filters.iter().any(|filter| if is_set("--exact") { name == *filter } else { name.contains(*filter) })
    };
    let checks: Vec<(String, Mode, Check)> =
        [confinement::checks(), lifecycle::checks(), network::checks(), image::checks()]
            .into_iter()
            .flatten()
            .flat_map(|(modes, name, check)| {
                modes.iter().map(move |&mode| (format!("{}::{name}", mode.name()), mode, check))
            })
            .filter(|(name, _, _)| wanted(name))
            .collect();
    if is_set("--list") {
        // Nothing is ignored.
        for (name, _, _) in checks.iter().filter(|_| !is_set("--ignored")) {
            println!("{name}: test");
        }
        return ExitCode::SUCCESS;
    }
    run(&checks)
}

fn run(checks: &[(String, Mode, Check)]) -> ExitCode {
    let tokio = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let _guard = tokio.enter();
    let full = tokio.block_on(SandboxRuntime::new(Settings::default(), Minimum::Full));
    let lite = tokio.block_on(SandboxRuntime::new(Settings { lite: true, ..Settings::default() }, Minimum::Lite));
    println!("\nrunning {} tests", checks.len());
    let began = Instant::now();
    let (mut passed, mut skipped, mut failed) = (0, 0, Vec::new());
    for (name, mode, check) in checks {
        let runtime = match mode {
            Mode::Full => &full,
            Mode::Lite => &lite,
        };
        let outcome = match runtime {
            Ok(runtime) => catch_unwind(AssertUnwindSafe(|| tokio.block_on(check(runtime)))),
            Err(error) => Ok(Err(Skip(error.to_string()))),
        };
        match outcome {
            Ok(Ok(())) => {
                passed += 1;
                println!("test {name} ... ok");
            }
            Ok(Err(Skip(reason))) => {
                skipped += 1;
                println!("test {name} ... ignored, {reason}");
            }
            Err(_) => {
                println!("test {name} ... FAILED");
                failed.push(name);
            }
        }
    }
    for name in &failed {
        println!("failed: {name}");
    }
    let verdict = if failed.is_empty() { "ok" } else { "FAILED" };
    let seconds = began.elapsed().as_secs_f32();
    println!(
        "\ntest result: {verdict}. {passed} passed; {} failed; {skipped} ignored; 0 measured; 0 filtered out; finished in {seconds:.2}s\n",
        failed.len()
    );
    if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(101) }
}
