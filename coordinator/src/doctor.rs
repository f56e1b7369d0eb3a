//! `doctor`: tries what a coordinator needs, and says how to mend what fails. Changes nothing.
//!
//! A check looks at one thing and answers with a [`Finding`]; [`examine`] names them all, in the order in which a start
//! needs them. Beside a running coordinator it is asked what it says of itself.
//!
//! * [`house`] – the data directory and the files in it. [`database`] – the database. [`objects`] – large payloads.
//!   [`certificate`] – TLS. [`door`] – the address, and who answers there. [`mail`] – the mail server.

mod certificate;
mod database;
mod door;
mod house;
mod mail;
mod objects;

use twinmesh_protocol::time::Time;

pub(crate) use self::house::{NO_SPACE, free_space};
use crate::config::Config;
use crate::files;

/// What a check came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Finding {
    /// As it should be; in some words.
    Well(String),
    /// It works, but somebody should know.
    Odd {
        /// What is odd.
        what: String,
        /// What to do about it.
        hint: String,
    },
    /// It does not work.
    Bad {
        /// What is wrong.
        what: String,
        /// How to mend it.
        hint: String,
    },
}

impl Finding {
    /// As it should be.
    pub(crate) fn well(text: impl Into<String>) -> Self {
        Self::Well(text.into())
    }

    /// It works, but somebody should know.
    pub(crate) fn odd(what: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::Odd { what: what.into(), hint: hint.into() }
    }

    /// It does not work.
    pub(crate) fn bad(what: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::Bad { what: what.into(), hint: hint.into() }
    }

    /// It does not work, for what the error and its causes say.
    pub(crate) fn failed(error: impl Into<anyhow::Error>, hint: impl Into<String>) -> Self {
        Self::bad(format!("{:#}", error.into()), hint)
    }
}

/// What all checks look at.
#[derive(Debug)]
pub(crate) struct Patient<'a> {
    pub(crate) config: &'a Config,
    pub(crate) now: Time,
    /// Whether a coordinator runs on the data directory at this moment.
    pub(crate) is_running: bool,
}

/// Makes every check: its name, and what it came to.
pub(crate) async fn examine(config: &Config, now: Time) -> Vec<(&'static str, Finding)> {
    let is_running = files::is_taken(&config.data_dir).unwrap_or(false);
    let patient = Patient { config, now, is_running };
    vec![
        ("directory", house::directory(&patient)),
        ("disk", house::space(&patient)),
        ("secrets", house::secrets(&patient)),
        ("database", database::examine(&patient).await),
        ("clock", database::clock(&patient).await),
        ("object store", objects::examine(&patient).await),
        ("certificate", certificate::examine(&patient)),
        ("address", door::address(&patient).await),
        ("service", door::service(&patient).await),
        ("mail", mail::server(&patient).await),
    ]
}
