//! End-to-end stories, told to real processes: a coordinator and nodes, each with its own files, on loopback.
//!
//! * `demo` – the demonstration as a newcomer runs it.
//! * `crash` – any one process killed at many points of a task.
//! * `refusals` – what a coordinator that lies, a wrong key and other mishaps lead to.
//! * `boundary` – what programs are made of.

mod boundary;
mod crash;
mod demo;
mod lab;
mod refusals;
