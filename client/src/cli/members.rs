//! Nodes, users, roles and rules.

use twinmesh_protocol::wire::{NewNode, NewUser, Node, User};

use super::Context;
use super::account::{confirm, password};
use super::args::{NodeVerb, RoleVerb, RuleVerb, UserVerb};
use super::federation::yes_no;
use super::find;
use super::output::Style;
use super::table::Cell;

pub(super) async fn node(context: &Context<'_>, verb: NodeVerb) -> anyhow::Result<()> {
    let (api, output) = (context.api()?, context.output);
    match verb {
        NodeVerb::List { collaboration } => {
            let collaboration = find::collaboration_id(&api, collaboration.as_deref()).await?;
            let nodes = api.node_list(collaboration).await?;
            let (organizations, collaborations) =
                tokio::try_join!(api.organization_list(None), api.collaboration_list(None))?;
            output.list(&nodes, &["ID", "NAME", "STATUS", "LAST SEEN", "ORGANIZATION", "COLLABORATION"], |node| {
                let organization = node.organization.as_ref().map(|link| {
                    let found = organizations.iter().find(|item| item.id.get() == link.id);
                    found.map_or_else(|| link.id.to_string(), |item| item.name.clone())
                });
                let collaboration = node.collaboration.as_ref().map(|link| {
                    let found = collaborations.iter().find(|item| item.id.get() == link.id);
                    found.map_or_else(|| link.id.to_string(), |item| item.name.clone())
                });
                vec![
                    node.id.into(),
                    (&node.name).into(),
                    presence(node.status.as_deref()),
                    output.ago(node.last_seen),
                    Cell::optional(organization),
                    Cell::optional(collaboration),
                ]
            })
        }
        NodeVerb::Get { node } => {
            let node = find::node(&api, &node).await?;
            let mut fields = node_fields(context, &node);
            fields.extend(node.config.iter().map(|entry| (&*entry.key, Cell::from(&entry.value))));
            output.item(&node, fields)
        }
        NodeVerb::Create { collaboration, organization, name } => {
            let collaboration_id = find::collaboration(&api, &collaboration).await?.id;
            let organization_id = match organization {
                Some(organization) => Some(find::organization(&api, &organization).await?.id),
                None => None,
            };
            let node = api.node_create(&NewNode { collaboration_id, organization_id, name }).await?;
            output.say("Keep the API key: it is shown only this once.");
            let mut fields = node_fields(context, &node);
            fields.push(("api key", Cell::optional(node.api_key.as_ref())));
            output.item(&node, fields)
        }
        NodeVerb::Delete { node, yes } => {
            let node = find::node(&api, &node).await?;
            confirm(yes.yes, &format!("Delete node `{}`?", node.name))?;
            api.node_delete(node.id).await?;
            output.say(format_args!("Deleted node `{}`.", node.name));
            Ok(())
        }
    }
}

fn node_fields<'a>(context: &Context<'_>, node: &Node) -> Vec<(&'a str, Cell)> {
    vec![
        ("id", node.id.into()),
        ("name", (&node.name).into()),
        ("status", presence(node.status.as_deref())),
        ("last seen", context.output.ago(node.last_seen)),
        ("organization", Cell::optional(node.organization.as_ref().map(|link| link.id))),
        ("collaboration", Cell::optional(node.collaboration.as_ref().map(|link| link.id))),
    ]
}

fn presence(status: Option<&str>) -> Cell {
    match status {
        Some("online") => Cell::styled("online", Style::Good),
        Some(status) => Cell::styled(status, Style::Waiting),
        None => Cell::styled("never seen", Style::Waiting),
    }
}

