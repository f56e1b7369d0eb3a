//! What the operating system says of this process (Linux's `/proc`), under the names that Prometheus' clients share.

use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::{Registry, Unit};
use rustix::process::{Resource, getrlimit};

/// Adds what can be learned; elsewhere than on Linux most cannot.
pub(super) fn register(registry: &mut Registry) {
    if let Some((cpu_seconds, resident, threads)) = stat() {
        let help = "Processor time used";
        registry.register_with_unit("process_cpu", help, Unit::Seconds, ConstCounter::new(cpu_seconds));
        let help = "Memory in use";
        registry.register_with_unit("process_resident_memory", help, Unit::Bytes, ConstGauge::new(resident));
        registry.register("process_threads", "Threads", ConstGauge::new(threads));
    }
    // The directory that is being read is one of them.
    if let Ok(entries) = std::fs::read_dir("/proc/self/fd") {
        let open = i64::try_from(entries.count()).unwrap_or(i64::MAX) - 1;
        registry.register("process_open_fds", "Files and connections that are open", ConstGauge::new(open));
    }
    if let Some(most) = getrlimit(Resource::Nofile).current {
        let most = i64::try_from(most).unwrap_or(i64::MAX);
        registry.register("process_max_fds", "Files and connections that may be open", ConstGauge::new(most));
    }
}

/// Processor seconds, bytes of memory and threads (`proc_pid_stat(5)`).
fn stat() -> Option<(f64, i64, i64)> {
    let text = std::fs::read_to_string("/proc/self/stat").ok()?;
    // The name before it may hold anything, brackets too. What follows begins with field 3.
    let (_, rest) = text.rsplit_once(')')?;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    let number = |field: usize| fields.get(field - 3)?.parse::<i64>().ok();
    let ticks = number(14)? + number(15)?;
    #[expect(clippy::cast_precision_loss, reason = "ticks of processor time are far below 2^52")]
    let cpu_seconds = ticks as f64 / rustix::param::clock_ticks_per_second() as f64;
    let page = i64::try_from(rustix::param::page_size()).ok()?;
    Some((cpu_seconds, number(24)? * page, number(20)?))
}

#[cfg(test)]
mod tests {
    #[test]
    fn this_process_uses_memory_and_threads() {
        let (cpu_seconds, resident, threads) = super::stat().unwrap();
        assert!(cpu_seconds >= 0.0);
        assert!(resident > 1 << 20, "{resident}");
        assert!((1..10_000).contains(&threads), "{threads}");
    }
}
