//! Typed access to a coordinator's interface.
//!
//! [`Api`] sends requests as a user, a node or a container. Access tokens that ended are renewed once and the request
//! repeated, which is safe because a request refused for its token was not carried out. Nothing else is repeated
//! unasked: wrap what may safely happen twice in [`retry`].
//!
//! A coordinator may be several instances on one database, each with an address of its own. The one that answered last
//! is asked until it does not, or says that it cannot; then the next. What could not be sent at all is sent there at once.

mod error;
mod object;
mod resources;
mod session;

use std::future::Future;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Once};
use std::time::Duration;

use bytes::Bytes;
use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderValue};
use reqwest::{Method, RequestBuilder, Response, StatusCode};
use serde::Serialize;
use serde::de::DeserializeOwned;
use twinmesh_protocol::wire::{Page, Problem, TokenPair};
use url::Url;

pub use error::{ApiError, Refusal, SecondFactorSetUp};
pub use object::{ObjectReader, ObjectSource};
pub use resources::{Query, TaskFilter};
use session::Session;
pub use session::TokenStore;

/// How long a connection may take to come about.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long an answer may take to begin, and how long it may pause. Above the 50 s for which a coordinator holds
/// status requests (contract C.3), below the minutes after which people give up.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(120);
/// The slowest upload that is waited for, in bytes a second.
const SLOWEST_UPLOAD: u64 = 32 * 1024;
/// More of an error's body is not read.
const MAX_ERROR_BYTES: usize = 64 * 1024;
/// Items asked for at once when a list is read whole.
const PAGE_SIZE: &str = "250";

/// How to connect.
#[derive(Clone, Default)]
pub struct ApiOptions {
    /// Further authorities for the coordinator's TLS certificate, as PEM.
    pub root_certificate: Option<Vec<u8>>,
    /// Where tokens outlive the process.
    pub token_store: Option<Arc<dyn TokenStore>>,
}

impl std::fmt::Debug for ApiOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ApiOptions").finish_non_exhaustive()
    }
}

/// A coordinator, and who we are to it. Clones share connections and tokens.
#[derive(Clone)]
pub struct Api {
    inner: Arc<Inner>,
}

struct Inner {
    http: reqwest::Client,
    /// The instances, at least one; without a trailing slash, for example `https://coordinator.example.org/api`.
    bases: Arc<[String]>,
    /// The one that is asked.
    current: AtomicUsize,
    session: Session,
}

impl std::fmt::Debug for Api {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Api").field("bases", &self.inner.bases).finish_non_exhaustive()
    }
}

impl Api {
    /// Names a coordinator by its base address, or by those of several instances, with commas in between; `/api` is added
    /// where an address has no path. Nothing is sent yet.
    ///
    /// # Errors
    /// When the address is none, or TLS cannot be set up.
    pub fn new(base: &str, options: ApiOptions) -> Result<Self, ApiError> {
        let bases = base.split(',').map(|base| base_url(base.trim())).collect::<Result<Vec<_>, _>>()?;
        install_cryptography();
        let mut builder = reqwest::Client::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .redirect(reqwest::redirect::Policy::none())
            .user_agent(concat!("twinmesh/", env!("CARGO_PKG_VERSION")))
            .tcp_nodelay(true)
            .tcp_keepalive(Duration::from_secs(30));
        if bases.iter().all(is_loopback) {
            builder = builder.no_proxy();
        }
        if bases.iter().all(|base| base.scheme() == "http") {
            // Keeps a machine without any authorities from failing before TLS is needed.
            builder = builder.tls_certs_only([]);
        }
        if let Some(pem) = &options.root_certificate {
            let authorities = reqwest::Certificate::from_pem_bundle(pem).map_err(ApiError::Setup)?;
            builder = builder.tls_certs_merge(authorities);
        }
        let session = Session { store: options.token_store, ..Session::default() };
        if let Some(tokens) = session.store.as_ref().and_then(|store| store.load()) {
            // Nobody else has the session yet, so the lock is free.
            if let Ok(mut current) = session.current.try_write() {
                current.tokens = Some(Arc::new(tokens));
            }
        }
        let http = builder.build().map_err(ApiError::Setup)?;
        let bases = bases.iter().map(|base| base.as_str().trim_end_matches('/').to_owned()).collect();
        Ok(Self { inner: Arc::new(Inner { http, bases, current: AtomicUsize::new(0), session }) })
    }

    /// The base address of the instance that is asked, without a trailing slash.
    #[must_use]
    pub fn base(&self) -> &str {
        let at = self.inner.current.load(Ordering::Relaxed);
        self.inner.bases.get(at).or(self.inner.bases.first()).map_or("", String::as_str)
    }

