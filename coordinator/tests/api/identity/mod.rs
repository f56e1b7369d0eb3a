//! Identity, authorization and administration, asked over the interface.

mod administration;
mod advisories;
mod conventions;
mod escalation;
mod filter;
mod intake;
mod key;
mod limit;
mod log_in;
mod process;
mod recover;
pub(crate) mod smtp;
mod two_factor;
