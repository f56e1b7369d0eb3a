//! The databases of this node, and the files and variables through which a run sees those it may read.

use std::{collections::BTreeMap, fs, io};

use camino::{Utf8Path, Utf8PathBuf};
use serde_json::{Map, Value};
use twinmesh_protocol::{
    environment::encode_value,
    wire::{DatabaseDetails, TaskDatabase},
};

use crate::{
    config::{Algorithm, Config, Database, is_identifier},
    journal::Seed,
    runtime::{FileSource, GATEWAY, Layout, RunFile},
};

/// Why a database cannot be offered.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    #[error("cannot read the database `{label}` at `{path}`: is the path right, and may this user read it?")]
    Unreadable { label: String, path: Utf8PathBuf, source: io::Error },
    #[error("the database `{label}` at `{path}` is not a file")]
    NotAFile { label: String, path: Utf8PathBuf },
    #[error("the database `{label}` at `{path}` is no CSV table: {problem}")]
    NotATable { label: String, path: Utf8PathBuf, problem: String },
}

/// Checks that every database can be read, without keeping anything of it.
///
/// # Errors
///
/// The first that cannot.
pub fn check(databases: &[Database]) -> Result<(), DataError> {
    for Database { label, path, .. } in databases {
        let unreadable = |source| DataError::Unreadable { label: label.clone(), path: path.clone(), source };
        let file = fs::File::open(path).map_err(unreadable)?;
        if !file.metadata().map_err(unreadable)?.is_file() {
            return Err(DataError::NotAFile { label: label.clone(), path: path.clone() });
        }
        let not_a_table = |problem: String| DataError::NotATable { label: label.clone(), path: path.clone(), problem };
        let mut reader = csv::Reader::from_reader(file);
        let headers = reader.headers().map_err(|error| not_a_table(error.to_string()))?;
        if headers.iter().all(str::is_empty) {
            return Err(not_a_table("it has no header".into()));
        }
    }
    Ok(())
}

/// What may be told of the databases. A table that cannot be read at the moment is told without its columns.
pub fn details(databases: &[Database]) -> Vec<DatabaseDetails> {
    databases
        .iter()
        .map(|database| {
            let headers = csv::Reader::from_path(&database.path).and_then(|mut reader| reader.headers().cloned());
            DatabaseDetails {
                label: database.label.clone(),
                kind: database.kind.as_str().into(),
                columns: headers.ok().map(|headers| headers.iter().map(ToOwned::to_owned).collect()),
            }
        })
        .collect()
}

/// The databases that a task asked for, in its order.
fn requested<'a>(config: &'a Config, databases: &'a [TaskDatabase]) -> Vec<(&'a Database, &'a TaskDatabase)> {
    databases
        .iter()
        .filter_map(|asked| {
            config.databases.iter().find(|known| known.label == asked.label).map(|known| (known, asked))
        })
        .collect()
}

/// The files that a run may read: those of the databases that its task asked for, nothing else.
pub fn files(config: &Config, databases: &[TaskDatabase]) -> Vec<RunFile> {
    requested(config, databases)
        .into_iter()
        .map(|(database, _)| RunFile {
            path: Utf8Path::new("/mnt/data").join(format!("{}.{}", database.label, database.kind.as_str())),
            source: FileSource::Host(database.path.clone()),
        })
        .collect()
}

/// The variables of a run (contract D.2).
///
/// # Errors
///
/// When a name that comes from the task cannot be a variable.
pub fn environment(
    config: &Config,
    algorithm: &Algorithm,
    databases: &[TaskDatabase],
    layout: &Layout,
    seed: Seed,
) -> Result<BTreeMap<String, String>, String> {
    let mut variables: BTreeMap<String, String> = BTreeMap::new();
    let mut set = |name: &str, value: &str| variables.insert(name.to_owned(), encode_value(value));
    set("INPUT_FILE", layout.input.as_str());
    set("OUTPUT_FILE", layout.output.as_str());
    set("TOKEN_FILE", layout.token.as_str());
    set("TEMPORARY_FOLDER", layout.temporary.as_str());
    let gateway = layout.gateway.unwrap_or(GATEWAY);
    set("HOST", &format!("http://{}", gateway.ip()));
    set("PORT", &gateway.port().to_string());
    set("API_PATH", "");
    set("TWINMESH_RUN_SEED", &seed.to_hex());
    let requested = requested(config, databases);
    let labels = requested.iter().map(|(database, _)| database.label.as_str()).collect::<Vec<_>>().join(",");
    set("USER_REQUESTED_DATABASE_LABELS", &labels);
    set("DB_LABELS", &labels);
    for ((database, asked), path) in requested.iter().zip(&layout.files) {
        let label = database.label.to_uppercase();
        set(&format!("{label}_DATABASE_URI"), path.as_str());
        set(&format!("{label}_DATABASE_TYPE"), database.kind.as_str());
        for (key, value) in parameters(asked)? {
            let text = match value {
                Value::String(text) => text,
                Value::Null => continue,
                other => other.to_string(),
            };
            match key.as_str() {
                "query" | "sheet_name" | "preprocessing" => set(&format!("{label}_{}", key.to_uppercase()), &text),
                // Not a variable in the contract either.
                _ => continue,
            };
        }
    }
    for (name, value) in &config.algorithm_env {
        set(name, value);
    }
    for (name, value) in &algorithm.environment {
        if !is_identifier(name) {
            return Err(format!("the image's variable `{name}` has no name that a process can have"));
        }
        variables.entry(name.clone()).or_insert_with(|| value.clone());
    }
    Ok(variables)
}

