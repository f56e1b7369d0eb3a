//! Passwords: the policy, and argon2id hashes made and checked off the async threads.

use std::fmt;
use std::sync::Arc;

use argon2::password_hash::phc::PasswordHash;
use argon2::password_hash::{PasswordHasher as _, PasswordVerifier as _};
use argon2::{Algorithm, Argon2, Params, Version};
use tokio::sync::Semaphore;

/// Shorter passwords are refused.
const MIN_CHARS: usize = 8;
/// Longer passwords are refused.
const MAX_CHARS: usize = 128;

/// Why a password is refused (contract A.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WeakPassword {
    /// Too short.
    #[error(
        "Password too short: use at least 8 characters with mixed lowercase, uppercase, numbers and special characters"
    )]
    Short,
    /// Too long.
    #[error("Password too long: use at most 128 characters")]
    Long,
    /// No digit.
    #[error("Password should contain at least one number")]
    Digit,
    /// No upper-case letter.
    #[error("Password should contain at least one uppercase letter")]
    Upper,
    /// No lower-case letter.
    #[error("Password should contain at least one lowercase letter")]
    Lower,
    /// Letters and digits only.
    #[error("Password should contain at least one special character")]
    Special,
}

/// Checks a new password against the policy.
///
/// # Errors
/// The first rule it breaks.
pub fn check_policy(password: &str) -> Result<(), WeakPassword> {
    let chars = password.chars().count();
    let any = |what: fn(char) -> bool| password.chars().any(what);
    if chars < MIN_CHARS {
        Err(WeakPassword::Short)
    } else if chars > MAX_CHARS {
        Err(WeakPassword::Long)
    } else if !any(|c| c.is_numeric()) {
        Err(WeakPassword::Digit)
    } else if !any(char::is_uppercase) {
        Err(WeakPassword::Upper)
    } else if !any(char::is_lowercase) {
        Err(WeakPassword::Lower)
    } else if !any(|c| !c.is_alphanumeric()) {
        Err(WeakPassword::Special)
    } else {
        Ok(())
    }
}

/// What a hash costs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cost {
    /// 19 MiB and two passes, the first choice of OWASP's password storage cheat sheet.
    Standard,
    /// As little as argon2 allows. For tests.
    Minimal,
}

/// The error of hashing: the machine's random source or memory failed.
#[derive(Debug, thiserror::Error)]
#[error("cannot hash a password: {0}")]
pub struct HashError(String);

/// Makes and checks hashes, a few at a time so that log-ins cannot take all memory.
#[derive(Clone)]
pub struct Hasher {
    argon2: Argon2<'static>,
    turns: Arc<Semaphore>,
    /// Checked when there is no account, so that the answer takes as long as if there were one.
    decoy: Arc<str>,
}

impl Hasher {
    /// Makes a hasher.
    ///
    /// # Errors
    /// When the machine's random source fails.
    pub fn new(cost: Cost) -> Result<Self, HashError> {
        let params = match cost {
            Cost::Standard => Params::new(19 * 1024, 2, 1, None),
            Cost::Minimal => Params::new(Params::MIN_M_COST, Params::MIN_T_COST, Params::MIN_P_COST, None),
        }
        .map_err(|error| HashError(error.to_string()))?;
        let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let decoy = hash_now(&argon2, &super::secret::new_password())?;
        Ok(Self { argon2, turns: Arc::new(Semaphore::new(threads)), decoy: decoy.into() })
    }

    /// Hashes a password.
    ///
    /// # Errors
    /// When the machine's random source fails.
    pub async fn hash(&self, password: String) -> Result<String, HashError> {
        let argon2 = self.argon2.clone();
        self.off_thread(move || hash_now(&argon2, &password)).await
    }

    /// Whether the password is the one that was hashed. Without a hash the answer is no, after the same work.
    ///
    /// # Errors
    /// When the work could not be done at all.
    pub async fn verify(&self, password: String, hash: Option<String>) -> Result<bool, HashError> {
        let decoy = Arc::clone(&self.decoy);
        self.off_thread(move || {
            let known = hash.is_some();
            let text = hash.as_deref().unwrap_or(&decoy);
            let hash = PasswordHash::new(text).map_err(|error| HashError(error.to_string()))?;
            let right = Argon2::default().verify_password(password.as_bytes(), &hash).is_ok();
            Ok(right && known)
        })
        .await
    }

    async fn off_thread<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, HashError> + Send + 'static,
    ) -> Result<T, HashError> {
        let _turn = self.turns.acquire().await.map_err(|error| HashError(error.to_string()))?;
        tokio::task::spawn_blocking(work).await.map_err(|error| HashError(error.to_string()))?
    }
}

impl fmt::Debug for Hasher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hasher")
    }
}

fn hash_now(argon2: &Argon2<'_>, password: &str) -> Result<String, HashError> {
    argon2.hash_password(password.as_bytes()).map(|hash| hash.to_string()).map_err(|error| HashError(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_rule_of_the_policy_has_its_own_answer() {
        for (password, answer) in [
            ("Aa1!aaaa", Ok(())),
            ("Aa1!aaa", Err(WeakPassword::Short)),
            (&"Aa1!".repeat(33), Err(WeakPassword::Long)),
            ("Aaa!aaaa", Err(WeakPassword::Digit)),
            ("aa1!aaaa", Err(WeakPassword::Upper)),
            ("AA1!AAAA", Err(WeakPassword::Lower)),
            ("Aa1aaaaa", Err(WeakPassword::Special)),
        ] {
            assert_eq!(check_policy(password), answer, "{password}");
        }
        assert_eq!(check_policy(&crate::authn::secret::new_password()), Ok(()));
    }

    #[tokio::test]
    async fn only_the_password_that_was_hashed_is_right() {
        let hasher = Hasher::new(Cost::Minimal).unwrap();
        let hash = hasher.hash("Aa1!aaaa".into()).await.unwrap();
        assert!(hash.starts_with("$argon2id$"));
        assert!(hasher.verify("Aa1!aaaa".into(), Some(hash.clone())).await.unwrap());
        assert!(!hasher.verify("Aa1!aaab".into(), Some(hash)).await.unwrap());
        assert!(!hasher.verify("Aa1!aaaa".into(), None).await.unwrap());
    }
}
