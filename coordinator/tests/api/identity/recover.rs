//! Getting in again after a password or an authenticator is lost, and the mail about it (contract A.3).

use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::http::Method;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use twinmesh_coordinator::config::{Config, Encryption, Secret};

use super::smtp::{Manner, Sink, token};
use super::two_factor::code;
use crate::database::text;
use crate::ledger::federation::{Answer, DEADLINE, Federation, PASSWORD};

const SECOND: i64 = 1_000_000;
const HOUR: i64 = 3600 * SECOND;
const NEW: &str = "Another-Horse-2";

async fn post(federation: &Federation, path: &str, body: Value) -> Answer {
    federation.ask(Method::POST, path, None, Some(body), &[]).await
}

async fn log_in(federation: &Federation, username: &str, password: &str) -> Answer {
    post(federation, "/token/user", json!({"username": username, "password": password})).await
}

async fn lost(federation: &Federation, username: &str) {
    post(federation, "/recover/lost", json!({"username": username})).await.expect(200);
}

async fn reset(federation: &Federation, token: &str) -> Answer {
    post(federation, "/recover/reset", json!({"reset_token": token, "password": NEW})).await
}

/// A coordinator with a mail server and the users `ada` and `eve`.
async fn with_mail(settings: impl FnOnce(&mut Config)) -> (Federation, Sink) {
    let sink = Sink::start(Manner::Polite).await;
    let federation = Federation::with(1, false, |config| {
        Sink::settings(sink.address)(config);
        settings(config);
    })
    .await;
    for name in ["ada", "eve"] {
        federation.add_user(name, 1, &[]).await;
    }
    (federation, sink)
}

#[tokio::test]
async fn whoever_had_an_address_is_told_that_it_is_another_now() {
    let (federation, sink) = with_mail(|config| config.limits.guesses_per_account = 3).await;
    let ada = federation.get(&federation.root, "/user?username=ada").await.expect(200)["data"][0]["id"].clone();
    let change = async |body: Value| federation.patch(&federation.root, &format!("/user/{ada}"), body).await;
    change(json!({"firstname": "Ada", "email": "ada@example.org"})).await.expect(200);
    change(json!({"email": "new@example.org"})).await.expect(200);
    let mail = sink.nth(1).await;
    assert!(mail.contains("To: ada@example.org") && mail.contains("another mail address"), "{mail}");
    assert!(!mail.contains("new@example.org"), "{mail}");
    // Whatever comes next goes to the new one.
    lost(&federation, "ada").await;
    assert!(sink.nth(2).await.contains("To: new@example.org"));
    // The first user's is nobody's until they have one of their own.
    let root = federation.get(&federation.root, "/user?username=root").await.expect(200)["data"][0]["id"].clone();
    let rename = json!({"email": "root@example.org"});
    federation.patch(&federation.root, &format!("/user/{root}"), rename).await.expect(200);
    lost(&federation, "root").await;
    assert!(sink.nth(3).await.contains("To: root@example.org"));
    // Nobody gets more than a few of them.
    for _ in 0..2 {
        change(json!({"email": "ada@example.org"})).await.expect(200);
        change(json!({"email": "new@example.org"})).await.expect(200);
    }
    change(json!({"email": "ada@example.org"})).await.expect(200);
    assert_eq!(change(json!({"email": "new@example.org"})).await.expect(429)["code"], "too_many_changes");
}

