//! What may become of a task: pure rules, without a database, a clock or a network.
//!
//! * [`run`] – the life of one run: which fact leads from which state to which.
//! * [`siblings`] – what one run's end means for the others of its task.
//! * [`kill`] – what ending a task means for each run of its tree.
//! * [`open`] – whether a task may be opened, and what opening it records.
//! * [`manifest`] – whether what was signed is what was asked.
//!
//! The ledger moves a run because its node reported something, never because it hopes. What the coordinator itself
//! may conclude is little: a run that no node took up, or whose node is away, can be ended without asking one.

pub(crate) mod kill;
pub(crate) mod manifest;
pub(crate) mod open;
pub(crate) mod run;
pub(crate) mod siblings;
