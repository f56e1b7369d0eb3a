//! The tokens of the contract (A.2.2): HS256, whole-number subjects, `type` and `client_type` claims.

use std::fmt;
use std::time::Duration;

use data_encoding::BASE64URL_NOPAD;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use twinmesh_protocol::id::{AlgorithmStoreId, CollaborationId, NodeId, OrganizationId, StudyId, TaskId, UserId};
use twinmesh_protocol::time::Time;
use uuid::Uuid;

/// Why a token is refused. The texts are the contract's (A.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// No token at all.
    #[error("Missing Authorization Header")]
    Missing,
    /// Not a token.
    #[error("Not enough segments")]
    Malformed,
    /// Not one of ours.
    #[error("Signature verification failed")]
    Signature,
    /// No longer good.
    #[error("Token has expired")]
    Expired,
    /// Good only to refresh.
    #[error("Only non-refresh tokens are allowed")]
    Refresh,
    /// Not good to refresh.
    #[error("Only refresh tokens are allowed")]
    NotRefresh,
    /// Good only to say whose it is.
    #[error("This token only says whose it is")]
    Introduction,
}

/// Who a token is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClientType {
    /// A person.
    User,
    /// A daemon.
    Node,
    /// An algorithm.
    Container,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Type {
    Access,
    Refresh,
    /// Says to somebody else whose it is, and lets them do nothing.
    Introduction,
}

/// How long an algorithm store may take to ask whose introduction it was shown.
const INTRODUCTION_FOR: Duration = Duration::from_secs(300);

/// The subject of a container's token (contract A.2.4).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ContainerSubject {
    /// Always `container`.
    pub client_type: ClientType,
    /// The image of every subtask it creates.
    pub image: String,
    /// The task's databases with their parameters merged in.
    pub databases: Vec<Value>,
    /// The node that runs it.
    pub node_id: NodeId,
    /// Its collaboration.
    pub collaboration_id: CollaborationId,
    /// The organization of its node.
    pub organization_id: OrganizationId,
    /// Its study, if any.
    pub study_id: Option<StudyId>,
    /// The store of its image, if any.
    pub store_id: Option<AlgorithmStoreId>,
    /// Its task.
    pub task_id: TaskId,
}

/// Who a token speaks for.
#[derive(Debug, Clone, PartialEq)]
pub enum Subject {
    /// A user or node, by the common id.
    Entity(ClientType, i64),
    /// An algorithm.
    Container(ContainerSubject),
}

impl Subject {
    /// A word for whom it is, the same for all of their tokens.
    pub(crate) fn key(&self) -> String {
        match self {
            Self::Entity(kind, id) => format!("{kind:?}:{id}"),
            Self::Container(run) => format!("run of task {} at {}", run.task_id, run.organization_id),
        }
    }
}

/// An access token that was checked.
#[derive(Debug, Clone, PartialEq)]
pub struct Access {
    /// Who it speaks for.
    pub subject: Subject,
    /// When it was issued, in seconds since 1970.
    pub issued_at: i64,
    /// The family of refresh tokens it belongs to, which is the log-in it goes back to. A container's has none.
    pub family: Option<String>,
}

/// A refresh token, to be handed out and to be remembered.
#[derive(Clone)]
pub struct RefreshToken {
    /// What the client gets.
    pub text: String,
    /// What finds it again; stored as a hash.
    pub id: String,
    /// When it stops being good.
    pub expires_at: Time,
}

impl fmt::Debug for RefreshToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RefreshToken([redacted])")
    }
}

#[derive(Serialize, Deserialize)]
struct Claims {
    sub: Value,
    #[serde(rename = "type")]
    kind: Type,
    client_type: ClientType,
    #[serde(default)]
    roles: Vec<String>,
    fresh: bool,
    iat: i64,
    nbf: i64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    exp: Option<i64>,
    jti: String,
    csrf: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    family: Option<String>,
}

/// Issues and checks tokens.
#[derive(Clone)]
pub struct Tokens {
    encoding: EncodingKey,
    decoding: DecodingKey,
    access_for: Duration,
    refresh_for: Duration,
}

impl Tokens {
    /// Makes an issuer with a secret of its own.
    #[must_use]
    pub fn new(secret: &[u8], access_for: Duration, refresh_for: Duration) -> Self {
        Self {
            encoding: EncodingKey::from_secret(secret),
            decoding: DecodingKey::from_secret(secret),
            access_for,
            refresh_for,
        }
    }

    /// A token with which a user or node may ask, of a family of refresh tokens.
    #[must_use]
    pub fn access(&self, kind: ClientType, id: i64, roles: Vec<String>, family: &str, now: Time) -> String {
        let (token_id, family) = (Uuid::new_v4().to_string(), Some(family.to_owned()));
        self.encode(Type::Access, kind, id.into(), roles, family, Some(self.access_for), &token_id, now)
    }

