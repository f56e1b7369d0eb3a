//! node

pub mod runtime;
pub mod sandbox;
