use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use lettre::message::Mailbox;
use serde::{Deserialize, Serialize};

use super::{ConfigError, Secret, Span};

/// The server that takes our mail: tokens for whoever lost a password, and notices of failed log-ins.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MailConfig {
    /// The server's name: `smtp.example.org`. Without it no mail is sent, and nothing can be recovered by users
    /// themselves.
    pub server: Option<String>,
    /// Its port; without it the usual one: 587 with `starttls`, 465 with `implicit`, 25 with `none`.
    pub port: Option<u16>,
    /// How the connection is encrypted: `starttls`, `implicit`, or `none`, which is for a server on this machine only.
    pub encryption: Encryption,
    /// A further authority for the server's certificate (PEM).
    pub ca_file: Option<PathBuf>,
    /// Who logs in at the server, if it wants that.
    pub username: Option<String>,
    /// The password for it.
    pub password: Option<Secret>,
    /// A file that holds it.
    pub password_file: Option<PathBuf>,
    /// The sender: `Twinmesh <noreply@example.org>`.
    pub from: Option<String>,
    /// What mails say about where to turn to: `helpdesk@example.org`.
    pub support: Option<String>,
    /// How long the server may take for each step: `30s`.
    pub timeout: Span,
    /// How long to wait before a mail that could not be sent is tried again: `1m`, and longer each time.
    pub retry_after: Span,
    /// When to give such a mail up: `1d`.
    pub give_up_after: Span,
}

/// How a connection to a mail server is encrypted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Encryption {
    /// From plain to TLS before anything is said (RFC 3207); a server that does not offer it gets no mail.
    #[default]
    Starttls,
    /// TLS from the first byte (RFC 8314).
    Implicit,
    /// None.
    None,
}

impl Default for MailConfig {
    fn default() -> Self {
        Self {
            server: None,
            port: None,
            encryption: Encryption::default(),
            ca_file: None,
            username: None,
            password: None,
            password_file: None,
            from: None,
            support: None,
            timeout: Span(Duration::from_secs(30)),
            retry_after: Span(Duration::from_secs(60)),
            give_up_after: Span(Duration::from_secs(24 * 3600)),
        }
    }
}

impl MailConfig {
    /// The password at the mail server, if one is given.
    pub(crate) fn password(&self) -> Result<Option<String>, crate::FileError> {
        match (&self.password, &self.password_file) {
            (Some(secret), _) => Ok(Some(secret.reveal().to_owned())),
            (None, Some(path)) => crate::files::read_secret(path).map(Some),
            (None, None) => Ok(None),
        }
    }

    pub(super) fn check(&self) -> Result<(), ConfigError> {
        let wrong = |key, why: &str| Err(ConfigError::Value { key, why: why.into() });
        let Some(server) = &self.server else { return Ok(()) };
        if self.encryption == Encryption::None && !is_this_machine(server) {
            return wrong("mail.encryption", "`none` is for a server on this machine; use `starttls` or `implicit`");
        }
        match self.from.as_deref().map(str::parse::<Mailbox>) {
            Some(Ok(_)) => {}
            Some(Err(_)) => return wrong("mail.from", "use one like `Twinmesh <noreply@example.org>`"),
            None => return wrong("mail.from", "`mail.server` is given, so say who sends"),
        }
        if self.password.is_some() && self.password_file.is_some() {
            return wrong("mail.password", "`mail.password_file` is given too; keep one of them");
        }
        if self.username.is_some() != (self.password.is_some() || self.password_file.is_some()) {
            return wrong("mail.username", "give `mail.username` and a password, or neither");
        }
        if self.retry_after.0.is_zero() {
            return wrong("mail.retry_after", "use more than `0s`");
        }
        Ok(())
    }
}

fn is_this_machine(server: &str) -> bool {
    server == "localhost" || server.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_makes_no_sense_is_told_by_key() {
        let good = MailConfig {
            server: Some("smtp.example.org".into()),
            from: Some("Twinmesh <noreply@example.org>".into()),
            ..MailConfig::default()
        };
        good.check().unwrap();
        MailConfig::default().check().unwrap();
        let here = MailConfig { server: Some("127.0.0.1".into()), encryption: Encryption::None, ..good.clone() };
        here.check().unwrap();
        let secret = || Some(Secret::new("secret"));
        for (wrong, key) in [
            (MailConfig { encryption: Encryption::None, ..good.clone() }, "mail.encryption"),
            (MailConfig { from: None, ..good.clone() }, "mail.from"),
            (MailConfig { from: Some("nobody".into()), ..good.clone() }, "mail.from"),
            (MailConfig { username: Some("us".into()), ..good.clone() }, "mail.username"),
            (MailConfig { password: secret(), ..good.clone() }, "mail.username"),
            (MailConfig { password: secret(), password_file: Some("x".into()), ..good.clone() }, "mail.password"),
            (MailConfig { retry_after: Span(Duration::ZERO), ..good }, "mail.retry_after"),
        ] {
            let error = wrong.check().unwrap_err().to_string();
            assert!(error.contains(&format!("`{key}`")), "{key}: {error}");
        }
    }
}
