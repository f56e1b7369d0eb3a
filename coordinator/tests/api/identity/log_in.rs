//! Logging in and staying so (contract A.2, A.3).

use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::http::Method;
use data_encoding::BASE64URL_NOPAD;
use serde_json::{Value, json};
use twinmesh_coordinator::config::{RootConfig, Secret};

use crate::database::text;
use crate::ledger::federation::{Answer, DEADLINE, Federation, id};

const PASSWORD: &str = "Correct-Horse-1";
const SECOND: i64 = 1_000_000;

async fn log_in(federation: &Federation, username: &str, password: &str) -> Answer {
    let body = json!({"username": username, "password": password});
    federation.ask(Method::POST, "/token/user", None, Some(body), &[]).await
}

async fn refresh(federation: &Federation, token: &Value) -> Answer {
    federation.ask(Method::POST, "/token/refresh", token.as_str(), None, &[]).await
}

fn claims(token: &Value) -> Value {
    let payload = token.as_str().unwrap().split('.').nth(1).unwrap();
    serde_json::from_slice(&BASE64URL_NOPAD.decode(payload.as_bytes()).unwrap()).unwrap()
}

#[tokio::test]
async fn a_log_in_answers_as_the_contract_has_it() {
    let federation = Federation::new(1, false).await;
    let answer = log_in(&federation, "root", PASSWORD).await;
    let header = answer.headers["jwt-token"].to_str().unwrap().to_owned();
    let body = answer.expect(200);
    assert_eq!(body["access_token"], header);
    assert_eq!(body["refresh_url"], "/api/token/refresh");
    let claims = claims(&body["access_token"]);
    assert_eq!(body["user_url"], format!("/api/user/{}", claims["sub"]));
    assert_eq!(claims["roles"], json!(["Root"]));
    assert_eq!(claims["client_type"], "user");
    let with_code = json!({"username": "root", "password": PASSWORD, "mfa_code": 123_456});
    federation.ask(Method::POST, "/token/user", None, Some(with_code), &[]).await.expect(200);
}

#[tokio::test]
async fn every_failed_log_in_has_the_same_answer() {
    let federation = Federation::new(1, false).await;
    federation.add_user("locked", 1, &[]).await;
    for _ in 0..5 {
        log_in(&federation, "locked", "wrong").await.expect(401);
    }
    let mut answers = Vec::new();
    for (username, password) in [("root", "wrong"), ("nobody", PASSWORD), ("locked", PASSWORD)] {
        let mut body = log_in(&federation, username, password).await.expect(401);
        body.as_object_mut().unwrap().remove("request_id");
        answers.push(body);
    }
    assert_eq!(answers[0]["msg"], "Failed to login");
    assert!(answers.windows(2).all(|pair| pair[0] == pair[1]), "{answers:?}");
}

#[tokio::test]
async fn a_locked_account_opens_again_after_a_quarter_of_an_hour() {
    let federation = Federation::new(1, false).await;
    federation.add_user("somebody", 1, &[]).await;
    for _ in 0..5 {
        log_in(&federation, "somebody", "wrong").await.expect(401);
    }
    log_in(&federation, "somebody", PASSWORD).await.expect(401);
    federation.clock.fetch_add(15 * 60 * SECOND, Ordering::Relaxed);
    log_in(&federation, "somebody", PASSWORD).await.expect(200);
}

#[tokio::test]
async fn a_right_password_forgives_the_wrong_ones_before_it() {
    let federation = Federation::new(1, false).await;
    federation.add_user("somebody", 1, &[]).await;
    for _ in 0..3 {
        for _ in 0..4 {
            log_in(&federation, "somebody", "wrong").await.expect(401);
        }
        log_in(&federation, "somebody", PASSWORD).await.expect(200);
    }
}

#[tokio::test]
async fn a_refresh_token_that_comes_again_at_once_is_answered_with_another_pair_of_the_same_log_in() {
    let federation = Federation::new(1, false).await;
    let first = log_in(&federation, "root", PASSWORD).await.expect(200);
    // As from two threads, or after an answer that was lost.
    let second = refresh(&federation, &first["refresh_token"]).await.expect(200);
    federation.clock.fetch_add(29 * SECOND, Ordering::Relaxed);
    let third = refresh(&federation, &first["refresh_token"]).await.expect(200);
    assert_ne!(second["refresh_token"], third["refresh_token"]);
    for pair in [&second, &third] {
        assert_eq!(claims(&pair["access_token"])["family"], claims(&first["access_token"])["family"]);
    }
    let fourth = refresh(&federation, &second["refresh_token"]).await.expect(200);
    // Repeats do not make the time longer: who has a copy ends all of it.
    federation.clock.fetch_add(2 * SECOND, Ordering::Relaxed);
    refresh(&federation, &first["refresh_token"]).await.expect(401);
    for pair in [&third, &fourth] {
        refresh(&federation, &pair["refresh_token"]).await.expect(401);
    }
}

