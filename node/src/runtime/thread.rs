//! Runs inside this process.
