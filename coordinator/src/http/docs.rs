//! The interface's description as a page for people, written from the OpenAPI document when the coordinator starts.
//!
//! The page is one file: it asks no other host for anything and needs no script.

use std::fmt::{self, Display, Write as _};

use axum::body::Bytes;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use super::operation::{operations, parameters};

const STYLE: &str = include_str!("docs.css");
/// The kinds of token, in the order in which they are shown.
const KINDS: [&str; 4] = ["user", "node", "container", "refresh"];

/// The page, and the policy that forbids it everything else.
#[derive(Debug)]
pub(crate) struct Page {
    html: Bytes,
    policy: String,
}

impl Page {
    /// Writes the page.
    pub(crate) fn new(document: &Value) -> Self {
        let mut html = String::with_capacity(512 << 10);
        // Writing to a text cannot fail.
        let _ = write!(html, "{}", Whole(document));
        let digest = STANDARD.encode(Sha256::digest(STYLE));
        let policy = format!(
            "default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
        );
        Self { html: html.into(), policy }
    }

    pub(crate) fn html(&self) -> Bytes {
        self.html.clone()
    }

    /// The content security policy to send with it.
    pub(crate) fn policy(&self) -> &str {
        &self.policy
    }
}

struct Whole<'a>(&'a Value);

impl Display for Whole<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let document = self.0;
        let info = &document["info"];
        let title = Text(text(&info["title"]));
        write!(
            f,
            "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
             <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
             <meta name=\"color-scheme\" content=\"light dark\">\n<title>{title}: interface</title>\n\
             <style>{STYLE}</style>\n</head>\n<body>\n<a class=\"skip\" href=\"#main\">Skip to the operations</a>\n"
        )?;
        contents(f, document)?;
        write!(
            f,
            "<main id=\"main\">\n<header class=\"top\"><h1>{title}</h1>\
             <p class=\"facts\"><span>version {}</span><span>OpenAPI {}</span>\
             <a href=\"openapi.json\">openapi.json</a></p>{}</header>\n",
            Text(text(&info["version"])),
            Text(text(&document["openapi"])),
            Prose(text(&info["description"])),
        )?;
        tokens(f, document)?;
        for tag in tags(document) {
            let name = text(&tag["name"]);
            writeln!(
                f,
                "<section id=\"{name}\"><h2>{name}</h2>{}",
                Prose(text(&tag["description"])),
                name = Text(name)
            )?;
            for (verb, path, operation) in of_tag(document, name) {
                write!(f, "{}", Operation { document, verb, path, operation })?;
            }
            f.write_str("</section>\n")?;
        }
        f.write_str("<section id=\"schemas\"><h2>Schemas</h2><p>The forms of bodies and answers.</p>\n")?;
        for (name, schema) in document["components"]["schemas"].as_object().into_iter().flatten() {
            writeln!(
                f,
                "<details class=\"schema\"><summary><code>{}</code><span class=\"about\">{}</span></summary>\
                 <div class=\"inside\" id=\"schema-{}\">{}</div></details>",
                Text(&name_of(name)),
                Inline(text(&schema["description"])),
                Text(name),
                Fields(schema),
            )?;
        }
        f.write_str("</section>\n</main>\n</body>\n</html>\n")
    }
}

fn contents(f: &mut fmt::Formatter<'_>, document: &Value) -> fmt::Result {
    f.write_str("<nav aria-label=\"Operations\"><ul>\n")?;
    for tag in tags(document) {
        let name = text(&tag["name"]);
        writeln!(f, "<li><a class=\"tag\" href=\"#{name}\">{name}</a><ul>", name = Text(name))?;
        for (verb, path, operation) in of_tag(document, name) {
            writeln!(
                f,
                "<li><a href=\"#{}\" title=\"{}\">{}<span>{}</span></a></li>",
                Text(text(&operation["operationId"])),
                Text(text(&operation["summary"])),
                Verb(verb),
                Path(short(document, path)),
            )?;
        }
        f.write_str("</ul></li>\n")?;
    }
    f.write_str("<li><a class=\"tag\" href=\"#schemas\">schemas</a></li>\n</ul></nav>\n")
}

