//! Tokens, retries and lists.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use twinmesh_client::api::{TokenStore, retry};
use twinmesh_client::{Api, ApiError, ApiOptions};
use twinmesh_protocol::wire::TokenPair;

use crate::server::{HOSPITAL_A, Server, UNIVERSITY};

#[derive(Debug, Default)]
struct Kept(Mutex<Option<TokenPair>>);

impl TokenStore for Kept {
    fn load(&self) -> Option<TokenPair> {
        self.0.lock().unwrap().clone()
    }

    fn save(&self, tokens: &TokenPair) {
        *self.0.lock().unwrap() = Some(tokens.clone());
    }
}

async fn logged_in(server: &Server) -> Api {
    let api = Api::new(&server.url, ApiOptions::default()).unwrap();
    api.log_in_user("ada", "correct", None).await.unwrap();
    api
}

#[tokio::test]
async fn many_requests_with_an_ended_token_renew_it_once() {
    let server = Server::start().await;
    let store = Arc::new(Kept::default());
    let api = Api::new(&server.url, ApiOptions { token_store: Some(store.clone()), ..Default::default() }).unwrap();
    api.log_in_user("ada", "correct", None).await.unwrap();
    server.state().generation = 2;

    let requests = (0..10).map(|_| api.organization_get(UNIVERSITY));
    for answer in futures::future::join_all(requests).await {
        assert_eq!(answer.unwrap().name, "university");
    }

    assert_eq!(server.state().refreshes, 1);
    assert_eq!(store.load().unwrap().access_token, "access-2");
    assert_eq!(store.load().unwrap().refresh_token, "refresh-2");
}

#[tokio::test]
async fn a_token_that_another_process_renewed_is_taken_over() {
    let server = Server::start().await;
    let store = Arc::new(Kept::default());
    let options = || ApiOptions { token_store: Some(store.clone()), ..Default::default() };
    let one = Api::new(&server.url, options()).unwrap();
    one.log_in_user("ada", "correct", None).await.unwrap();
    let two = Api::new(&server.url, options()).unwrap();
    server.state().generation = 2;

    one.organization_get(UNIVERSITY).await.unwrap();
    two.organization_get(UNIVERSITY).await.unwrap();

    assert_eq!(server.state().refreshes, 1);
}

#[tokio::test]
async fn a_node_whose_refresh_token_ended_logs_in_again_with_its_key() {
    let server = Server::start().await;
    let api = Api::new(&server.url, ApiOptions::default()).unwrap();
    api.log_in_node("a-key").await.unwrap();
    {
        let mut state = server.state();
        state.generation = 2;
        state.refuse_refresh = true;
    }

    api.organization_get(UNIVERSITY).await.unwrap();

    assert_eq!(server.state().log_ins, 2);
}

#[tokio::test]
async fn a_user_whose_refresh_token_ended_is_told_to_log_in() {
    let server = Server::start().await;
    let api = logged_in(&server).await;
    {
        let mut state = server.state();
        state.generation = 2;
        state.refuse_refresh = true;
    }

    let error = api.organization_get(UNIVERSITY).await.unwrap_err();

    assert!(matches!(error, ApiError::NotLoggedIn { .. }), "{error}");
    assert!(error.hint().unwrap().contains("twinmesh login"));
}

#[tokio::test]
async fn lack_of_permission_renews_nothing() {
    let server = Server::start().await;
    let api = logged_in(&server).await;

    let error = api.organization_delete(HOSPITAL_A, false).await.unwrap_err();

    assert_eq!(error.status(), Some(401));
    assert_eq!(server.state().refreshes, 0);
    assert_eq!(server.count("DELETE /organization/2"), 1);
}

#[tokio::test]
async fn a_coordinator_whose_errors_have_no_codes_is_understood_by_its_words() {
    let server = Server::start().await;
    let api = logged_in(&server).await;
    {
        let mut state = server.state();
        state.generation = 2;
        state.is_stock = true;
    }
    assert!(api.organization_get(UNIVERSITY).await.is_ok());
    assert_eq!(server.state().refreshes, 1);
}

