//! The page that describes the interface to people.

use axum::body::Body;
use axum::http::Request;
use http_body_util::BodyExt as _;
use tower::ServiceExt as _;

use super::document::{document, operations};
use crate::ledger::federation::Federation;

#[tokio::test]
async fn the_page_tells_of_every_operation_and_asks_nobody_else() {
    let federation = Federation::new(1, false).await;
    let request = Request::builder().uri("/api/docs").body(Body::empty()).unwrap();
    let response = federation.router.clone().oneshot(request).await.unwrap();
    assert_eq!(response.headers()["content-type"], "text/html; charset=utf-8");
    let policy = response.headers()["content-security-policy"].to_str().unwrap().to_owned();
    assert!(policy.starts_with("default-src 'none'; style-src 'sha256-"), "{policy}");
    assert!(policy.contains("frame-ancestors 'none'") && !policy.contains("unsafe"), "{policy}");
    let page = response.into_body().collect().await.unwrap().to_bytes();
    let page = std::str::from_utf8(&page).unwrap();
    for (_, path, operation) in operations(&document(&federation).await) {
        let name = operation["operationId"].as_str().unwrap();
        assert!(page.contains(&format!("id=\"{name}\"")), "{path}");
        assert!(page.contains(&format!("href=\"#{name}\"")), "{path}");
    }
    for forbidden in ["<script", "http://", "https://", "src=", "@import", "url(", "style=", "onclick"] {
        assert!(!page.contains(forbidden), "{forbidden}");
    }
    // Every link within the page leads somewhere.
    for link in page.split("href=\"#").skip(1) {
        let name = link.split('"').next().unwrap();
        assert!(page.contains(&format!("id=\"{name}\"")), "#{name}");
    }
}
