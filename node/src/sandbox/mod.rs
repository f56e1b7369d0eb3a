//! Runs as confined processes of their own.