#[tokio::test]
async fn a_refresh_token_is_good_once_and_its_second_use_ends_the_log_in() {
    let federation = Federation::new(1, false).await;
    let first = log_in(&federation, "root", PASSWORD).await.expect(200);
    let second = refresh(&federation, &first["refresh_token"]).await.expect(200);
    assert_ne!(first["refresh_token"], second["refresh_token"]);
    assert_eq!(second["user_url"], first["user_url"]);
    federation.get(second["access_token"].as_str().unwrap(), "/rule").await.expect(200);

    federation.clock.fetch_add(31 * SECOND, Ordering::Relaxed);
    let reused = refresh(&federation, &first["refresh_token"]).await;
    assert_eq!(reused.msg(), "Token has been revoked");
    reused.expect(401);
    refresh(&federation, &second["refresh_token"]).await.expect(401);
    // Another log-in is not concerned.
    let other = log_in(&federation, "root", PASSWORD).await.expect(200);
    refresh(&federation, &other["refresh_token"]).await.expect(200);
}

#[tokio::test]
async fn a_token_of_the_wrong_kind_or_age_is_refused_in_the_contracts_words() {
    let federation = Federation::new(1, false).await;
    let pair = log_in(&federation, "root", PASSWORD).await.expect(200);
    let (access, other) = (pair["access_token"].as_str().unwrap(), pair["refresh_token"].as_str().unwrap());

    let none = federation.ask(Method::GET, "/rule", None, None, &[]).await;
    assert_eq!((none.status.as_u16(), none.msg()), (401, "Missing Authorization Header"));
    for (token, status, msg) in [
        ("x", 422, "Not enough segments"),
        (&format!("{}x", &access[..access.len() - 4]), 422, "Signature verification failed"),
        (other, 422, "Only non-refresh tokens are allowed"),
    ] {
        let answer = federation.get(token, "/rule").await;
        assert_eq!((answer.status.as_u16(), answer.msg()), (status, msg));
    }
    let answer = refresh(&federation, &pair["access_token"]).await;
    assert_eq!((answer.status.as_u16(), answer.msg()), (422, "Only refresh tokens are allowed"));

    federation.clock.fetch_add(6 * 3600 * SECOND, Ordering::Relaxed);
    let answer = federation.get(access, "/rule").await;
    assert_eq!((answer.status.as_u16(), answer.msg()), (401, "Token has expired"));
    refresh(&federation, &pair["refresh_token"]).await.expect(200);
}

#[tokio::test]
async fn a_node_logs_in_with_the_key_it_was_given_once() {
    let federation = Federation::new(1, false).await;
    let organization = federation.add_organizations("late", 1).await[0];
    let collaboration = json!({"name": "c2", "organization_ids": [organization], "encrypted": false});
    let collaboration = id(&federation.post(&federation.root, "/collaboration", collaboration).await.expect(200));
    let body = json!({"collaboration_id": collaboration, "organization_id": organization});
    let node = federation.post(&federation.root, "/node", body.clone()).await.expect(201);
    assert_eq!(node["name"], "late 1 - c2 Node");
    assert_eq!(node["organization"]["link"], format!("/api/organization/{organization}"));
    let path = format!("/node/{}", id(&node));
    assert!(federation.get(&federation.root, &path).await.expect(200).get("api_key").is_none());
    federation.post(&federation.root, "/node", body).await.expect(400);

    let key = |key: &Value| json!({"api_key": key});
    let log_in = |body| federation.ask(Method::POST, "/token/node", None, Some(body), &[]);
    let pair = log_in(key(&node["api_key"])).await.expect(200);
    assert_eq!(pair["node_url"], format!("/api{path}"));
    assert_eq!(claims(&pair["access_token"])["client_type"], "node");
    let unknown = log_in(key(&json!("11111111-1111-4111-8111-111111111111"))).await;
    assert_eq!((unknown.status.as_u16(), unknown.msg()), (401, "Api key is not recognized!"));
    log_in(key(&json!("no uuid"))).await.expect(400);

    let token = pair["access_token"].as_str().unwrap();
    federation.get(token, &path).await.expect(200);
    federation.clock.fetch_add(SECOND, Ordering::Relaxed);
    let renewed = federation.post(&federation.root, "/recover/node", json!({"id": id(&node)})).await.expect(200);
    log_in(key(&node["api_key"])).await.expect(401);
    // Every token that was had with it ends with it.
    assert_eq!(federation.get(token, &path).await.expect(401)["code"], "token_ended");
    refresh(&federation, &pair["refresh_token"]).await.expect(401);
    let pair = log_in(key(&renewed["api_key"])).await.expect(200);
    federation.get(pair["access_token"].as_str().unwrap(), &path).await.expect(200);
    federation.delete(&federation.root, &path).await.expect(200);
    federation.get(pair["access_token"].as_str().unwrap(), &path).await.expect(401);
}

