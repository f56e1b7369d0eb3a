//! Mail to users: tokens for whoever lost a password or an authenticator, and notices of failed log-ins and of another
//! mail address.
//!
//! * `text` – what mails say. `postman` – the one who empties the outbox, in the background: neither a slow mail server
//!   nor one that is down is felt by whoever asked, and nothing is lost.

pub(crate) mod fuzzing;
mod postman;
mod text;

use std::error::Error as _;
use std::time::{Duration, SystemTime};

use lettre::message::header::{ContentType, HeaderName, HeaderValue};
use lettre::message::{Mailbox, Message};
use lettre::transport::smtp;
use lettre::transport::smtp::authentication::Credentials;
use lettre::transport::smtp::client::{Certificate, Tls, TlsParameters};
use lettre::{AsyncSmtpTransport, AsyncTransport as _, Tokio1Executor};
use rustls::CertificateError;
use twinmesh_protocol::time::Time;

pub(crate) use self::postman::{Postman, Rounds};
use self::text::Text;
use crate::config::{Config, Encryption};
use crate::files::FileError;
use crate::tls::TlsError;

/// Why mail cannot be sent.
#[derive(Debug, thiserror::Error)]
pub enum MailError {
    /// A file that the settings name cannot be read.
    #[error(transparent)]
    File(#[from] FileError),
    /// The further authority is no certificate.
    #[error("cannot use the authority that `mail.ca_file` names")]
    Authority(#[source] TlsError),
    /// TLS cannot be set up.
    #[error("cannot set up TLS for the mail server")]
    Tls(#[source] smtp::Error),
    /// The sender is no address; the settings were checked before.
    #[error("the setting `mail.from` is no address")]
    Sender,
}

/// Connects to the mail server, if the settings name one, and logs in there.
pub(crate) async fn try_out(config: &Config) -> anyhow::Result<()> {
    let Some(mailer) = Mailer::new(config)? else { return Ok(()) };
    match mailer.transport.test_connection().await {
        Ok(is_well) => anyhow::ensure!(is_well, "it hung up"),
        Err(error) => match distrust(&error) {
            Some(why) => anyhow::bail!(why),
            None => return Err(error.into()),
        },
    }
    Ok(())
}

/// Why a server's certificate is not believed, and what to do about it, if that is what went wrong.
fn distrust(error: &smtp::Error) -> Option<String> {
    let mut next = error.source();
    while let Some(cause) = next {
        let found = cause.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        if let Some(rustls::Error::InvalidCertificate(fault)) = found.and_then(|found| found.downcast_ref()) {
            let (what, hint) = match fault {
                CertificateError::UnknownIssuer => (
                    "it is of an authority that is not known here",
                    "name that authority's certificate in `mail.ca_file` if it is your own",
                ),
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                    ("it is for another name", "set `mail.server` to the name that the certificate is for")
                }
                CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                    ("it has ended", "have it renewed")
                }
                _ => ("it is wrong", "ask whoever runs the server"),
            };
            return Some(format!("the server's certificate is not believed: {what} ({fault}); {hint}"));
        }
        next = cause.source();
    }
    None
}

/// Hands mail to the server.
#[derive(Debug, Clone)]
pub(crate) struct Mailer {
    transport: AsyncSmtpTransport<Tokio1Executor>,
    from: Mailbox,
    /// What mails say of us.
    voice: text::Voice,
}

impl Mailer {
    /// The mailer that the settings describe, if they name a server. Connects nowhere yet.
    pub(crate) fn new(config: &Config) -> Result<Option<Self>, MailError> {
        let mail = &config.mail;
        let Some(server) = &mail.server else { return Ok(None) };
        let tls = || {
            let mut parameters = TlsParameters::builder(server.clone());
            if let Some(path) = &mail.ca_file {
                let pem = crate::files::read_secret(path)?;
                // A text without any is taken for no authority by the library.
                crate::tls::certificates(path).map_err(MailError::Authority)?;
                let authority = Certificate::from_pem(pem.as_bytes()).map_err(MailError::Tls)?;
                parameters = parameters.add_root_certificate(authority);
            }
            parameters.build().map_err(MailError::Tls)
        };
        let (port, tls) = match mail.encryption {
            Encryption::Starttls => (587, Tls::Required(tls()?)),
            Encryption::Implicit => (465, Tls::Wrapper(tls()?)),
            Encryption::None => (25, Tls::None),
        };
        let mut transport = AsyncSmtpTransport::<Tokio1Executor>::builder_dangerous(server)
            .port(mail.port.unwrap_or(port))
            .tls(tls)
            .timeout(Some(mail.timeout.0));
        if let (Some(username), Some(password)) = (&mail.username, mail.password()?) {
            transport = transport.credentials(Credentials::new(username.clone(), password));
        }
        let from = mail.from.as_deref().unwrap_or_default().parse().map_err(|_| MailError::Sender)?;
        let voice = text::Voice {
            name: config.name.clone(),
            support: mail.support.clone(),
            valid_for: config.recovery.valid_for,
            locked_for: config.password.locked_for,
        };
        Ok(Some(Self { transport: transport.build(), from, voice }))
    }

    /// A mail as it is sent; none to what is no address.
    fn write(&self, to: &str, text: Text, now: Time) -> Option<Message> {
        let host = self.from.email.domain();
        let date = SystemTime::UNIX_EPOCH + Duration::from_micros(now.micros().unsigned_abs());
        Message::builder()
            .from(self.from.clone())
            .to(Mailbox::new(None, to.parse().ok()?))
            .subject(text.subject)
            .date(date)
            .message_id(Some(format!("<{}@{host}>", uuid::Uuid::new_v4())))
            // RFC 3834: no holiday notices, please.
            .raw_header(HeaderValue::new(HeaderName::new_from_ascii_str("Auto-Submitted"), "auto-generated".into()))
            .header(ContentType::TEXT_PLAIN)
            .body(text.body)
            .ok()
    }

    async fn send(&self, message: Message) -> Result<(), smtp::Error> {
        self.transport.send(message).await.map(drop)
    }
}
