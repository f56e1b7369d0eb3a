//! The study's rows.
