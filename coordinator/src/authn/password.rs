//! Passwords: the policy, and hashes made and checked off the async threads. Ours are argon2id; bcrypt's, as vantage6
//! has them, are accepted until their users log in.

use std::fmt;
use std::ops::{Range, RangeInclusive};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::str::FromStr as _;
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread;

use argon2::password_hash;
use argon2::password_hash::phc::{Output, ParamsString, PasswordHash, Salt};
use argon2::{Algorithm, Argon2, Block, Params, Version};
use bcrypt::HashParts;
use tokio::sync::oneshot;

use crate::limits::NEW_PASSWORD;

/// Why a password is refused (contract A.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WeakPassword {
    /// Too short.
    #[error(
        "Password too short: use at least {} characters with mixed lowercase, uppercase, numbers and special characters",
        NEW_PASSWORD.min
    )]
    Short,
    /// Too long.
    #[error("Password too long: use at most {} characters", NEW_PASSWORD.max)]
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
    if chars < NEW_PASSWORD.min {
        Err(WeakPassword::Short)
    } else if chars > NEW_PASSWORD.max {
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

/// Why a hash is not taken in place of a password.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "it is no hash by bcrypt (`$2b$…`, cost {min} to {max}) or by argon2id as it is made here \
     (`$argon2id$v=19$m={STANDARD_BLOCKS},t={STANDARD_PASSES},p={STANDARD_LANES}$…`): give a new password instead",
    min = TAKEN_BCRYPT_COSTS.start(),
    max = TAKEN_BCRYPT_COSTS.end()
)]
pub struct InvalidHash;

/// Checks a hash that was made elsewhere.
///
/// One by argon2id has to cost what ours do, as memory, passes and lanes all show in the time that a check takes. Those
/// by bcrypt are few and small enough for every log-in to do their work too.
///
/// # Errors
/// When it is none that could be checked against later, or one whose account would tell itself by its time.
pub fn check_hash(hash: &str) -> Result<(), InvalidHash> {
    let valid = if is_bcrypt(hash) {
        bcrypt_cost(hash).is_some_and(|cost| TAKEN_BCRYPT_COSTS.contains(&cost))
    } else {
        params_of(hash).is_some_and(|params| {
            (params.m_cost(), params.t_cost(), params.p_cost()) == (STANDARD_BLOCKS, STANDARD_PASSES, STANDARD_LANES)
        })
    };
    if valid { Ok(()) } else { Err(InvalidHash) }
}

fn is_bcrypt(hash: &str) -> bool {
    hash.starts_with("$2")
}

/// The cost of a hash by bcrypt that can be checked.
fn bcrypt_cost(hash: &str) -> Option<u32> {
    HashParts::from_str(hash).ok().map(|parts| parts.get_cost()).filter(|cost| *cost <= MAX_BCRYPT_COST)
}

/// What a hash by argon2id costs.
fn params_of(hash: &str) -> Option<Params> {
    let hash = PasswordHash::new(hash).ok()?;
    let is_whole = hash.algorithm == Algorithm::Argon2id.ident() && hash.salt.is_some() && hash.hash.is_some();
    is_whole.then(|| Params::try_from(&hash).ok()).flatten()
}

/// What a password is checked against.
#[derive(Clone, Default)]
pub(crate) struct Reference {
    /// The account's hash, if there is the account.
    pub(crate) hash: Option<String>,
    /// The costliest bcrypt hash of any account, while there is one. Then every check does the work of both kinds, so
    /// that its time does not tell which accounts have an old hash, or exist.
    pub(crate) costliest_bcrypt: Option<String>,
}

impl fmt::Debug for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Reference([redacted])")
    }
}

/// The costs of bcrypt that are taken from elsewhere: from the least there is to that of stock servers. Whatever is taken
/// every log-in pays for.
const TAKEN_BCRYPT_COSTS: RangeInclusive<u32> = 4..=12;
/// The costs that are checked. More would keep a processor busy for many seconds; earlier releases took as much.
const MAX_BCRYPT_COST: u32 = 16;

/// What a hash costs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cost {
    /// 19 MiB and two passes, the first choice of OWASP's password storage cheat sheet.
    Standard,
    /// As little as argon2 allows. For tests.
    Minimal,
}

/// How many passwords are hashed at the same time at most, however many processors there are: each takes its memory.
const MAX_THREADS: usize = 4;

