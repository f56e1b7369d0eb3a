//! Statements under an Ed25519 signature.
//!
//! The bytes that are signed are the statement's canonical JSON (RFC 8785), after the statement's domain and a zero
//! byte, so that a signature under one kind of statement means nothing under another. The exact bytes travel along,
//! and only canonical ones are accepted: a statement has one form.

use std::marker::PhantomData;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::key::OrganizationPublicKey;
use crate::payload::base64_bytes;

/// Longer statements are refused unread.
pub const MAX_STATEMENT_BYTES: usize = 1 << 20;

/// A kind of statement.
pub trait Statement: Serialize + DeserializeOwned {
    /// The text that keeps signatures of different kinds apart.
    const DOMAIN: &'static str;
    /// The word for people.
    const NOUN: &'static str;
}

/// A statement with its signature and the key that made it, not yet verified.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Signed<T> {
    #[serde(with = "base64_bytes")]
    body: Vec<u8>,
    #[serde(with = "base64_bytes")]
    signature: [u8; 64],
    key: OrganizationPublicKey,
    #[serde(skip)]
    statement: PhantomData<fn() -> T>,
}

/// Why a signed statement is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SignedError {
    /// Made with another key than the one expected.
    #[error("the {noun} is signed with the key {found}, expected is {expected}")]
    OtherKey {
        /// The word for the statement.
        noun: &'static str,
        /// The fingerprint of the key in the statement.
        found: String,
        /// The fingerprint of the expected key.
        expected: String,
    },
    /// The signature does not fit the bytes.
    #[error("the signature of the {noun} does not fit its content: it was altered or forged")]
    BadSignature {
        /// The word for the statement.
        noun: &'static str,
    },
    /// The bytes are no such statement.
    #[error("the {noun} cannot be read: {problem}")]
    Unreadable {
        /// The word for the statement.
        noun: &'static str,
        /// What is wrong, at which place.
        problem: String,
    },
}

impl<T: Statement> Signed<T> {
    /// Verifies the signature (strictly, RFC 8032 with small-order points refused) under this key and reads the
    /// statement.
    ///
    /// # Errors
    /// When it was made with another key, was altered, or is not a canonical statement of this kind.
    pub fn verify(&self, expected: &OrganizationPublicKey) -> Result<T, SignedError> {
        if self.key != *expected {
            return Err(SignedError::OtherKey {
                noun: T::NOUN,
                found: self.key.fingerprint(),
                expected: expected.fingerprint(),
            });
        }
        if !expected.verify(&message::<T>(&self.body), &self.signature) {
            return Err(SignedError::BadSignature { noun: T::NOUN });
        }
        self.read_unverified()
    }

    /// Reads the statement without asking who made it. Never decide anything on it.
    ///
    /// # Errors
    /// When it is not a canonical statement of this kind.
    pub fn read_unverified(&self) -> Result<T, SignedError> {
        let unreadable = |problem: String| SignedError::Unreadable { noun: T::NOUN, problem };
        if self.body.len() > MAX_STATEMENT_BYTES {
            return Err(unreadable(format!("it is longer than {MAX_STATEMENT_BYTES} bytes")));
        }
        let statement: T = serde_json::from_slice(&self.body).map_err(|error| unreadable(error.to_string()))?;
        match canonical(&statement) {
            Ok(bytes) if bytes == self.body => Ok(statement),
            Ok(_) => Err(unreadable("it is not in canonical form".into())),
            Err(error) => Err(unreadable(error)),
        }
    }

    /// The digest of the signed bytes: the statement's name.
    #[must_use]
    pub fn digest(&self) -> Digest {
        Digest::of(&self.body)
    }

    /// The key that claims to have signed.
    #[must_use]
    pub fn key(&self) -> &OrganizationPublicKey {
        &self.key
    }

    /// Signs a statement.
    ///
    /// # Errors
    /// When the statement cannot be written as canonical JSON or is too long.
    #[cfg(feature = "open")]
    pub fn sign(statement: &T, key: &crate::key::OrganizationKey) -> Result<Self, SignedError> {
        let unreadable = |problem: String| SignedError::Unreadable { noun: T::NOUN, problem };
        let body = canonical(statement).map_err(unreadable)?;
        if body.len() > MAX_STATEMENT_BYTES {
            return Err(unreadable(format!("it is longer than {MAX_STATEMENT_BYTES} bytes")));
        }
        let signature = key.sign(&message::<T>(&body));
        Ok(Self { body, signature, key: key.public(), statement: PhantomData })
    }
}

#[cfg(feature = "schema")]
impl<T> utoipa::PartialSchema for Signed<T> {
    fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::Schema> {
        use utoipa::openapi::schema::{AdditionalProperties, KnownFormat, ObjectBuilder, SchemaFormat, Type};
        let base64 = |what, max_bytes: usize| {
            ObjectBuilder::new()
                .schema_type(Type::String)
                .format(Some(SchemaFormat::KnownFormat(KnownFormat::Byte)))
                .max_length(Some(max_bytes.div_ceil(3) * 4))
                .description(Some(what))
        };
        ObjectBuilder::new()
            .description(Some("A statement with its signature (Ed25519, RFC 8032) and the key that made it."))
            .property("body", base64("The statement's canonical JSON (RFC 8785), in base64.", MAX_STATEMENT_BYTES))
            .property("signature", base64("Its signature, 64 bytes in base64.", 64))
            .property("key", base64("The public key, 32 bytes in base64.", 32))
            .required("body")
            .required("signature")
            .required("key")
            .additional_properties(Some(AdditionalProperties::FreeForm(false)))
            .into()
    }
}

#[cfg(feature = "schema")]
impl<T> utoipa::ToSchema for Signed<T> {
    fn name() -> std::borrow::Cow<'static, str> {
        std::borrow::Cow::Borrowed("Signed")
    }
}

fn canonical<T: Serialize>(statement: &T) -> Result<Vec<u8>, String> {
    serde_json_canonicalizer::to_vec(statement).map_err(|error| error.to_string())
}

pub(crate) fn message<T: Statement>(body: &[u8]) -> Vec<u8> {
    let mut message = Vec::with_capacity(T::DOMAIN.len() + 1 + body.len());
    message.extend_from_slice(T::DOMAIN.as_bytes());
    message.push(0);
    message.extend_from_slice(body);
    message
}
