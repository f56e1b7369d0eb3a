//! The keys and vectors beside this file were made with Python's `cryptography` 48.0, the library of stock clients:
//!
//! ```python
//! import base64, json, sys
//! from cryptography.hazmat.primitives import serialization as s
//! from cryptography.hazmat.primitives.asymmetric import rsa, padding
//! from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
//!
//! b64 = lambda b: base64.b64encode(b).decode()
//! private = rsa.generate_private_key(public_exponent=65537, key_size=4096)
//! write = lambda name, data: open(name, "wb").write(data)
//! pem = lambda form: private.private_bytes(s.Encoding.PEM, form, s.NoEncryption())
//! write("private_pkcs1.pem", pem(s.PrivateFormat.TraditionalOpenSSL))
//! write("private_pkcs8.pem", pem(s.PrivateFormat.PKCS8))
//! write("private_passphrase.pem", private.private_bytes(
//!     s.Encoding.PEM, s.PrivateFormat.TraditionalOpenSSL, s.BestAvailableEncryption(b"secret")))
//! public = private.public_key()
//! write("public.pem", public.public_bytes(s.Encoding.PEM, s.PublicFormat.SubjectPublicKeyInfo))
//!
//! def envelope(content, wrap=lambda key: key, iv=bytes(range(200, 216))):
//!     key = bytes(range(32))
//!     cipher = Cipher(algorithms.AES(key), modes.CTR(iv)).encryptor()
//!     message = cipher.update(content) + cipher.finalize()
//!     return "$".join([b64(public.encrypt(wrap(key), padding.PKCS1v15())), b64(iv), b64(message)])
//!
//! task = b'{"method": "summary", "args": [], "kwargs": {"columns": ["\\u00e5ge"]}}'
//! json.dump({
//!     "input": {"content": task.decode(), "envelope": envelope(task)},
//!     "empty": {"content": "", "envelope": envelope(b"")},
//!     "key_as_text": {"content": task.decode(), "envelope": envelope(task, lambda key: b64(key).encode())},
//!     "counter_wraps": {"content": task.decode(), "envelope": envelope(task, iv=bytes([255] * 16))},
//!     "content_as_text": {"content": b64(task), "envelope": envelope(b64(task).encode())},
//! }, open("vectors.json", "w"), indent=1)
//! ```
//!
//! For the other direction the same library, given [`SEALED_HERE`], answered with [`SEALED_HERE_CONTENT`]:
//!
//! ```python
//! key, iv, message = map(base64.b64decode, SEALED_HERE.split("$"))
//! private = s.load_pem_private_key(open("private_pkcs1.pem", "rb").read(), None)
//! cipher = Cipher(algorithms.AES(private.decrypt(key, padding.PKCS1v15())), modes.CTR(iv)).decryptor()
//! print(cipher.update(message) + cipher.finalize())
//! ```

use proptest::prelude::*;
use serde_json::Value;

use super::*;
use crate::key::{KeyError, OrganizationKey, PrivateKey, PublicKey};
use crate::payload::{PayloadForm, classify};

const PRIVATE: &str = include_str!("private_pkcs1.pem");
const PUBLIC: &str = include_str!("public.pem");
const SEALED_HERE: &str = include_str!("sealed_here.txt");
const SEALED_HERE_CONTENT: &[u8] = "{\"method\": \"summary\", \"kwargs\": {\"columns\": [\"åge\"]}}".as_bytes();

fn private(text: &str) -> RsaKey {
    match PrivateKey::from_pem(text).unwrap() {
        PrivateKey::Rsa(key) => key,
        PrivateKey::Ed25519(_) => panic!("an RSA key was expected"),
    }
}

fn key() -> RsaKey {
    private(PRIVATE)
}

fn public() -> RsaPublicKey {
    match PublicKey::from_pem(PUBLIC).unwrap() {
        PublicKey::Rsa(key) => key,
        PublicKey::Ed25519(_) => panic!("an RSA key was expected"),
    }
}

/// A vector's content and envelope.
fn vector(name: &str) -> (Vec<u8>, String) {
    let vectors: Value = serde_json::from_str(include_str!("vectors.json")).unwrap();
    let text = |field: &str| vectors[name][field].as_str().unwrap().to_owned();
    (text("content").into_bytes(), text("envelope"))
}

