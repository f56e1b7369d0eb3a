//! `twinmesh-node pin`: whose keys this node believes.

use anyhow::{Context as _, bail};
use camino::Utf8Path;
use twinmesh_client::{
    Api,
    pins::{PinStore, shown_key},
};
use twinmesh_protocol::id::OrganizationId;

use super::{Exit, complain, say};
use crate::{
    config::Config,
    node::system_clock,
    trust::{PINS_FILE, normalize},
};

fn store(config: &Config) -> anyhow::Result<PinStore> {
    crate::journal::make_private_directory(&config.state_directory)
        .with_context(|| format!("cannot write to the state directory `{}`", config.state_directory))?;
    Ok(PinStore::open(config.state_directory.join(PINS_FILE))?)
}

/// Prints every pin.
pub(super) fn list(path: &Utf8Path) -> anyhow::Result<Exit> {
    let config = Config::load(path)?;
    for pin in store(&config)?.iter() {
        let how = if pin.is_confirmed { "confirmed" } else { "first sight" };
        say(&format!("{}\t{}\t{}\t{how}", pin.organization_id, pin.key.fingerprint(), pin.name));
    }
    Ok(Exit::Done)
}

/// Pins the key that the coordinator shows for an organization, if it is the one that a person vouches for.
pub(super) async fn add(
    path: &Utf8Path,
    organization: OrganizationId,
    fingerprint: Option<&str>,
) -> anyhow::Result<Exit> {
    let config = Config::load(path)?;
    let api_key = config.read_api_key()?;
    let api = Api::new(&config.coordinator_url.to_string(), config.api_options()?)?;
    api.log_in_node(api_key.expose()).await?;
    let shown = api.organization_get(organization).await?;
    let key = shown_key(&shown)?;
    let found = key.fingerprint();
    match fingerprint {
        Some(expected) if normalize(expected) != normalize(&found) => bail!(
            "the coordinator shows the key {found} for organization `{}` ({organization}), not {expected}: nothing is pinned",
            shown.name
        ),
        Some(_) => {}
        None => complain(&format!(
            "the coordinator shows the key {found} for organization `{}`: ask the organization by other means whether it is its own",
            shown.name
        )),
    }
    let mut pins = store(&config)?;
    let former = pins.key(organization).filter(|former| *former != key);
    pins.set(organization, &shown.name, key, system_clock()())?;
    if let Some(former) = former {
        complain(&format!("the key {} was pinned before", former.fingerprint()));
    }
    say(&format!("pinned the key {found} of organization `{}` ({organization})", shown.name));
    Ok(Exit::Done)
}
