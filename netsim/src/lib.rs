//! Whole Twinmesh federations on one machine.
//!
//! * [`demo`] – the demonstration: real processes, real data, every answer beside the pooled one.
//! * [`mod@bench`] – what things cost, measured.
//! * [`federation`] – a federation of real processes; [`process`] – one of them.
//! * [`in_process`] – a federation within this process, for tests. [`enrolment`] – what both begin with.
//! * [`data`] – the data sets and their reference values; [`evidence`] – looks for plaintext where none may be.
//! * [`cli`] – the program, which is also coordinator, node and client of its federations.

pub mod bench;
pub mod cli;
mod clock;
pub mod data;
pub mod demo;
pub mod enrolment;
pub mod evidence;
pub mod federation;
pub mod in_process;
pub mod process;
