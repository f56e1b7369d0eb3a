//! Organizations, collaborations and studies.

use serde_json::json;
use twinmesh_protocol::wire::{Collaboration, Many, NewCollaboration, NewOrganization, NewStudy, Organization, Study};

use super::Context;
use super::account::confirm;
use super::args::{CollaborationVerb, OrganizationDetails, OrganizationVerb, StudyVerb};
use super::exit::CliError;
use super::find;
use super::output::Style;
use super::table::Cell;
use crate::clock;
use crate::pins::{Pin, shown_key};

pub(super) async fn organization(context: &Context<'_>, verb: OrganizationVerb) -> anyhow::Result<()> {
    let (api, output) = (context.api()?, context.output);
    match verb {
        OrganizationVerb::List { collaboration } => {
            let collaboration = find::collaboration_id(&api, collaboration.as_deref()).await?;
            let organizations = api.organization_list(collaboration).await?;
            let pins = context.pins()?;
            output.list(&organizations, &["ID", "NAME", "COUNTRY", "KEY"], |organization| {
                let key = key_cell(organization, pins.get(organization.id));
                vec![
                    organization.id.into(),
                    (&organization.name).into(),
                    Cell::optional(organization.country.as_ref()),
                    key,
                ]
            })
        }
        OrganizationVerb::Get { organization } => {
            let organization = find::organization(&api, &organization).await?;
            show_organization(context, &organization)
        }
        OrganizationVerb::Create { name, details } => {
            let organization = api.organization_create(&new_organization(Some(name), details)).await?;
            show_organization(context, &organization)
        }
        OrganizationVerb::Update { organization, name, details } => {
            let change = new_organization(name, details);
            if change == NewOrganization::default() {
                let hint = "name what to change, as in --country NL";
                return Err(CliError::Usage { what: "nothing to change".into(), hint }.into());
            }
            let id = find::organization(&api, &organization).await?.id;
            show_organization(context, &api.organization_update(id, &change).await?)
        }
        OrganizationVerb::Keys { organization } => {
            let organization = find::organization(&api, &organization).await?;
            let keys = api.organization_key_list(organization.id).await?;
            output.list(&keys, &["FINGERPRINT", "TYPE", "SET", "BY", "REPLACED"], |key| {
                let by = key.set_by.as_ref().map(|by| match by.id {
                    Some(id) => format!("{} {id}", by.kind),
                    None => by.kind.clone(),
                });
                let replaced = match key.replaced_at {
                    Some(_) => output.ago(key.replaced_at),
                    None => Cell::styled("in use", Style::Good),
                };
                vec![
                    (&key.fingerprint).into(),
                    (&key.kind).into(),
                    output.ago(key.set_at),
                    Cell::optional(by),
                    replaced,
                ]
            })
        }
        OrganizationVerb::Delete { organization, dependents, yes } => {
            let organization = find::organization(&api, &organization).await?;
            let with = if dependents { " with its nodes, users, tasks and runs" } else { "" };
            confirm(yes.yes, &format!("Delete organization `{}`{with}?", organization.name))?;
            api.organization_delete(organization.id, dependents).await?;
            output.say(format_args!("Deleted organization `{}`.", organization.name));
            Ok(())
        }
        OrganizationVerb::Pin { organization, fingerprint, forget, yes } => {
            let Some(organization) = organization else {
                return list_pins(context);
            };
            let organization = find::organization(&api, &organization).await?;
            if forget {
                confirm(yes.yes, &format!("Forget the pinned key of organization `{}`?", organization.name))?;
                let existed = context.pins()?.forget(organization.id)?;
                output.say(if existed { "Forgotten." } else { "There was no pin." });
                return Ok(());
            }
            pin(context, &organization, fingerprint.as_deref())
        }
    }
}