#[tokio::test]
async fn a_lost_password_is_replaced_by_whoever_reads_the_mail() {
    let (federation, sink) = with_mail(|_| {}).await;
    let pair = log_in(&federation, "ada", PASSWORD).await.expect(200);
    for _ in 0..5 {
        log_in(&federation, "ada", "wrong").await.expect(401);
    }
    // Told by mail that the account is locked, before the rest.
    assert!(sink.nth(1).await.contains("locked"));
    lost(&federation, "ada").await;
    let mail = sink.nth(2).await;
    for part in ["To: ada@example.org", "From: Twinmesh <noreply@example.org>", "`ada`", "helpdesk@example.org", "1h"] {
        assert!(mail.contains(part), "{part} in {mail}");
    }
    let token = token(&mail);
    federation.clock.fetch_add(SECOND, Ordering::Relaxed);
    let weak = post(&federation, "/recover/reset", json!({"reset_token": token, "password": "another-horse-2"})).await;
    assert!(weak.msg().contains("uppercase"), "{}", weak.body);
    weak.expect(400);
    reset(&federation, &token).await.expect(200);

    // It opens the account at once, ends what was had with the old password, and is good once.
    log_in(&federation, "ada", NEW).await.expect(200);
    log_in(&federation, "ada", PASSWORD).await.expect(401);
    federation.ask(Method::POST, "/token/refresh", pair["refresh_token"].as_str(), None, &[]).await.expect(401);
    federation.get(pair["access_token"].as_str().unwrap(), "/rule").await.expect(401);
    let again = reset(&federation, &token).await;
    assert_eq!(again.msg(), "Invalid recovery token!");
    again.expect(400);
    log_in(&federation, "eve", PASSWORD).await.expect(200);
}

#[tokio::test]
async fn nobody_learns_who_has_an_account() {
    let (federation, sink) = with_mail(|_| {}).await;
    let mut answers = Vec::new();
    for body in [
        json!({"username": "nobody"}),
        json!({"email": "ADA@example.org", "username": null}),
        // Asked for again before its time.
        json!({"username": "ada"}),
        json!({"email": "nobody@example.org"}),
    ] {
        answers.push(post(&federation, "/recover/lost", body).await.expect(200));
    }
    assert!(answers.windows(2).all(|pair| pair[0] == pair[1]), "{answers:?}");
    lost(&federation, "eve").await;
    assert!(sink.nth(2).await.contains("To: eve@example.org"));
    assert!(sink.mails()[0].contains("To: ada@example.org"));
    let left = text(federation.directory.path(), "SELECT kind FROM outbox WHERE user_id IS NULL");
    assert_eq!(left.await, None, "what was for nobody is gone");

    for body in [json!({}), json!({"email": null, "username": ""})] {
        let answer = post(&federation, "/recover/lost", body).await.expect(400);
        assert!(answer["errors"]["_schema"].is_array(), "{answer}");
    }
    federation.clock.fetch_add(5 * 60 * SECOND, Ordering::Relaxed);
    lost(&federation, "ada").await;
    assert!(sink.nth(3).await.contains("To: ada@example.org"));
}

#[tokio::test]
async fn a_token_is_good_for_an_hour_and_until_the_next_or_another_address() {
    let (federation, sink) = with_mail(|config| config.recovery.mail_every = "0s".parse().unwrap()).await;
    lost(&federation, "ada").await;
    let first = token(&sink.nth(1).await);
    lost(&federation, "ada").await;
    let second = token(&sink.nth(2).await);
    reset(&federation, &first).await.expect(400);
    federation.clock.fetch_add(HOUR, Ordering::Relaxed);
    reset(&federation, &second).await.expect(400);

    lost(&federation, "ada").await;
    let third = token(&sink.nth(3).await);
    let pair = log_in(&federation, "ada", PASSWORD).await.expect(200);
    let path = pair["user_url"].as_str().unwrap().trim_start_matches("/api");
    federation.patch(&federation.root, path, json!({"email": "ada@elsewhere.example"})).await.expect(200);
    reset(&federation, &third).await.expect(400);
    log_in(&federation, "ada", PASSWORD).await.expect(200);
}

