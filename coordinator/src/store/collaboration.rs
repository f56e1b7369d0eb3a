//! The collaboration's rows.
