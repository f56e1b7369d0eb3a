//! `/user` and `/password/change` (contract A.7.4, A.3).

use std::collections::BTreeSet;

use axum::Json;
use axum::http::StatusCode;
use axum::response::Response;
use serde::Deserialize;
use serde_json::{Value, json};
use twinmesh_protocol::id::{CollaborationId, OrganizationId, RoleId, RuleId, UserId};
use twinmesh_protocol::time::Time;
use twinmesh_protocol::wire::{NewUser, Page, User};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::AppState;
use super::answer::Message;
use super::body::{Body, check_length, check_printable};
use super::caller::{Caller, Visitor};
use super::log_in::{Proof, Wanted, prove};
use super::openapi::sortable;
use super::origin::{Stranger, TooManyGuesses};
use super::page::PageRequest;
use super::params::Params;
use super::path::Id;
use super::problem::Problem;
use super::scope::{self, Columns};
use crate::authn::limiter::Key;
use crate::authn::password::check_policy;
use crate::authz::Target;
use crate::authz::action::{ChangePassword, CreateUser, DeleteUser, EditUser, ViewUser};
use crate::authz::grant::{grant, grant_roles};
use crate::authz::rule::RuleSet;
use crate::config::Secret;
use crate::limits::{self, Described, bounded, described};
use crate::store::filter::Filter;
use crate::store::identity::user_rights;
use crate::store::setup::NOBODYS_ADDRESS;
use crate::store::user::{self as store, Login, Rights, UserDetails, UserRecord};

const COLUMNS: Columns = Columns {
    organization: "user_account.organization_id = ?",
    collaboration: "user_account.organization_id IN (SELECT organization_id FROM collaboration_organization \
         WHERE collaboration_id {in})",
    owner: Some("user_account.id = ?"),
};

pub(crate) fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new()
        .routes(routes!(list, create))
        .routes(routes!(fetch, update, remove))
        .routes(routes!(change_password))
}

/// The wire's form.
fn user(state: &AppState, record: UserRecord) -> User {
    let UserRecord { id, details, .. } = record;
    User {
        id,
        kind: "user".into(),
        username: details.username,
        firstname: details.firstname,
        lastname: details.lastname,
        email: details.email,
        ip: record.ip,
        last_seen: record.last_seen,
        status: record.status,
        organization: Some(state.link("organization", record.organization)),
        roles: state.many("role", "user_id", id),
        rules: state.many("rule", "user_id", id),
        otp_secret: None,
        last_email_failed_login_sent: record.last_email_failed_login_sent,
        last_email_recover_password_sent: record.last_email_recover_password_sent,
        permissions: None,
    }
}

/// What decides who may do what to a user: they are their organization's, and their own.
async fn target(caller: &mut Caller, record: &UserRecord) -> Result<Target, Problem> {
    Ok(scope::organization_target(caller, record.organization).await?.owned_by(Some(record.id)))
}