#[test]
fn keys_of_stock_clients_read_in_both_forms_and_the_public_half_is_theirs_byte_for_byte() {
    for text in [PRIVATE, include_str!("private_pkcs8.pem"), &PRIVATE.replace('\n', "\r\n")] {
        let key = private(text);
        assert_eq!(key.public().pem(), PUBLIC);
        assert_eq!(key.public(), &public());
        assert_eq!(open(&key, &vector("input").1).unwrap(), vector("input").0);
    }
}

#[test]
fn a_text_is_kept_as_it_came_although_the_key_is_the_same() {
    let text = PUBLIC.trim_end().replace('\n', "\r\n");
    let PublicKey::Rsa(other) = PublicKey::from_pem(&text).unwrap() else { panic!("an RSA key was expected") };
    assert_eq!(other.pem(), text);
    assert_eq!(other, public());
    assert_eq!(other.fingerprint(), public().fingerprint());
    assert_eq!(PublicKey::from_api(&PublicKey::Rsa(other.clone()).to_api()).unwrap(), PublicKey::Rsa(other.clone()));
    let json = serde_json::to_string(&PublicKey::Rsa(other)).unwrap();
    let PublicKey::Rsa(read) = serde_json::from_str(&json).unwrap() else { panic!("an RSA key was expected") };
    assert_eq!(read.pem(), text);
}

#[test]
fn what_needs_a_passphrase_is_said_to() {
    let result = PrivateKey::from_pem(include_str!("private_passphrase.pem"));
    assert_eq!(result.err(), Some(KeyError::Passphrase));
}

#[test]
fn no_private_key_shows_in_logs() {
    assert_eq!(format!("{:?}", PrivateKey::Rsa(key())), "Rsa(RsaKey([redacted]))");
}

#[test]
fn envelopes_of_the_stock_client_open() {
    for name in ["input", "empty", "counter_wraps", "key_as_text", "content_as_text"] {
        let (content, envelope) = vector(name);
        assert_eq!(classify(&envelope), PayloadForm::Vantage6Envelope, "{name}");
        assert_eq!(open(&key(), &envelope).unwrap(), content, "{name}");
        assert_eq!(open_text(&key(), &envelope).unwrap(), content, "{name}");
    }
}

#[test]
fn what_the_browser_wrote_twice_in_base64_is_read_once_more_and_nothing_else() {
    let (task, _) = vector("input");
    let (as_text, _) = vector("content_as_text");
    assert_eq!(input_of_browser(as_text), task);
    for content in [&b"{\"a\": NaN}"[..], b"", b"12", b"\"aGVsbG8=\"", b"aGVsbG8=", &[0xff, 0xfe]] {
        assert_eq!(input_of_browser(content.to_vec()), content);
    }
}

#[test]
fn an_envelope_has_the_lengths_of_the_contract() {
    let envelope = seal(&public(), b"content").unwrap();
    let lengths: Vec<usize> = envelope.split('$').map(str::len).collect();
    assert_eq!(lengths, [684, 24, 12]);
    assert_ne!(envelope, seal(&public(), b"content").unwrap());
}

#[test]
fn the_same_key_and_counter_give_the_stock_client_s_bytes() {
    let counter: [u8; 16] = std::array::from_fn(|at| 200 + at as u8);
    for (name, iv) in [("input", counter), ("counter_wraps", [255; 16])] {
        let (content, theirs) = vector(name);
        let ours = seal_with(&public(), &content, &std::array::from_fn(|at| at as u8), &iv).unwrap();
        // What follows the encrypted key, whose padding is random.
        assert_eq!(ours[684..], theirs[684..], "{name}");
        assert_eq!(open(&key(), &ours).unwrap(), content, "{name}");
    }
}

#[test]
fn an_envelope_that_the_stock_client_s_library_opened_opens() {
    assert_eq!(open(&key(), SEALED_HERE.trim()).unwrap(), SEALED_HERE_CONTENT);
}

#[test]
fn what_was_made_for_another_key_is_told_apart_only_where_nobody_watches() {
    // Valid padding around a key that is none, and no valid padding at all.
    let short = seal_raw(&[1; 31]);
    let mut garbled: Vec<u8> = STANDARD.decode(short.split('$').next().unwrap()).unwrap();
    garbled[300] ^= 1;
    let garbled = format!("{}{}", STANDARD.encode(garbled), &short[684..]);
    for envelope in [&short, &garbled] {
        assert_eq!(open(&key(), envelope), Err(EnvelopeError::CannotOpen));
        assert_eq!(open_text(&key(), envelope), Err(EnvelopeError::CannotOpen));
    }
    // A wrong key opens to garbage, which is no text; so does one that cannot be opened, and each time to the same.
    let wrong = format!("{}{}", &seal_raw(&[1; 32])[..684], &vector("input").1[684..]);
    assert!(std::str::from_utf8(&open(&key(), &wrong).unwrap()).is_err());
    assert_eq!(open_text(&key(), &wrong), Err(EnvelopeError::CannotOpen));
    let encrypted = STANDARD.decode(&garbled[..684]).unwrap();
    assert_eq!(key().rejection(&encrypted), key().rejection(&encrypted));
    assert_ne!(key().rejection(&encrypted), key().rejection(&encrypted[1..]));
}

