//! The node's rows.