    /// The base addresses of all instances, as [`Api::new`] takes them.
    #[must_use]
    pub fn bases(&self) -> String {
        self.inner.bases.join(",")
    }

    /// Asks the next instance from now on, unless somebody has moved on from this one before.
    pub(crate) fn leave(&self, base: &str) {
        let Inner { bases, current, .. } = &*self.inner;
        let at = current.load(Ordering::Relaxed);
        if bases.len() < 2 || bases.get(at).is_none_or(|known| known != base) {
            return;
        }
        let next = (at + 1) % bases.len();
        if current.compare_exchange(at, next, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
            tracing::info!("the coordinator at {base} does not answer; trying {}", self.base());
        }
    }

    /// The same coordinator with other proof of who asks: a token that cannot be renewed, such as a container's.
    #[must_use]
    pub fn with_token(&self, token: &str) -> Self {
        let tokens = TokenPair {
            access_token: token.into(),
            refresh_token: String::new(),
            refresh_url: String::new(),
            user_url: None,
            node_url: None,
        };
        let current = session::Current { tokens: Some(Arc::new(tokens)), fixed: true, ..Default::default() };
        let session = Session { current: tokio::sync::RwLock::new(current), ..Session::default() };
        let current = AtomicUsize::new(self.inner.current.load(Ordering::Relaxed));
        let (http, bases) = (self.inner.http.clone(), Arc::clone(&self.inner.bases));
        Self { inner: Arc::new(Inner { http, bases, current, session }) }
    }

    /// The tokens in use, to be kept by whoever has no [`TokenStore`].
    pub async fn tokens(&self) -> Option<TokenPair> {
        self.inner.session.current().await.tokens.map(|tokens| (*tokens).clone())
    }

    /// Goes on with tokens from an earlier log-in.
    pub async fn set_tokens(&self, tokens: TokenPair) {
        self.inner.session.adopt(tokens).await;
    }