fn parameters(asked: &TaskDatabase) -> Result<Map<String, Value>, String> {
    if asked.parameters.is_empty() {
        return Ok(Map::new());
    }
    serde_json::from_str(&asked.parameters)
        .map_err(|error| format!("the parameters of the database `{}` cannot be read: {error}", asked.label))
}

#[cfg(test)]
mod tests {
    use twinmesh_protocol::environment::decode_value;

    use super::*;
    use crate::policy::tests::config;

    #[test]
    fn a_run_sees_only_what_its_task_asked_for() {
        let config = config(
            "[algorithm_env]\nTWINMESH_MIN_ROWS = \"5\"\n[[databases]]\nlabel = \"secret\"\ntype = \"csv\"\npath = \"/tmp/s.csv\"",
        );
        let asked = [TaskDatabase {
            label: "default".into(),
            parameters: r#"{"query":"q","preprocessing":[{"function":"f"}],"arguments":{"a":1}}"#.into(),
        }];
        let files = files(&config, &asked);
        assert_eq!(files.len(), 1);
        assert_eq!(files[0].path, "/mnt/data/default.csv");
        let layout = Layout {
            input: "/i".into(),
            output: "/o".into(),
            token: "/t".into(),
            temporary: "/mnt/tmp".into(),
            files: vec!["/mnt/data/default.csv".into()],
            gateway: Some(GATEWAY),
        };
        let variables = environment(&config, &Algorithm::builtin(), &asked, &layout, Seed([1; 32])).unwrap();
        let value = |name: &str| variables.get(name).map(|text| decode_value(text).unwrap());
        for (name, expected) in [
            ("INPUT_FILE", "/i"),
            ("HOST", "http://127.0.0.1"),
            ("PORT", "8080"),
            ("API_PATH", ""),
            ("USER_REQUESTED_DATABASE_LABELS", "default"),
            ("DB_LABELS", "default"),
            ("DEFAULT_DATABASE_URI", "/mnt/data/default.csv"),
            ("DEFAULT_DATABASE_TYPE", "csv"),
            ("DEFAULT_QUERY", "q"),
            ("DEFAULT_PREPROCESSING", r#"[{"function":"f"}]"#),
            ("TWINMESH_MIN_ROWS", "5"),
            ("TWINMESH_RUN_SEED", &"01".repeat(32)),
        ] {
            assert_eq!(value(name).as_deref(), Some(expected), "{name}");
        }
        assert!(!variables.keys().any(|name| name.starts_with("SECRET")), "{variables:?}");
    }

    #[test]
    fn a_database_that_cannot_be_read_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = Utf8PathBuf::from_path_buf(folder.path().join("d.csv")).unwrap();
        let database = |path: &Utf8Path| {
            [Database { label: "default".into(), kind: crate::config::DatabaseKind::Csv, path: path.to_owned() }]
        };
        let missing = check(&database(&path)).unwrap_err().to_string();
        assert!(missing.contains("default") && missing.contains("d.csv"), "{missing}");
        assert!(matches!(
            check(&database(path.parent().unwrap())),
            Err(DataError::NotAFile { .. } | DataError::Unreadable { .. })
        ));
        fs::write(&path, "a,b\n1,2\n").unwrap();
        check(&database(&path)).unwrap();
        fs::write(&path, "").unwrap();
        assert!(matches!(check(&database(&path)), Err(DataError::NotATable { .. })));
    }
}
