//! The words all parties of a Twinmesh federation share. No input or output, clock, SQL or HTTP.
//!
//! * [`id`], [`time`], [`digest`] – identifiers, instants and hashes as types.
//! * [`wire`] – the resources of the v4 contract (sections A.5 to A.8) and our additions to it.
//! * [`status`] – the status words of runs and tasks and how they follow from each other.
//! * [`payload`] – the text forms of inputs and results; [`environment`] – those of an algorithm's variables.
//! * [`key`] – organization keys; [`rsa`] – those of vantage6's kind; [`signed`] – statements under an Ed25519 signature.
//! * [`manifest`] – what a task is, signed by who asks; [`certificate`] – which node speaks for an organization.
//! * [`sealed`] – payloads only the receiver can open; [`envelope`] – the same as vantage6 writes them (feature `open`).
//! * [`address`] – the IPv4 address of an organization's node in the overlay.
//!
//! The feature `open` adds everything that needs a private key: signing, sealing and opening. The coordinator is
//! compiled without it, so it cannot do any of these.

pub mod address;
pub mod certificate;
pub mod digest;
#[cfg(feature = "open")]
pub mod envelope;
pub mod environment;
pub mod id;
pub mod key;
pub mod manifest;
pub mod payload;
pub mod rsa;
#[cfg(feature = "open")]
pub mod sealed;
pub mod signed;
pub mod status;
pub mod time;
pub mod wire;
