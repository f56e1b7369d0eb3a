//! Tells systemd how the node stands (`sd_notify(3)`), where systemd asked to be told.

use std::{
    convert::Infallible,
    ffi::OsStr,
    os::{
        linux::net::SocketAddrExt as _,
        unix::{
            ffi::OsStrExt as _,
            net::{SocketAddr, UnixDatagram},
        },
    },
    time::Duration,
};

/// The service manager that started this process, if one did that wants to hear of it.
#[derive(Debug, Default)]
pub(crate) struct Manager {
    ear: Option<(UnixDatagram, SocketAddr)>,
    /// How long it bears silence.
    patience: Option<Duration>,
}

impl Manager {
    /// The one that the environment names: `NOTIFY_SOCKET`, and `WATCHDOG_USEC` if it wants signs of life.
    pub(crate) fn of_this_process() -> Self {
        let Some(name) = std::env::var_os("NOTIFY_SOCKET") else { return Self::default() };
        let patience = std::env::var("WATCHDOG_USEC").ok().and_then(|micros| micros.parse().ok());
        Self::at(&name, patience.map(Duration::from_micros))
    }

    fn at(name: &OsStr, patience: Option<Duration>) -> Self {
        // A name that begins with `@` is one of its own kind, no file (unix(7)).
        let address = match name.as_bytes() {
            [b'@', name @ ..] => SocketAddr::from_abstract_name(name),
            _ => SocketAddr::from_pathname(name),
        };
        match address.and_then(|address| Ok((UnixDatagram::unbound()?, address))) {
            Ok(ear) => Self { ear: Some(ear), patience },
            Err(error) => {
                tracing::warn!(%error, "cannot speak to systemd at `{}`", name.display());
                Self::default()
            }
        }
    }

    /// The node has taken its place and works.
    pub(crate) fn ready(&self) {
        self.say("READY=1\nSTATUS=works");
    }

    /// The node looks for its coordinator, which may take as long as that is away.
    pub(crate) fn starting(&self) {
        self.say("STATUS=takes its place at the coordinator");
    }

    /// The node puts everything down.
    pub(crate) fn stopping(&self) {
        self.say("STOPPING=1\nSTATUS=stops");
    }

    /// Gives signs of life as long as this process can do anything. Never ends.
    pub(crate) async fn live(&self) -> Infallible {
        let period = match self.patience {
            Some(patience) if !patience.is_zero() => patience / 2,
            Some(_) | None => return std::future::pending().await,
        };
        let mut beat = tokio::time::interval(period);
        loop {
            beat.tick().await;
            self.say("WATCHDOG=1");
        }
    }

    fn say(&self, words: &str) {
        let Some((socket, address)) = &self.ear else { return };
        if let Err(error) = socket.send_to_addr(words.as_bytes(), address) {
            tracing::warn!(%error, "systemd does not hear `{words}`");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn systemd_hears_of_each_step_and_that_the_node_lives() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        let manager = Manager::at(path.as_os_str(), Some(Duration::from_millis(2)));
        manager.starting();
        manager.ready();
        manager.stopping();
        let listening = tokio::task::spawn_blocking(move || {
            let mut buffer = [0; 128];
            [(); 5].map(|()| {
                let length = socket.recv(&mut buffer).unwrap();
                String::from_utf8_lossy(&buffer[..length]).into_owned()
            })
        });
        let heard = tokio::select! {
            never = manager.live() => match never {},
            heard = listening => heard.unwrap(),
        };
        assert!(heard[0].starts_with("STATUS=") && heard[1].starts_with("READY=1\n"), "{heard:?}");
        assert!(heard[2].starts_with("STOPPING=1\n"), "{heard:?}");
        assert_eq!(heard[3..], ["WATCHDOG=1", "WATCHDOG=1"]);
    }

    #[tokio::test]
    async fn a_socket_that_is_no_file_is_found_and_one_that_is_not_there_does_no_harm() {
        let name = format!("twinmesh-node-test-{}", uuid::Uuid::new_v4());
        let socket = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        Manager::at(OsStr::new(&format!("@{name}")), None).ready();
        let mut buffer = [0; 128];
        assert!(socket.recv(&mut buffer).unwrap() > 0);
        Manager::at(OsStr::new("/nowhere/at/all"), None).ready();
        Manager::default().ready();
    }
}
