use super::{Finding, Patient};

/// Whether the mail server takes our connection, and our log-in.
pub(super) async fn server(patient: &Patient<'_>) -> Finding {
    let Some(server) = &patient.config.mail.server else {
        return Finding::well("no server is named, so users cannot replace lost passwords by themselves");
    };
    match crate::mail::try_out(patient.config).await {
        Ok(()) => Finding::well(format!("`{server}` takes it")),
        Err(error) => Finding::failed(
            error.context(format!("cannot hand mail to `{server}`")),
            "see whether `mail.server`, its port and encryption are right, and who may log in there",
        ),
    }
}