/// What our hashes take, in blocks of 1 KiB. A thread keeps no more; hashes that take more may have been imported.
const STANDARD_BLOCKS: u32 = 19 * 1024;
const STANDARD_PASSES: u32 = 2;
const STANDARD_LANES: u32 = 1;

/// The error of hashing: the machine's random source, memory or threads failed.
#[derive(Debug, thiserror::Error)]
#[error("cannot hash a password: {0}")]
pub struct HashError(String);

/// Makes and checks hashes, a few at a time so that log-ins cannot take all memory.
#[derive(Clone)]
pub struct Hasher {
    argon2: Argon2<'static>,
    workshop: Workshop,
    /// Checked when there is no account, so that the answer takes as long as if there were one.
    decoy: Arc<str>,
}

impl Hasher {
    /// Makes a hasher.
    ///
    /// # Errors
    /// When the machine's random source fails, or it has no thread to spare.
    pub fn new(cost: Cost) -> Result<Self, HashError> {
        let params = match cost {
            Cost::Standard => Params::new(STANDARD_BLOCKS, STANDARD_PASSES, STANDARD_LANES, None),
            Cost::Minimal => Params::new(Params::MIN_M_COST, Params::MIN_T_COST, Params::MIN_P_COST, None),
        }
        .map_err(|error| HashError(error.to_string()))?;
        let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
        let decoy = written(&argon2, Salt::generate(), &rand::random::<[u8; Params::DEFAULT_OUTPUT_LEN]>())?;
        Ok(Self { argon2, workshop: Workshop::open()?, decoy: decoy.into() })
    }

    /// Hashes a password.
    ///
    /// # Errors
    /// When the machine's random source fails.
    pub async fn hash(&self, password: String) -> Result<String, HashError> {
        let argon2 = self.argon2.clone();
        self.workshop.work(move |memory| hash_now(&argon2, &password, memory)).await?
    }

    /// Whether a hash is like those that are made here, and not to be replaced once its password is known.
    pub(crate) fn is_ours(&self, hash: &str) -> bool {
        let ours = self.argon2.params();
        params_of(hash).is_some_and(|params| {
            (params.m_cost(), params.t_cost(), params.p_cost()) == (ours.m_cost(), ours.t_cost(), ours.p_cost())
        })
    }

    /// Whether the password is the one that was hashed. Without a hash the answer is no, after the same work.
    ///
    /// # Errors
    /// When the work could not be done at all.
    pub(crate) async fn verify(&self, password: String, reference: Reference) -> Result<bool, HashError> {
        let decoy = Arc::clone(&self.decoy);
        self.workshop.work(move |memory| verify_now(&password, &reference, &decoy, memory)).await
    }
}

/// What argon2 works in.
type Memory = Vec<Block>;
type Job = Box<dyn FnOnce(&mut Memory) + Send>;

/// Threads that do nothing but hash, each in memory that it keeps. From the allocator, such large pieces taken and given
/// back by many threads came to hundreds of megabytes. They end with the last clone.
#[derive(Clone)]
struct Workshop {
    jobs: mpsc::Sender<Job>,
}

impl Workshop {
    fn open() -> Result<Self, HashError> {
        let (jobs, queue) = mpsc::channel::<Job>();
        let queue = Arc::new(Mutex::new(queue));
        for _ in 0..thread::available_parallelism().map_or(1, usize::from).min(MAX_THREADS) {
            let queue = Arc::clone(&queue);
            thread::Builder::new()
                .name("passwords".into())
                .spawn(move || work_off(&queue))
                .map_err(|error| HashError(error.to_string()))?;
        }
        Ok(Self { jobs })
    }

    async fn work<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Memory) -> T + Send + 'static,
    ) -> Result<T, HashError> {
        let (done, answer) = oneshot::channel();
        let job: Job = Box::new(move |memory| {
            // Who asked may have hung up meanwhile, and then it is not worth the work.
            if !done.is_closed() {
                drop(done.send(work(memory)));
            }
        });
        self.jobs.send(job).map_err(|error| HashError(error.to_string()))?;
        answer.await.map_err(|error| HashError(error.to_string()))
    }
}

fn work_off(queue: &Mutex<mpsc::Receiver<Job>>) {
    let mut memory = Memory::new();
    loop {
        let job = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(job) = job else { return };
        // Whoever waits for it learns that it came to nothing.
        if catch_unwind(AssertUnwindSafe(|| job(&mut memory))).is_err() {
            tracing::error!("hashing a password ended in a panic");
        }
    }
}