    /// Sends a request with a JSON body and reads the JSON answer. For paths that have no method of their own.
    ///
    /// # Errors
    /// As every request: [`ApiError`].
    pub async fn request<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        query: &Query,
        body: Option<&(impl Serialize + Sync)>,
    ) -> Result<T, ApiError> {
        self.request_with(method, path, query, body, HeaderMap::new()).await
    }

    async fn request_with<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        query: &Query,
        body: Option<&(impl Serialize + Sync)>,
        headers: HeaderMap,
    ) -> Result<T, ApiError> {
        let name = format!("{method} /{path}");
        let unexpected = |source| ApiError::Unexpected { request: name.clone(), source };
        let body = body.map(serde_json::to_vec).transpose().map_err(unexpected)?.map(Bytes::from);
        let upload = body.as_ref().map_or(0, |body| body.len() as u64 / SLOWEST_UPLOAD);
        let patience = ANSWER_TIMEOUT + Duration::from_secs(upload);
        let response = self
            .send(&name, patience, || {
                let mut request = self.builder(method.clone(), path, query).headers(headers.clone());
                if let Some(body) = &body {
                    request = request.header(reqwest::header::CONTENT_TYPE, "application/json").body(body.clone());
                }
                request
            })
            .await?;
        let answer = self.read_body(response).await?;
        serde_json::from_slice(&answer).map_err(unexpected)
    }

    /// Sends a request whose answer streams, and returns it once its head is there.
    pub(crate) async fn stream(&self, path: &str, query: &Query, headers: HeaderMap) -> Result<Response, ApiError> {
        self.send(&format!("GET /{path}"), ANSWER_TIMEOUT, || {
            self.builder(Method::GET, path, query).headers(headers.clone())
        })
        .await
    }

    /// Reads a list page by page until there is no next one.
    ///
    /// # Errors
    /// As every request: [`ApiError`].
    pub async fn list<T: DeserializeOwned>(&self, path: &str, query: &Query) -> Result<Vec<T>, ApiError> {
        let mut items = Vec::new();
        for page in 1_u32.. {
            let query = query.clone().with("page", page).with("per_page", PAGE_SIZE);
            let answer: Page<T> = self.request(Method::GET, path, &query, NO_BODY).await?;
            let is_last = answer.data.is_empty() || answer.links.next.is_none();
            items.extend(answer.data);
            if is_last {
                break;
            }
        }
        Ok(items)
    }

    fn builder(&self, method: Method, path: &str, query: &Query) -> RequestBuilder {
        let request = self.inner.http.request(method, format!("{}/{path}", self.base()));
        if query.is_empty() { request } else { request.query(query.pairs()) }
    }

    /// Sends a request with the current token; renews the token and repeats the request once if it was refused for it.
    async fn send(
        &self,
        name: &str,
        patience: Duration,
        build: impl Fn() -> RequestBuilder + Send + Sync,
    ) -> Result<Response, ApiError> {
        let current = self.inner.session.current().await;
        let authorized = || match &current.tokens {
            Some(tokens) => build().header(AUTHORIZATION, bearer(&tokens.access_token)),
            None => build(),
        };
        let error = match self.send_somewhere(name, patience, authorized).await {
            Err(error) if is_refused_for_token(&error) && !current.fixed => error,
            outcome => return outcome,
        };
        if current.tokens.is_none() && current.api_key.is_none() {
            return Err(ApiError::NotLoggedIn { url: self.base().into() });
        }
        if !self.renew(current.generation).await? {
            return Err(error);
        }
        let tokens = self.inner.session.current().await.tokens;
        let authorized = || match &tokens {
            Some(tokens) => build().header(AUTHORIZATION, bearer(&tokens.access_token)),
            None => build(),
        };
        self.send_somewhere(name, patience, authorized).await
    }

    /// Sends a request to the first instance that can be reached.
    async fn send_somewhere(
        &self,
        name: &str,
        patience: Duration,
        build: impl Fn() -> RequestBuilder + Send + Sync,
    ) -> Result<Response, ApiError> {
        let mut others = self.inner.bases.len() - 1;
        loop {
            match self.send_once(name, patience, build()).await {
                // It did not leave this machine.
                Err(ApiError::Unreachable { .. }) if others > 0 => others -= 1,
                outcome => return outcome,
            }
        }
    }

    async fn send_once(&self, name: &str, patience: Duration, request: RequestBuilder) -> Result<Response, ApiError> {
        let base = self.base();
        let response = match tokio::time::timeout(patience, request.send()).await {
            Ok(sent) => sent.map_err(|error| self.network_error(error))?,
            Err(_) => {
                self.leave(base);
                return Err(ApiError::Interrupted {
                    url: base.into(),
                    reason: format!("nothing came within {} s", patience.as_secs()),
                });
            }
        };
        if response.status().is_success() {
            return Ok(response);
        }
        if matches!(response.status().as_u16(), 502..=504) {
            // It, or what it needs, is not at work; another may be.
            self.leave(base);
        }
        Err(self.read_error(name, response).await)
    }

    async fn read_error(&self, name: &str, mut response: Response) -> ApiError {
        let status = response.status().as_u16();
        let mut body = Vec::new();
        while let Ok(Ok(Some(chunk))) = tokio::time::timeout(ANSWER_TIMEOUT, response.chunk()).await {
            body.extend_from_slice(&chunk);
            if body.len() > MAX_ERROR_BYTES {
                break;
            }
        }
        match serde_json::from_slice::<Problem>(&body) {
            Ok(problem) => ApiError::Refused(Box::new(Refusal::new(name.to_owned(), status, problem))),
            Err(_) => {
                let text = String::from_utf8_lossy(&body);
                let excerpt = text.chars().filter(|character| !character.is_control()).take(80).collect();
                ApiError::NotJson { url: self.base().into(), status, excerpt }
            }
        }
    }

    async fn read_body(&self, mut response: Response) -> Result<Vec<u8>, ApiError> {
        let base = self.base();
        let mut body = Vec::new();
        loop {
            match tokio::time::timeout(ANSWER_TIMEOUT, response.chunk()).await {
                Ok(Ok(Some(chunk))) => body.extend_from_slice(&chunk),
                Ok(Ok(None)) => return Ok(body),
                Ok(Err(error)) => return Err(self.network_error(error)),
                Err(_) => {
                    self.leave(base);
                    return Err(ApiError::Interrupted {
                        url: base.into(),
                        reason: format!("the answer paused for {} s", ANSWER_TIMEOUT.as_secs()),
                    });
                }
            }
        }
    }

    /// What became of a request on its way; the next one goes to another instance.
    pub(crate) fn network_error(&self, source: reqwest::Error) -> ApiError {
        let asked = source.url().map(Url::as_str).unwrap_or_default();
        let within = |base: &&String| asked.strip_prefix(base.as_str()).is_some_and(|rest| rest.starts_with('/'));
        let url = self.inner.bases.iter().find(within).map_or_else(|| self.base().to_owned(), Clone::clone);
        self.leave(&url);
        if source.is_connect() {
            return ApiError::Unreachable { url, source };
        }
        ApiError::Interrupted { url, reason: innermost(&source) }
    }

    /// Renews the tokens unless somebody did since `generation`. `false` when there is nothing to renew with.
    async fn renew(&self, generation: u64) -> Result<bool, ApiError> {
        let session = &self.inner.session;
        let _renewal = session.renewal.lock().await;
        let current = session.current().await;
        if current.generation != generation {
            return Ok(true);
        }
        if let (Some(kept), Some(ours)) = (session.store.as_ref().and_then(|store| store.load()), &current.tokens)
            && kept.access_token != ours.access_token
        {
            session.adopt(kept).await;
            return Ok(true);
        }
        let refused = match &current.tokens {
            Some(tokens) if !tokens.refresh_token.is_empty() => match self.refresh(&tokens.refresh_token).await {
                Ok(renewed) => {
                    session.replace(renewed).await;
                    return Ok(true);
                }
                Err(error) if matches!(error.status(), Some(401 | 403 | 404 | 422)) => error,
                Err(error) => return Err(error),
            },
            Some(_) | None => ApiError::NotLoggedIn { url: self.base().into() },
        };
        tracing::debug!(error = %refused, "the token could not be renewed");
        match &current.api_key {
            Some(api_key) => {
                let tokens = self.exchange_api_key(api_key).await?;
                session.replace(tokens).await;
                Ok(true)
            }
            None => Err(ApiError::NotLoggedIn { url: self.base().into() }),
        }
    }

    async fn refresh(&self, refresh_token: &str) -> Result<TokenPair, ApiError> {
        let request =
            || self.builder(Method::POST, "token/refresh", &Query::new()).header(AUTHORIZATION, bearer(refresh_token));
        self.token_answer("POST /token/refresh", request).await
    }

    /// Sends a request about tokens, which is never repeated with renewed ones.
    async fn token_answer<T: DeserializeOwned>(
        &self,
        name: &str,
        build: impl Fn() -> RequestBuilder + Send + Sync,
    ) -> Result<T, ApiError> {
        let response = self.send_somewhere(name, ANSWER_TIMEOUT, build).await?;
        let body = self.read_body(response).await?;
        serde_json::from_slice(&body).map_err(|source| ApiError::Unexpected { request: name.into(), source })
    }
}

