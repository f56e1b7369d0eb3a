//! Log-in, log-out, and who I am.

use std::io::{self, BufRead as _, IsTerminal as _, Write as _};

use anyhow::Context as _;
use qrcode::QrCode;
use qrcode::render::unicode::Dense1x2;
use serde_json::json;
use twinmesh_protocol::wire::{Many, Node, TokenPair};
use url::Url;

use super::Context;
use super::args::Login;
use super::exit::{CliError, Exit};
use super::home::LogIn;
use super::output::{Style, note};
use super::table::{Cell, clean};
use crate::api::{Api, ApiError, SecondFactorSetUp};
use crate::key::{KeyFileError, read_private_key};
use crate::pins::shown_key;

pub(super) async fn log_in(context: &Context<'_>, login: Login) -> anyhow::Result<()> {
    let before = context.home.log_in()?;
    let server = login.server.or_else(|| before.as_ref().map(|before| before.server.clone()));
    let server = server.ok_or_else(|| CliError::Usage {
        what: "which coordinator?".into(),
        hint: "give its address, as in `twinmesh login https://coordinator.example.org`",
    })?;
    let username = match login.username {
        Some(username) => username,
        None => ask("Username", ": ", "give it with --username or TWINMESH_USERNAME")?,
    };
    let ca = match login.ca {
        // The file is named as seen from anywhere.
        Some(path) => {
            let absolute = std::path::absolute(&path);
            Some(absolute.with_context(|| format!("cannot find the authority `{}`", path.display()))?)
        }
        None => None,
    };
    let mut kept = LogIn { server, username, ca, tokens: None };
    let api = Api::new(&kept.server, kept.options()?)?;
    kept.server = api.bases();
    if is_in_the_clear(&kept.server) {
        note("warning: http sends the password in the clear; use https for any coordinator on another machine");
    }
    let password = password(login.password_stdin, "TWINMESH_PASSWORD", "Password: ")?;
    let tokens = with_second_factor(&api, &kept.username, &password, login.mfa_code).await?;
    kept.tokens = Some(tokens);
    context.home.keep(&kept)?;
    context.output.say(format_args!("Logged in as {} at {}.", clean(&kept.username), kept.server));
    if context.output.json {
        context.output.json(&json!({"server": kept.server, "username": kept.username}))?;
    }
    Ok(())
}

/// Logs in, with a code of the second factor where the coordinator wants one.
async fn with_second_factor(
    api: &Api,
    username: &str,
    password: &str,
    mut code: Option<String>,
) -> anyhow::Result<TokenPair> {
    const HINT: &str = "give the code of your authenticator with --mfa-code";
    loop {
        match api.log_in_user(username, password, code.as_deref()).await {
            Ok(tokens) => return Ok(tokens),
            Err(ApiError::SecondFactorSetUp(set_up)) => show(&set_up)?,
            // Asked for below; a coordinator that was given one does not ask again.
            Err(ApiError::SecondFactor { .. }) if code.is_none() => {}
            Err(error) => return Err(anyhow::Error::new(error).context(format!("cannot log in as `{username}`"))),
        }
        let digits = ask("Code of your authenticator", ": ", HINT)?;
        code = Some(digits).filter(|digits| !digits.is_empty());
        if code.is_none() {
            return Err(CliError::Usage { what: "the log-in needs a code".into(), hint: HINT }.into());
        }
    }
}

/// Shows what an authenticator has to know.
fn show(set_up: &SecondFactorSetUp) -> anyhow::Result<()> {
    let picture = QrCode::new(&set_up.qr_uri).context("cannot draw the QR code")?;
    // Light on dark, as most terminals are; authenticators read either.
    let picture = picture.render().dark_color(Dense1x2::Light).light_color(Dense1x2::Dark).build();
    note("this coordinator wants a second factor: scan the code with an authenticator app");
    note(&picture);
    note(&format!("or type its secret in: {}", clean(&set_up.otp_secret)));
    note("then log in with the code that it shows");
    Ok(())
}

pub(super) fn log_out(context: &Context<'_>) -> anyhow::Result<()> {
    match context.home.log_in()? {
        Some(log_in) if log_in.tokens.is_some() => {
            context.home.keep(&LogIn { tokens: None, ..log_in })?;
            context.output.say("Logged out.");
        }
        Some(_) | None => context.output.say("Nobody was logged in."),
    }
    Ok(())
}

