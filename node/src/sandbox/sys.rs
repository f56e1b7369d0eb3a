//! System calls for which no safe wrapper exists: the only place of this crate that may be `unsafe`.

#![expect(unsafe_code, reason = "fork, namespaces, mount attributes and network interfaces have no safe wrapper")]

use std::{
    ffi::{OsStr, c_int, c_short},
    io,
    net::Ipv4Addr,
    os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd},
};

use rustix::{process::Pid, thread::UnshareFlags};
use tokio::io::{Interest, unix::AsyncFd};

/// Which side of a [`fork`] this is.
pub(super) enum Fork {
    Parent(Pid),
    Child,
}

/// Splits this process in two.
///
/// Refused when there is more than one thread, because the child would inherit the locks of the others for ever.
pub(super) fn fork() -> io::Result<Fork> {
    if std::fs::read_dir("/proc/self/task").is_ok_and(|threads| threads.count() != 1) {
        return Err(io::Error::other("the process has more than one thread"));
    }
    // SAFETY: the process has one thread, so the child's copy of all memory is consistent and no lock is held by a thread
    // that the child lacks. Callers run before any thread is made (see `intercept`).
    let pid = unsafe { libc::fork() };
    if pid < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(Pid::from_raw(pid).map_or(Fork::Child, Fork::Parent))
}

/// Moves this process, which has one thread, into new namespaces.
pub(super) fn unshare(flags: UnshareFlags) -> io::Result<()> {
    assert!(!flags.contains(UnshareFlags::FILES), "the descriptor table stays shared with what owns it");
    // SAFETY: the one danger is a descriptor table that is no longer shared, and it is excluded above.
    unsafe { rustix::thread::unshare_unsafe(flags) }?;
    Ok(())
}

/// Sets a variable of this process, which has one thread.
pub(super) fn set_variable(name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) {
    // SAFETY: called by the run's first process before the algorithm starts, when there is no other thread that could read the
    // environment.
    unsafe { std::env::set_var(name, value) }
}

/// Makes `target` a copy of `descriptor` that is kept across exec, closing what `target` was.
///
/// Nothing in this process may own `target`: it must be one of the standard streams, or free since [`close_range`].
pub(super) fn place_descriptor(descriptor: impl AsFd, target: RawFd) -> io::Result<()> {
    // SAFETY: `descriptor` is open for the duration of the call, and by the contract above no owner of `target` exists that
    // would be surprised.
    if unsafe { libc::dup2(descriptor.as_fd().as_raw_fd(), target) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Takes over a descriptor that this process was started with or placed itself.
pub(super) fn adopt_descriptor(descriptor: RawFd) -> OwnedFd {
    // SAFETY: callers name descriptors that the protocol between node, agent and run hands over exactly once.
    unsafe { OwnedFd::from_raw_fd(descriptor) }
}

/// Closes every descriptor from `first` to `last`.
///
/// Only for a process that owns none of them through a live value that it will use or drop.
pub(super) fn close_range(first: RawFd, last: RawFd) -> io::Result<()> {
    range(first, last, 0)
}

/// Marks every descriptor from `first` on to be closed by exec.
pub(super) fn close_from_on_exec(first: RawFd) -> io::Result<()> {
    range(first, RawFd::MAX, libc::CLOSE_RANGE_CLOEXEC)
}

fn range(first: RawFd, last: RawFd, flags: libc::c_uint) -> io::Result<()> {
    // SAFETY: takes plain numbers; what it closes is the callers' business as documented above.
    let answer = unsafe { libc::syscall(libc::SYS_close_range, first, last, flags) };
    if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Lets the reactor watch a descriptor.
pub(super) fn register(descriptor: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` owns an open descriptor, and nothing can replace or close it through the `AsyncFd`, which gives out
    // shared references only.
    Ok(unsafe { AsyncFd::register_with_interest(descriptor, Interest::READABLE | Interest::WRITABLE) }?)
}

/// The attributes that a mount is to have besides those it has.
#[derive(Clone, Copy)]
pub(super) struct MountAttributes {
    pub(super) read_only: bool,
    pub(super) no_devices: bool,
    pub(super) no_exec: bool,
}

/// Adds attributes (and always `nosuid`) to the mount at `descriptor` and, if `recursive`, to all below it.
pub(super) fn set_mount_attributes(descriptor: impl AsFd, wanted: MountAttributes, recursive: bool) -> io::Result<()> {
    let mut set = libc::MOUNT_ATTR_NOSUID;
    for (wanted, attribute) in [
        (wanted.read_only, libc::MOUNT_ATTR_RDONLY),
        (wanted.no_devices, libc::MOUNT_ATTR_NODEV),
        (wanted.no_exec, libc::MOUNT_ATTR_NOEXEC),
    ] {
        if wanted {
            set |= attribute;
        }
    }
    let attributes = libc::mount_attr { attr_set: set, attr_clr: 0, propagation: 0, userns_fd: 0 };
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the path is a terminated empty string, and `attributes` lives through the call with its true size.
    let answer = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            descriptor.as_fd().as_raw_fd(),
            c"".as_ptr(),
            flags,
            &raw const attributes,
            size_of::<libc::mount_attr>(),
        )
    };
    if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Brings the loopback interface of this network namespace up, with 127.0.0.1/8.
pub(super) fn loopback_up(socket: impl AsFd) -> io::Result<()> {
    let mut request = interface_request(b"lo");
    let flags = c_int::from(c_short::MAX) & (libc::IFF_UP | libc::IFF_RUNNING | libc::IFF_LOOPBACK);
    request.ifr_ifru.ifru_flags = c_short::try_from(flags).map_err(io::Error::other)?;
    interface_ioctl(socket, libc::SIOCSIFFLAGS, &request)
}

/// Makes a whole prefix local to the loopback interface of this network namespace.
pub(super) fn loopback_prefix(socket: impl AsFd, alias: u8, address: Ipv4Addr, mask: Ipv4Addr) -> io::Result<()> {
    let name = format!("lo:{alias}");
    for (operation, value) in [(libc::SIOCSIFADDR, address), (libc::SIOCSIFNETMASK, mask)] {
        let mut request = interface_request(name.as_bytes());
        let value = libc::sockaddr_in {
            sin_family: libc::AF_INET as libc::sa_family_t,
            sin_port: 0,
            sin_addr: libc::in_addr { s_addr: u32::from(value).to_be() },
            sin_zero: [0; 8],
        };
        // SAFETY: `sockaddr_in` and `sockaddr` have the same size, and any bytes make a valid `sockaddr`.
        request.ifr_ifru.ifru_addr = unsafe { std::mem::transmute::<libc::sockaddr_in, libc::sockaddr>(value) };
        interface_ioctl(socket.as_fd(), operation, &request)?;
    }
    Ok(())
}

fn interface_request(name: &[u8]) -> libc::ifreq {
    // SAFETY: all-zero bytes are a valid `ifreq`.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name).take(libc::IFNAMSIZ - 1) {
        *to = *from as libc::c_char;
    }
    request
}

fn interface_ioctl(socket: impl AsFd, operation: libc::c_ulong, request: &libc::ifreq) -> io::Result<()> {
    // SAFETY: these operations read one `ifreq`, which outlives the call.
    let answer = unsafe { libc::ioctl(socket.as_fd().as_raw_fd(), operation as _, std::ptr::from_ref(request)) };
    if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
