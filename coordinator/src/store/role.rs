//! The role's rows.