/// A request without a body.
pub const NO_BODY: Option<&()> = None;

/// Repeats what may safely happen twice while the network or the coordinator is away, for at most `patience`.
///
/// Pauses from 100 ms, doubling up to 5 s, with jitter so that many clients do not come back at once.
///
/// # Errors
/// The first lasting error, or the last passing one when the patience is used up.
pub async fn retry<T, F, Fut>(patience: Duration, mut request: F) -> Result<T, ApiError>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Result<T, ApiError>>,
{
    let deadline = tokio::time::Instant::now() + patience;
    let mut backoff = Backoff::default();
    loop {
        match request().await {
            Err(error) if error.is_transient() => {
                let pause = backoff.next_pause();
                if tokio::time::Instant::now() + pause > deadline {
                    return Err(error);
                }
                tracing::debug!(%error, ?pause, "trying again");
                tokio::time::sleep(pause).await;
            }
            outcome => return outcome,
        }
    }
}

/// Pauses between attempts: 100 ms, doubling to 5 s, each between half and all of that.
#[derive(Debug, Default)]
pub(crate) struct Backoff {
    attempts: u32,
}

impl Backoff {
    const FIRST: Duration = Duration::from_millis(100);
    const LONGEST: Duration = Duration::from_secs(5);

    pub(crate) fn next_pause(&mut self) -> Duration {
        let full = Self::FIRST.saturating_mul(1 << self.attempts.min(6)).min(Self::LONGEST);
        self.attempts = self.attempts.saturating_add(1);
        full.mul_f64(rand::random_range(0.5..=1.0))
    }

    pub(crate) fn reset(&mut self) {
        self.attempts = 0;
    }
}

fn base_url(text: &str) -> Result<Url, ApiError> {
    let invalid = || ApiError::Address { text: text.into() };
    let mut url = Url::parse(text).map_err(|_| invalid())?;
    if !matches!(url.scheme(), "http" | "https") || url.host().is_none() || url.cannot_be_a_base() {
        return Err(invalid());
    }
    if matches!(url.path(), "" | "/") {
        url.set_path("/api");
    }
    url.set_query(None);
    url.set_fragment(None);
    Ok(url)
}