fn tokens(f: &mut fmt::Formatter<'_>, document: &Value) -> fmt::Result {
    f.write_str("<section id=\"tokens\" class=\"tokens\"><h2>Tokens</h2><dl>\n")?;
    for kind in KINDS {
        let what = text(&document["components"]["securitySchemes"][kind]["description"]);
        writeln!(f, "<div><dt>{}</dt><dd>{}</dd></div>", Kind(kind), Inline(what))?;
    }
    f.write_str(
        "<div><dt><span class=\"kind public\">public</span></dt><dd>No token at all.</dd></div></dl></section>\n",
    )
}

struct Operation<'a> {
    document: &'a Value,
    verb: &'a str,
    path: &'a str,
    operation: &'a Value,
}

impl Display for Operation<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { document, verb, path, operation } = self;
        write!(
            f,
            "<details class=\"operation\"><summary>{}<code class=\"path\">{}</code><span class=\"about\">{}</span>\
             <span class=\"kinds\">",
            Verb(verb),
            Path(path),
            Inline(text(&operation["summary"])),
        )?;
        let kinds = operation.get("security").unwrap_or(&document["security"]);
        let takes = |kind: &str| kinds.as_array().into_iter().flatten().any(|choice| choice.get(kind).is_some());
        for kind in KINDS.into_iter().filter(|kind| takes(kind)) {
            write!(f, "{}", Kind(kind))?;
        }
        if !KINDS.into_iter().any(takes) {
            f.write_str("<span class=\"kind public\">public</span>")?;
        }
        write!(
            f,
            "</span></summary><div class=\"inside\" id=\"{}\">{}",
            Text(text(&operation["operationId"])),
            Prose(text(&operation["description"]))
        )?;
        if parameters(operation).next().is_some() {
            f.write_str(
                "<h3>Parameters</h3><div class=\"scroll\"><table><thead><tr><th>Name</th><th>In</th><th>Type</th>\
                 <th>Meaning</th></tr></thead><tbody>\n",
            )?;
            for parameter in parameters(operation) {
                writeln!(
                    f,
                    "<tr><td><code>{}</code>{}</td><td>{}</td><td>{}</td><td>{}</td></tr>",
                    Text(text(&parameter["name"])),
                    Required(parameter["required"] == true),
                    Text(text(&parameter["in"])),
                    Type(&parameter["schema"]),
                    Inline(text(&parameter["description"])),
                )?;
            }
            f.write_str("</tbody></table></div>\n")?;
        }
        for (kind, content) in operation["requestBody"]["content"].as_object().into_iter().flatten() {
            let schema = &content["schema"];
            write!(f, "<h3>Body <small>{} · {}</small></h3>", Type(schema), Text(kind))?;
            write!(f, "{}", Fields(resolve(document, schema)))?;
        }
        f.write_str(
            "<h3>Answers</h3><div class=\"scroll\"><table><thead><tr><th>Status</th><th>Body</th><th>Meaning</th></tr>\
             </thead><tbody>\n",
        )?;
        for (status, answer) in operation["responses"].as_object().into_iter().flatten() {
            write!(
                f,
                "<tr><td><span class=\"status s{}\">{}</span></td><td>",
                Text(status.get(..1).unwrap_or_default()),
                Text(status)
            )?;
            for (kind, content) in answer["content"].as_object().into_iter().flatten() {
                write!(f, "{}", Type(&content["schema"]))?;
                if kind != "application/json" {
                    write!(f, " <small>{}</small>", Text(kind))?;
                }
            }
            writeln!(f, "</td><td>{}</td></tr>", Inline(text(&answer["description"])))?;
        }
        f.write_str("</tbody></table></div></div></details>\n")
    }
}

/// The fields of an object, or what else a schema is.
struct Fields<'a>(&'a Value);