    /// A token that is good for one more pair of tokens.
    #[must_use]
    pub fn refresh(&self, kind: ClientType, id: i64, roles: Vec<String>, now: Time) -> RefreshToken {
        let token_id = super::secret::new_key().to_string();
        let text = self.encode(Type::Refresh, kind, id.into(), roles, None, Some(self.refresh_for), &token_id, now);
        RefreshToken { text, id: token_id, expires_at: now.plus(self.refresh_for) }
    }

    /// An algorithm's token. It has no end of its own: it is good while its run is unfinished.
    #[must_use]
    pub fn container(&self, subject: &ContainerSubject, now: Time) -> String {
        let subject = serde_json::to_value(subject).expect("a subject has text keys only");
        let id = Uuid::new_v4().to_string();
        self.encode(Type::Access, ClientType::Container, subject, Vec::new(), None, None, &id, now)
    }

    /// A token for somebody whom the user does not have to trust: it tells whose it is, for a few minutes.
    #[must_use]
    pub fn introduction(&self, user: UserId, now: Time) -> String {
        let id = Uuid::new_v4().to_string();
        let subject = user.get().into();
        self.encode(Type::Introduction, ClientType::User, subject, Vec::new(), None, Some(INTRODUCTION_FOR), &id, now)
    }

    /// Who an access token speaks for.
    ///
    /// # Errors
    /// When it is no access token of ours, or too old.
    pub fn verify_access(&self, token: &str, now: Time) -> Result<Access, TokenError> {
        let claims = self.decode(token, now)?;
        match claims.kind {
            Type::Refresh => Err(TokenError::Refresh),
            Type::Introduction => Err(TokenError::Introduction),
            Type::Access => access(claims),
        }
    }

    /// Who somebody is that a token introduces; an access token does so as well.
    ///
    /// # Errors
    /// When it is neither, not ours, or too old.
    pub fn verify_introduction(&self, token: &str, now: Time) -> Result<Access, TokenError> {
        let claims = self.decode(token, now)?;
        match claims.kind {
            Type::Refresh => Err(TokenError::Refresh),
            Type::Introduction | Type::Access => access(claims),
        }
    }

    /// Who a refresh token speaks for, and its id.
    ///
    /// # Errors
    /// When it is no refresh token of ours, or too old.
    pub fn verify_refresh(&self, token: &str, now: Time) -> Result<(Subject, String), TokenError> {
        let claims = self.decode(token, now)?;
        match claims.kind {
            Type::Access | Type::Introduction => Err(TokenError::NotRefresh),
            Type::Refresh => Ok((subject(&claims)?, claims.jti)),
        }
    }

    #[expect(clippy::too_many_arguments, reason = "these are the claims")]
    fn encode(
        &self,
        kind: Type,
        client_type: ClientType,
        sub: Value,
        roles: Vec<String>,
        family: Option<String>,
        good_for: Option<Duration>,
        id: &str,
        now: Time,
    ) -> String {
        let claims = Claims {
            sub,
            kind,
            client_type,
            roles,
            fresh: false,
            iat: now.seconds(),
            nbf: now.seconds(),
            exp: good_for.map(|good_for| now.plus(good_for).seconds()),
            jti: id.to_owned(),
            csrf: Uuid::new_v4().to_string(),
            family,
        };
        jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, &self.encoding)
            .expect("claims are JSON and the key fits the algorithm")
    }

    fn decode(&self, token: &str, now: Time) -> Result<Claims, TokenError> {
        // The library's own `decode` stumbles over a subject that is an object, and would read the machine's clock.
        let (message, signature) = token.rsplit_once('.').ok_or(TokenError::Malformed)?;
        let (_, payload) = message.split_once('.').ok_or(TokenError::Malformed)?;
        match jsonwebtoken::crypto::verify(signature, message.as_bytes(), &self.decoding, Algorithm::HS256) {
            Ok(true) => {}
            Ok(false) => return Err(TokenError::Signature),
            Err(_) => return Err(TokenError::Malformed),
        }
        let payload = BASE64URL_NOPAD.decode(payload.as_bytes()).map_err(|_| TokenError::Malformed)?;
        let claims: Claims = serde_json::from_slice(&payload).map_err(|_| TokenError::Malformed)?;
        match claims.exp {
            Some(end) if end <= now.seconds() => Err(TokenError::Expired),
            Some(_) | None => Ok(claims),
        }
    }
}

impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tokens([redacted])")
    }
}

fn access(claims: Claims) -> Result<Access, TokenError> {
    Ok(Access { subject: subject(&claims)?, issued_at: claims.iat, family: claims.family })
}

