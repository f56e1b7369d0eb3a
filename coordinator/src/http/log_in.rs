//! How a user proves who they are (contract A.3): whatever is wrong, the work is the same.

use twinmesh_protocol::id::UserId;
use twinmesh_protocol::time::Time;

use super::AppState;
use super::problem::Problem;
use crate::authn::password::Reference;
use crate::authn::two_factor::{SharedSecret, Verdict};
use crate::store::user::{self as store, Credentials, Login};
use crate::store::{Store, StoreError, Tx};

/// How often a check begins anew because the password was changed under it.
const MAX_TURNS: usize = 3;

/// What somebody has to show.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Wanted<'a> {
    /// The password. They are logged in already.
    Password,
    /// The password; that it is right forgives no wrong ones, because no code was asked for.
    PasswordOnly,
    /// Whatever a log-in needs: the password, and a code if there is a second factor.
    LogIn {
        /// The code, if they sent one.
        code: Option<&'a str>,
    },
}

/// What came of it.
#[derive(Debug)]
pub(crate) enum Proof {
    /// Nobody, a wrong password, or a locked account: one is not to be told from another.
    Refused,
    /// The password is right; the code is wrong or was used before.
    WrongCode,
    /// The password is right; a code is due.
    CodeDue,
    /// The password is right, and nothing else was asked for.
    PasswordKnown { id: UserId },
    /// The password is right; the second factor has to be set up with this.
    SetUp { secret: SharedSecret, username: String },
    /// Everything is right. The transaction that remembers it is open, for what follows.
    Right { id: UserId, tx: Box<Tx> },
}

/// Checks what somebody shows. Wrong passwords and codes count, and too many lock the account. Every check costs one
/// durable write, so that its time tells nothing.
pub(crate) async fn prove(
    state: &AppState,
    login: Login<'_>,
    password: &str,
    wanted: Wanted<'_>,
    now: Time,
) -> Result<Proof, Problem> {
    for _ in 0..MAX_TURNS {
        let (known, costliest_bcrypt) = {
            let mut tx = state.store().read().await?;
            (store::credentials_fetch(tx.conn(), login).await?, store::costliest_bcrypt(tx.conn()).await?)
        };
        let hash = known.as_ref().map(|known| known.password_hash.clone());
        let reference = Reference { hash: hash.clone(), costliest_bcrypt };
        let right = state.hasher().verify(password.to_owned(), reference).await?;
        // An account that is not there is tried like one that is.
        let id = known.map_or(UserId::new(0), |known| known.id);
        let checked = if right { hash } else { None };
        if let Some(proof) = conclude(state, id, checked.as_deref(), wanted, now).await? {
            if let (Proof::Right { id, .. }, Some(old)) = (&proof, checked.filter(|hash| !state.hasher().is_ours(hash)))
            {
                rehash(state, *id, password.to_owned(), old);
            }
            return Ok(proof);
        }
    }
    Ok(Proof::Refused)
}

/// Decides with the account as it is at this moment: others may have tried meanwhile. `checked` is the hash that the
/// password fits. Nothing when that is not the account's any more.
async fn conclude(
    state: &AppState,
    id: UserId,
    checked: Option<&str>,
    wanted: Wanted<'_>,
    now: Time,
) -> Result<Option<Proof>, Problem> {
    let mut tx = state.store().write().await?;
    let known = store::credentials_fetch(tx.conn(), Login::Id(id)).await?;
    let Some(known) = known.filter(|known| !state.lockout().is_locked(known.attempts, now)) else {
        store::decoy_put(&mut tx, now).await?;
        tx.commit().await?;
        tracing::info!(user.id = %id, "a log-in failed");
        return Ok(Some(Proof::Refused));
    };
    let proof = match checked {
        None => Proof::Refused,
        Some(checked) if checked != known.password_hash => return Ok(None),
        Some(_) => match (wanted, judge(state, &known, wanted, now)?) {
            // Nothing is forgiven before everything was right: else whoever knows the password might guess codes for
            // ever, forgiven in between.
            (Wanted::PasswordOnly, _) => Proof::PasswordKnown { id },
            (_, Verdict::CodeDue) => Proof::CodeDue,
            (_, Verdict::WrongCode) => Proof::WrongCode,
            (_, Verdict::SetUp(secret)) => {
                if known.second_factor.secret.is_none() {
                    store::second_factor_replace(&mut tx, id, &secret).await?;
                    tracing::info!(user.id = %id, "a second factor is set up");
                }
                Proof::SetUp { secret, username: known.username }
            }
            (_, verdict @ (Verdict::NotNeeded | Verdict::Right { .. })) => {
                if let Verdict::Right { step } = verdict {
                    store::second_factor_used(&mut tx, id, step).await?;
                }
                store::attempts_put(&mut tx, id, state.lockout().after(known.attempts, true, now)).await?;
                return Ok(Some(Proof::Right { id, tx: Box::new(tx) }));
            }
        },
    };
    if let Proof::Refused | Proof::WrongCode = proof {
        let after = state.lockout().after(known.attempts, false, now);
        store::attempts_put(&mut tx, id, after).await?;
        tracing::info!(user.id = %id, "a log-in failed");
        if state.lockout().is_locked(after, now) {
            state.meter().locked();
            tracing::warn!(user.id = %id, "user locked after too many wrong passwords or codes");
        }
    }
    tx.commit().await?;
    Ok(Some(proof))
}

fn judge(state: &AppState, known: &Credentials, wanted: Wanted<'_>, now: Time) -> Result<Verdict, Problem> {
    match wanted {
        Wanted::Password | Wanted::PasswordOnly => Ok(Verdict::NotNeeded),
        Wanted::LogIn { code } => {
            let verdict = state.second_factor().judge(&known.second_factor, code, now);
            verdict.map_err(|error| Problem::internal(&error))
        }
    }
}

/// Puts a hash of ours in the place of an old one, after the answer.
fn rehash(state: &AppState, id: UserId, password: String, old: String) {
    let (hasher, store) = (state.hasher().clone(), state.store().clone());
    tokio::spawn(async move {
        let new = match hasher.hash(password).await {
            Ok(new) => new,
            Err(error) => return tracing::warn!(user.id = %id, "{error}"),
        };
        match replace(&store, id, &old, &new).await {
            Ok(()) => tracing::info!(user.id = %id, "the hash of a password is ours now"),
            Err(error) => tracing::warn!(user.id = %id, "cannot keep a new hash: {error}"),
        }
    });
}

async fn replace(store: &Store, id: UserId, old: &str, new: &str) -> Result<(), StoreError> {
    let mut tx = store.write().await?;
    crate::store::user::password_rehash(&mut tx, id, old, new).await?;
    tx.commit().await
}
