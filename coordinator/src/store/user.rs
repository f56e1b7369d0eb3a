//! The user's rows.
