//! The second factor: codes of six digits from an authenticator (TOTP, RFC 6238; contract A.3).

use data_encoding::BASE32_NOPAD;
use totp_rs::{Builder, Secret, Totp, TotpError};
use twinmesh_protocol::time::Time;

/// How long a code is shown, in seconds (RFC 6238 §5.2); one is good a step before and after as well.
const STEP: i64 = 30;

/// The error of using what is stored of a user's second factor.
#[derive(Debug, thiserror::Error)]
#[error("cannot use the secret of a second factor: {0}")]
pub(crate) struct SecondFactorError(String);

impl From<TotpError> for SecondFactorError {
    fn from(error: TotpError) -> Self {
        // The library's debug form may hold what it was given, its words do not.
        Self(error.to_string())
    }
}

/// What is stored of a user's second factor.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Enrolled {
    /// The secret that it shares with us, in base32.
    pub(crate) secret: Option<SharedSecret>,
    /// The time step of the last code that was accepted; none before the first.
    pub(crate) last_step: Option<i64>,
}

/// The secret that an authenticator shares with us, in base32.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct SharedSecret(pub(crate) String);

impl std::fmt::Debug for SharedSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("[redacted]")
    }
}

impl SharedSecret {
    /// A new one: 160 random bits, as RFC 4226 §4 recommends.
    pub(crate) fn new() -> Self {
        Self(BASE32_NOPAD.encode(&rand::random::<[u8; 20]>()))
    }
}

/// What the second factor says of somebody whose password is right.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// None is needed.
    NotNeeded,
    /// They have to set it up with this secret.
    SetUp(SharedSecret),
    /// A code is due.
    CodeDue,
    /// The code is wrong, or was used before.
    WrongCode,
    /// The code is right, and its time step is to be remembered.
    Right { step: i64 },
}

/// What users need besides a password.
#[derive(Debug, Clone)]
pub(crate) struct SecondFactor {
    pub(crate) required: bool,
    /// Whom authenticators show.
    pub(crate) issuer: String,
}

impl SecondFactor {
    /// Decides about a code. What was shown at set-up counts once a code made from it was right; until then it is
    /// shown again to who knows the password, so that nobody is locked out who did not scan it the first time.
    pub(crate) fn judge(
        &self,
        enrolled: &Enrolled,
        code: Option<&str>,
        now: Time,
    ) -> Result<Verdict, SecondFactorError> {
        if !self.required {
            return Ok(Verdict::NotNeeded);
        }
        match (&enrolled.secret, enrolled.last_step, code) {
            (None, _, _) => Ok(Verdict::SetUp(SharedSecret::new())),
            (Some(secret), None, None) => Ok(Verdict::SetUp(secret.clone())),
            (Some(_), Some(_), None) => Ok(Verdict::CodeDue),
            (Some(secret), last_step, Some(code)) => {
                let seconds = u64::try_from(now.seconds()).unwrap_or(0);
                // Compared in constant time by the library, in a window of one step to either side.
                let step = self.totp(secret, "")?.check(code, seconds).and_then(|step| i64::try_from(step).ok());
                match step {
                    // RFC 6238 §5.2: a code is accepted once.
                    Some(step) if last_step.is_none_or(|last| step > last) => Ok(Verdict::Right { step }),
                    Some(_) | None => Ok(Verdict::WrongCode),
                }
            }
        }
    }

    /// What an authenticator reads from a QR code.
    pub(crate) fn uri(&self, secret: &SharedSecret, username: &str) -> Result<String, SecondFactorError> {
        Ok(self.totp(secret, username)?.to_url()?)
    }

    fn totp(&self, secret: &SharedSecret, username: &str) -> Result<Totp, SecondFactorError> {
        let secret = Secret::try_from_base32(&secret.0).map_err(|_| SecondFactorError("it is not base32".into()))?;
        let builder = Builder::new().with_secret(secret).with_step_duration(STEP.unsigned_abs());
        // Names may come from elsewhere, and a colon would end them.
        let builder = builder.with_account_name(username.replace(':', "_")).with_issuer(Some(self.issuer.as_str()));
        Ok(builder.build()?)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The secret of RFC 6238 appendix B, `12345678901234567890`.
    const RFC_SECRET: &str = "GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ";

    fn needed() -> SecondFactor {
        SecondFactor { required: true, issuer: "Twinmesh".into() }
    }

    fn enrolled(last_step: Option<i64>) -> Enrolled {
        Enrolled { secret: Some(SharedSecret(RFC_SECRET.into())), last_step }
    }

    fn at(seconds: i64) -> Time {
        Time::from_micros(seconds * 1_000_000)
    }

    #[test]
    fn codes_are_those_of_the_standard() {
        // RFC 6238 appendix B, SHA-1; of its eight digits the last six, as RFC 4226 §5.3 cuts them.
        for (seconds, code) in [
            (59, "287082"),
            (1_111_111_109, "081804"),
            (1_111_111_111, "050471"),
            (1_234_567_890, "005924"),
            (2_000_000_000, "279037"),
            (20_000_000_000, "353130"),
        ] {
            let verdict = needed().judge(&enrolled(Some(0)), Some(code), at(seconds)).unwrap();
            assert_eq!(verdict, Verdict::Right { step: seconds / STEP }, "{seconds}");
        }
    }

    #[test]
    fn a_code_is_good_one_step_either_side_and_once() {
        let step = 59 / STEP;
        let judge = |last, seconds| needed().judge(&enrolled(last), Some("287082"), at(seconds)).unwrap();
        assert_eq!(judge(Some(0), 29), Verdict::Right { step });
        assert_eq!(judge(Some(0), 119 - 30), Verdict::Right { step });
        assert_eq!(judge(Some(0), 120), Verdict::WrongCode);
        assert_eq!(judge(Some(step), 59), Verdict::WrongCode);
        assert_eq!(judge(Some(step + 1), 59), Verdict::WrongCode);
    }

    #[test]
    fn a_secret_is_shown_until_a_code_proved_that_it_arrived() {
        let (factor, now) = (needed(), at(59));
        let Verdict::SetUp(secret) = factor.judge(&Enrolled::default(), None, now).unwrap() else { panic!() };
        assert_eq!(secret.0.len(), 32);
        let waiting = Enrolled { secret: Some(secret.clone()), last_step: None };
        assert_eq!(factor.judge(&waiting, None, now).unwrap(), Verdict::SetUp(secret));
        assert_eq!(factor.judge(&enrolled(None), Some("287082"), now).unwrap(), Verdict::Right { step: 1 });
        assert_eq!(factor.judge(&enrolled(Some(1)), None, now).unwrap(), Verdict::CodeDue);
        let off = SecondFactor { required: false, ..needed() };
        assert_eq!(off.judge(&enrolled(Some(1)), None, now).unwrap(), Verdict::NotNeeded);
    }

    #[test]
    fn the_uri_is_what_authenticators_read() {
        let uri = needed().uri(&SharedSecret(RFC_SECRET.into()), "ada").unwrap();
        assert_eq!(uri, format!("otpauth://totp/Twinmesh:ada?secret={RFC_SECRET}&issuer=Twinmesh"));
    }

    proptest! {
        #[test]
        fn whatever_is_no_code_is_wrong_and_never_fails(code in ".{0,12}", seconds in 0_i64..4_000_000_000) {
            prop_assume!(!(code.len() == 6 && code.bytes().all(|byte| byte.is_ascii_digit())));
            let verdict = needed().judge(&enrolled(None), Some(&code), at(seconds)).unwrap();
            prop_assert_eq!(verdict, Verdict::WrongCode);
        }
    }
}
