//! What holds for every endpoint (contract A.1).

use axum::http::Method;
use serde_json::{Value, json};

use crate::ledger::federation::{Federation, id};

#[tokio::test]
async fn every_error_is_json_with_a_sentence() {
    let federation = Federation::new(1, false).await;
    let root = federation.root.as_str();
    for (method, path, status) in [
        (Method::GET, "/nonsense", 404),
        (Method::GET, "/organization/x", 404),
        (Method::GET, "/organization/999", 404),
        (Method::PUT, "/organization", 405),
        (Method::GET, "/organization?page=0", 400),
        (Method::GET, "/organization?sort=password", 400),
        (Method::GET, "/user?organization_id=x", 400),
        (Method::POST, "/organization", 400),
    ] {
        let answer = federation.ask(method.clone(), path, Some(root), None, &[]).await;
        assert_eq!(answer.headers["content-type"], "application/json", "{method} {path}");
        assert_eq!(answer.headers["access-control-allow-origin"], "*");
        assert!(!answer.msg().is_empty(), "{method} {path}: {}", answer.body);
        let body = answer.expect(status);
        assert_eq!(body["status"], status);
        assert!(body["request_id"].is_string());
    }
    let answer = federation.ask(Method::PUT, "/organization", Some(root), None, &[]).await;
    assert_eq!(answer.body["message"], "The method is not allowed for the requested URL.");
}

#[tokio::test]
async fn a_wrong_body_is_told_by_field() {
    let federation = Federation::new(1, false).await;
    for (body, field, text) in [
        (json!({"name": "a", "foo": 1}), "foo", "Unknown field."),
        (json!({"country": "NL"}), "name", "Missing data for required field."),
        (json!({"name": "123"}), "name", "Name cannot be a number."),
        (json!({"name": ""}), "name", "Length must be between 1 and 128."),
        (json!({"name": "a", "public_key": "eA=="}), "public_key", "PEM"),
    ] {
        let answer = federation.post(&federation.root, "/organization", body).await.expect(400);
        assert_eq!(answer["msg"], "Request body is incorrect");
        assert!(answer["errors"][field][0].as_str().unwrap().contains(text), "{answer}");
    }
}

#[tokio::test]
async fn a_list_comes_in_pages() {
    let federation = Federation::new(1, false).await;
    federation.add_organizations("one of", 11).await;
    let names = |page: &Value| -> Vec<String> {
        page["data"].as_array().unwrap().iter().map(|it| it["name"].as_str().unwrap().to_owned()).collect()
    };
    let first = federation.get(&federation.root, "/organization").await;
    assert_eq!(first.headers["total-count"], "13");
    assert!(first.headers["link"].to_str().unwrap().contains("</api/organization?page=2>; rel=next"));
    let first = first.expect(200);
    assert_eq!(names(&first).len(), 10);
    assert_eq!(names(&first)[0], "root");
    let second = federation.get(&federation.root, "/organization?page=2").await.expect(200);
    assert_eq!(names(&second).len(), 3);
    assert!(second["links"].get("next").is_none());
    let beyond = federation.get(&federation.root, "/organization?page=9").await.expect(200);
    assert!(names(&beyond).is_empty() && beyond["links"].get("next").is_none());
    let sorted = federation.get(&federation.root, "/organization?sort=-name&per_page=2").await.expect(200);
    assert_eq!(names(&sorted), ["root", "one of 9"]);
    let like = federation.get(&federation.root, "/organization?name=one%25_1&per_page=99").await.expect(200);
    assert_eq!(names(&like), ["one of 1", "one of 11"]);
    let ids = federation.get(&federation.root, "/organization?ids=1&ids=4").await.expect(200);
    assert_eq!(names(&ids), ["root", "one of 2"]);
}

#[tokio::test]
async fn rules_and_roles_have_the_ids_of_a_stock_server() {
    let federation = Federation::new(1, false).await;
    let rules = federation.get(&federation.root, "/rule?no_pagination=1").await.expect(200);
    assert_eq!(rules["data"].as_array().unwrap().len(), 86);
    let rule = federation.get(&federation.root, "/rule/33").await.expect(200);
    assert_eq!(rule["name"], "task");
    assert_eq!((&rule["operation"], &rule["scope"]), (&json!("CREATE"), &json!("COLLABORATION")));
    let roles = federation.get(&federation.root, "/role").await.expect(200);
    let names: Vec<_> = roles["data"].as_array().unwrap().iter().map(|role| role["name"].clone()).collect();
    let expected = ["Root", "container", "node", "Viewer", "Researcher", "Organization Admin", "Collaboration Admin"];
    assert_eq!(names, expected);
    let own = federation.get(&federation.root, "/rule?role_id=2&per_page=99").await.expect(200);
    let ids: Vec<_> = own["data"].as_array().unwrap().iter().map(id).collect();
    assert_eq!(ids, [3, 14, 21, 22, 29, 39, 69, 77]);
    let filtered = federation.get(&federation.root, "/rule?name=event&operation=s&scope=GLOBAL").await.expect(200);
    assert_eq!(filtered["data"][0]["id"], 75);
}

#[tokio::test]
async fn the_coordinator_says_what_it_is() {
    let federation = Federation::new(1, false).await;
    let anonymous = |path| federation.ask(Method::GET, path, None, None, &[]);
    assert_eq!(anonymous("/version").await.expect(200)["version"], "4.15.2");
    assert_eq!(anonymous("/health").await.expect(200)["database"], true);
    let blobs = federation.get(&federation.root, "/blobstream/status").await.expect(200);
    assert_eq!(blobs, json!({"blob_store_enabled": false}));
    let stores = federation.get(&federation.root, "/algorithmstore").await.expect(200);
    assert_eq!(stores["data"], json!([]));
}

#[tokio::test]
async fn a_body_beyond_the_limit_is_refused() {
    let federation = Federation::with(1, false, |config| config.limits.request_body = "64KiB".parse().unwrap()).await;
    let body = json!({"name": "a".repeat(70_000)});
    let answer = federation.post(&federation.root, "/organization", body.clone()).await;
    assert_eq!(answer.expect(413)["code"], "body_too_large");
    // A stranger's is not even read.
    let answer = federation.ask(Method::POST, "/organization", None, Some(body), &[]).await;
    assert_eq!(answer.expect(401)["code"], "token_missing");
}
