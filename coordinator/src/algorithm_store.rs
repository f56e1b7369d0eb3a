//! Asks algorithm stores, which are services of others (contract A.11).
//!
//! Where a store is, a user said, and so that user decides what this machine asks. Hence: http and https only, no
//! redirects, addresses looked up once and judged before they are used, a deadline, and bounded answers.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use futures::StreamExt as _;
use reqwest::header::{AUTHORIZATION, HeaderName, HeaderValue};
use reqwest::redirect::Policy;
use reqwest::{Certificate, Method, StatusCode, Url};
use serde_json::{Value, json};

use crate::config::{AlgorithmStoresConfig, Secret};
use crate::limits;

/// How much of a store's words is passed on, in characters.
const MAX_WORDS_CHARS: usize = 500;
/// Under which a store reads who asks. Stock clients send the underscore, which many proxies drop (contract F.1-16).
const SERVER_URL: [HeaderName; 2] = [HeaderName::from_static("server_url"), HeaderName::from_static("server-url")];

/// Why a store was not asked, or did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StoreCallError {
    /// The address is none.
    #[error("`{url}` is not the address of an algorithm store: use one like `https://store.example.org/api`")]
    Address {
        /// What was given.
        url: String,
    },
    /// The operator's settings rule it out.
    #[error("`{host}` is not among the hosts at which this server's operator allows algorithm stores")]
    Host {
        /// Which.
        host: String,
    },
    /// The address is this machine's.
    #[error(
        "Algorithm store url is insecure: `{host}` is this machine, where any service may run. Add it anyway by \
         setting the 'force' flag to true, but only do so for development servers!"
    )]
    Local {
        /// Which.
        host: String,
    },
    /// The address is this machine's, and the operator's settings rule that out.
    #[error(
        "Algorithm store url is insecure: `{host}` is this machine, where any service may run. Only this server's \
         operator can allow it, for development, by the setting `algorithm_stores.allow_local`"
    )]
    LocalNotAllowed {
        /// Which.
        host: String,
    },
    /// The address is one that no service of others has.
    #[error(
        "Algorithm store url is refused: `{host}` leads to {ip}, which is no public or private address of a server"
    )]
    Forbidden {
        /// Which.
        host: String,
        /// Where to.
        ip: IpAddr,
    },
    /// Nobody answers.
    #[error("Algorithm store cannot be reached at `{url}`: see whether it runs and whether its address is complete")]
    Unreachable {
        /// Where.
        url: String,
        /// Why.
        source: UnreachableCause,
    },
    /// The answer is too long.
    #[error("The algorithm store's answer is longer than {limit} bytes")]
    TooLong {
        /// How much is read.
        limit: usize,
    },
    /// The answer is no.
    #[error("Algorithm store error: {msg}, HTTP status: {status}")]
    Refused {
        /// The store's status.
        status: StatusCode,
        /// The store's words.
        msg: String,
    },
    /// The answer is not what was asked for.
    #[error("The algorithm store's answer is not understood: {why}")]
    Answer {
        /// What is wrong with it.
        why: String,
    },
    /// The settings name a file that is no certificate.
    #[error("The setting `algorithm_stores.ca_file` is wrong: `{path}` holds no PEM certificate")]
    Authority {
        /// Which.
        path: PathBuf,
    },
}

/// Why nobody answers.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UnreachableCause {
    /// The name leads nowhere.
    #[error("cannot look its name up")]
    Name(#[from] std::io::Error),
    /// The connection failed.
    #[error("cannot ask it")]
    Request(#[from] reqwest::Error),
}

/// Where a store is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StoreAddress {
    url: Url,
    forced: bool,
    /// Whether the operator lets stores be on this machine.
    allow_local: bool,
}

impl StoreAddress {
    /// Reads an address. One of this machine must be both allowed by the operator and `forced`.
    ///
    /// # Errors
    /// When it is none, or one that may not be asked.
    pub(crate) fn parse(text: &str, forced: bool, allow_local: bool) -> Result<Self, StoreCallError> {
        let refused = || StoreCallError::Address { url: text.chars().take(limits::URL.max).collect() };
        let url = http_url(text).ok_or_else(refused)?;
        let address = Self { url, forced, allow_local };
        match address.host().parse::<IpAddr>() {
            Ok(ip) => address.judge(ip)?,
            Err(_) if is_local_name(address.host()) => address.judge_local()?,
            Err(_) => {}
        }
        Ok(address)
    }

