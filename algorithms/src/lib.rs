//! Federated algorithms of Twinmesh, and the kit to write more.
//!
//! * [`maths`]: the pure part, over any split of the rows;
//! * [`sdk`]: what a run gets from its node: input, data, the gateway, a place for the result;
//! * [`twin`]: messages between runs of one task at several organizations;
//! * [`functions`]: what tasks can call;
//! * [`mod@entry`]: how a run starts and ends, as a process or as a thread.

mod describe;
pub mod entry;
pub mod functions;
#[doc(hidden)]
pub mod fuzzing;
pub mod maths;
pub mod sdk;
pub mod twin;

pub use self::describe::describe;
pub use self::entry::{entry, run_as_container, run_in_thread};

/// The name by which tasks ask for these functions, wherever they are built in.
pub const IMAGE: &str = concat!("twinmesh/builtin:", env!("CARGO_PKG_VERSION"));

/// The ports that the image exposes, with their labels.
pub const EXPOSED_PORTS: [(u16, &str); 1] = [(twin::PORT, twin::LABEL)];
