//! The certificate of TLS.

use std::time::Duration;

use super::{Finding, Patient};
use crate::clock::Clock;
use crate::tls::Tls;

/// Certbot renews when 30 days remain; less than this shows that it does not.
const SOON: Duration = Duration::from_secs(14 * 24 * 3600);

/// Whether certificate and key can be used, and for how long.
pub(super) fn examine(patient: &Patient<'_>) -> Finding {
    let Some((certificate, key)) = patient.config.tls.files() else {
        return if patient.config.listen.ip().is_loopback() {
            Finding::well("plain HTTP, to this machine only")
        } else {
            Finding::odd(
                "plain HTTP, to other machines too",
                "set `tls.certificate` and `tls.key`, or listen at 127.0.0.1 behind a proxy that speaks TLS",
            )
        };
    };
    let hint = "renew it, and see that the program which renews certificates still runs (`systemctl list-timers`)";
    let tls = match Tls::load(certificate, key, Clock::system()) {
        Ok(tls) => tls,
        Err(error) => return Finding::failed(error, "correct `tls.certificate` and `tls.key`, or this user's rights"),
    };
    let (until, left) = (tls.valid_until().to_rfc3339(), tls.valid_until().since(patient.now));
    if left.is_zero() {
        return Finding::bad(format!("the certificate in `{}` ended at {until}", certificate.display()), hint);
    }
    let text = format!("the certificate in `{}` is good until {until}", certificate.display());
    if left < SOON { Finding::odd(text, hint) } else { Finding::well(text) }
}