/// An envelope around a key of any length.
fn seal_raw(content_key: &[u8]) -> String {
    let receiver = Pkcs1PublicEncryptingKey::new(PublicEncryptingKey::from_der(public().der()).unwrap()).unwrap();
    let mut encrypted = vec![0; receiver.ciphertext_size()];
    let encrypted = receiver.encrypt(content_key, &mut encrypted).unwrap();
    format!("{}${}${}", STANDARD.encode(encrypted), STANDARD.encode([0; 16]), STANDARD.encode([7; 200]))
}

#[test]
fn texts_that_are_no_envelope_are_refused() {
    let (_, envelope) = vector("input");
    let parts: Vec<&str> = envelope.split('$').collect();
    for text in [
        String::new(),
        "$$".into(),
        "eyJtZXRob2QiOiAibSJ9".into(),
        parts[..2].join("$"),
        format!("{envelope}$"),
        format!("{}$AAAA${}", parts[0], parts[2]),
        format!("*{}", &envelope[1..]),
    ] {
        assert_eq!(open(&key(), &text), Err(EnvelopeError::NotAnEnvelope), "{text}");
        assert_eq!(open_text(&key(), &text), Err(EnvelopeError::NotAnEnvelope), "{text}");
    }
    let short = format!("{}${}${}", STANDARD.encode([1; 256]), parts[1], parts[2]);
    assert_eq!(open(&key(), &short), Err(EnvelopeError::CannotOpen));
}

#[test]
fn an_ed25519_key_is_not_taken_for_an_rsa_key() {
    let key = PrivateKey::Ed25519(OrganizationKey::from_seed(&[1; 32]));
    let PrivateKey::Ed25519(ed25519) = &key else { panic!("made so") };
    assert_eq!(key.public().ed25519(), Some(ed25519.public()));
    assert_eq!(PublicKey::Rsa(public()).ed25519(), None);
    assert_ne!(key.public(), PublicKey::Rsa(public()));
}

proptest! {
    // Private RSA operations take milliseconds.
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn whatever_is_sealed_opens(content in prop::collection::vec(any::<u8>(), 0..5000)) {
        let envelope = seal(&public(), &content).unwrap();
        prop_assert_eq!(classify(&envelope), PayloadForm::Vantage6Envelope);
        prop_assert_eq!(open(&key(), &envelope).unwrap(), content);
    }

    #[test]
    fn altered_envelopes_are_refused_or_differ_and_never_panic(at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let (content, envelope) = vector("input");
        let mut altered = envelope.clone().into_bytes();
        let at = at.index(altered.len());
        altered[at] = byte;
        if let Ok(altered) = String::from_utf8(altered) && altered != envelope {
            prop_assert_ne!(open(&key(), &altered).ok(), Some(content.clone()));
            prop_assert_ne!(open_text(&key(), &altered).ok(), Some(content));
        }
    }

    #[test]
    fn cut_envelopes_never_open_whole(at in any::<prop::sample::Index>()) {
        let (content, envelope) = vector("input");
        let cut = &envelope[..at.index(envelope.len())];
        prop_assert_ne!(open(&key(), cut).ok(), Some(content.clone()));
        prop_assert_ne!(open_text(&key(), cut).ok(), Some(content));
    }

    #[test]
    fn garbage_never_panics(text in "[A-Za-z0-9+/=$]{0,2000}", bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = open(&key(), &text);
        let _ = open_text(&key(), &text);
        let _ = PrivateKey::from_pem(&text);
        let _ = PrivateKey::from_pem(&format!("-----BEGIN RSA PRIVATE KEY-----\n{}\n-----END RSA PRIVATE KEY-----\n", STANDARD.encode(&bytes)));
        let _ = PublicKey::from_pem(&format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", STANDARD.encode(&bytes)));
        let _ = input_of_browser(bytes);
    }
}