#[tokio::test]
async fn a_token_opens_what_it_is_for_and_nothing_else() {
    let (federation, sink) = with_mail(|_| {}).await;
    lost(&federation, "ada").await;
    let for_password = token(&sink.nth(1).await);
    post(&federation, "/recover/2fa/lost", json!({"username": "eve", "password": PASSWORD})).await.expect(200);
    let for_code = token(&sink.nth(2).await);

    post(&federation, "/recover/2fa/reset", json!({"reset_token": for_password})).await.expect(400);
    reset(&federation, &for_code).await.expect(400);
    // Nor is one of the tokens that people log in with.
    reset(&federation, &federation.root).await.expect(400);
    federation.get(&for_password, "/rule").await.expect(422);

    reset(&federation, &for_password).await.expect(200);
    post(&federation, "/recover/2fa/reset", json!({"reset_token": for_code})).await.expect(200);
    log_in(&federation, "eve", PASSWORD).await.expect(200);
    log_in(&federation, "ada", PASSWORD).await.expect(401);
}

#[tokio::test]
async fn a_lost_authenticator_is_replaced_by_whoever_knows_the_password_and_reads_the_mail() {
    let sink = Sink::start(Manner::Polite).await;
    let federation = Federation::bare(|config| {
        Sink::settings(sink.address)(config);
        config.two_factor.required = true;
    })
    .await;
    let log_in = |code: Option<String>| {
        post(&federation, "/token/user", json!({"username": "root", "password": PASSWORD, "mfa_code": code}))
    };
    let lost = log_in(None).await.expect(200)["otp_secret"].clone();
    let pair = log_in(Some(code(&federation, &lost))).await.expect(200);
    federation.clock.fetch_add(30 * SECOND, Ordering::Relaxed);

    // As stock clients send it, and by the address.
    let ask = |password: &str| json!({"username": "root", "email": null, "password": password});
    let refused = post(&federation, "/recover/2fa/lost", ask("wrong")).await;
    assert_eq!(refused.msg(), "Failed to login");
    refused.expect(401);
    post(&federation, "/recover/2fa/lost", ask(PASSWORD)).await.expect(200);
    let token = token(&sink.nth(1).await);
    let by_address = json!({"username": null, "email": "root@domain.ext", "password": PASSWORD});
    post(&federation, "/recover/2fa/lost", by_address).await.expect(200);

    let shown = post(&federation, "/recover/2fa/reset", json!({"reset_token": token})).await.expect(200);
    let found = shown["otp_secret"].clone();
    assert!(shown["qr_uri"].as_str().unwrap().contains(found.as_str().unwrap()));
    log_in(Some(code(&federation, &lost))).await.expect(401);
    log_in(Some(code(&federation, &found))).await.expect(200);
    federation.ask(Method::POST, "/token/refresh", pair["refresh_token"].as_str(), None, &[]).await.expect(401);
    federation.get(pair["access_token"].as_str().unwrap(), "/rule").await.expect(401);
    post(&federation, "/recover/2fa/reset", json!({"reset_token": token})).await.expect(400);
}

#[tokio::test]
async fn without_a_mail_server_the_answers_say_no_more() {
    let federation = Federation::new(1, false).await;
    lost(&federation, "root").await;
    lost(&federation, "nobody").await;
    let answer = post(&federation, "/recover/2fa/lost", json!({"username": "root", "password": PASSWORD})).await;
    assert_eq!(answer.expect(400)["code"], "no_mail");
}

#[tokio::test]
async fn mail_waits_for_a_server_that_is_down_even_over_a_restart() {
    // A port where nobody listens.
    let address = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let federation = Federation::with(1, false, Sink::settings(address)).await;
    lost(&federation, "root").await;
    // Whoever asks again meanwhile is answered as ever.
    lost(&federation, "root").await;
    let federation = federation.reopened(Sink::settings(address)).await;
    federation.clock.fetch_add(HOUR, Ordering::Relaxed);
    let sink = Sink::at(address, Manner::Polite).await;
    let token = token(&sink.nth(1).await);
    // An hour old, and good from when it was sent.
    reset(&federation, &token).await.expect(200);
    log_in(&federation, "root", NEW).await.expect(200);
}

