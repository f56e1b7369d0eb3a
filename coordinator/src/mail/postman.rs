//! Empties the outbox.

use std::error::Error as _;
use std::time::Duration;

use lettre::transport::smtp;
use tokio_util::sync::CancellationToken;
use twinmesh_protocol::time::Time;

use super::Mailer;
use crate::authn::lockout::Lockout;
use crate::authn::secret;
use crate::clock::Clock;
use crate::store::bell::Bell;
use crate::store::outbox::MailKind;
use crate::store::outbox::{
    Letter, Recipient, locked_untold, mail_request, outbox_next, outbox_postpone, outbox_remove, outbox_tried,
};
use crate::store::recovery::{Purpose, recovery_put};
use crate::store::{Store, StoreError};

/// How long another coordinator, or this one after a restart, leaves a mail alone that is being sent.
const LEASE: Duration = Duration::from_secs(5 * 60);
/// How often the pause between tries doubles: from a minute to an hour.
const MAX_DOUBLINGS: u32 = 6;

/// When the postman does what.
#[derive(Debug, Clone)]
pub(crate) struct Rounds {
    /// The pause after a first failure; also how often locked accounts are looked for.
    pub(crate) retry_after: Duration,
    /// When a mail is given up.
    pub(crate) give_up_after: Duration,
    /// How long a token is good once it is sent.
    pub(crate) token_valid_for: Duration,
    /// When an account counts as locked.
    pub(crate) lockout: Lockout,
    /// A user is told of failed log-ins at most this often.
    pub(crate) failed_log_ins_every: Duration,
}

/// Sends what is in the outbox. Several may be at work on one database.
#[derive(Debug)]
pub(crate) struct Postman {
    pub(crate) mailer: Mailer,
    pub(crate) store: Store,
    pub(crate) clock: Clock,
    pub(crate) rounds: Rounds,
}

/// What became of a try to send.
enum Delivery {
    Sent,
    /// It will never go.
    Hopeless,
    Failed,
}

impl Postman {
    /// Works until `shutdown`.
    pub(crate) async fn work(self, shutdown: CancellationToken) {
        let mut asked = self.store.bell(Bell::Mail);
        loop {
            let round = async {
                if let Err(error) = self.round().await {
                    tracing::warn!("cannot look into the outbox: {error}");
                }
            };
            // A mail that is being sent then is sent again after the next start.
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = round => {}
            }
            tokio::select! {
                () = shutdown.cancelled() => return,
                changed = asked.changed() => if changed.is_err() { return },
                () = tokio::time::sleep(self.rounds.retry_after) => {}
            }
        }
    }

    async fn round(&self) -> Result<(), StoreError> {
        self.tell_of_failed_log_ins().await?;
        while let Some((letter, token)) = self.take().await? {
            let delivery = match &letter.to {
                Some(to) => self.deliver(letter.kind, to, &token).await,
                None => Delivery::Hopeless,
            };
            let mut tx = self.store.write().await?;
            match delivery {
                Delivery::Sent | Delivery::Hopeless => outbox_remove(&mut tx, letter.id).await?,
                Delivery::Failed => {
                    let pause = self.rounds.retry_after.saturating_mul(1 << letter.tries.min(MAX_DOUBLINGS));
                    outbox_postpone(&mut tx, letter.id, self.clock.now().plus(pause)).await?;
                }
            }
            tx.commit().await?;
        }
        Ok(())
    }

    /// Puts a notice into the outbox for each locked account. Not done at the log-in itself, whose time would tell.
    async fn tell_of_failed_log_ins(&self) -> Result<(), StoreError> {
        let (now, Rounds { lockout, failed_log_ins_every: every, .. }) = (self.clock.now(), &self.rounds);
        if locked_untold(self.store.read().await?.conn(), *lockout, *every, now).await?.is_empty() {
            return Ok(());
        }
        let mut tx = self.store.write().await?;
        for id in locked_untold(tx.conn(), *lockout, *every, now).await? {
            mail_request(&mut tx, MailKind::FailedLogIns, Some(id), *every, now).await?;
        }
        tx.commit().await
    }

    /// Takes the next mail that is due, with the token that it brings: made here, so that it lies nowhere before.
    async fn take(&self) -> Result<Option<(Letter, String)>, StoreError> {
        let now = self.clock.now();
        if outbox_next(self.store.read().await?.conn(), now).await?.is_none() {
            return Ok(None);
        }
        let mut tx = self.store.write().await?;
        let Some(mut letter) = outbox_next(tx.conn(), now).await? else { return Ok(None) };
        outbox_tried(&mut tx, letter.id, now.plus(LEASE)).await?;
        if now.since(letter.made_at) > self.rounds.give_up_after {
            let user = letter.to.as_ref().map(|to| to.id.get());
            tracing::error!(user.id = user, kind = letter.kind.word(), "a mail could not be sent and is given up");
            letter.to = None;
        }
        let purpose = match letter.kind {
            MailKind::RecoverPassword => Some(Purpose::Password),
            MailKind::RecoverTwoFactor => Some(Purpose::TwoFactor),
            MailKind::FailedLogIns | MailKind::AddressChanged => None,
        };
        let token = secret::new_token();
        if let (Some(to), Some(purpose)) = (&letter.to, purpose) {
            let expires_at = now.plus(self.rounds.token_valid_for);
            recovery_put(&mut tx, to.id, purpose, &secret::hash(&token), expires_at, now).await?;
        }
        tx.commit().await?;
        Ok(Some((letter, token)))
    }

    async fn deliver(&self, kind: MailKind, to: &Recipient, token: &str) -> Delivery {
        let (id, word) = (to.id, kind.word());
        let text = self.mailer.voice.say(kind, to, token);
        let message = to.email.as_deref().and_then(|email| self.mailer.write(email, text, self.now()));
        let Some(message) = message else {
            tracing::warn!(user.id = %id, kind = word, "a user has no valid mail address, so a mail is not sent");
            return Delivery::Hopeless;
        };
        match self.mailer.send(message).await {
            Ok(()) => {
                tracing::info!(user.id = %id, kind = word, "mail sent");
                Delivery::Sent
            }
            Err(error) if error.is_permanent() => {
                tracing::error!(user.id = %id, kind = word, "the mail server refuses a mail: {}", explain(&error));
                Delivery::Hopeless
            }
            Err(error) => {
                tracing::warn!(user.id = %id, kind = word, "cannot send a mail yet: {}", explain(&error));
                Delivery::Failed
            }
        }
    }

    fn now(&self) -> Time {
        self.clock.now()
    }
}

/// What went wrong. A server's own words name people, so of those only the code is told.
fn explain(error: &smtp::Error) -> String {
    if let Some(code) = error.status() {
        return format!("it answers {code}");
    }
    if let Some(why) = super::distrust(error) {
        return why;
    }
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let words = cause.to_string();
        if !text.contains(&words) {
            text = format!("{text}: {words}");
        }
        next = cause.source();
    }
    text
}