    /// The address as it is kept: without a slash at the end.
    pub(crate) fn as_str(&self) -> &str {
        self.url.as_str().trim_end_matches('/')
    }

    fn host(&self) -> &str {
        self.url.host_str().unwrap_or_default().trim_matches(['[', ']'])
    }

    /// Whether this machine may be made to speak to an address.
    fn judge(&self, ip: IpAddr) -> Result<(), StoreCallError> {
        match reached(ip) {
            reached if reached.is_loopback() || reached.is_unspecified() => self.judge_local(),
            reached if is_surrounding(reached) => Err(StoreCallError::Forbidden { host: self.host().into(), ip }),
            _ => Ok(()),
        }
    }

    /// Whether this machine may be made to speak to itself.
    fn judge_local(&self) -> Result<(), StoreCallError> {
        let host = || self.host().to_owned();
        match (self.allow_local, self.forced) {
            (false, _) => Err(StoreCallError::LocalNotAllowed { host: host() }),
            (true, false) => Err(StoreCallError::Local { host: host() }),
            (true, true) => Ok(()),
        }
    }
}

impl fmt::Display for StoreAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// In whose name a store is asked.
#[derive(Debug, Clone)]
pub(crate) struct OnBehalf {
    /// The address under which the store knows this coordinator.
    pub(crate) server_url: String,
    /// With which the store asks back who the user is. It is good for nothing else: whoever linked the store chose
    /// where it goes.
    pub(crate) bearer: Secret,
}

/// Asks stores.
#[derive(Debug, Clone)]
pub(crate) struct StoreCaller {
    config: AlgorithmStoresConfig,
    api_path: String,
    authorities: Vec<Certificate>,
}

