//! sdk
pub mod table;