#[tokio::test]
async fn a_password_is_changed_by_whoever_knows_the_old_one() {
    let federation = Federation::new(1, false).await;
    federation.add_user("somebody", 1, &[]).await;
    let pair = log_in(&federation, "somebody", PASSWORD).await.expect(200);
    let elsewhere = log_in(&federation, "somebody", PASSWORD).await.expect(200);
    federation.clock.fetch_add(SECOND, Ordering::Relaxed);
    let token = pair["access_token"].as_str().unwrap();
    let change = |current: &str, new: &str| {
        federation.patch(token, "/password/change", json!({"current_password": current, "new_password": new}))
    };
    change("wrong", "Another-Horse-2").await.expect(401);
    change(PASSWORD, PASSWORD).await.expect(400);
    let weak = change(PASSWORD, "another-horse-2").await;
    assert!(weak.msg().contains("uppercase"), "{}", weak.body);
    weak.expect(400);
    change(PASSWORD, "Another-Horse-2").await.expect(200);
    log_in(&federation, "somebody", PASSWORD).await.expect(401);
    log_in(&federation, "somebody", "Another-Horse-2").await.expect(200);
    // Who changed it goes on; whoever else was logged in does not.
    federation.get(token, "/rule").await.expect(200);
    let renewed = refresh(&federation, &pair["refresh_token"]).await.expect(200);
    federation.get(renewed["access_token"].as_str().unwrap(), "/rule").await.expect(200);
    let ended = federation.get(elsewhere["access_token"].as_str().unwrap(), "/rule").await;
    assert_eq!((ended.status.as_u16(), ended.msg()), (401, "Token has been revoked"));
    refresh(&federation, &elsewhere["refresh_token"]).await.expect(401);
}

#[tokio::test]
async fn a_role_that_is_taken_away_counts_no_more_at_once() {
    let federation = Federation::new(1, false).await;
    let user = federation.add_user("somebody", 1, &[5]).await;
    let token = federation.log_in("somebody").await;
    federation.get(&token, "/node").await.expect(200);
    federation.patch(&federation.root, &format!("/user/{user}"), json!({"roles": []})).await.expect(200);
    federation.get(&token, "/node").await.expect(401);
    federation.delete(&federation.root, &format!("/user/{user}")).await.expect(200);
    federation.get(&token, &format!("/user/{user}")).await.expect(401);
}

#[tokio::test]
async fn a_hash_by_bcrypt_lets_its_user_in_and_is_replaced_by_ours() {
    let hash = bcrypt::hash(PASSWORD, 4).unwrap();
    let federation = Federation::bare(|config| {
        config.root = RootConfig { password_hash: Some(Secret::new(hash)), ..RootConfig::default() };
    })
    .await;
    log_in(&federation, "root", "wrong").await.expect(401);
    let stored = || text(federation.directory.path(), "SELECT password_hash FROM user_account WHERE username = 'root'");
    assert!(stored().await.unwrap().starts_with("$2b$"));
    // Also those who have no account, or one of ours, are checked while there is such a hash.
    log_in(&federation, "nobody", PASSWORD).await.expect(401);
    log_in(&federation, "root", PASSWORD).await.expect(200);
    let replaced = tokio::time::timeout(DEADLINE, async {
        while !stored().await.unwrap().starts_with("$argon2id$") {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    replaced.await.expect("the hash is replaced");
    log_in(&federation, "root", "wrong").await.expect(401);
    log_in(&federation, "root", PASSWORD).await.expect(200);
}

#[tokio::test]
async fn the_settings_say_how_many_wrong_passwords_lock_and_for_how_long() {
    let federation = Federation::with(1, false, |config| {
        config.password.max_failed_attempts = 2;
        config.password.locked_for = "1m".parse().unwrap();
    })
    .await;
    federation.add_user("somebody", 1, &[]).await;
    for _ in 0..2 {
        log_in(&federation, "somebody", "wrong").await.expect(401);
    }
    log_in(&federation, "somebody", PASSWORD).await.expect(401);
    federation.clock.fetch_add(60 * SECOND, Ordering::Relaxed);
    log_in(&federation, "somebody", PASSWORD).await.expect(200);
}
