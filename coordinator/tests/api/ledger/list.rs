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

#[tokio::test]
async fn pages_of_any_size_and_odd_questions_are_answered() {
    let federation = Federation::new(2, false).await;
    for _ in 0..3 {
        federation.task(&[0, 1]).await;
    }
    for path in ["/task?per_page=100000", "/run?per_page=9223372036854775807", "/result?per_page=100000"] {
        let answer = federation.get(&federation.root, path).await.expect(200);
        assert!(answer["data"].as_array().unwrap().len() >= 3, "{path}");
        assert_eq!(answer["links"]["next"], json!(null), "{path}");
    }
    let terms = "id,-id,".repeat(2000);
    let sorted = federation.get(&federation.root, &format!("/task?sort={terms}")).await.expect(200);
    assert_eq!(sorted["data"].as_array().unwrap().iter().map(id).collect::<Vec<_>>(), [1, 2, 3]);
    let refused = federation.get(&federation.root, &format!("/task?name={}", "%25".repeat(1025))).await;
    assert!(refused.msg().contains("`name`"), "{}", refused.msg());
    refused.expect(400);
    let [first, second] = [0, 1].map(|at| federation.members[at].organization);
    let ids = format!("organization_id={first}&organization_id={second}&").repeat(1000);
    federation.get(&federation.root, &format!("/role?{ids}")).await.expect(200);
}

#[tokio::test]
async fn whoever_asks_for_roles_of_many_organizations_must_know_them_all() {
    let federation = Federation::new(2, false).await;
    let strangers = federation.add_organizations("stranger", 1).await;
    federation.add_user("administrator", federation.members[0].organization, &[7]).await;
    let token = federation.log_in("administrator").await;
    let [first, second] = [0, 1].map(|at| federation.members[at].organization);
    let both = format!("/role?organization_id={first}&organization_id={second}&organization_id={second}");
    federation.get(&token, &both).await.expect(200);
    federation.get(&token, &format!("{both}&organization_id={}", strangers[0])).await.expect(401);
}
