//! Figures for Prometheus: they can be read, they move, and they tell nothing of what is asked.

use std::collections::BTreeMap;

use super::{PASSWORD, config, get, log_in, post, start};

/// Every sample by its name and labels, of text in the form of OpenMetrics 1.0. Fails on whatever a reader would refuse.
fn parse(text: &str) -> BTreeMap<String, f64> {
    let (body, rest) = text.split_once("# EOF\n").expect("the end is marked");
    assert_eq!(rest, "");
    let mut samples = BTreeMap::new();
    let mut family: Option<(String, String)> = None;
    let mut seen = std::collections::BTreeSet::new();
    for line in body.lines() {
        if let Some(rest) = line.strip_prefix("# ") {
            let (keyword, rest) = rest.split_once(' ').unwrap();
            let (name, value) = rest.split_once(' ').unwrap();
            match keyword {
                "HELP" => assert!(value.ends_with('.'), "{line}"),
                "TYPE" => {
                    assert!(["counter", "gauge", "histogram", "info"].contains(&value), "{line}");
                    assert!(seen.insert(name.to_owned()), "{name} is declared twice");
                    family = Some((name.to_owned(), value.to_owned()));
                }
                "UNIT" => assert!(name.ends_with(&format!("_{value}")), "{line}"),
                _ => panic!("{line}"),
            }
            continue;
        }
        let (series, value) = line.rsplit_once(' ').unwrap();
        let name = series.split('{').next().unwrap();
        let (family, kind) = family.as_ref().expect("a sample belongs to a family");
        let suffixes: &[&str] = match kind.as_str() {
            "counter" => &["_total"],
            "histogram" => &["_bucket", "_sum", "_count"],
            "info" => &["_info"],
            _ => &[""],
        };
        assert!(suffixes.iter().any(|suffix| name == format!("{family}{suffix}")), "{line} is not of {family}");
        assert!(name.starts_with("twinmesh_") || name.starts_with("process_"), "{name}");
        assert!(name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_'), "{name}");
        let value: f64 = value.parse().unwrap_or_else(|error| panic!("{line}: {error}"));
        assert!(samples.insert(series.to_owned(), value).is_none(), "{series} is there twice");
    }
    samples
}

async fn scrape(url: &str) -> BTreeMap<String, f64> {
    let address = url.trim_start_matches("http://").trim_end_matches("/metrics");
    let answer = get(address, "/metrics", None).await;
    assert_eq!(answer.status, 200);
    assert!(answer.head.contains("application/openmetrics-text; version=1.0.0"), "{}", answer.head);
    parse(&answer.body)
}

#[tokio::test]
async fn the_figures_can_be_read_and_move() {
    let directory = tempfile::tempdir().unwrap();
    let mut config = config(directory.path()).await;
    config.metrics.listen = Some("127.0.0.1:0".parse().unwrap());
    config.overlay.listen = vec!["/ip4/127.0.0.1/tcp/0".into()];
    let running = start(config).await;
    let url = running.metrics_url().unwrap().to_owned();
    let before = scrape(&url).await;
    let value = |samples: &BTreeMap<String, f64>, name: &str| {
        *samples.get(name).unwrap_or_else(|| panic!("no {name} in {:#?}", samples.keys()))
    };
    assert_eq!(value(&before, "twinmesh_log_ins_total{kind=\"user\",outcome=\"ok\"}"), 0.0);
    assert_eq!(value(&before, "twinmesh_database_up"), 1.0);
    assert_eq!(value(&before, "twinmesh_nodes{status=\"online\"}"), 0.0);
    assert_eq!(value(&before, "twinmesh_runs{status=\"pending\"}"), 0.0);
    assert_eq!(value(&before, "twinmesh_relay_circuits_opened_total"), 0.0);
    assert!(value(&before, "process_resident_memory_bytes") > 1e6);
    assert!(before.keys().any(|name| name.starts_with("twinmesh_build_info{version=")));

    let token = log_in(&running, PASSWORD).await;
    assert_eq!(post(&running, "/api/token/user", r#"{"username":"root","password":"wrong"}"#).await.status, 401);
    let secret = "patient-4711";
    for path in ["/api/task/1", "/api/task/2", &format!("/api/nothing/{secret}"), &format!("/api/task/{secret}")] {
        assert!(get(super::address(&running), path, Some(&token)).await.status >= 400, "{path}");
    }
    let after = scrape(&url).await;
    assert_eq!(value(&after, "twinmesh_log_ins_total{kind=\"user\",outcome=\"ok\"}"), 1.0);
    assert_eq!(value(&after, "twinmesh_log_ins_total{kind=\"user\",outcome=\"failed\"}"), 1.0);
    let by_id = "{method=\"GET\",route=\"/api/task/{id}\",status=\"4xx\"}";
    assert_eq!(value(&after, &format!("twinmesh_http_requests_total{by_id}")), 3.0);
    let unknown = "{method=\"GET\",route=\"unknown\",status=\"4xx\"}";
    assert_eq!(value(&after, &format!("twinmesh_http_requests_total{unknown}")), 1.0);
    let count = "twinmesh_http_request_duration_seconds_count{method=\"GET\",route=\"/api/task/{id}\"}";
    assert_eq!(value(&after, count), 3.0);
    assert_eq!(value(&after, "twinmesh_http_requests_in_flight"), 0.0);
    let reads = "twinmesh_database_transaction_seconds_count{kind=\"read\"}";
    assert!(value(&after, reads) > before.get(reads).copied().unwrap_or(0.0));
    assert!(after.keys().all(|name| !name.contains(secret)), "what was asked for is not told");
    running.shutdown().await;
}

#[tokio::test]
async fn there_are_none_unless_asked_for() {
    let directory = tempfile::tempdir().unwrap();
    let running = start(config(directory.path()).await).await;
    assert_eq!(running.metrics_url(), None);
    for path in ["/metrics", "/api/metrics"] {
        assert_eq!(get(super::address(&running), path, None).await.status, 404);
    }
    running.shutdown().await;
}