pub(super) async fn user(context: &Context<'_>, verb: UserVerb) -> anyhow::Result<()> {
    let (api, output) = (context.api()?, context.output);
    match verb {
        UserVerb::List { organization } => {
            let organization = match organization {
                Some(organization) => Some(find::organization(&api, &organization).await?.id),
                None => None,
            };
            let users = api.user_list(organization).await?;
            let organizations = api.organization_list(None).await?;
            output.list(&users, &["ID", "USERNAME", "NAME", "EMAIL", "ORGANIZATION", "LAST SEEN"], |user| {
                let organization = user.organization.as_ref().map(|link| {
                    let found = organizations.iter().find(|item| item.id.get() == link.id);
                    found.map_or_else(|| link.id.to_string(), |item| item.name.clone())
                });
                vec![
                    user.id.into(),
                    (&user.username).into(),
                    Cell::optional(Some(full_name(user))),
                    Cell::optional(user.email.as_ref()),
                    Cell::optional(organization),
                    output.ago(user.last_seen),
                ]
            })
        }
        UserVerb::Get { user } => {
            let user = find::user(&api, &user).await?;
            let roles = api.role_list(Some(user.id)).await?;
            let roles: Vec<&str> = roles.iter().map(|role| &*role.name).collect();
            show_user(context, &user, &roles.join(", "))
        }
        UserVerb::Create { username, email, firstname, lastname, organization, roles, rules, password_stdin } => {
            let organization_id = match organization {
                Some(organization) => Some(find::organization(&api, &organization).await?.id),
                None => None,
            };
            let role_ids = find::roles(&api, &roles).await?;
            let password = password(password_stdin, "TWINMESH_NEW_PASSWORD", "Password of the new user: ")?;
            let new = NewUser {
                username,
                password,
                email,
                firstname: Some(firstname),
                lastname: Some(lastname),
                organization_id,
                roles: (!role_ids.is_empty()).then_some(role_ids),
                rules: (!rules.is_empty()).then_some(rules),
            };
            let user = api.user_create(&new).await?;
            show_user(context, &user, &roles.join(", "))
        }
        UserVerb::Delete { user, dependents, yes } => {
            let user = find::user(&api, &user).await?;
            let with = if dependents { " with their tasks" } else { "" };
            confirm(yes.yes, &format!("Delete user `{}`{with}?", user.username))?;
            api.user_delete(user.id, dependents).await?;
            output.say(format_args!("Deleted user `{}`.", user.username));
            Ok(())
        }
    }
}

fn full_name(user: &User) -> String {
    [&user.firstname, &user.lastname].into_iter().flatten().map(String::as_str).collect::<Vec<_>>().join(" ")
}

fn show_user(context: &Context<'_>, user: &User, roles: &str) -> anyhow::Result<()> {
    context.output.item(
        user,
        vec![
            ("id", user.id.into()),
            ("username", (&user.username).into()),
            ("name", Cell::optional(Some(full_name(user)))),
            ("email", Cell::optional(user.email.as_ref())),
            ("organization", Cell::optional(user.organization.as_ref().map(|link| link.id))),
            ("roles", Cell::optional(Some(roles))),
            ("last seen", context.output.ago(user.last_seen)),
        ],
    )
}

pub(super) async fn role(context: &Context<'_>, verb: RoleVerb) -> anyhow::Result<()> {
    match verb {
        RoleVerb::List => {
            let roles = context.api()?.role_list(None).await?;
            context.output.list(&roles, &["ID", "NAME", "BUILT IN", "ORGANIZATION", "DESCRIPTION"], |role| {
                vec![
                    role.id.into(),
                    (&role.name).into(),
                    yes_no(role.is_default_role),
                    Cell::optional(role.organization.as_ref().map(|link| link.id)),
                    Cell::optional(role.description.as_ref()),
                ]
            })
        }
    }
}

pub(super) async fn rule(context: &Context<'_>, verb: RuleVerb) -> anyhow::Result<()> {
    match verb {
        RuleVerb::List { role } => {
            let mut rules = context.api()?.rule_list(role).await?;
            rules.sort_by_key(|rule| rule.id);
            context.output.list(&rules, &["ID", "RESOURCE", "OPERATION", "SCOPE"], |rule| {
                vec![rule.id.into(), (&rule.name).into(), (&rule.operation).into(), (&rule.scope).into()]
            })
        }
    }
}
