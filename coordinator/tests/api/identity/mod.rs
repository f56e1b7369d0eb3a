//! Identity, authorization and administration, asked over the interface.

mod administration;
mod advisories;
mod conventions;
mod escalation;
mod filter;
mod log_in;
mod process;