impl StoreCaller {
    /// Takes the settings.
    ///
    /// # Errors
    /// When the file with authorities cannot be used.
    pub(crate) fn new(config: &AlgorithmStoresConfig, api_path: &str) -> Result<Self, StoreCallError> {
        // Another part of the process may have chosen already, which is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let authorities = match &config.ca_file {
            None => Vec::new(),
            Some(path) => {
                let wrong = || StoreCallError::Authority { path: path.clone() };
                let pem = std::fs::read(path).map_err(|_| wrong())?;
                Certificate::from_pem_bundle(&pem).ok().filter(|found| !found.is_empty()).ok_or_else(wrong)?
            }
        };
        Ok(Self { config: config.clone(), api_path: api_path.to_owned(), authorities })
    }

    /// Where a store is; `forced` by whoever says so.
    ///
    /// # Errors
    /// As [`StoreAddress::parse`].
    pub(crate) fn address(&self, text: &str, forced: bool) -> Result<StoreAddress, StoreCallError> {
        StoreAddress::parse(text, forced, self.config.allow_local)
    }

    /// The address under which stores know this coordinator: the operator's, else the first of these that is given. It
    /// ends with the API's path (contract A.11).
    pub(crate) fn server_url(&self, given: &[Option<&str>]) -> Option<String> {
        let given = given.iter().flatten().filter_map(|text| http_url(text)).map(String::from).next();
        let url = self.config.server_url.clone().or(given)?;
        let url = url.trim_end_matches('/');
        Some(if url.ends_with(&self.api_path) { url.to_owned() } else { format!("{url}{}", self.api_path) })
    }

    /// Tells a store that this coordinator's users may come.
    ///
    /// # Errors
    /// When it cannot be asked or refuses; a refusal of a store that is open to all is none.
    pub(crate) async fn register(&self, store: &StoreAddress, by: &OnBehalf) -> Result<(), StoreCallError> {
        let mut body = json!({"url": by.server_url});
        if store.forced {
            body["force"] = true.into();
        }
        let request =
            StoreRequest { body: Some(body), ..StoreRequest::new(store, by, Method::POST, "vantage6-server") };
        let answer = self.ask(request).await?;
        match answer.status {
            StatusCode::OK | StatusCode::CREATED | StatusCode::ALREADY_REPORTED => Ok(()),
            StatusCode::FORBIDDEN if self.is_public(store, by).await => Ok(()),
            _ => Err(answer.refusal()),
        }
    }

    /// Takes this coordinator off a store's list. That it is not on it is as good.
    ///
    /// # Errors
    /// When the store cannot be asked or refuses.
    pub(crate) async fn unregister(&self, store: &StoreAddress, by: &OnBehalf) -> Result<(), StoreCallError> {
        let query = Some(("url", by.server_url.as_str()));
        let request = StoreRequest { query, ..StoreRequest::new(store, by, Method::GET, "vantage6-server") };
        let answer = self.ask(request).await?;
        match answer.status {
            StatusCode::OK => {}
            StatusCode::FORBIDDEN | StatusCode::NOT_FOUND => return Ok(()),
            _ => return Err(answer.refusal()),
        }
        // A bare list, or a page of one.
        let listed = answer.body.as_array().or_else(|| answer.body["data"].as_array());
        for id in listed.into_iter().flatten().filter_map(|server| server["id"].as_i64()) {
            let path = format!("vantage6-server/{id}");
            let request = StoreRequest { query, ..StoreRequest::new(store, by, Method::DELETE, &path) };
            let answer = self.ask(request).await?;
            if !answer.status.is_success() && answer.status != StatusCode::NOT_FOUND {
                return Err(answer.refusal());
            }
        }
        Ok(())
    }

    /// The image as the store has reviewed it: `name@sha256:…`.
    ///
    /// # Errors
    /// When the store cannot be asked, refuses, does not have the image, or has another digest of it.
    pub(crate) async fn resolve(
        &self,
        store: &StoreAddress,
        image: &str,
        by: &OnBehalf,
    ) -> Result<String, StoreCallError> {
        let query = Some(("image", image));
        let request = StoreRequest { query, ..StoreRequest::new(store, by, Method::GET, "algorithm") };
        let answer = self.ask(request).await?;
        if answer.status != StatusCode::OK {
            return Err(answer.refusal());
        }
        reviewed(image, &answer.body)
    }

    /// Whether a store shows its algorithms to everybody.
    async fn is_public(&self, store: &StoreAddress, by: &OnBehalf) -> bool {
        match self.ask(StoreRequest::new(store, by, Method::GET, "policy/public")).await {
            Ok(answer) => answer.status == StatusCode::OK && answer.body["algorithm_view"] == "public",
            Err(error) => {
                tracing::debug!("cannot see whether the algorithm store is public: {error}");
                false
            }
        }
    }

    async fn ask(&self, request: StoreRequest<'_>) -> Result<StoreAnswer, StoreCallError> {
        // One deadline for all of it, the name's look-up too.
        let timeout = self.config.timeout.0;
        let url = request.store.to_string();
        match tokio::time::timeout(timeout, self.ask_now(request, timeout)).await {
            Ok(answer) => answer,
            Err(_) => {
                let late = std::io::Error::new(std::io::ErrorKind::TimedOut, format!("no answer within {timeout:?}"));
                Err(StoreCallError::Unreachable { url, source: UnreachableCause::Name(late) })
            }
        }
    }

    async fn ask_now(&self, request: StoreRequest<'_>, timeout: Duration) -> Result<StoreAnswer, StoreCallError> {
        let StoreRequest { store, by, method, path, query, body } = request;
        let unreachable = |source: UnreachableCause| StoreCallError::Unreachable { url: store.to_string(), source };
        let client = self.client(store, timeout).await?;
        let url = format!("{store}/{path}");
        let bearer = HeaderValue::try_from(format!("Bearer {}", by.bearer.reveal())).ok();
        let mut request = client.request(method, url).query(query.as_slice());
        if let Some(mut bearer) = bearer {
            bearer.set_sensitive(true);
            request = request.header(AUTHORIZATION, bearer);
        }
        for name in SERVER_URL {
            request = request.header(name, &by.server_url);
        }
        if let Some(body) = body {
            request = request.json(&body);
        }
        let response = request.send().await.map_err(|error| unreachable(error.without_url().into()))?;
        let status = response.status();
        let limit = usize::try_from(self.config.answer.0).unwrap_or(usize::MAX);
        let mut bytes = Vec::new();
        let mut chunks = response.bytes_stream();
        while let Some(chunk) = chunks.next().await {
            let chunk = chunk.map_err(|error| unreachable(error.without_url().into()))?;
            if bytes.len() + chunk.len() > limit {
                return Err(StoreCallError::TooLong { limit });
            }
            bytes.extend_from_slice(&chunk);
        }
        Ok(StoreAnswer { status, body: serde_json::from_slice(&bytes).unwrap_or_default() })
    }

    /// A client that speaks to the addresses that were judged and to no others.
    async fn client(&self, store: &StoreAddress, timeout: Duration) -> Result<reqwest::Client, StoreCallError> {
        let unreachable = |source: UnreachableCause| StoreCallError::Unreachable { url: store.to_string(), source };
        let host = store.host();
        if !self.config.hosts.is_empty() && !self.config.hosts.iter().any(|known| known.eq_ignore_ascii_case(host)) {
            return Err(StoreCallError::Host { host: host.into() });
        }
        let port = store.url.port_or_known_default().unwrap_or(443);
        let found = tokio::net::lookup_host((host, port)).await.map_err(|error| unreachable(error.into()))?;
        let addresses: Vec<SocketAddr> = found.collect();
        for address in &addresses {
            store.judge(address.ip())?;
        }
        let mut builder = reqwest::Client::builder()
            // A proxy would look the name up again.
            .no_proxy()
            .redirect(Policy::none())
            .connect_timeout(timeout)
            .timeout(timeout)
            .resolve_to_addrs(host, &addresses);
        if !self.authorities.is_empty() {
            builder = builder.tls_certs_merge(self.authorities.iter().cloned());
        }
        builder.build().map_err(|error| unreachable(error.into()))
    }
}