/// Lists users.
#[utoipa::path(
    get, path = "/user", tag = "user",
    params(
        PageRequest,
        ("username" = Option<String>, Query, description = "Like this: `%` stands for any text, `_` for any character"),
        ("firstname" = Option<String>, Query, description = "Like this: `%` stands for any text, `_` for any character"),
        ("lastname" = Option<String>, Query, description = "Like this: `%` stands for any text, `_` for any character"),
        ("email" = Option<String>, Query, description = "Like this: `%` stands for any text, `_` for any character"),
        ("organization_id" = Option<OrganizationId>, Query, description = "Those of this organization"),
        ("collaboration_id" = Option<CollaborationId>, Query, description = "Those of this collaboration"),
        ("role_id" = Option<RoleId>, Query, description = "Those with this role"),
        ("rule_id" = Option<RuleId>, Query, description = "Those with this rule of their own"),
        ("last_seen_from" = Option<Time>, Query, description = "Last seen at this instant or later"),
        ("last_seen_till" = Option<Time>, Query, description = "Last seen at this instant or earlier"),
    ),
    responses((status = 200, body = Page<User>)),
    security(("user" = [])),
    extensions(("x-sort" = json!(sortable(store::SORTABLE)))),
)]
async fn list(mut caller: Caller, params: Params) -> Result<Response, Problem> {
    let page = PageRequest::read(&params, store::SORTABLE)?;
    let reach = caller.reach::<ViewUser>()?;
    let mut filter = Filter::default();
    scope::restrict(&mut filter, &caller, reach, &COLUMNS);
    for (name, column) in [
        ("username", "user_account.username"),
        ("firstname", "user_account.firstname"),
        ("lastname", "user_account.lastname"),
        ("email", "user_account.email"),
    ] {
        filter.and_like(column, params.pattern(name)?);
    }
    let organization = params.get::<OrganizationId>("organization_id")?;
    scope::check_organization(&mut caller, reach, organization).await?;
    filter.and_equal("user_account.organization_id", organization.map(OrganizationId::get));
    if let Some(id) = params.get::<RoleId>("role_id")? {
        filter.and("user_account.id IN (SELECT user_id FROM user_role WHERE role_id = ?)", [id.get().into()]);
    }
    if let Some(id) = params.get::<RuleId>("rule_id")? {
        filter.and("user_account.id IN (SELECT user_id FROM user_rule WHERE rule_id = ?)", [id.get().into()]);
    }
    let collaboration = params.get::<CollaborationId>("collaboration_id")?;
    scope::check_collaboration(&caller, reach, collaboration)?;
    if let Some(id) = collaboration {
        let sql = "user_account.organization_id IN (SELECT organization_id FROM collaboration_organization \
                   WHERE collaboration_id = ?)";
        filter.and(sql, [id.get().into()]);
    }
    if let Some(from) = params.time("last_seen_from")? {
        filter.and("authenticatable.last_seen >= ?", [from.micros().into()]);
    }
    if let Some(till) = params.time("last_seen_till")? {
        filter.and("authenticatable.last_seen <= ?", [till.micros().into()]);
    }
    let (found, total) = store::user_page(caller.tx.conn(), &filter, &page).await?;
    let data: Vec<_> = found.into_iter().map(|record| user(&caller.state, record)).collect();
    Ok(page.answer(&params, data, total))
}

/// One user.
#[utoipa::path(
    get, path = "/user/{id}", tag = "user",
    params(("include_permissions" = Option<bool>, Query, description = "Whether to tell what the user may do")),
    responses((status = 200, body = User)),
    security(("user" = [])),
)]
async fn fetch(mut caller: Caller, params: Params, Id(id): Id<UserId>) -> Result<Json<User>, Problem> {
    let record = find(&mut caller, id).await?;
    let target = target(&mut caller, &record).await?;
    caller.permit::<ViewUser>(id, &target)?;
    let permissions = if params.flag("include_permissions")? {
        let (roles, rules) = user_rights(caller.tx.conn(), id).await?;
        let peers = organizations_in_collaborations(&mut caller, &target).await?;
        let rules: Vec<RuleId> = rules.ids().collect();
        Some(json!({"roles": roles, "rules": rules, "orgs_in_collabs": peers}))
    } else {
        None
    };
    Ok(Json(User { permissions, ..user(&caller.state, record) }))
}

async fn organizations_in_collaborations(
    caller: &mut Caller,
    target: &Target,
) -> Result<BTreeSet<OrganizationId>, Problem> {
    let members = crate::store::collaboration::members(caller.tx.conn(), target.collaborations.iter().copied());
    Ok(members.await?.into_values().flatten().collect())
}

/// Makes a user.
#[utoipa::path(
    post, path = "/user", tag = "user",
    request_body = NewUser,
    responses((status = 201, body = User)),
    security(("user" = [])),
)]
#[tracing::instrument(name = "http.user.create", skip_all)]
async fn create(visitor: Visitor, Body(new): Body<NewUser>) -> Result<(StatusCode, Json<User>), Problem> {
    // Asked before the hash, so that nobody makes us work who may not, and again when it is written.
    let mut caller = visitor.begin_read().await?;
    let organization = new.organization_id.unwrap_or(caller.actor.organization);
    let target = scope::organization_target(&mut caller, organization).await?;
    caller.permit::<CreateUser>(organization, &target)?;
    drop(caller);

    check_username(&new.username)?;
    check_email(&new.email)?;
    check_real_name(new.firstname.as_deref(), new.lastname.as_deref())?;
    check_policy(&new.password).map_err(|why| Problem::bad_request("weak_password", why.to_string()))?;
    let hash = visitor.state.hasher().hash(new.password).await?;

    let mut caller = visitor.begin_write().await?;
    let target = scope::organization_target(&mut caller, organization).await?;
    let permit = caller.permit::<CreateUser>(organization, &target)?;
    let known = crate::store::organization::organization_fetch(caller.tx.conn(), organization).await?;
    if known.is_none() {
        return Err(Problem::not_found(format!("Organization with id={organization} is not found")));
    }
    check_free(&mut caller, &new.username, Some(&new.email), None).await?;
    let nothing = (BTreeSet::new(), RuleSet::EMPTY);
    let roles = new.roles.unwrap_or_default().into_iter().collect();
    let rules = new.rules.unwrap_or_default().into_iter().collect();
    let rights = rights(&mut caller, organization, &target, nothing, (roles, rules)).await?;
    let details = UserDetails {
        username: new.username,
        firstname: new.firstname,
        lastname: new.lastname,
        email: Some(new.email),
    };
    let id = store::user_insert(&mut caller.tx, permit, &details, &hash, &rights).await?;
    let record = find(&mut caller, id).await?;
    let answer = user(&caller.state, record);
    caller.commit().await?;
    tracing::info!(user.id = %id, "user created");
    Ok((StatusCode::CREATED, Json(answer)))
}