fn subject(claims: &Claims) -> Result<Subject, TokenError> {
    match claims.client_type {
        kind @ (ClientType::User | ClientType::Node) => {
            claims.sub.as_i64().map(|id| Subject::Entity(kind, id)).ok_or(TokenError::Malformed)
        }
        ClientType::Container => {
            serde_json::from_value(claims.sub.clone()).map(Subject::Container).map_err(|_| TokenError::Malformed)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Time = Time::from_micros(1_700_000_000_000_000);
    const HOUR: Duration = Duration::from_secs(3600);

    fn tokens() -> Tokens {
        Tokens::new(b"a secret of thirty-two bytes or so", 6 * HOUR, 48 * HOUR)
    }

    fn claims(token: &str) -> Value {
        let payload = token.split('.').nth(1).unwrap();
        serde_json::from_slice(&BASE64URL_NOPAD.decode(payload.as_bytes()).unwrap()).unwrap()
    }

    #[test]
    fn an_access_token_has_every_claim_of_the_contract() {
        let token = tokens().access(ClientType::User, 7, vec!["Root".into()], "f", START);
        let header = BASE64URL_NOPAD.decode(token.split('.').next().unwrap().as_bytes()).unwrap();
        assert_eq!(
            serde_json::from_slice::<Value>(&header).unwrap(),
            serde_json::json!({"alg": "HS256", "typ": "JWT"})
        );
        let claims = claims(&token);
        assert_eq!(claims["sub"], 7);
        assert_eq!(claims["type"], "access");
        assert_eq!(claims["client_type"], "user");
        assert_eq!(claims["roles"], serde_json::json!(["Root"]));
        assert_eq!(claims["fresh"], false);
        assert_eq!(claims["iat"], 1_700_000_000);
        assert_eq!(claims["nbf"], claims["iat"]);
        assert_eq!(claims["exp"], 1_700_000_000 + 6 * 3600);
        for id in ["jti", "csrf"] {
            assert!(Uuid::parse_str(claims[id].as_str().unwrap()).is_ok(), "{id}");
        }
    }

    #[test]
    fn a_token_is_refused_with_the_text_of_the_contract() {
        let tokens = tokens();
        let access = tokens.access(ClientType::User, 7, vec![], "f", START);
        let refresh = tokens.refresh(ClientType::User, 7, vec![], START);
        let other = Tokens::new(b"another", HOUR, HOUR).access(ClientType::User, 7, vec![], "f", START);
        let subject = Subject::Entity(ClientType::User, 7);
        let checked = Access { subject, issued_at: START.seconds(), family: Some("f".into()) };
        assert_eq!(tokens.verify_access(&access, START), Ok(checked));
        assert_eq!(tokens.verify_access("x", START), Err(TokenError::Malformed));
        assert_eq!(tokens.verify_access(&other, START), Err(TokenError::Signature));
        assert_eq!(tokens.verify_access(&access, START.plus(6 * HOUR)), Err(TokenError::Expired));
        assert_eq!(tokens.verify_access(&refresh.text, START), Err(TokenError::Refresh));
        assert_eq!(tokens.verify_refresh(&access, START).unwrap_err(), TokenError::NotRefresh);
        assert_eq!(tokens.verify_refresh(&refresh.text, START).unwrap().1, refresh.id);
    }

    #[test]
    fn an_introduction_says_whose_it_is_for_minutes_and_is_good_for_nothing_else() {
        let tokens = tokens();
        let introduction = tokens.introduction(UserId::new(7), START);
        let user = Subject::Entity(ClientType::User, 7);
        assert_eq!(tokens.verify_introduction(&introduction, START).unwrap().subject, user);
        assert_eq!(tokens.verify_introduction(&introduction, START.plus(INTRODUCTION_FOR)), Err(TokenError::Expired));
        assert_eq!(tokens.verify_access(&introduction, START), Err(TokenError::Introduction));
        assert_eq!(tokens.verify_refresh(&introduction, START).unwrap_err(), TokenError::NotRefresh);
        let access = tokens.access(ClientType::User, 7, vec![], "f", START);
        assert_eq!(tokens.verify_introduction(&access, START).unwrap().subject, user);
        let refresh = tokens.refresh(ClientType::User, 7, vec![], START);
        assert_eq!(tokens.verify_introduction(&refresh.text, START), Err(TokenError::Refresh));
    }

    #[test]
    fn an_unsigned_token_is_refused() {
        let access = tokens().access(ClientType::User, 7, vec![], "f", START);
        let header = BASE64URL_NOPAD.encode(br#"{"alg":"none","typ":"JWT"}"#);
        let payload = access.split('.').nth(1).unwrap();
        assert!(tokens().verify_access(&format!("{header}.{payload}."), START).is_err());
    }

    #[test]
    fn a_containers_subject_is_an_object_and_has_no_end() {
        let subject = ContainerSubject {
            client_type: ClientType::Container,
            image: "image".into(),
            databases: vec![serde_json::json!({"label": "default"})],
            node_id: NodeId::new(1),
            collaboration_id: CollaborationId::new(2),
            organization_id: OrganizationId::new(3),
            study_id: None,
            store_id: None,
            task_id: TaskId::new(4),
        };
        let token = tokens().container(&subject, START);
        let claims = claims(&token);
        assert_eq!(claims["sub"]["study_id"], Value::Null);
        assert_eq!(claims["sub"]["client_type"], "container");
        assert!(claims.get("exp").is_none());
        let checked = tokens().verify_access(&token, START.plus(9000 * HOUR)).unwrap();
        assert_eq!((checked.subject, checked.family), (Subject::Container(subject), None));
    }
}
