//! How twins are found and reached: through the node.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use twinmesh_protocol::{
    address::overlay_organization,
    id::{OrganizationId, TaskId},
};

use crate::describe::describe;
use crate::sdk::{
    Host,
    control::{Control, ControlError, ControlListener},
    gateway::{Address, AddressFilter, Gateway, GatewayError},
    stream::Stream,
};

/// How long a connection may take to be made.
const CONNECT: Duration = Duration::from_secs(10);

/// After how many failures in a row addresses are asked for again.
const ASK_AGAIN: u32 = 5;

/// A reason for not reaching a twin.
#[derive(Debug)]
pub(super) enum DialError {
    /// It may work later.
    Later(String),
    /// It will never work.
    Never(String),
}

/// The way to other twins.
pub(super) trait Network: Send + Sync {
    /// Connects to the twin of an organization.
    fn dial(&self, organization: OrganizationId) -> Result<Stream, DialError>;

    /// Whether a connection from this address, if it is known, may be from that organization; else why not.
    fn admits(&self, organization: OrganizationId, address: Option<IpAddr>) -> Result<(), &'static str>;
}

/// Where twins' connections come in.
pub(super) trait Listener: Send + Sync {
    /// Waits for the next connection; `None` when there will be no more.
    fn accept(&self) -> Option<io::Result<Stream>>;

    /// Ends the waiting.
    fn close(&self);
}

impl Listener for TcpListener {
    fn accept(&self) -> Option<io::Result<Stream>> {
        match TcpListener::accept(self) {
            Ok((stream, _)) => Some(stream.set_nodelay(true).map(|()| Stream::Tcp(stream))),
            // What `close` makes of a waiting socket.
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => None,
            Err(error) => Some(Err(error)),
        }
    }

    fn close(&self) {
        // An error says that it is closed already.
        let _closed = rustix::net::shutdown(self, rustix::net::Shutdown::Both);
    }
}

impl Listener for ControlListener {
    fn accept(&self) -> Option<io::Result<Stream>> {
        match ControlListener::accept(self) {
            Err(ControlError::Closed) => None,
            Err(ControlError::Io(error)) => Some(Err(error)),
            Err(error) => Some(Err(io::Error::other(error.to_string()))),
            Ok(stream) => Some(Ok(stream)),
        }
    }

    fn close(&self) {
        ControlListener::close(self);
    }
}

/// Opens one of the run's ports, directly or through the control channel.
pub(super) fn listen(host: &Host, port: u16) -> io::Result<Arc<dyn Listener>> {
    match host.control() {
        None => Ok(Arc::new(TcpListener::bind((Ipv4Addr::UNSPECIFIED, port))?)),
        Some(control) => match control.listen(port) {
            Ok(listener) => Ok(Arc::new(listener)),
            Err(ControlError::Io(error)) => Err(error),
            Err(error) => Err(io::Error::other(error.to_string())),
        },
    }
}

/// The real thing: addresses come from the gateway.
pub(super) struct GatewayNetwork {
    gateway: Arc<Gateway>,
    control: Option<Arc<Control>>,
    task: TaskId,
    label: String,
    book: Mutex<Book>,
}

#[derive(Default)]
struct Book {
    addresses: Vec<Address>,
    failures: u32,
}

impl GatewayNetwork {
    pub(super) fn new(host: &Host, label: &str) -> Self {
        Self {
            gateway: Arc::clone(host.gateway()),
            control: host.control().cloned(),
            task: host.claims().task_id,
            label: label.to_owned(),
            book: Mutex::default(),
        }
    }