/// The body of PATCH. An organization cannot be changed and is ignored; a password has an endpoint of its own.
#[derive(Deserialize, ToSchema)]
#[schema(as = UserChange)]
#[serde(deny_unknown_fields)]
struct Change {
    #[serde(default)]
    username: Option<String>,
    #[serde(default)]
    firstname: Option<String>,
    #[serde(default)]
    lastname: Option<String>,
    #[serde(default)]
    email: Option<String>,
    #[serde(default)]
    roles: Option<Vec<RoleId>>,
    #[serde(default)]
    rules: Option<Vec<RuleId>>,
    #[serde(default, rename = "organization_id")]
    _organization_id: Option<Value>,
    #[serde(default)]
    password: Option<Secret>,
}

bounded!(Change as "UserChange" {
    username: NAME;
    firstname: SHORT;
    lastname: SHORT;
    email: EMAIL;
    roles: ROLES;
    rules: RULES;
    password: NEW_PASSWORD, told;
});

/// Changes a user.
#[utoipa::path(
    patch, path = "/user/{id}", tag = "user",
    request_body = Change,
    responses((status = 200, body = User), (status = 429, description = "Mail addresses were changed too often")),
    security(("user" = [])),
)]
#[tracing::instrument(name = "http.user.update", skip_all, fields(user.id = %id))]
async fn update(mut caller: Caller, Id(id): Id<UserId>, Body(change): Body<Change>) -> Result<Json<User>, Problem> {
    let record = find(&mut caller, id).await?;
    let target = target(&mut caller, &record).await?;
    let permit = caller.permit::<EditUser>(id, &target)?;
    if change.password.is_some() {
        let text = "You cannot change your password here! Use PATCH /password/change";
        return Err(Problem::bad_request("password_elsewhere", text));
    }
    check_real_name(change.firstname.as_deref(), change.lastname.as_deref())?;
    let myself = caller.actor.user() == Some(id);
    let (roles, all_rules) = user_rights(caller.tx.conn(), id).await?;
    let own_rules = crate::store::role::user_rules(caller.tx.conn(), id).await?;

    let before = &record.details;
    let renamed = change.username.as_ref().is_some_and(|name| *name != before.username);
    if renamed && !myself {
        return Err(Problem::unauthorized("not_allowed", "You cannot change the username of another user!"));
    }
    let readdressed = change.email.is_some() && change.email != before.email;
    if readdressed && !myself {
        // Whoever reads a user's mail can recover the password, and so has all of the user's rules.
        grant(&caller.actor, &target, RuleSet::EMPTY, all_rules).map_err(|denied| {
            let text = "You may not change the mail address of a user with rights that you could not give!";
            Problem::unauthorized("grant_exceeds_own", text).with_detail(Problem::from(denied).msg())
        })?;
    }
    let details = UserDetails {
        username: change.username.unwrap_or_else(|| before.username.clone()),
        firstname: change.firstname.or_else(|| before.firstname.clone()),
        lastname: change.lastname.or_else(|| before.lastname.clone()),
        email: change.email.or_else(|| before.email.clone()),
    };
    if renamed {
        check_username(&details.username)?;
    }
    if readdressed {
        check_email(details.email.as_deref().unwrap_or_default())?;
    }
    check_free(&mut caller, &details.username, details.email.as_deref(), Some(id)).await?;

    let rights = if change.roles.is_some() || change.rules.is_some() {
        let new_roles = change.roles.map_or_else(|| roles.clone(), |ids| ids.into_iter().collect());
        let new_rules = change.rules.map_or(own_rules, |ids| ids.into_iter().collect());
        if myself && (new_roles != roles || new_rules != own_rules) {
            return Err(Problem::unauthorized("not_allowed", "You can't change your own roles or rules!"));
        }
        let (before, after) = ((roles, own_rules), (new_roles, new_rules));
        Some(rights(&mut caller, record.organization, &target, before, after).await?)
    } else {
        None
    };
    let rooted = scope::is_rooted(&mut caller).await?;
    store::user_update(&mut caller.tx, permit, &details, rights.as_ref()).await?;
    scope::check_rooted(&mut caller, rooted).await?;
    let had = before.email.as_deref().filter(|had| readdressed && *had != NOBODYS_ADDRESS);
    if let (Some(had), true) = (had, caller.state.recovery().by_mail) {
        // Nobody is flooded by whoever changes an address to theirs and away again.
        let notice = Key::account(&format!("notice {had}"));
        let charged = caller.state.limiter().charge(&[notice], caller.now);
        charged.map_err(|wait| {
            let msg = "Mail addresses were changed too often: try again later";
            Problem::new(StatusCode::TOO_MANY_REQUESTS, "too_many_changes", msg).with_retry_after(wait)
        })?;
        crate::store::outbox::address_notice(&mut caller.tx, id, had, caller.now).await?;
    }
    let record = find(&mut caller, id).await?;
    let answer = user(&caller.state, record);
    caller.commit().await?;
    tracing::info!(user.id = %id, "user changed");
    Ok(Json(answer))
}

