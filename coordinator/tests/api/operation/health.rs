//! `/api/health` tells the truth.

use std::time::Duration;

use serde_json::{Value, json};
use sqlx::Connection as _;

use super::{address, config, get, program, said, start};
use crate::database::hold_writes;

async fn health(host: &str) -> Value {
    let answer = get(host, "/api/health", None).await;
    assert_eq!(answer.status, 200, "as the contract has it");
    serde_json::from_str(&answer.body).unwrap()
}

#[tokio::test]
async fn all_is_well_and_says_so() {
    let directory = tempfile::tempdir().unwrap();
    let mut config = config(directory.path()).await;
    config.overlay.listen = vec!["/ip4/127.0.0.1/tcp/0".into()];
    let running = start(config).await;
    let ready = async || get(address(&running), "/api/health/ready", None).await;
    let heard = tokio::time::timeout(Duration::from_secs(30), async {
        while ready().await.status != 200 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    heard.await.expect("it is ready, and hears other instances if there may be some");
    let health = health(address(&running)).await;
    let expected = json!({
        "database": true, "events": true, "disk": true, "relay": true, "ready": true,
        "version": env!("CARGO_PKG_VERSION"),
    });
    assert_eq!(health, expected);
    let asked = program(directory.path(), &["health"]).await.output().await.unwrap();
    assert!(asked.status.success(), "{}", said(&asked));
    running.shutdown().await;
    let asked = program(directory.path(), &["health"]).await.output().await.unwrap();
    assert_eq!(asked.status.code(), Some(1));
}

#[tokio::test]
async fn a_database_that_takes_no_writes_is_told_in_time() {
    let directory = tempfile::tempdir().unwrap();
    let running = start(config(directory.path()).await).await;
    let host = address(&running).to_owned();
    assert_eq!(health(&host).await["database"], true);
    let holder = hold_writes(directory.path()).await;
    let turns = async |well: bool| {
        let turned = tokio::time::timeout(Duration::from_secs(60), async {
            while health(&host).await["database"] != well {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        });
        turned.await.unwrap_or_else(|_| panic!("the answer becomes {well}"));
    };
    turns(false).await;
    assert_eq!(get(&host, "/api/health/ready", None).await.status, 503);
    let asked = program(directory.path(), &["health"]).await.output().await.unwrap();
    assert!(!asked.status.success() && said(&asked).contains("not ready"), "{}", said(&asked));
    holder.close().await.unwrap();
    turns(true).await;
    running.shutdown().await;
}
