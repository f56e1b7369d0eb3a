//! One organization's daemon: policy, data, algorithm runs, its end of the overlay.
//!
//! * [`config`] – what the administrator decides; [`cli`] – the command line.
//! * [`node`] – the shell: follows the coordinator, carries out what is decided, and keeps `status.json`.
//! * [`reconcile`] – what to do next, purely; [`journal`] – what must not be forgotten.
//! * [`admission`] – whether a run may start, by [`policy`] and [`trust`]; [`sealing`] – how payloads are written.
//! * [`gateway`] – what a run may ask of the outside; [`mesh`] – its twins.
//! * [`data`] – the databases and the files and variables of a run.
//! * [`runtime`] – where runs are; [`sandbox`] – the default one. `notify` – what systemd is told.

pub mod admission;
pub mod cli;
pub mod config;
pub mod data;
#[doc(hidden)]
pub mod fuzzing;
pub mod gateway;
pub mod journal;
pub mod mesh;
pub mod node;
mod notify;
pub mod policy;
pub mod reconcile;
pub mod runtime;
pub mod sandbox;
pub mod sealing;
pub mod trust;

pub use node::{Node, OnStop, Parts, Running, StartError};