/// Deletes a user.
#[utoipa::path(
    delete, path = "/user/{id}", tag = "user",
    params(("delete_dependents" = Option<bool>, Query, description = "Whether to delete what depends on it too")),
    responses((status = 200, body = Message)),
    security(("user" = [])),
)]
#[tracing::instrument(name = "http.user.delete", skip_all, fields(user.id = %id))]
async fn remove(mut caller: Caller, params: Params, Id(id): Id<UserId>) -> Result<Json<Message>, Problem> {
    let record = find(&mut caller, id).await?;
    let target = target(&mut caller, &record).await?;
    let permit = caller.permit::<DeleteUser>(id, &target)?;
    let dependents = store::user_dependents(caller.tx.conn(), id).await?;
    scope::check_dependents("User", &dependents, params.flag("delete_dependents")?)?;
    if caller.actor.user() != Some(id) {
        let (_, all_rules) = user_rights(caller.tx.conn(), id).await?;
        grant(&caller.actor, &target, all_rules, RuleSet::EMPTY)?;
    }
    let rooted = scope::is_rooted(&mut caller).await?;
    store::user_delete(&mut caller.tx, permit, caller.now).await?;
    scope::check_rooted(&mut caller, rooted).await?;
    caller.commit().await?;
    tracing::info!(user.id = %id, "user deleted");
    Ok(Message::new(format!("User id={id} is removed from the database")))
}

/// The body of `PATCH /password/change`.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct PasswordChange {
    current_password: Secret,
    new_password: Secret,
}

bounded!(PasswordChange as "PasswordChange" {
    current_password: PASSWORD;
    new_password: NEW_PASSWORD, told;
});
pub(crate) const LIMITS: &[Described] = &[described::<Change>(), described::<PasswordChange>()];

/// Changes the caller's own password. Every other log-in of theirs ends.
#[utoipa::path(
    patch, path = "/password/change", tag = "user",
    request_body = PasswordChange,
    responses((status = 200, body = Message), TooManyGuesses),
    security(("user" = [])),
)]
#[tracing::instrument(name = "http.user.change_password", skip_all)]
async fn change_password(
    visitor: Visitor,
    stranger: Stranger,
    Body(change): Body<PasswordChange>,
) -> Result<Json<Message>, Problem> {
    let caller = visitor.begin_read().await?;
    let Some(id) = caller.actor.user() else { return Err(Problem::permission()) };
    caller.permit::<ChangePassword>(id, &Target::anywhere().owned_by(Some(id)))?;
    drop(caller);

    let (current, new) = (change.current_password.reveal(), change.new_password.reveal());
    check_policy(new).map_err(|why| Problem::bad_request("weak_password", why.to_string()))?;
    let (state, now) = (&visitor.state, visitor.now);
    let guess = stranger.guess(Some(&format!("user {id}")))?;
    match prove(state, Login::Id(id), current, Wanted::Password, now).await? {
        Proof::Right { tx, .. } => tx.commit().await?,
        Proof::Refused | Proof::WrongCode | Proof::CodeDue | Proof::PasswordKnown { .. } | Proof::SetUp { .. } => {
            return Err(Problem::unauthorized("wrong_password", "Your current password is not correct!"));
        }
    }
    guess.was_right();
    if current == new {
        let text = "New password is the same as current password!";
        return Err(Problem::bad_request("same_password", text));
    }
    let hash = state.hasher().hash(new.to_owned()).await?;
    let mut caller = visitor.begin_write().await?;
    let permit = caller.permit::<ChangePassword>(id, &Target::anywhere().owned_by(Some(id)))?;
    // Whoever logged in with the old password while this took its time is logged out, too.
    let now = state.now();
    store::password_replace(&mut caller.tx, permit, &hash, visitor.family(), now).await?;
    caller.commit().await?;
    tracing::info!(user.id = %id, "password changed");
    Ok(Message::new("The password has been changed successfully!"))
}