fn verify_now(password: &str, reference: &Reference, decoy: &str, memory: &mut Memory) -> bool {
    let (argon2, bcrypt) = match reference.hash.as_deref() {
        Some(hash) if is_bcrypt(hash) => (None, Some(hash)),
        hash => (hash, None),
    };
    let by_argon2 = matches_argon2(password, argon2.unwrap_or(decoy), memory).unwrap_or_else(|_| unreadable());
    let costliest = reference.costliest_bcrypt.as_deref();
    let by_bcrypt = bcrypt.or(costliest).is_some_and(|hash| matches_bcrypt(password, hash));
    for cost in rest(bcrypt.and_then(bcrypt_cost), costliest.and_then(bcrypt_cost)) {
        drop(bcrypt::hash_with_salt(password, cost, [0; 16]));
    }
    (argon2.is_some() && by_argon2) || (bcrypt.is_some() && by_bcrypt)
}

fn matches_argon2(password: &str, hash: &str, memory: &mut Memory) -> password_hash::Result<bool> {
    let hash = PasswordHash::new(hash)?;
    let (Some(salt), Some(expected)) = (&hash.salt, &hash.hash) else {
        return Err(password_hash::Error::PasswordInvalid);
    };
    let version = hash.version.map(Version::try_from).transpose()?.unwrap_or_default();
    let argon2 = Argon2::new(Algorithm::try_from(hash.algorithm.as_str())?, version, Params::try_from(&hash)?);
    // Outputs are compared in constant time.
    Ok(Output::new(&output(&argon2, password, salt, expected.len(), memory)?)? == *expected)
}

/// What argon2 makes of a password, of this length.
fn output(
    argon2: &Argon2<'_>,
    password: &str,
    salt: &Salt,
    length: usize,
    memory: &mut Memory,
) -> argon2::Result<Vec<u8>> {
    let mut out = vec![0; length];
    memory.resize(argon2.params().block_count().max(memory.len()), Block::new());
    let hashed = argon2.hash_password_into_with_memory(password.as_bytes(), salt, &mut out, &mut *memory);
    if memory.len() > STANDARD_BLOCKS as usize {
        *memory = Memory::new();
    }
    hashed.map(|()| out)
}

/// The costs of what is to be hashed besides, so that a hash takes as long as the costliest: each is double the one
/// before it.
fn rest(own: Option<u32>, costliest: Option<u32>) -> Range<u32> {
    match (own, costliest) {
        (Some(own), Some(costliest)) => own..costliest,
        (Some(_) | None, _) => 0..0,
    }
}

fn matches_bcrypt(password: &str, hash: &str) -> bool {
    match bcrypt_cost(hash) {
        Some(_) => bcrypt::verify(password, hash).unwrap_or(false),
        None => unreadable(),
    }
}

fn unreadable() -> bool {
    tracing::error!("the hash of a password in the database cannot be read; its user needs a new password");
    false
}

impl fmt::Debug for Hasher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hasher")
    }
}

fn hash_now(argon2: &Argon2<'_>, password: &str, memory: &mut Memory) -> Result<String, HashError> {
    let salt = Salt::generate();
    let output = output(argon2, password, &salt, Params::DEFAULT_OUTPUT_LEN, memory)
        .map_err(|error| HashError(error.to_string()))?;
    written(argon2, salt, &output)
}

/// A hash as text, in the PHC string format.
fn written(argon2: &Argon2<'_>, salt: Salt, output: &[u8]) -> Result<String, HashError> {
    let hash = || -> password_hash::phc::Result<PasswordHash> {
        Ok(PasswordHash {
            algorithm: Algorithm::Argon2id.ident(),
            version: Some(Version::V0x13.into()),
            params: ParamsString::try_from(argon2.params())
                .map_err(|_| password_hash::phc::Error::ParamsMaxExceeded)?,
            salt: Some(salt),
            hash: Some(Output::new(output)?),
        })
    };
    hash().map(|hash| hash.to_string()).map_err(|error| HashError(error.to_string()))
}

#[cfg(test)]
mod tests {
    use argon2::password_hash::{PasswordHasher as _, PasswordVerifier as _};

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

    fn against(hash: &str) -> Reference {
        Reference { hash: Some(hash.into()), costliest_bcrypt: None }
    }

