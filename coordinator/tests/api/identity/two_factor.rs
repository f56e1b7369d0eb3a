//! The second factor (contract A.3).

use std::sync::atomic::Ordering;

use axum::http::Method;
use serde_json::{Value, json};
use totp_rs::{Builder, Secret};

use crate::ledger::federation::{Answer, Federation, PASSWORD};

const SECOND: i64 = 1_000_000;
const WRONG: &str = "Your two-factor authentication code is incorrect!";

async fn coordinator() -> Federation {
    Federation::bare(|config| config.two_factor.required = true).await
}

async fn log_in(federation: &Federation, password: &str, code: Option<Value>) -> Answer {
    let mut body = json!({"username": "root", "password": password});
    if let Some(code) = code {
        body["mfa_code"] = code;
    }
    federation.ask(Method::POST, "/token/user", None, Some(body), &[]).await
}

/// What an authenticator with this secret shows at this moment.
pub(crate) fn code(federation: &Federation, secret: &Value) -> String {
    let secret = Secret::try_from_base32(secret.as_str().unwrap()).unwrap();
    let seconds = federation.clock.load(Ordering::Relaxed) / SECOND;
    Builder::new().with_secret(secret).build().unwrap().generate(seconds.try_into().unwrap()).to_string()
}

/// A code that is not shown for minutes.
fn wrong_code(federation: &Federation, secret: &Value) -> Value {
    let right: u32 = code(federation, secret).parse().unwrap();
    json!(format!("{:06}", (right + 1) % 1_000_000))
}

fn next_step(federation: &Federation) {
    federation.clock.fetch_add(30 * SECOND, Ordering::Relaxed);
}

/// Sets the second factor of root up; its secret.
async fn set_up(federation: &Federation) -> Value {
    let secret = log_in(federation, PASSWORD, None).await.expect(200)["otp_secret"].clone();
    log_in(federation, PASSWORD, Some(code(federation, &secret).into())).await.expect(200);
    next_step(federation);
    secret
}

#[tokio::test]
async fn the_first_log_in_shows_how_to_set_it_up_and_later_ones_want_a_code() {
    let federation = coordinator().await;
    let shown = log_in(&federation, PASSWORD, None).await.expect(200);
    let secret = shown["otp_secret"].clone();
    assert_eq!(
        shown["qr_uri"],
        format!("otpauth://totp/Twinmesh:root?secret={}&issuer=Twinmesh", secret.as_str().unwrap())
    );
    assert!(shown["msg"].is_string() && shown.get("access_token").is_none());
    // Nobody has shown yet that it arrived.
    assert_eq!(log_in(&federation, PASSWORD, None).await.expect(200)["otp_secret"], secret);

    let wrong = log_in(&federation, PASSWORD, Some(wrong_code(&federation, &secret))).await;
    assert_eq!(wrong.msg(), WRONG);
    wrong.expect(401);
    let pair = log_in(&federation, PASSWORD, Some(code(&federation, &secret).into())).await.expect(200);
    let (token, user) = (pair["access_token"].as_str().unwrap(), pair["user_url"].as_str().unwrap());
    assert_eq!(federation.get(token, user.trim_start_matches("/api")).await.expect(200)["otp_secret"], Value::Null);

    let asked = log_in(&federation, PASSWORD, None).await.expect(200);
    assert_eq!(asked, json!({"msg": "Please include your two-factor authentication code"}));
    for nothing in [json!(null), json!("")] {
        assert_eq!(log_in(&federation, PASSWORD, Some(nothing)).await.expect(200), asked);
    }
}

#[tokio::test]
async fn a_code_is_good_once() {
    let federation = coordinator().await;
    let secret = set_up(&federation).await;
    let shown = code(&federation, &secret);
    log_in(&federation, PASSWORD, Some(shown.clone().into())).await.expect(200);
    let again = log_in(&federation, PASSWORD, Some(shown.clone().into())).await;
    assert_eq!(again.msg(), WRONG);
    next_step(&federation);
    log_in(&federation, PASSWORD, Some(shown.into())).await.expect(401);
    log_in(&federation, PASSWORD, Some(code(&federation, &secret).into())).await.expect(200);
}

#[tokio::test]
async fn a_code_is_good_a_step_early_or_late_and_as_text_or_number() {
    let federation = coordinator().await;
    let secret = set_up(&federation).await;
    let shown = code(&federation, &secret);
    next_step(&federation);
    log_in(&federation, PASSWORD, Some(format!("{} {}", &shown[..3], &shown[3..]).into())).await.expect(200);
    // As a number it loses the zeros it begins with.
    while !code(&federation, &secret).starts_with('0') {
        next_step(&federation);
    }
    let number: u32 = code(&federation, &secret).parse().unwrap();
    log_in(&federation, PASSWORD, Some(number.into())).await.expect(200);
    for wrong in [json!("12345678901"), json!(true), json!(-1), json!([1])] {
        let answer = log_in(&federation, PASSWORD, Some(wrong)).await.expect(400);
        assert!(answer["errors"]["mfa_code"].is_array(), "{answer}");
    }
}

#[tokio::test]
async fn wrong_codes_lock_the_account_and_the_password_alone_forgives_none() {
    let federation = coordinator().await;
    let secret = set_up(&federation).await;
    for _ in 0..5 {
        log_in(&federation, PASSWORD, Some(wrong_code(&federation, &secret))).await.expect(401);
        log_in(&federation, PASSWORD, None).await;
    }
    let locked = log_in(&federation, PASSWORD, Some(code(&federation, &secret).into())).await;
    assert_eq!(locked.msg(), "Failed to login");
    log_in(&federation, PASSWORD, None).await.expect(401);
    federation.clock.fetch_add(15 * 60 * SECOND, Ordering::Relaxed);
    log_in(&federation, PASSWORD, Some(code(&federation, &secret).into())).await.expect(200);
}

#[tokio::test]
async fn without_the_password_nobody_learns_of_it() {
    let federation = coordinator().await;
    let mut answers = vec![log_in(&federation, "wrong", None).await.expect(401)];
    let secret = set_up(&federation).await;
    answers.push(log_in(&federation, "wrong", None).await.expect(401));
    answers.push(log_in(&federation, "wrong", Some(code(&federation, &secret).into())).await.expect(401));
    for answer in &mut answers {
        answer.as_object_mut().unwrap().remove("request_id");
    }
    assert!(answers.windows(2).all(|pair| pair[0] == pair[1]), "{answers:?}");
    // The code was not used up by it.
    log_in(&federation, PASSWORD, Some(code(&federation, &secret).into())).await.expect(200);
}
