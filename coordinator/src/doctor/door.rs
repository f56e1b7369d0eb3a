//! The address, and who answers there.

use std::path::Path;

use serde_json::Value;
use tokio::net::TcpListener;

use super::{Finding, Patient};
use crate::ask::{self, AskError};

/// Whether the address can be had, or the coordinator that runs here has one.
pub(super) async fn address(patient: &Patient<'_>) -> Finding {
    let address = patient.config.listen;
    if patient.is_running {
        return match told(patient) {
            Ok(url) => Finding::well(format!("the running coordinator is at {url}")),
            Err(error) => Finding::failed(error, "it may be starting or stopping; try again, then see its log"),
        };
    }
    match TcpListener::bind(address).await {
        Ok(_) => Finding::well(format!("{address} is free")),
        Err(error) => Finding::bad(
            format!("cannot listen at {address}: {error}"),
            "give another with `listen` or `--listen`, or stop what is there",
        ),
    }
}

/// What the coordinator that runs here says of itself.
pub(super) async fn service(patient: &Patient<'_>) -> Finding {
    if !patient.is_running {
        return Finding::well("no coordinator runs on this directory");
    }
    let health = async {
        let url = told(patient)?;
        let certificate = patient.config.tls.files().map(|(certificate, _)| certificate.as_path());
        anyhow::Ok(health(&url, certificate).await?)
    };
    match health.await {
        Ok(health) if health.get("ready") == Some(&Value::Bool(true)) => {
            Finding::well("it answers, and so does its database")
        }
        Ok(health) => {
            Finding::bad(format!("it answers, but is not well: {health}"), "see the checks above and its log")
        }
        Err(error) => Finding::failed(error, "see its log; if it hangs, restart it: what was acknowledged is kept"),
    }
}

/// What the coordinator at a URL, which has the API's path, says of its health.
async fn health(url: &str, certificate: Option<&Path>) -> Result<Value, AskError> {
    let (status, body) = ask::get(&format!("{url}/health"), certificate).await?;
    let strange = |why: String| AskError::Strange { url: url.to_owned(), why };
    if !status.is_success() {
        return Err(strange(format!("its health is answered with {status}")));
    }
    serde_json::from_slice(&body).map_err(|error| strange(error.to_string()))
}

/// Where the coordinator says it is.
fn told(patient: &Patient<'_>) -> anyhow::Result<String> {
    crate::url_told(&patient.config.data_dir)
}
