//! Where large payloads are.

use std::time::Duration;

use super::{Finding, Patient};
use crate::objects::{Objects, ObjectsError};

const HINT: &str = "see whether `objects.url` names it, and whether `objects.options` or the environment say who may \
                    use it";

/// How long the store may take. It is asked again and again where nobody answers, and a person waits here.
const PATIENCE: Duration = Duration::from_secs(15);

/// Whether something can be put there, read and removed.
pub(super) async fn examine(patient: &Patient<'_>) -> Finding {
    let config = patient.config;
    let is_ours = config.objects.url.is_none();
    if is_ours && !config.data_dir.join("objects").exists() {
        return Finding::well("it is made by the first start");
    }
    let tried = async {
        Objects::open(&config.objects, &config.data_dir, true)?.try_out().await?;
        Ok::<_, ObjectsError>(())
    };
    let is_shared = config.database.url.is_some() || config.database.url_file.is_some();
    let Ok(tried) = tokio::time::timeout(PATIENCE, tried).await else {
        return Finding::bad(format!("it does not answer within {} s", PATIENCE.as_secs()), HINT);
    };
    match tried {
        Ok(()) if is_ours && is_shared => Finding::well(
            "it takes something, returns it and removes it; other coordinators on the same database would not see it: \
             name a place for all in `objects.url` before there are any",
        ),
        Ok(()) => Finding::well("it takes something, returns it and removes it"),
        Err(error) if is_ours => Finding::failed(error, "make `objects` in the data directory writable"),
        Err(error) => Finding::failed(error, HINT),
    }
}
