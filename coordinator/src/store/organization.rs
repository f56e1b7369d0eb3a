//! The organization's rows.