/// Shows the pin of an organization beside the key shown; replaces it when a person vouches for the fingerprint.
fn pin(context: &Context<'_>, organization: &Organization, fingerprint: Option<&str>) -> anyhow::Result<()> {
    let mut pins = context.pins()?;
    let shown = shown_key(organization)?;
    if let Some(fingerprint) = fingerprint {
        let digits = |text: &str| -> String {
            text.chars().filter(char::is_ascii_alphanumeric).map(|digit| digit.to_ascii_lowercase()).collect()
        };
        if digits(fingerprint) != digits(&shown.fingerprint()) {
            return Err(CliError::Usage {
                what: format!(
                    "the coordinator shows the key {} for organization `{}`, not the one given",
                    shown.fingerprint(),
                    organization.name
                ),
                hint: "compare with what the organization itself reads out from `twinmesh key show`",
            }
            .into());
        }
        pins.set(organization.id, &organization.name, shown.clone(), clock::now())?;
        context.output.say(format_args!("Pinned the key of organization `{}`.", organization.name));
    }
    let pinned = pins.get(organization.id);
    let shown = shown.fingerprint();
    context.output.item(
        &json!({"organization_id": organization.id, "name": organization.name, "shown": shown,
            "pinned": pinned.map(|pin| pin.key.fingerprint()), "pinned_at": pinned.map(|pin| pin.pinned_at),
            "is_confirmed": pinned.is_some_and(|pin| pin.is_confirmed)}),
        vec![
            ("organization", (&organization.name).into()),
            ("shown", (&shown).into()),
            ("pinned", Cell::optional(pinned.map(|pin| pin.key.fingerprint()))),
            ("since", context.output.ago(pinned.map(|pin| pin.pinned_at))),
        ],
    )
}

fn list_pins(context: &Context<'_>) -> anyhow::Result<()> {
    let pins = context.pins()?;
    let items: Vec<_> = pins
        .iter()
        .map(|pin| {
            json!({"organization_id": pin.organization_id, "name": pin.name, "fingerprint": pin.key.fingerprint(),
                "pinned_at": pin.pinned_at, "is_confirmed": pin.is_confirmed})
        })
        .collect();
    if context.output.json {
        return context.output.json(&items);
    }
    let pins: Vec<&Pin> = pins.iter().collect();
    let mut table = super::table::Table::new(&["ID", "NAME", "FINGERPRINT", "PINNED", "CONFIRMED"]);
    for pin in pins {
        table.row([
            pin.organization_id.into(),
            (&pin.name).into(),
            pin.key.fingerprint().into(),
            context.output.ago(Some(pin.pinned_at)),
            if pin.is_confirmed { "yes" } else { "on first sight" }.into(),
        ]);
    }
    context.output.table(&table)
}

fn new_organization(name: Option<String>, details: OrganizationDetails) -> NewOrganization {
    let OrganizationDetails { domain, country, address1, address2, zipcode } = details;
    NewOrganization { name, address1, address2, zipcode, country, domain, public_key: None }
}

fn show_organization(context: &Context<'_>, organization: &Organization) -> anyhow::Result<()> {
    let pins = context.pins()?;
    let optional = |text: &Option<String>| Cell::optional(text.as_ref());
    context.output.item(
        organization,
        vec![
            ("id", organization.id.into()),
            ("name", (&organization.name).into()),
            ("domain", optional(&organization.domain)),
            ("country", optional(&organization.country)),
            ("key", key_cell(organization, pins.get(organization.id))),
            ("fingerprint", Cell::optional(shown_key(organization).ok().map(|key| key.fingerprint()))),
        ],
    )
}

fn key_cell(organization: &Organization, pin: Option<&Pin>) -> Cell {
    match (shown_key(organization), pin) {
        (Ok(shown), Some(pin)) if shown != pin.key => Cell::styled("other than pinned", Style::Bad),
        (Ok(_), Some(_)) => Cell::styled("pinned", Style::Good),
        (Ok(_), None) => "not pinned yet".into(),
        (Err(_), _) if organization.public_key.is_empty() => Cell::styled("none", Style::Waiting),
        (Err(_), _) => Cell::styled("unusable", Style::Bad),
    }
}

