//! Lists say the same on every engine.

use axum::http::Method;
use serde_json::{Value, json};

use super::federation::{Federation, id};

fn names(answer: &Value, field: &str) -> Vec<String> {
    let data = answer["data"].as_array().unwrap().iter();
    data.map(|entry| entry[field].as_str().unwrap_or("-").to_owned()).collect()
}

#[tokio::test]
async fn what_has_no_value_comes_first_going_up_and_last_going_down() {
    let federation = Federation::new(1, false).await;
    for (name, country) in [("a", Some("NL")), ("b", None), ("c", Some("BE"))] {
        let body = json!({"name": name, "country": country});
        federation.post(&federation.root, "/organization", body).await.expect(201);
    }
    for (sort, expected) in [("country", ["-", "-", "-", "BE", "NL"]), ("-country", ["NL", "BE", "-", "-", "-"])] {
        let answer = federation.get(&federation.root, &format!("/organization?sort={sort}")).await.expect(200);
        assert_eq!(names(&answer, "country"), expected, "{sort}");
    }
}

#[tokio::test]
async fn a_pattern_knows_percent_and_underscore_and_nothing_else() {
    let federation = Federation::new(1, false).await;
    for name in [r"a\b", "a%b", "axb", "AXXB"] {
        federation.post(&federation.root, "/organization", json!({"name": name})).await.expect(201);
    }
    for (pattern, expected) in [
        (r"a\b", vec![r"a\b"]),
        (r"a\%", vec![r"a\b"]),
        (r"a\", vec![]),
        ("A_B", vec![r"a\b", "a%b", "axb"]),
        ("a%b", vec![r"a\b", "a%b", "axb", "AXXB"]),
        ("a'b", vec![]),
    ] {
        let path = pattern.replace('%', "%25").replace('\\', "%5C");
        let answer = federation.get(&federation.root, &format!("/organization?name={path}&sort=id")).await.expect(200);
        assert_eq!(names(&answer, "name"), expected, "{pattern}");
    }
}

#[tokio::test]
async fn the_first_role_of_ones_own_follows_the_built_in_ones() {
    let federation = Federation::new(1, false).await;
    let body = json!({"name": "r", "description": "", "rules": [1], "organization_id": 1});
    let role = federation.post(&federation.root, "/role", body).await.expect(201);
    assert_eq!(id(&role), 8);
}

#[tokio::test]
async fn a_text_that_not_every_engine_holds_is_the_callers_fault() {
    let federation = Federation::new(1, false).await;
    let body = json!({"name": "a\u{0}b"});
    federation.post(&federation.root, "/organization", body).await.expect(400);
    let body = json!({"username": "a\u{0}b", "password": "x"});
    federation.ask(Method::POST, "/token/user", None, Some(body), &[]).await.expect(400);
    let none = federation.get(&federation.root, "/organization?name=a%00b").await.expect(200);
    assert_eq!(none["data"], json!([]));
}
