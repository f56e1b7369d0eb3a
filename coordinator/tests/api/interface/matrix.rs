//! Who may do what, as observed from outside. It is kept in `endpoints.txt`; run the test with `UPDATE_SNAPSHOTS=1` to
//! write it anew.

use std::fmt::Write as _;
use std::path::Path;

use super::operation::table;
use super::world::{Outcome, ROLES, Relation, World};

const LEGEND: &str = "\
What the coordinator answers to real requests, by role. Each cell names the targets for which the answer is yes:

  o  one's own: oneself, what one made, the role one holds; for a node and an algorithm, the run they work on
  g  of one's own organization, in a collaboration in which it takes part
  c  of another organization, in a shared collaboration
  f  of another organization, in a collaboration that is none of one's own
  b  built in, nobody's
  y  yes, where there is no target

Lists count as a yes for what they show. What asks for no token of these roles is not listed: logging in and
refreshing, version, health, robots.txt, this interface's description.

";

#[tokio::test]
async fn the_matrix_of_endpoints_is_the_one_that_was_reviewed() {
    let mut world = World::new().await;
    let mut text = LEGEND.to_owned();
    let _ = write!(text, "{:<52}", "");
    for role in ROLES {
        let _ = write!(text, " {:>10}", role.name);
    }
    let mut unclear = Vec::new();
    for operation in table() {
        let _ = write!(text, "\n{:<52}", operation.name());
        for role in ROLES {
            let mut cell = String::new();
            for relation in Relation::ALL {
                match world.ask(&operation, role, relation).await {
                    Some(Outcome::Allowed) => cell.push(relation.letter()),
                    Some(Outcome::Refused) | None => {}
                    Some(Outcome::Unclear(answer)) => {
                        unclear.push(format!("{} as {} on {relation:?}: {answer}", operation.name(), role.name));
                    }
                }
            }
            let _ = write!(text, " {:>10}", if cell.is_empty() { "-" } else { &cell });
        }
    }
    text.push('\n');
    assert!(unclear.is_empty(), "answers that say neither yes nor no:\n{}", unclear.join("\n"));

    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/endpoints.txt");
    if std::env::var_os("UPDATE_SNAPSHOTS").is_some() {
        std::fs::write(&path, &text).unwrap();
    }
    let reviewed = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(reviewed == text, "the matrix changed; review it with UPDATE_SNAPSHOTS=1 and git diff:\n{text}");
}