#[tokio::test]
async fn mail_that_is_put_off_is_tried_again_until_it_is_too_old() {
    let sink = Sink::start(Manner::Busy).await;
    let federation = Federation::with(1, false, Sink::settings(sink.address)).await;
    let tries = |sink: &Sink| sink.commands().iter().filter(|line| line.starts_with("RCPT")).count();
    lost(&federation, "root").await;
    while_time_goes_on(&federation, async || tries(&sink) >= 3).await;
    federation.clock.fetch_add(24 * HOUR, Ordering::Relaxed);
    while_time_goes_on(&federation, async || is_gone(&federation).await).await;
}

#[tokio::test]
async fn mail_that_is_refused_for_good_is_not_tried_again() {
    let sink = Sink::start(Manner::Strict).await;
    let federation = Federation::with(1, false, Sink::settings(sink.address)).await;
    lost(&federation, "root").await;
    while_time_goes_on(&federation, async || is_gone(&federation).await).await;
    assert_eq!(sink.commands().iter().filter(|line| line.starts_with("RCPT")).count(), 1);
}

#[tokio::test]
async fn a_server_without_encryption_gets_neither_password_nor_mail() {
    let sink = Sink::start(Manner::Polite).await;
    let federation = Federation::with(1, false, |config| {
        Sink::settings(sink.address)(config);
        config.mail.encryption = Encryption::Starttls;
        log_in_there(config);
    })
    .await;
    lost(&federation, "root").await;
    let greetings = || sink.commands().iter().filter(|line| line.starts_with("EHLO")).count();
    while_time_goes_on(&federation, async || greetings() > 1).await;
    let told = sink.commands();
    assert!(told.iter().all(|line| ["EHLO", "QUIT"].contains(&&line[..4])), "{told:?}");
}

#[tokio::test]
async fn the_mail_server_may_want_a_log_in() {
    let (federation, sink) = with_mail(log_in_there).await;
    lost(&federation, "ada").await;
    sink.nth(1).await;
    // Base64 of `\0us\0Mail-Secret-1` (RFC 4616).
    assert!(sink.commands().contains(&"AUTH PLAIN AHVzAE1haWwtU2VjcmV0LTE=".to_owned()), "{:?}", sink.commands());
}

#[tokio::test]
async fn a_locked_account_is_told_of_at_most_once_an_hour() {
    let (federation, sink) = with_mail(|_| {}).await;
    let lock = async || {
        for _ in 0..5 {
            log_in(&federation, "ada", "wrong").await.expect(401);
        }
    };
    lock().await;
    assert!(sink.nth(1).await.contains("To: ada@example.org"));
    federation.clock.fetch_add(20 * 60 * SECOND, Ordering::Relaxed);
    lock().await;
    // Locked accounts are looked for before other mail is sent.
    lost(&federation, "eve").await;
    assert!(sink.nth(2).await.contains("To: eve@example.org"));
    federation.clock.fetch_add(41 * 60 * SECOND, Ordering::Relaxed);
    lock().await;
    let mail = sink.nth(3).await;
    assert!(mail.contains("To: ada@example.org") && mail.contains("locked for 15m"), "{mail}");
}

fn log_in_there(config: &mut Config) {
    config.mail.username = Some("us".into());
    config.mail.password = Some(Secret::new("Mail-Secret-1"));
}

/// Whether there is no mail left to send.
async fn is_gone(federation: &Federation) -> bool {
    text(federation.directory.path(), "SELECT kind FROM outbox").await.is_none()
}

/// Waits for a condition while the clock goes on, faster than ours.
async fn while_time_goes_on(federation: &Federation, until: impl AsyncFn() -> bool) {
    let waited = tokio::time::timeout(DEADLINE, async {
        while !until().await {
            federation.clock.fetch_add(2 * SECOND, Ordering::Relaxed);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    waited.await.expect("it comes to this");
}