    fn address(&self, organization: OrganizationId) -> Result<Option<Address>, GatewayError> {
        // Held while asking, so that the threads of several links share one answer.
        let mut book = self.book.lock().unwrap_or_else(PoisonError::into_inner);
        let find = |addresses: &[Address]| {
            addresses.iter().find(|entry| entry.organization_id == organization && entry.task_id == self.task).cloned()
        };
        if book.failures < ASK_AGAIN
            && let Some(known) = find(&book.addresses)
        {
            return Ok(Some(known));
        }
        book.failures = 0;
        let addresses = self.gateway.addresses(AddressFilter::Task, Some(&self.label))?;
        let found = find(&addresses);
        // Addresses of runs that have finished vanish; that of one that starts over stays the same.
        book.addresses.retain(|old| addresses.iter().all(|new| new.organization_id != old.organization_id));
        book.addresses.extend(addresses);
        Ok(found)
    }

    fn connect(&self, address: &Address) -> Result<Stream, DialError> {
        let text = format!("{}:{}", address.ip, address.port);
        match &self.control {
            Some(control) => control.dial(&text).map_err(|error| match error {
                ControlError::Closed => DialError::Never(describe(&error)),
                other => DialError::Later(describe(&other)),
            }),
            None => {
                let target: SocketAddr =
                    text.parse().map_err(|_| DialError::Later("its address is malformed".to_owned()))?;
                let connect = || {
                    let stream = TcpStream::connect_timeout(&target, CONNECT)?;
                    stream.set_nodelay(true)?;
                    Ok(Stream::Tcp(stream))
                };
                connect().map_err(|error: io::Error| DialError::Later(format!("{target}: {error}")))
            }
        }
    }
}

impl Network for GatewayNetwork {
    fn dial(&self, organization: OrganizationId) -> Result<Stream, DialError> {
        let address = self.address(organization).map_err(|error| match error {
            GatewayError::Ended => DialError::Never(describe(&error)),
            other => DialError::Later(describe(&other)),
        })?;
        let address = address.ok_or_else(|| DialError::Later("the node knows no address of it".to_owned()))?;
        let stream = self.connect(&address);
        if stream.is_err() {
            self.book.lock().unwrap_or_else(PoisonError::into_inner).failures += 1;
        }
        stream
    }

    fn admits(&self, organization: OrganizationId, address: Option<IpAddr>) -> Result<(), &'static str> {
        proven(organization, address, self.control.is_some())
    }
}

/// On the overlay an address belongs to one organization. Connections through the control channel are always from there;
/// else, on some other network, addresses say nothing about who is behind them.
fn proven(organization: OrganizationId, address: Option<IpAddr>, is_overlay: bool) -> Result<(), &'static str> {
    let owner = match address {
        Some(IpAddr::V4(address)) => overlay_organization(address),
        Some(IpAddr::V6(_)) => None,
        None => return Err("the node does not say whose connection it is"),
    };
    match owner {
        Some(owner) if owner == organization => Ok(()),
        Some(_) => Err("the address belongs to another organization"),
        None if is_overlay => Err("the address belongs to no organization"),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use twinmesh_protocol::address::overlay_address;

    use super::*;

    proptest! {
        #[test]
        fn only_its_own_address_speaks_for_an_organization(id in 1..4_000_000_i64, other in 1..4_000_000_i64) {
            let organization = OrganizationId::new(id);
            let address = |id| overlay_address(OrganizationId::new(id)).map(IpAddr::V4);
            for is_overlay in [true, false] {
                prop_assert!(proven(organization, address(id), is_overlay).is_ok());
                prop_assert_eq!(proven(organization, address(other), is_overlay).is_ok(), id == other);
                prop_assert!(proven(organization, None, is_overlay).is_err());
            }
        }
    }

    #[test]
    fn addresses_of_other_networks_count_where_there_is_no_control_channel() {
        for address in [IpAddr::from([127, 0, 0, 1]), IpAddr::from([10, 76, 0, 2]), IpAddr::from([0; 16])] {
            assert!(proven(OrganizationId::new(2), Some(address), true).is_err());
            assert!(proven(OrganizationId::new(2), Some(address), false).is_ok());
        }
    }
}
