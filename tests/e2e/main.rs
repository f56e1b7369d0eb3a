//! End-to-end stories, told to real processes: a coordinator and nodes, each with its own files, on loopback.
//!
//! * `demo` – the demonstration as a newcomer runs it; `first_task` – the README's first task of one's own.
//! * `in_process` – a federation within the test.
//! * `crash` – any one process killed at many points of a task.
//! * `instance` – several coordinators on one PostgreSQL, one of which is killed.
//! * `object` – large payloads whose bringer, or the coordinator that they are brought to, is killed on the way.
//! * `refusals` – what a coordinator that lies, a wrong key and other mishaps lead to.
//! * `service` – what a service manager hears.
//! * `boundary` – what programs are made of.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a story that cannot go on has failed")]

mod boundary;
mod crash;
mod demo;
mod first_task;
mod in_process;
mod instance;
mod lab;
mod object;
mod refusals;
mod rsa;
mod service;