impl Display for Fields<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(properties) = self.0["properties"].as_object() else {
            return write!(f, "<p>{}</p>", Type(self.0));
        };
        f.write_str(
            "<div class=\"scroll\"><table><thead><tr><th>Field</th><th>Type</th><th>Meaning</th></tr></thead><tbody>\n",
        )?;
        let required = |name: &str| self.0["required"].as_array().into_iter().flatten().any(|other| other == name);
        // What is required first; otherwise in the order of the alphabet.
        let (first, then): (Vec<_>, Vec<_>) = properties.iter().partition(|(name, _)| required(name));
        for (name, schema) in first.into_iter().chain(then) {
            writeln!(
                f,
                "<tr><td><code>{}</code>{}</td><td>{}</td><td>{}</td></tr>",
                Text(name),
                Required(required(name)),
                Type(schema),
                Inline(description(schema)),
            )?;
        }
        f.write_str("</tbody></table></div>")
    }
}

/// A field's description, which stands beside the reference where there is one.
fn description(schema: &Value) -> &str {
    let choices = schema["oneOf"].as_array().into_iter().flatten();
    let mut all = std::iter::once(schema).chain(choices);
    all.find_map(|schema| schema["description"].as_str()).unwrap_or_default()
}

/// A type in words.
struct Type<'a>(&'a Value);

impl Display for Type<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let schema = self.0;
        if let Some(name) = schema["$ref"].as_str().and_then(|path| path.strip_prefix("#/components/schemas/")) {
            return write!(f, "<a href=\"#schema-{}\">{}</a>", Text(name), Text(&name_of(name)));
        }
        for of in ["oneOf", "anyOf"] {
            if let Some(choices) = schema[of].as_array() {
                return joined(f, choices.iter().map(Type));
            }
        }
        if let Some(words) = schema["enum"].as_array() {
            return joined(f, words.iter().map(|word| Literal(text(word))));
        }
        match &schema["type"] {
            Value::Array(types) => joined(f, types.iter().map(|word| One { schema, word: text(word) })),
            word => One { schema, word: text(word) }.fmt(f),
        }
    }
}

/// One of a schema's types.
struct One<'a> {
    schema: &'a Value,
    word: &'a str,
}

impl Display for One<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let schema = self.schema;
        match self.word {
            "" => return f.write_str("anything"),
            "array" => {
                write!(f, "list of {}", Type(&schema["items"]))?;
                return self.bounds(f, "minItems", "maxItems", " items");
            }
            "null" => return f.write_str("null"),
            word => f.write_str(word)?,
        }
        match self.word {
            "string" => self.bounds(f, "minLength", "maxLength", " characters")?,
            "object" => self.bounds(f, "minProperties", "maxProperties", " entries")?,
            _ => self.bounds(f, "minimum", "maximum", "")?,
        }
        if let Some(default) = schema.get("default") {
            write!(f, " <small>default {}</small>", Text(&default.to_string()))?;
        }
        Ok(())
    }
}

impl One<'_> {
    fn bounds(&self, f: &mut fmt::Formatter<'_>, least: &str, most: &str, unit: &str) -> fmt::Result {
        let number = |name: &str| self.schema.get(name).and_then(Value::as_i64);
        match (number(least), number(most)) {
            (Some(least), Some(most)) => write!(f, " <small>{least} to {most}{unit}</small>"),
            (Some(least), None) => write!(f, " <small>from {least}{unit}</small>"),
            (None, Some(most)) => write!(f, " <small>up to {most}{unit}</small>"),
            (None, None) => Ok(()),
        }
    }
}

fn joined<T: Display>(f: &mut fmt::Formatter<'_>, parts: impl Iterator<Item = T>) -> fmt::Result {
    for (at, part) in parts.enumerate() {
        write!(f, "{}{part}", if at == 0 { "" } else { " <small>or</small> " })?;
    }
    Ok(())
}

struct Literal<'a>(&'a str);

impl Display for Literal<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "<code>{}</code>", Text(self.0))
    }
}

struct Required(bool);

impl Display for Required {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 { f.write_str("<span class=\"required\">required</span>") } else { Ok(()) }
    }
}