    #[tokio::test]
    async fn only_the_password_that_was_hashed_is_right() {
        let hasher = Hasher::new(Cost::Minimal).unwrap();
        let hash = hasher.hash("Aa1!aaaa".into()).await.unwrap();
        assert!(hash.starts_with("$argon2id$"));
        assert!(hasher.is_ours(&hash));
        assert!(hasher.verify("Aa1!aaaa".into(), against(&hash)).await.unwrap());
        assert!(!hasher.verify("Aa1!aaab".into(), against(&hash)).await.unwrap());
        assert!(!hasher.verify("Aa1!aaaa".into(), Reference::default()).await.unwrap());
    }

    #[tokio::test]
    async fn hashes_are_those_of_the_library_whatever_they_cost() {
        let hasher = Hasher::new(Cost::Standard).unwrap();
        let ours = hasher.hash("Aa1!aaaa".into()).await.unwrap();
        assert!(ours.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{ours}");
        assert!(Argon2::default().verify_password(b"Aa1!aaaa", ours.as_str()).is_ok());
        for (memory, passes, lanes) in [(8, 1, 1), (64, 3, 4), (STANDARD_BLOCKS + 1024, 1, 2), (19 * 1024, 2, 1)] {
            let params = Params::new(memory, passes, lanes, Some(24)).unwrap();
            let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
            let theirs = argon2.hash_password(b"Aa1!aaaa").unwrap().to_string();
            assert!(hasher.verify("Aa1!aaaa".into(), against(&theirs)).await.unwrap(), "{theirs}");
            assert!(!hasher.verify("Aa1!aaab".into(), against(&theirs)).await.unwrap(), "{theirs}");
            // What costs another time than ours is not taken, and what was taken earlier is replaced.
            let is_alike = (memory, passes, lanes) == (STANDARD_BLOCKS, STANDARD_PASSES, STANDARD_LANES);
            assert_eq!((check_hash(&theirs).is_ok(), hasher.is_ours(&theirs)), (is_alike, is_alike), "{theirs}");
        }
    }

    #[test]
    fn hashes_by_bcrypt_are_taken_up_to_the_cost_of_stock_servers() {
        for (cost, is_taken) in [(4, true), (12, true), (13, false), (16, false)] {
            let hash = format!("$2b${cost:02}$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW");
            assert_eq!(check_hash(&hash).is_ok(), is_taken, "{hash}");
            // Earlier releases took these: their users still get in.
            assert_eq!(bcrypt_cost(&hash), Some(cost));
        }
        let why = InvalidHash.to_string();
        assert!(why.contains("cost 4 to 12") && why.contains("m=19456,t=2,p=1"), "{why}");
    }

    #[test]
    fn every_account_costs_as_much_as_the_costliest() {
        let work = |costs: Range<u32>| costs.map(|cost| 1_u64 << cost).sum::<u64>();
        for own in 4..=MAX_BCRYPT_COST {
            assert_eq!((1 << own) + work(rest(Some(own), Some(MAX_BCRYPT_COST))), 1 << MAX_BCRYPT_COST);
        }
        // Who has none is checked against the costliest itself.
        assert_eq!(work(rest(None, Some(12))), 0);
    }

    #[tokio::test]
    async fn hashes_by_bcrypt_are_checked_too() {
        // From the test vectors of OpenBSD's and Openwall's bcrypt (crypt_blowfish 1.3, wrapper.c).
        let known = "$2a$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW";
        let hasher = Hasher::new(Cost::Minimal).unwrap();
        for prefix in ["$2a$", "$2b$", "$2y$"] {
            let hash = known.replace("$2a$", prefix);
            assert_eq!(check_hash(&hash), Ok(()));
            assert!(hasher.verify("U*U".into(), against(&hash)).await.unwrap(), "{prefix}");
            assert!(!hasher.verify("U*V".into(), against(&hash)).await.unwrap(), "{prefix}");
        }
        // The hash that is there for its work lets nobody in.
        let other = Reference { hash: None, costliest_bcrypt: Some(known.into()) };
        assert!(!hasher.verify("U*U".into(), other).await.unwrap());
    }

    #[tokio::test]
    async fn what_is_no_hash_fits_no_password() {
        let hasher = Hasher::new(Cost::Minimal).unwrap();
        for text in ["", "root", "$2b$31$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW", "$argon2id$v=19", "$2"]
        {
            assert_eq!(check_hash(text), Err(InvalidHash), "{text}");
            assert!(!hasher.verify(text.into(), against(text)).await.unwrap(), "{text}");
        }
    }
}