#[tokio::test]
async fn a_container_token_is_sent_as_it_is_and_never_renewed() {
    let server = Server::start().await;
    let api = logged_in(&server).await;
    assert!(api.with_token("container").organization_get(UNIVERSITY).await.is_ok());
    assert_eq!(api.with_token("dead").organization_get(UNIVERSITY).await.unwrap_err().status(), Some(401));
    assert_eq!(server.state().refreshes, 0);
}

#[tokio::test]
async fn a_wrong_password_is_refused_without_further_requests() {
    let server = Server::start().await;
    let api = Api::new(&server.url, ApiOptions::default()).unwrap();

    let error = api.log_in_user("ada", "wrong", None).await.unwrap_err();

    assert_eq!(error.to_string(), "Failed to login");
    assert_eq!(server.state().seen.len(), 1);
}

#[tokio::test]
async fn dropped_connections_are_retried_and_lasting_errors_are_not() {
    let server = Server::start_after(2).await;
    let api = Api::new(&server.url, ApiOptions::default()).unwrap();
    let version = retry(Duration::from_secs(30), || api.version()).await.unwrap();
    assert_eq!(version, "4.15.2");

    let api = logged_in(&server).await;
    let unknown = twinmesh_protocol::id::OrganizationId::new(99);
    let error = retry(Duration::from_secs(30), || api.organization_get(unknown)).await.unwrap_err();
    assert!(error.is_not_found());
    assert_eq!(server.count("GET /organization/99"), 1);
}

#[tokio::test]
async fn nobody_listening_is_unreachable_with_what_to_try() {
    let address = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap()
    };
    let api = Api::new(&format!("http://{address}"), ApiOptions::default()).unwrap();
    let error = retry(Duration::from_millis(1), || api.version()).await.unwrap_err();
    assert!(matches!(error, ApiError::Unreachable { .. }), "{error:?}");
    assert!(error.hint().unwrap().contains("/api/health"));
}

#[tokio::test]
async fn a_list_is_read_to_its_last_page() {
    let server = Server::start().await;
    let api = logged_in(&server).await;
    let organizations = api.organization_list(None).await.unwrap();
    assert_eq!(organizations.len(), 3);
    assert_eq!(server.count("GET /organization"), 2);
}

#[tokio::test]
async fn what_is_wrong_with_a_field_is_told() {
    let server = Server::start().await;
    let api = logged_in(&server).await;
    let error = api.organization_create(&Default::default()).await.unwrap_err();
    assert_eq!(error.to_string(), "Request body is incorrect; `name`: Longer than maximum length 128.");
    assert!(!error.is_transient());
}

#[tokio::test]
async fn what_cannot_be_sent_to_one_instance_is_sent_to_the_next() {
    let gone = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let server = Server::start().await;
    let api = Api::new(&format!("http://{gone}, {}", server.url), ApiOptions::default()).unwrap();
    api.log_in_user("ada", "correct", None).await.unwrap();
    assert_eq!(api.organization_get(UNIVERSITY).await.unwrap().name, "university");
    assert_eq!((server.state().log_ins, api.base()), (1, &*server.url));
}

#[tokio::test]
async fn a_request_that_may_have_been_carried_out_is_left_to_whoever_made_it() {
    let (first, second) = (Server::start_after(1).await, Server::start().await);
    let api = Api::new(&format!("{},{}", first.url, second.url), ApiOptions::default()).unwrap();
    let error = api.log_in_user("ada", "correct", None).await.unwrap_err();
    assert!(matches!(error, ApiError::Interrupted { .. }) && error.to_string().contains(&first.url), "{error}");
    assert_eq!(second.state().log_ins, 0);
    // The next one goes where somebody answers.
    api.log_in_user("ada", "correct", None).await.unwrap();
    assert_eq!((first.state().log_ins, second.state().log_ins), (0, 1));
}