pub(super) async fn collaboration(context: &Context<'_>, verb: CollaborationVerb) -> anyhow::Result<()> {
    let (api, output) = (context.api()?, context.output);
    match verb {
        CollaborationVerb::List => {
            let collaborations = api.collaboration_list(None).await?;
            output.list(&collaborations, &["ID", "NAME", "ENCRYPTED", "ORGANIZATIONS"], |collaboration| {
                vec![
                    collaboration.id.into(),
                    (&collaboration.name).into(),
                    yes_no(collaboration.encrypted),
                    names(&collaboration.organizations).into(),
                ]
            })
        }
        CollaborationVerb::Get { collaboration } => {
            show_collaboration(context, &find::collaboration(&api, &collaboration).await?)
        }
        CollaborationVerb::Create { name, organizations, plain } => {
            let organization_ids = find::organizations(&api, &organizations).await?;
            let new = NewCollaboration { name, organization_ids, encrypted: !plain };
            let id = api.collaboration_create(&new).await?.id;
            show_collaboration(context, &api.collaboration_get(id).await?)
        }
        CollaborationVerb::AddOrganization { collaboration, organization } => {
            let collaboration = find::collaboration(&api, &collaboration).await?;
            let organization = find::organization(&api, &organization).await?;
            api.collaboration_organization_add(collaboration.id, organization.id).await?;
            show_collaboration(context, &api.collaboration_get(collaboration.id).await?)
        }
        CollaborationVerb::Delete { collaboration, dependents, yes } => {
            let collaboration = find::collaboration(&api, &collaboration).await?;
            let with = if dependents { " with its nodes, studies and tasks" } else { "" };
            confirm(yes.yes, &format!("Delete collaboration `{}`{with}?", collaboration.name))?;
            api.collaboration_delete(collaboration.id, dependents).await?;
            output.say(format_args!("Deleted collaboration `{}`.", collaboration.name));
            Ok(())
        }
    }
}

fn show_collaboration(context: &Context<'_>, collaboration: &Collaboration) -> anyhow::Result<()> {
    context.output.item(
        collaboration,
        vec![
            ("id", collaboration.id.into()),
            ("name", (&collaboration.name).into()),
            ("encrypted", yes_no(collaboration.encrypted)),
            ("organizations", names(&collaboration.organizations).into()),
        ],
    )
}

pub(super) async fn study(context: &Context<'_>, verb: StudyVerb) -> anyhow::Result<()> {
    let (api, output) = (context.api()?, context.output);
    match verb {
        StudyVerb::List { collaboration } => {
            let collaboration = find::collaboration_id(&api, collaboration.as_deref()).await?;
            let studies = api.study_list(collaboration).await?;
            output.list(&studies, &["ID", "NAME", "COLLABORATION", "ORGANIZATIONS"], |study| {
                vec![
                    study.id.into(),
                    (&study.name).into(),
                    Cell::optional(study.collaboration.as_ref().map(|link| link.id)),
                    names(&study.organizations).into(),
                ]
            })
        }
        StudyVerb::Create { name, collaboration, organizations } => {
            let collaboration_id = find::collaboration(&api, &collaboration).await?.id;
            let organization_ids = find::organizations(&api, &organizations).await?;
            let study: Study = api.study_create(&NewStudy { name, collaboration_id, organization_ids }).await?;
            output.item(
                &study,
                vec![
                    ("id", study.id.into()),
                    ("name", (&study.name).into()),
                    ("organizations", names(&study.organizations).into()),
                ],
            )
        }
    }
}

pub(super) fn yes_no(yes: bool) -> Cell {
    if yes { "yes" } else { "no" }.into()
}

fn names(organizations: &Many<Organization>) -> String {
    match organizations {
        Many::Items(items) => items.iter().map(|item| &*item.name).collect::<Vec<_>>().join(", "),
        Many::Link(_) => "-".into(),
    }
}
