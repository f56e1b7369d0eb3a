//! The private key of my organization.

use serde_json::json;

use super::Context;
use super::account::confirm;
use super::args::Key;
use crate::key::{KeyCreation, Upload, create_organization_key, read_private_key};
use crate::pins::shown_key;

pub(super) async fn run(context: &Context<'_>, verb: Key) -> anyhow::Result<()> {
    let output = context.output;
    let path = context.home.key_path();
    match verb {
        Key::Create { force, yes } => {
            if force && path.exists() {
                confirm(yes.yes, &format!("Replace the key `{}` for ever?", path.display()))?;
            }
            let (key, creation) = create_organization_key(&path, force)?;
            let (word, text) = match creation {
                KeyCreation::Created => ("created", "Made a key in"),
                KeyCreation::Reused => ("reused", "Kept the key in"),
                KeyCreation::Replaced => ("replaced", "Replaced the key in"),
            };
            output.say(format_args!("{text} {}; upload it with `twinmesh key upload`.", path.display()));
            let fingerprint = key.public().fingerprint();
            output.item(
                &json!({"file": path, "fingerprint": fingerprint, "creation": word}),
                vec![("fingerprint", fingerprint.as_str().into())],
            )
        }
        Key::Show => {
            let key = read_private_key(&path)?.public();
            if output.json {
                return output.json(&json!({
                    "file": path, "fingerprint": key.fingerprint(), "public_key": key.to_api(),
                }));
            }
            output.fields(vec![("file", path.display().into()), ("fingerprint", key.fingerprint().into())])?;
            Ok(output.text(&key.to_pem())?)
        }
        Key::Upload { yes } => {
            let client = context.client().await?;
            let organization = client.organization();
            // Whoever pinned the other key, nodes above all, would refuse what is signed with this one.
            if let (Ok(shown), Some(ours)) = (shown_key(organization), client.public_key())
                && shown != ours
            {
                let question = format!(
                    "The coordinator shows another key for {} ({}). Replace it for everybody?",
                    organization.name,
                    shown.fingerprint()
                );
                confirm(yes.yes, &question)?;
            }
            let upload = client.upload_key().await?;
            let (word, text) = match upload {
                Upload::Same => ("same", "The coordinator shows this key already for"),
                Upload::Added => ("added", "The coordinator shows this key now for"),
                Upload::Replaced => ("replaced", "The coordinator shows this key now, in place of another, for"),
            };
            output.say(format_args!("{text} {}.", client.organization().name));
            let fingerprint = client.public_key().map(|key| key.fingerprint());
            output.item(
                &json!({"fingerprint": fingerprint, "upload": word}),
                vec![("fingerprint", fingerprint.unwrap_or_default().into())],
            )
        }
    }
}