struct Verb<'a>(&'a str);

impl Display for Verb<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "<span class=\"verb {}\">{}</span>", Text(self.0), Text(&self.0.to_uppercase()))
    }
}

struct Kind<'a>(&'a str);

impl Display for Kind<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "<span class=\"kind {0}\">{0}</span>", Text(self.0))
    }
}

/// A path that may be broken at its slashes.
struct Path<'a>(&'a str);

impl Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, part) in self.0.split('/').enumerate() {
            if at > 0 {
                f.write_str("<wbr>/")?;
            }
            if part.starts_with('{') {
                write!(f, "<var>{}</var>", Text(part))?;
            } else {
                Text(part).fmt(f)?;
            }
        }
        Ok(())
    }
}

/// Paragraphs.
struct Prose<'a>(&'a str);

impl Display for Prose<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for paragraph in self.0.split("\n\n").filter(|paragraph| !paragraph.trim().is_empty()) {
            write!(f, "<p>{}</p>", Inline(paragraph))?;
        }
        Ok(())
    }
}

/// A text in which backticks mark code.
struct Inline<'a>(&'a str);

impl Display for Inline<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, part) in self.0.split('`').enumerate() {
            if at % 2 == 1 { Literal(part).fmt(f)? } else { Text(part).fmt(f)? }
        }
        Ok(())
    }
}

/// A text that is nothing but text.
struct Text<'a>(&'a str);

impl Display for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for character in self.0.chars() {
            match character {
                '&' => f.write_str("&amp;")?,
                '<' => f.write_str("&lt;")?,
                '>' => f.write_str("&gt;")?,
                '"' => f.write_str("&quot;")?,
                '\'' => f.write_str("&#39;")?,
                other => f.write_char(other)?,
            }
        }
        Ok(())
    }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn tags(document: &Value) -> impl Iterator<Item = &Value> {
    document["tags"].as_array().into_iter().flatten()
}

fn of_tag<'a>(document: &'a Value, tag: &'a str) -> impl Iterator<Item = (&'a str, &'a str, &'a Value)> {
    operations(document).filter(move |(_, _, operation)| operation["tags"][0] == tag)
}

/// What a reference stands for.
fn resolve<'a>(document: &'a Value, schema: &'a Value) -> &'a Value {
    let named = schema["$ref"].as_str().and_then(|path| path.strip_prefix('#'));
    named.and_then(|path| document.pointer(path)).unwrap_or(schema)
}

/// `Page_Task` as people say it.
fn name_of(name: &str) -> String {
    match name.split_once('_') {
        Some((outer, inner)) => format!("{outer} of {inner}"),
        None => name.to_owned(),
    }
}

/// The path without the part that all have in common.
fn short<'a>(document: &'a Value, path: &'a str) -> &'a str {
    let common = operations(document).find_map(|(_, path, _)| path.strip_suffix("/openapi.json"));
    common.and_then(|common| path.strip_prefix(common)).unwrap_or(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_a_description_says_stays_text() {
        assert_eq!(Inline("a <b> & `c<d>`").to_string(), "a &lt;b&gt; &amp; <code>c&lt;d&gt;</code>");
        assert_eq!(Path("/a/{id}").to_string(), "<wbr>/a<wbr>/<var>{id}</var>");
    }

    #[test]
    fn a_type_reads_as_people_say_it() {
        for (schema, words) in [
            (json!({"type": "integer", "minimum": 1}), "integer <small>from 1</small>"),
            (json!({"type": ["string", "null"]}), "string <small>or</small> null"),
            (json!({"type": "array", "items": {"type": "string"}}), "list of string"),
            (json!({"$ref": "#/components/schemas/Page_Task"}), "<a href=\"#schema-Page_Task\">Page of Task</a>"),
            (json!({"enum": ["a", "b"]}), "<code>a</code> <small>or</small> <code>b</code>"),
            (json!({}), "anything"),
        ] {
            assert_eq!(Type(&schema).to_string(), words);
        }
    }
}