pub(crate) fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(url::Host::Ipv4(address)) => address.is_loopback(),
        Some(url::Host::Ipv6(address)) => address.is_loopback(),
        Some(url::Host::Domain(name)) => name == "localhost",
        None => false,
    }
}

fn bearer(token: &str) -> HeaderValue {
    // A token with characters that no header takes is no token; the coordinator will say so.
    let mut value =
        HeaderValue::from_str(&format!("Bearer {token}")).unwrap_or_else(|_| HeaderValue::from_static("Bearer"));
    value.set_sensitive(true);
    value
}

/// Whether other tokens might help. Lack of permission is 401 too (contract A.1), where renewing would be in vain; our
/// coordinator tells the two apart by its code, stock ones do not.
fn is_refused_for_token(error: &ApiError) -> bool {
    let ApiError::Refused(refusal) = error else {
        return false;
    };
    if !refusal.code.is_empty() {
        return refusal.code.starts_with("token_");
    }
    match StatusCode::from_u16(refusal.status) {
        Ok(StatusCode::UNAUTHORIZED) => true,
        Ok(StatusCode::UNPROCESSABLE_ENTITY) => {
            matches!(&*refusal.msg, "Signature verification failed" | "Not enough segments")
        }
        Ok(_) | Err(_) => false,
    }
}

fn innermost(error: &dyn std::error::Error) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}

/// Chooses the cryptography for TLS, once a process.
fn install_cryptography() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // Fails only when the process has chosen already, which is fine.
        let _ = rustls::crypto::ring::default_provider().install_default();
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_without_a_path_gets_that_of_the_contract() {
        for (text, base) in [
            ("http://127.0.0.1:7601", "http://127.0.0.1:7601/api"),
            ("http://127.0.0.1:7601/", "http://127.0.0.1:7601/api"),
            ("https://x.example/v6/api/", "https://x.example/v6/api"),
        ] {
            assert_eq!(Api::new(text, ApiOptions::default()).unwrap().base(), base);
        }
        for text in ["", "localhost", "localhost:7601", "ftp://x", "mailto:a@b"] {
            assert!(matches!(Api::new(text, ApiOptions::default()), Err(ApiError::Address { .. })), "{text}");
        }
    }

    #[test]
    fn pauses_grow_to_five_seconds_and_start_over() {
        let mut backoff = Backoff::default();
        let pauses: Vec<_> = (0..20).map(|_| backoff.next_pause()).collect();
        assert!(pauses[0] <= Duration::from_millis(100) && pauses[0] >= Duration::from_millis(50));
        assert!(pauses.iter().all(|pause| *pause <= Duration::from_secs(5)));
        assert!(pauses[19] >= Duration::from_millis(2500));
        backoff.reset();
        assert!(backoff.next_pause() <= Duration::from_millis(100));
    }

    /// Answers every request in the same way.
    async fn answering(head: &'static str, body: &'static str) -> String {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            loop {
                let (mut link, _) = listener.accept().await.unwrap();
                let _ = link.read(&mut [0; 4096]).await.unwrap();
                let answer =
                    format!("HTTP/1.1 {head}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}", body.len());
                link.write_all(answer.as_bytes()).await.unwrap();
            }
        });
        format!("http://{address}")
    }

    #[tokio::test]
    async fn an_instance_that_says_that_it_cannot_is_left_for_the_next() {
        let stopping = answering("503 Service Unavailable", r#"{"msg": "stopping"}"#).await;
        let works = answering("200 OK", r#"{"version": "1.2.3"}"#).await;
        let api = Api::new(&format!("{stopping},{works}"), ApiOptions::default()).unwrap();
        let error = api.version().await.unwrap_err();
        assert!(error.is_transient() && error.status() == Some(503), "{error}");
        assert_eq!(api.version().await.unwrap(), "1.2.3");
        assert_eq!(api.base(), format!("{works}/api"));
        // Refusals of other kinds are the same everywhere.
        let refuses = answering("404 Not Found", r#"{"msg": "no such thing"}"#).await;
        let api = Api::new(&format!("{refuses},{works}"), ApiOptions::default()).unwrap();
        assert_eq!(api.version().await.unwrap_err().status(), Some(404));
        assert_eq!(api.base(), format!("{refuses}/api"));
    }

    #[test]
    fn nothing_of_a_token_shows_in_debug_output() {
        let api = Api::new("http://127.0.0.1:1", ApiOptions::default()).unwrap().with_token("secret");
        assert!(!format!("{api:?}").contains("secret"));
        assert!(!format!("{:?}", bearer("secret")).contains("secret"));
    }
}