/// Everything on one screen. What is wrong is told and does not end it; the code says whether anything was.
pub(super) async fn status(context: &Context<'_>) -> anyhow::Result<Exit> {
    let api = context.api()?;
    let output = context.output;
    let version = match api.version().await {
        Ok(version) => version,
        Err(error) => return Err(error.into()),
    };
    let user = api.user_get(api.user_id().await?).await?;
    let organization = match &user.organization {
        Some(link) => Some(api.organization_get(twinmesh_protocol::id::OrganizationId::new(link.id)).await?),
        None => None,
    };
    let mut is_well = true;
    let path = context.home.key_path();
    let shown = organization.as_ref().map(shown_key);
    let (key, fingerprint) = match (read_private_key(&path), shown) {
        (Ok(key), Some(Ok(shown))) if shown == key.public() => {
            (Cell::styled("the coordinator shows the key here", Style::Good), Some(key.public().fingerprint()))
        }
        (Ok(key), Some(Ok(_))) => {
            is_well = false;
            let text = "the coordinator shows another key than the one here (twinmesh key upload)";
            (Cell::styled(text, Style::Bad), Some(key.public().fingerprint()))
        }
        (Ok(key), _) => {
            is_well = false;
            let text = "not at the coordinator yet (twinmesh key upload)";
            (Cell::styled(text, Style::Waiting), Some(key.public().fingerprint()))
        }
        (Err(KeyFileError::Missing { .. }), _) => {
            (Cell::styled(format!("none in {} (twinmesh key create)", path.display()), Style::Waiting), None)
        }
        (Err(error), _) => {
            is_well = false;
            (Cell::styled(error, Style::Bad), None)
        }
    };
    let collaborations = api.collaboration_list(organization.as_ref().map(|item| item.id)).await?;
    let nodes = api.node_list(None).await?;
    if output.json {
        output.json(&json!({
            "server": api.base(), "version": version, "user": user, "organization": organization,
            "key": {"file": path, "fingerprint": fingerprint, "is_well": is_well},
            "collaborations": collaborations, "nodes": nodes,
        }))?;
        return Ok(if is_well { Exit::Done } else { Exit::Failed });
    }
    output.fields(vec![
        ("coordinator", format!("{} (interface {version})", api.base()).into()),
        ("user", user.username.into()),
        ("organization", Cell::optional(organization.as_ref().map(|item| &item.name))),
        ("key", key),
        ("fingerprint", Cell::optional(fingerprint)),
    ])?;
    output.line("")?;
    output.list(
        &collaborations,
        &["COLLABORATION", "ENCRYPTED", "ORGANIZATIONS", "NODES ONLINE"],
        |collaboration| {
            let of_it =
                |node: &&Node| node.collaboration.as_ref().is_some_and(|link| link.id == collaboration.id.get());
            let online = nodes.iter().filter(of_it).filter(|node| node.status.as_deref() == Some("online")).count();
            let all = nodes.iter().filter(of_it).count();
            let organizations = match &collaboration.organizations {
                Many::Items(items) => items.len().to_string(),
                Many::Link(_) => "-".into(),
            };
            let style = if online == all { Style::Good } else { Style::Waiting };
            vec![
                (&collaboration.name).into(),
                if collaboration.encrypted { "yes" } else { "no" }.into(),
                organizations.into(),
                Cell::styled(format!("{online} of {all}"), style),
            ]
        },
    )?;
    Ok(if is_well { Exit::Done } else { Exit::Failed })
}

/// A password from where it is to come from.
pub(super) fn password(from_stdin: bool, variable: &str, prompt: &str) -> anyhow::Result<String> {
    let password = if from_stdin {
        let mut line = String::new();
        io::stdin().lock().read_line(&mut line).context("cannot read the password from stdin")?;
        line.trim_end_matches(['\r', '\n']).to_owned()
    } else if let Some(password) = std::env::var_os(variable) {
        password.into_string().map_err(|_| CliError::Usage {
            what: format!("the password in {variable} is not text"),
            hint: "use UTF-8",
        })?
    } else if io::stdin().is_terminal() {
        rpassword::prompt_password(prompt).context("cannot read the password")?
    } else {
        return Err(CliError::Usage {
            what: "there is no password, and no terminal to ask on".into(),
            hint: "give it with --password-stdin",
        }
        .into());
    };
    if password.is_empty() {
        return Err(CliError::Usage { what: "the password is empty".into(), hint: "type it, or pipe it in" }.into());
    }
    Ok(password)
}

/// Asks for a yes, unless it was given.
pub(super) fn confirm(yes: bool, question: &str) -> anyhow::Result<()> {
    if yes {
        return Ok(());
    }
    let answer = ask(&clean(question), " [y/N] ", "say yes beforehand with --yes")?;
    if matches!(&*answer.to_lowercase(), "y" | "yes") { Ok(()) } else { Err(CliError::Declined.into()) }
}

fn ask(question: &str, tail: &str, hint: &'static str) -> anyhow::Result<String> {
    if !io::stdin().is_terminal() {
        let what = format!("there is no terminal to ask: {question}");
        return Err(CliError::Usage { what, hint }.into());
    }
    let mut stderr = io::stderr().lock();
    let _ = write!(stderr, "{question}{tail}").and_then(|()| stderr.flush());
    let mut line = String::new();
    io::stdin().lock().read_line(&mut line).context("cannot read the answer")?;
    Ok(line.trim().to_owned())
}

fn is_in_the_clear(server: &str) -> bool {
    let in_the_clear =
        |server| Url::parse(server).is_ok_and(|url| url.scheme() == "http" && !crate::api::is_loopback(&url));
    server.split(',').any(in_the_clear)
}
