//! Tells systemd how things stand (`sd_notify(3)`), where it asked to be told.

use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

/// Where systemd listens, if it does.
#[derive(Debug)]
pub(crate) struct Supervisor {
    socket: Option<(UnixDatagram, SocketAddr)>,
    watchdog: Option<Duration>,
}

impl Supervisor {
    /// The one that `NOTIFY_SOCKET` and `WATCHDOG_USEC` name.
    pub(crate) fn from_environment() -> Self {
        let variable = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
        Self::new(variable("NOTIFY_SOCKET").as_deref(), variable("WATCHDOG_USEC").as_deref())
    }

    fn new(socket: Option<&str>, watchdog_micros: Option<&str>) -> Self {
        let socket = socket.and_then(|name| {
            let open = || io::Result::Ok((UnixDatagram::unbound()?, address(name)?));
            open().inspect_err(|error| tracing::warn!("cannot tell systemd anything at `{name}`: {error}")).ok()
        });
        let watchdog = watchdog_micros.and_then(|micros| micros.parse().ok()).map(Duration::from_micros);
        Self { socket, watchdog }
    }

    /// Tells it something: `READY=1`, `STOPPING=1`, `STATUS=…`.
    pub(crate) fn tell(&self, word: &str) {
        if let Some((socket, address)) = &self.socket
            && let Err(error) = socket.send_to_addr(word.as_bytes(), address)
        {
            tracing::warn!("cannot tell systemd `{word}`: {error}");
        }
    }

    /// Shows that this process can still do something, twice as often as asked. Never ends.
    pub(crate) async fn keep_awake(&self) {
        let Some(period) = self.watchdog.filter(|period| !period.is_zero()) else {
            return std::future::pending().await;
        };
        loop {
            self.tell("WATCHDOG=1");
            tokio::time::sleep(period / 2).await;
        }
    }
}

/// A path, or with `@` a name of its own kind (`unix(7)`).
fn address(name: &str) -> io::Result<SocketAddr> {
    match name.strip_prefix('@') {
        Some(name) => SocketAddr::from_abstract_name(name),
        None => SocketAddr::from_pathname(name),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heard(socket: &UnixDatagram) -> String {
        let mut buffer = [0; 64];
        let length = socket.recv(&mut buffer).unwrap();
        String::from_utf8_lossy(&buffer[..length]).into_owned()
    }

    #[test]
    fn systemd_is_told_where_it_listens() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        Supervisor::new(path.to_str(), None).tell("READY=1");
        assert_eq!(heard(&socket), "READY=1");

        let name = format!("twinmesh-test-{}", uuid::Uuid::new_v4());
        let socket = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        Supervisor::new(Some(&format!("@{name}")), None).tell("STOPPING=1");
        assert_eq!(heard(&socket), "STOPPING=1");
    }

    #[tokio::test]
    async fn the_watchdog_is_kept_awake() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        let supervisor = Supervisor::new(path.to_str(), Some("2000"));
        let listening = tokio::task::spawn_blocking(move || (heard(&socket), heard(&socket)));
        tokio::select! {
            () = supervisor.keep_awake() => unreachable!("it goes on"),
            heard = listening => assert_eq!(heard.unwrap(), ("WATCHDOG=1".into(), "WATCHDOG=1".into())),
        }
    }

    #[test]
    fn without_systemd_nothing_happens() {
        Supervisor::new(None, None).tell("READY=1");
        Supervisor::new(Some("/nowhere/at/all"), Some("soon")).tell("READY=1");
    }
}
