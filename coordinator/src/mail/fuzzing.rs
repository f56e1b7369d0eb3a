//! What users say of themselves and mails repeat, for those who throw anything at it.

use lettre::message::header::Headers;
use twinmesh_protocol::id::UserId;
use twinmesh_protocol::time::Time;

use super::Mailer;
use crate::config::{Config, Encryption};
use crate::store::outbox::MailKind;
use crate::store::outbox::Recipient;

/// A mail to somebody whose address, user name and first name are all this text: it goes to one, and has the headers
/// of every mail and no more.
pub(crate) fn letter(text: &str) {
    let mut config = Config::default();
    config.mail.server = Some("127.0.0.1".into());
    config.mail.encryption = Encryption::None;
    config.mail.from = Some("Twinmesh <noreply@example.org>".into());
    let Ok(Some(mailer)) = Mailer::new(&config) else { return };
    for email in [text, "ada@example.org"] {
        let to = Recipient {
            id: UserId::new(1),
            username: text.to_owned(),
            firstname: Some(text.to_owned()),
            email: Some(email.to_owned()),
        };
        for kind in MailKind::ALL {
            let said = mailer.voice.say(kind, &to, "token");
            let Some(message) = mailer.write(email, said, Time::from_micros(0)) else { continue };
            assert_eq!(message.envelope().to().len(), 1, "{text:?}");
            check(message.headers(), &message.formatted());
        }
    }
}

fn check(headers: &Headers, formatted: &[u8]) {
    let formatted = String::from_utf8_lossy(formatted);
    let head = formatted.split("\r\n\r\n").next().unwrap_or_default();
    // A line that begins with a space belongs to the one before.
    let names = head.split("\r\n").filter(|line| !line.starts_with([' ', '\t'])).map(|line| line.split(':').next());
    let names: Vec<&str> = names.flatten().collect();
    let known = [
        "From",
        "To",
        "Subject",
        "Date",
        "Message-ID",
        "Auto-Submitted",
        "Content-Type",
        "Content-Transfer-Encoding",
        "MIME-Version",
    ];
    for name in &names {
        let count = names.iter().filter(|other| other.eq_ignore_ascii_case(name)).count();
        let is_known = known.iter().any(|known| known.eq_ignore_ascii_case(name));
        assert!(is_known && count == 1, "a header `{name}` in {head:?}, {headers:?}");
    }
}