/// What a store is asked.
#[derive(Debug)]
struct StoreRequest<'a> {
    store: &'a StoreAddress,
    by: &'a OnBehalf,
    method: Method,
    path: &'a str,
    query: Option<(&'a str, &'a str)>,
    body: Option<Value>,
}

impl<'a> StoreRequest<'a> {
    fn new(store: &'a StoreAddress, by: &'a OnBehalf, method: Method, path: &'a str) -> Self {
        Self { store, by, method, path, query: None, body: None }
    }
}

/// What a store said.
#[derive(Debug)]
struct StoreAnswer {
    status: StatusCode,
    /// Null when it is no JSON.
    body: Value,
}

impl StoreAnswer {
    fn refusal(&self) -> StoreCallError {
        let msg = match &self.body["msg"] {
            Value::String(words) => words.chars().filter(|letter| !letter.is_control()).take(MAX_WORDS_CHARS).collect(),
            _ if self.status.is_redirection() => "it sends us elsewhere, give the address it leads to".into(),
            _ => "it says no more".into(),
        };
        StoreCallError::Refused { status: self.status, msg }
    }
}

/// Reads what a store has of an image.
pub(crate) fn reviewed(image: &str, answer: &Value) -> Result<String, StoreCallError> {
    let wrong = |why: String| Err(StoreCallError::Answer { why });
    let Some(listed) = answer["data"].as_array() else {
        return wrong("it is no list".into());
    };
    let Some(algorithm) = listed.first() else {
        let msg = format!("it has no algorithm with image `{image}`");
        return Err(StoreCallError::Refused { status: StatusCode::OK, msg });
    };
    let (name, digest) = (algorithm["image"].as_str().unwrap_or_default(), algorithm["digest"].as_str());
    let Some(digest) = digest.filter(|digest| is_digest(digest)) else {
        return wrong(format!("it names no digest of image `{image}`"));
    };
    let is_name = limits::IMAGE.fault(&name).is_none() && !name.contains(char::is_control);
    if !is_name || repository(name) != repository(image) {
        return wrong(format!("asked for image `{image}` it names another"));
    }
    if let Some((_, asked)) = image.split_once('@')
        && asked != digest
    {
        let msg = format!("it reviewed another version of image `{image}`: {digest}");
        return Err(StoreCallError::Refused { status: StatusCode::OK, msg });
    }
    let name = name.split('@').next().unwrap_or_default();
    Ok(format!("{name}@{digest}"))
}

/// An image reference without its tag and digest.
pub(crate) fn repository(image: &str) -> &str {
    let name = image.split('@').next().unwrap_or_default();
    match name.rsplit_once(':') {
        // What follows the colon of a port holds a slash.
        Some((name, tag)) if !tag.contains('/') => name,
        Some(_) | None => name,
    }
}