/// Decides about what a user gets: nothing that the caller does not hold, and no role of another organization.
async fn rights(
    caller: &mut Caller,
    organization: OrganizationId,
    holder: &Target,
    before: (BTreeSet<RoleId>, RuleSet),
    after: (BTreeSet<RoleId>, RuleSet),
) -> Result<Rights, Problem> {
    let changed: BTreeSet<RoleId> = before.0.symmetric_difference(&after.0).copied().collect();
    let records = crate::store::role::role_all(caller.tx.conn(), &changed).await?;
    let mut by_roles = RuleSet::EMPTY;
    for role in &records {
        if after.0.contains(&role.id) && role.organization.is_some_and(|owner| owner != organization) {
            let text = format!("Role id={} belongs to another organization than the user!", role.id);
            return Err(Problem::unauthorized("foreign_role", text));
        }
        by_roles = by_roles.union(role.rules);
    }
    // Ids of roles that do not exist are skipped, as stock servers do.
    let known: BTreeSet<RoleId> = records.iter().map(|role| role.id).collect();
    let roles = after.0.into_iter().filter(|id| before.0.contains(id) || known.contains(id)).collect();
    let roles = grant_roles(&caller.actor, holder, by_roles, roles)?;
    Ok(Rights { roles, rules: grant(&caller.actor, holder, before.1, after.1)? })
}

/// Refuses to tell of a user whom the caller may not see.
pub(crate) async fn check_visible(caller: &mut Caller, id: UserId) -> Result<(), Problem> {
    let record = find(caller, id).await?;
    let target = target(caller, &record).await?;
    caller.permit::<ViewUser>(id, &target)?;
    Ok(())
}

async fn find(caller: &mut Caller, id: UserId) -> Result<UserRecord, Problem> {
    store::user_fetch(caller.tx.conn(), id)
        .await?
        .ok_or_else(|| Problem::not_found(format!("User id={id} is not found!")))
}

async fn check_free(
    caller: &mut Caller,
    username: &str,
    email: Option<&str>,
    besides: Option<UserId>,
) -> Result<(), Problem> {
    match store::user_names_taken(caller.tx.conn(), username, email, besides).await? {
        Some("username") => Err(Problem::bad_request("name_taken", "Username already exists.")),
        Some(_) => Err(Problem::bad_request("name_taken", "Email already exists.")),
        None => Ok(()),
    }
}

/// `^[a-zA-Z][a-zA-Z0-9._-]+$`, and neither too short nor too long.
pub(crate) fn check_username(name: &str) -> Result<(), Problem> {
    check_length("username", name, limits::USERNAME)?;
    let rest = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    if name.starts_with(|c: char| c.is_ascii_alphabetic()) && name.chars().all(rest) {
        return Ok(());
    }
    let text = "Username must begin with a letter and contain only letters, numbers, dots, hyphens and underscores.";
    Err(Problem::field("username", text))
}

/// First and last names are free, but for what would make lines of their own.
fn check_real_name(first: Option<&str>, last: Option<&str>) -> Result<(), Problem> {
    check_printable("firstname", first.unwrap_or_default())?;
    check_printable("lastname", last.unwrap_or_default())
}

pub(crate) fn check_email(email: &str) -> Result<(), Problem> {
    check_length("email", email, limits::EMAIL)?;
    let valid = email.split_once('@').is_some_and(|(name, domain)| {
        let is_plain = !email.contains(|c: char| c.is_whitespace() || c.is_control());
        !name.is_empty() && !domain.is_empty() && !domain.contains('@') && is_plain
    });
    if valid { Ok(()) } else { Err(Problem::field("email", "Not a valid email address.")) }
}
