//! What mails say.

use std::fmt::Write as _;

use crate::config::Span;
use crate::store::outbox::MailKind;
use crate::store::outbox::Recipient;

/// Who speaks, and of what.
#[derive(Debug, Clone)]
pub(super) struct Voice {
    /// What people know this coordinator by.
    pub(super) name: String,
    /// Where to turn to.
    pub(super) support: Option<String>,
    pub(super) valid_for: Span,
    pub(super) locked_for: Span,
}

/// A mail's words.
#[derive(Debug)]
pub(super) struct Text {
    pub(super) subject: String,
    pub(super) body: String,
}

impl Voice {
    /// What to tell somebody. `token` is what they need, with mails that bring one.
    pub(super) fn say(&self, kind: MailKind, to: &Recipient, token: &str) -> Text {
        let Self { name, valid_for, locked_for, .. } = self;
        let user = &to.username;
        let (subject, words) = match kind {
            MailKind::RecoverPassword => (
                format!("{name}: set a new password"),
                format!(
                    "somebody asked for a new password for the user `{user}` at {name}. If it was you, this token\n\
                     sets it. It is good once, for {valid_for}:\n\n{token}\n\n\
                     For example with the Python client:\n\n\
                     client.util.set_my_password(\n    \"{token}\",\n    \"your new password\",\n)\n\n\
                     If it was not you, do nothing: your password is as it was. Give the token to nobody.\n"
                ),
            ),
            MailKind::RecoverTwoFactor => (
                format!("{name}: set up two-factor authentication anew"),
                format!(
                    "somebody who knows the password of the user `{user}` at {name} asked to set up two-factor\n\
                     authentication anew. If it was you, this token does it. It is good once, for {valid_for}:\n\n\
                     {token}\n\n\
                     For example with the Python client:\n\n\
                     client.util.set_two_factor_auth(\n    \"{token}\"\n)\n\n\
                     If it was not you, change your password: somebody else has it. Give the token to nobody.\n"
                ),
            ),
            MailKind::FailedLogIns => (
                format!("{name}: your account is locked"),
                format!(
                    "somebody tried to log in as the user `{user}` at {name} with wrong passwords or codes, so often\n\
                     that the account is locked for {locked_for}. It opens by itself after that.\n\n\
                     If it was not you, your password may be what they are after. It is safe as long as nobody can\n\
                     guess it.\n"
                ),
            ),
            MailKind::AddressChanged => (
                format!("{name}: your mail address was changed"),
                format!(
                    "the user `{user}` at {name} has another mail address from now on. This is the last mail to\n\
                     this one.\n\n\
                     If neither you nor an administrator changed it, somebody else has your log-in, and could set a new\n\
                     password by mail: tell your administrator at once.\n"
                ),
            ),
        };
        let whom = to.firstname.as_deref().filter(|name| !name.is_empty()).unwrap_or(user);
        let mut body = format!("Dear {whom},\n\n{words}");
        if let Some(support) = &self.support {
            // Writing to a text does not fail.
            let _ = write!(body, "\nQuestions? {support}\n");
        }
        Text { subject, body }
    }
}