fn is_digest(text: &str) -> bool {
    text.strip_prefix("sha256:")
        .is_some_and(|hex| hex.len() == 64 && hex.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')))
}

/// An address of a service: http or https, a host, nothing secret, nothing after the path.
fn http_url(text: &str) -> Option<Url> {
    if limits::URL.fault(&text).is_some() {
        return None;
    }
    let url = Url::parse(text).ok()?;
    let plain = url.username().is_empty() && url.password().is_none();
    let bare = url.query().is_none() && url.fragment().is_none();
    (matches!(url.scheme(), "http" | "https") && url.has_host() && plain && bare).then_some(url)
}

/// The address that is reached by one: itself, or the IPv4 address that an IPv6 address stands for.
fn reached(ip: IpAddr) -> IpAddr {
    let IpAddr::V6(v6) = ip.to_canonical() else { return ip.to_canonical() };
    let [.., a, b] = v6.segments();
    let last = Ipv4Addr::from_bits(u32::from(a) << 16 | u32::from(b));
    match v6.segments() {
        // IPv4-compatible (RFC 4291 §2.5.5.1); the first two of them are IPv6's own.
        [0, 0, 0, 0, 0, 0, ..] if v6.to_bits() > 1 => last.into(),
        // NAT64 (RFC 6052 §2.1).
        [0x64, 0xff9b, 0, 0, 0, 0, ..] => last.into(),
        // 6to4 (RFC 3056 §2).
        [0x2002, a, b, ..] => Ipv4Addr::from_bits(u32::from(a) << 16 | u32::from(b)).into(),
        _ => v6.into(),
    }
}

/// Whether an address leads to a machine's own surroundings, such as clouds' metadata services, or is no server's.
fn is_surrounding(ip: IpAddr) -> bool {
    /// Where clouds have their metadata outside of the link-local range: Alibaba, Oracle, Azure.
    const METADATA_V4: [Ipv4Addr; 3] =
        [Ipv4Addr::new(100, 100, 100, 200), Ipv4Addr::new(192, 0, 0, 192), Ipv4Addr::new(168, 63, 129, 16)];
    /// The same in IPv6: Amazon, Google.
    const METADATA_V6: [Ipv6Addr; 2] =
        [Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254), Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254)];
    match ip {
        IpAddr::V4(v4) => {
            let is_this_network = v4.octets()[0] == 0;
            is_this_network || v4.is_link_local() || v4.is_multicast() || v4.is_broadcast() || METADATA_V4.contains(&v4)
        }
        IpAddr::V6(v6) => {
            // A network's own translation (RFC 8215): what is behind it cannot be told from the address.
            let is_translated = v6.segments()[..3] == [0x64, 0xff9b, 1];
            is_translated || v6.is_unicast_link_local() || v6.is_multicast() || METADATA_V6.contains(&v6)
        }
    }
}

/// Whether a host's name is this machine's by convention (RFC 6761 §6.3).
fn is_local_name(host: &str) -> bool {
    let host = host.trim_end_matches('.').to_ascii_lowercase();
    host == "localhost" || host.ends_with(".localhost")
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIGEST: &str = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    #[test]
    fn only_addresses_of_services_are_taken() {
        for url in ["https://store.example.org/api", "http://192.168.1.7:7602/api/", "http://[2001:db8::1]/api"] {
            assert!(StoreAddress::parse(url, false, false).is_ok(), "{url}");
        }
        for url in [
            "",
            "store.example.org/api",
            "ftp://store.example.org",
            "file:///etc/passwd",
            "https://",
            "https://a@b/api",
            "https://store.example.org/api?x=1",
            "https://store.example.org/#x",
            "unix:/run/docker.sock",
        ] {
            assert!(matches!(StoreAddress::parse(url, true, true), Err(StoreCallError::Address { .. })), "{url}");
        }
        assert_eq!(
            StoreAddress::parse("https://store.example.org/api/", false, false).unwrap().as_str(),
            "https://store.example.org/api"
        );
    }

    #[test]
    fn this_machine_must_be_allowed_and_insisted_on() {
        for url in [
            "http://localhost:7602/api",
            "http://LOCALHOST/api",
            "http://a.localhost./api",
            "http://127.0.0.1/api",
            "http://127.1/api",
            "http://2130706433/api",
            "http://0.0.0.0/api",
            "http://[::]/api",
            "http://[::1]/api",
            "http://[::ffff:127.0.0.1]/api",
            "http://[::127.0.0.1]/api",
            "http://[64:ff9b::127.0.0.1]/api",
            "http://[2002:7f00:1::]/api",
        ] {
            for forced in [false, true] {
                let refused = StoreAddress::parse(url, forced, false);
                assert!(matches!(refused, Err(StoreCallError::LocalNotAllowed { .. })), "{url}");
            }
            assert!(matches!(StoreAddress::parse(url, false, true), Err(StoreCallError::Local { .. })), "{url}");
            assert!(StoreAddress::parse(url, true, true).is_ok(), "{url}");
        }
    }

    #[test]
    fn the_surroundings_of_a_machine_are_refused_however_they_are_written() {
        for host in [
            "169.254.169.254",
            "169.254.0.1",
            "100.100.100.200",
            "192.0.0.192",
            "168.63.129.16",
            "224.0.0.1",
            "255.255.255.255",
            "0.0.0.7",
            "[fe80::1]",
            "[ff02::1]",
            "[fd00:ec2::254]",
            "[fd20:ce::254]",
            "[::ffff:169.254.169.254]",
            "[::169.254.169.254]",
            "[::a9fe:a9fe]",
            "[64:ff9b::169.254.169.254]",
            "[64:ff9b::100.100.100.200]",
            "[64:ff9b:1::169.254.169.254]",
            "[2002:a9fe:a9fe::1]",
        ] {
            let refused = StoreAddress::parse(&format!("http://{host}/api"), true, true);
            assert!(matches!(refused, Err(StoreCallError::Forbidden { .. })), "{host}: {refused:?}");
        }
        for host in ["10.0.0.1", "172.16.0.1", "192.168.1.7", "192.0.2.1", "[fd12::1]", "[64:ff9b::192.0.2.1]"] {
            assert!(StoreAddress::parse(&format!("http://{host}/api"), false, false).is_ok(), "{host}");
        }
    }

    #[test]
    fn an_image_becomes_what_the_store_reviewed() {
        let page = |image: &str, digest: Value| json!({"data": [{"image": image, "digest": digest}]});
        let found = |asked: &str, answer: &Value| reviewed(asked, answer).map_err(|error| error.to_string());
        let known = page("registry.example.org:5000/a/b", DIGEST.into());
        for asked in ["registry.example.org:5000/a/b:1", "registry.example.org:5000/a/b"] {
            assert_eq!(found(asked, &known), Ok(format!("registry.example.org:5000/a/b@{DIGEST}")));
        }
        let asked = format!("registry.example.org:5000/a/b@{DIGEST}");
        assert_eq!(found(&asked, &known), Ok(asked.clone()));
        for (asked, answer) in [
            (&*asked.replace("sha256:0", "sha256:1"), known.clone()),
            ("other.example.org/a/b", known.clone()),
            ("x", json!({"data": []})),
            ("x", json!({"data": "x"})),
            ("x", Value::Null),
            ("x", page("x", Value::Null)),
            ("x", page("x", "sha256:12".into())),
            ("x", page("", DIGEST.into())),
            ("x", page("x:1\u{0}", DIGEST.into())),
        ] {
            assert!(found(asked, &answer).is_err(), "{asked} {answer}");
        }
    }

    #[test]
    fn the_coordinators_address_ends_with_the_apis_path() {
        let caller = |server_url: Option<&str>| {
            let config = AlgorithmStoresConfig { server_url: server_url.map(Into::into), ..Default::default() };
            StoreCaller::new(&config, "/api").unwrap()
        };
        let given = [None, Some("not an address"), Some("https://b.example.org/api/"), Some("https://c.example.org")];
        assert_eq!(caller(None).server_url(&given).as_deref(), Some("https://b.example.org/api"));
        assert_eq!(
            caller(Some("https://a.example.org")).server_url(&given).as_deref(),
            Some("https://a.example.org/api")
        );
        assert_eq!(caller(None).server_url(&[None]), None);
    }
}
