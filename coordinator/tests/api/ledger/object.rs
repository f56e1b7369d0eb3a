//! Payloads that are kept outside of the rows.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, Method, StatusCode};
use futures::StreamExt as _;
use serde_json::{Value, json};
use twinmesh_coordinator::config::{Config, Size, Span};
use twinmesh_protocol::digest::Digest;
use twinmesh_protocol::id::{CollaborationId, OrganizationId};
use twinmesh_protocol::manifest::{MANIFEST_VERSION, Nonce, Receiver, TaskManifest};
use twinmesh_protocol::payload::to_text;
use twinmesh_protocol::signed::Signed;
use twinmesh_protocol::wire::{TaskDatabase, write_repr_digest};

use super::federation::{DEADLINE, Federation, IMAGE, Message, PASSWORD, id, plain};
use crate::bucket::{environment, is_bucket, objects, stored};
use crate::daemon::{Connection, Daemon, request};
use crate::database::can_be_shared;

const DAY: Duration = Duration::from_secs(24 * 3600);
const MIB: usize = 1 << 20;

/// Base64 text of this length, other for each seed.
fn text(length: usize, seed: u32) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9) | 1;
    (0..length)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 17;
            state ^= state << 5;
            b'A' + (state % 26) as u8
        })
        .collect()
}

fn sealed_bytes(length: usize) -> Vec<u8> {
    [b"\x89TMS\x01".as_slice(), &text(length, 7)].concat()
}

/// A body that comes in pieces, as from a network.
fn in_pieces(content: &[u8]) -> Body {
    let pieces: Vec<_> =
        content.chunks(100_000).map(|piece| Ok::<_, std::io::Error>(Bytes::copy_from_slice(piece))).collect();
    Body::from_stream(futures::stream::iter(pieces))
}

/// A body that breaks off at its end.
fn broken(content: &[u8]) -> Body {
    let pieces: Vec<_> = content.chunks(100_000).map(|piece| Ok(Bytes::copy_from_slice(piece))).collect();
    let end = futures::stream::iter([Err(std::io::Error::other("the sender went away"))]);
    Body::from_stream(futures::stream::iter(pieces).chain(end))
}

/// A body that nobody may ask for.
fn untouchable() -> Body {
    Body::from_stream(futures::stream::poll_fn(|_| -> std::task::Poll<Option<Result<Bytes, std::io::Error>>> {
        panic!("the body was read")
    }))
}

fn json(bytes: &Bytes) -> Value {
    serde_json::from_slice(bytes).unwrap_or_default()
}

async fn upload(federation: &Federation, token: &str, content: &[u8]) -> String {
    let (status, _, body) = federation.send(Method::POST, "/blobstream", token, &[], in_pieces(content)).await;
    assert_eq!(status, StatusCode::CREATED, "{body:?}");
    json(&body)["uuid"].as_str().unwrap().to_owned()
}

async fn download(federation: &Federation, token: &str, uuid: &str) -> (StatusCode, HeaderMap, Bytes) {
    federation.send(Method::GET, &format!("/blobstream/{uuid}"), token, &[], Body::empty()).await
}

/// Log-ins that outlast what the clock does.
fn patient(config: &mut Config) {
    config.tokens.access_for = Span(1000 * DAY);
    config.tokens.refresh_for = Span(2000 * DAY);
}

/// A task whose inputs are these, one for each member.
async fn task_with(federation: &Federation, inputs: &[&str]) -> super::federation::Answer {
    let mut body = federation.task_body(&(0..inputs.len()).collect::<Vec<_>>());
    for (at, input) in inputs.iter().enumerate() {
        body["organizations"][at]["input"] = (*input).into();
    }
    federation.post(&federation.members[0].researcher, "/task", body).await
}

#[tokio::test]
async fn a_payload_comes_down_as_it_went_up_whole_or_in_part() {
    let federation = Federation::new(1, false).await;
    let token = &federation.members[0].researcher;
    let content = text(9 * MIB + 17, 1);
    let uuid = upload(&federation, token, &content).await;
    let (status, headers, body) = download(&federation, token, &uuid).await;
    assert_eq!(status, StatusCode::OK);
    assert!(body == content, "what comes down is what went up");
    assert_eq!(headers["content-type"], "application/octet-stream");
    assert_eq!(headers["content-disposition"], format!("attachment; filename=\"{uuid}\""));
    assert_eq!(headers["content-length"], content.len().to_string());
    assert_eq!(headers["etag"], format!("\"{}\"", Digest::of(&content)));
    assert_eq!(headers["repr-digest"], write_repr_digest(Digest::of(&content)));

    let path = format!("/blobstream/{uuid}");
    let tag = headers["etag"].to_str().unwrap().to_owned();
    for (range, from, to) in [
        ("bytes=0-9", 0, 10),
        ("bytes=4194300-4194310", 4_194_300, 4_194_311),
        ("bytes=100-8999999", 100, 9_000_000),
        ("bytes=-17", 9 * MIB, 9 * MIB + 17),
        ("bytes=9437180-", 9_437_180, 9 * MIB + 17),
    ] {
        let asked = [("range", range), ("if-range", tag.as_str())];
        let (status, headers, body) = federation.send(Method::GET, &path, token, &asked, Body::empty()).await;
        assert_eq!(status, StatusCode::PARTIAL_CONTENT, "{range}");
        assert_eq!(headers["content-range"], format!("bytes {from}-{}/{}", to - 1, content.len()));
        assert!(body == content[from..to], "{range}");
    }
    let changed = [("range", "bytes=0-9"), ("if-range", "\"other\"")];
    let (status, _, body) = federation.send(Method::GET, &path, token, &changed, Body::empty()).await;
    assert_eq!((status, body.len()), (StatusCode::OK, content.len()));
    let beyond = [("range", "bytes=9437201-")];
    let (status, headers, _) = federation.send(Method::GET, &path, token, &beyond, Body::empty()).await;
    assert_eq!(status, StatusCode::RANGE_NOT_SATISFIABLE);
    assert_eq!(headers["content-range"], format!("bytes */{}", content.len()));
    let known = [("if-none-match", tag.as_str())];
    let (status, _, body) = federation.send(Method::GET, &path, token, &known, Body::empty()).await;
    assert_eq!((status, body.len()), (StatusCode::NOT_MODIFIED, 0));

    let empty = upload(&federation, token, b"").await;
    let (status, _, body) = download(&federation, token, &empty).await;
    assert_eq!((status, body.len()), (StatusCode::OK, 0));
}

#[tokio::test]
async fn stock_clients_are_told_to_keep_payloads_inline_unless_the_operator_says_otherwise() {
    for stock_clients in [false, true] {
        let set = |config: &mut Config| config.objects.stock_clients = stock_clients;
        let federation = Federation::with(1, false, set).await;
        let member = &federation.members[0];
        for token in [&federation.root, &member.researcher, &member.node_token] {
            let answer = federation.get(token, "/blobstream/status").await.expect(200);
            assert_eq!(answer, json!({"blob_store_enabled": stock_clients}));
        }
    }
}

#[tokio::test]
async fn a_payload_is_seen_by_who_sees_its_run_and_before_by_who_uploaded_it() {
    let federation = Federation::new(2, false).await;
    let (_, elsewhere) = federation.add_collaboration("elsewhere", &[federation.members[0].organization], false).await;
    let strangers = federation.add_organizations("stranger", 1).await;
    let (_, strangers) = federation.add_collaboration("strange", &strangers, false).await;
    let [first, second] = [&federation.members[0], &federation.members[1]];
    let uuid = upload(&federation, &first.researcher, &text(1000, 1)).await;
    let status = async |token: &str| download(&federation, token, &uuid).await.0.as_u16();
    assert_eq!(status(&first.researcher).await, 200);
    for token in [&federation.root, &second.researcher, &first.node_token, &strangers[0].researcher] {
        assert_eq!(status(token).await, 404);
    }
    let task = task_with(&federation, &[&plain(), &uuid]).await.expect(201);
    let container = federation.container(1, id(&task)).await;
    for token in [&federation.root, &first.researcher, &second.node_token, &container] {
        assert_eq!(status(token).await, 200);
    }
    for token in [&strangers[0].researcher, &strangers[0].node_token, &elsewhere[0].node_token] {
        assert_eq!(status(token).await, 404);
    }
    let unknown = "00000000-0000-4000-8000-000000000000";
    assert_eq!(download(&federation, &federation.root, unknown).await.0, StatusCode::NOT_FOUND);
    assert_eq!(download(&federation, &federation.root, "no-uuid").await.0, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn an_upload_goes_on_where_it_broke_off() {
    let federation = Federation::new(2, false).await;
    let [token, other] = [0, 1].map(|at| &federation.members[at].node_token);
    let content = text(10 * MIB, 2);
    let digest = write_repr_digest(Digest::of(&content));
    let begin = [("upload-complete", "?0")];
    let (status, headers, body) = federation.send(Method::POST, "/blobstream", token, &begin, Body::empty()).await;
    assert_eq!(status, StatusCode::CREATED);
    let uuid = json(&body)["uuid"].as_str().unwrap().to_owned();
    let path = format!("/blobstream/upload/{uuid}");
    assert_eq!(headers["location"], format!("/api{path}"));
    let progress = async |token: &str| {
        let (status, headers, _) = federation.send(Method::HEAD, &path, token, &[], Body::empty()).await;
        let header = |name| headers.get(name).map(|value| value.to_str().unwrap().to_owned()).unwrap_or_default();
        (status.as_u16(), header("upload-offset"), header("upload-complete"))
    };
    assert_eq!(progress(token).await, (200, "0".into(), "?0".into()));
    assert_eq!(progress(other).await.0, 404, "an upload is its sender's own");

    let at = |offset: usize| vec![("upload-offset".to_owned(), offset.to_string())];
    let patch = async |token: &str, headers: Vec<(String, String)>, body: Body| {
        let headers: Vec<_> = headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        federation.send(Method::PATCH, &path, token, &headers, body).await
    };
    // What arrived before the break is kept, to the last byte.
    let part = 5 * MIB + 10;
    let (status, ..) = patch(token, at(0), broken(&content[..part])).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    assert_eq!(progress(token).await, (200, part.to_string(), "?0".into()));
    assert_eq!(download(&federation, token, &uuid).await.0, StatusCode::NOT_FOUND, "half a payload is none");

    assert_eq!(patch(other, at(part), in_pieces(&content[part..])).await.0, StatusCode::NOT_FOUND);
    let (status, headers, _) = patch(token, at(0), in_pieces(&content)).await;
    assert_eq!((status, headers["upload-offset"].to_str().unwrap()), (StatusCode::CONFLICT, &*part.to_string()));
    assert_eq!(patch(token, Vec::new(), untouchable()).await.0, StatusCode::BAD_REQUEST);
    let (status, headers, _) = patch(token, at(part), in_pieces(&content[part..7 * MIB])).await;
    assert_eq!((status, headers["upload-complete"].to_str().unwrap()), (StatusCode::OK, "?0"));
    let mut last = at(7 * MIB);
    last.extend([("upload-complete".into(), "?1".into()), ("repr-digest".into(), digest)]);
    let (status, headers, body) = patch(token, last.clone(), in_pieces(&content[7 * MIB..])).await;
    assert_eq!((status, headers["upload-complete"].to_str().unwrap()), (StatusCode::OK, "?1"));
    assert_eq!(json(&body)["uuid"], uuid);
    assert_eq!(progress(token).await, (200, content.len().to_string(), "?1".into()));
    let (status, headers, _) = patch(token, last, untouchable()).await;
    assert_eq!((status, headers["upload-complete"].to_str().unwrap()), (StatusCode::CONFLICT, "?1"));
    assert!(download(&federation, token, &uuid).await.2 == content);
}

#[tokio::test]
async fn what_does_not_hash_to_what_was_announced_is_not_kept() {
    let federation = Federation::with(1, false, patient).await;
    let token = &federation.members[0].researcher;
    let digest = write_repr_digest(Digest::of(b"something else"));
    let headers = [("upload-complete", "?1"), ("repr-digest", digest.as_str())];
    let (status, _, body) =
        federation.send(Method::POST, "/blobstream", token, &headers, in_pieces(&text(100, 1))).await;
    assert_eq!((status, json(&body)["code"].as_str().unwrap()), (StatusCode::BAD_REQUEST, "digest_mismatch"));
    let headers = [("repr-digest", "sha-256=nonsense")];
    let (status, ..) = federation.send(Method::POST, "/blobstream", token, &headers, untouchable()).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    federation.pass(2 * DAY);
    let tidied = federation.tidy().await;
    assert_eq!((tidied.objects, tidied.segments), (0, 1), "no object was left, its piece goes");
    assert_eq!(stored(federation.directory.path()).await, 0);
}

#[tokio::test]
async fn strangers_and_what_is_too_large_are_refused_before_anything_is_read() {
    let limit = |config: &mut Config| config.objects.limit = Size(MIB as u64);
    let federation = Federation::with(1, false, limit).await;
    let token = &federation.members[0].researcher;
    // The contract's answer to what is no token at all.
    let (status, ..) = federation.send(Method::POST, "/blobstream", "no token", &[], untouchable()).await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY);
    let headers = [("content-length", "1048577")];
    let (status, ..) = federation.send(Method::POST, "/blobstream", token, &headers, untouchable()).await;
    assert_eq!(status, StatusCode::PAYLOAD_TOO_LARGE);
    // Who does not say how much comes is stopped at the limit.
    let (status, ..) = federation.send(Method::POST, "/blobstream", token, &[], in_pieces(&text(MIB + 1, 1))).await;
    assert_eq!(status, StatusCode::PAYLOAD_TOO_LARGE);
    upload(&federation, token, &text(MIB, 1)).await;

    // Viewers ask nothing of anybody, so they have nothing to upload.
    federation.add_user("viewer", federation.members[0].organization, &[4]).await;
    let viewer = federation.log_in("viewer").await;
    let (status, ..) = federation.send(Method::POST, "/blobstream", &viewer, &[], untouchable()).await;
    assert_eq!(status, StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn an_organization_uploads_only_so_much_that_it_does_not_use() {
    let little = |config: &mut Config| {
        config.objects.limit = Size(MIB as u64);
        config.objects.pending = Size(MIB as u64);
    };
    let federation = Federation::with(2, false, little).await;
    let [first, second] = [0, 1].map(|at| &federation.members[at].researcher);
    let uuid = upload(&federation, first, &text(MIB, 1)).await;
    let (status, _, body) = federation.send(Method::POST, "/blobstream", first, &[], untouchable()).await;
    assert_eq!(status, StatusCode::PAYLOAD_TOO_LARGE);
    assert_eq!(json(&body)["code"], "uploads_pending");
    upload(&federation, second, &text(MIB, 2)).await;
    task_with(&federation, &[&uuid]).await.expect(201);
    upload(&federation, first, &text(MIB, 3)).await;
}

/// Begins an upload, of which nothing is there yet.
async fn begin(federation: &Federation, token: &str) -> (StatusCode, String, Bytes) {
    let headers = [("upload-complete", "?0")];
    let (status, _, body) = federation.send(Method::POST, "/blobstream", token, &headers, Body::empty()).await;
    (status, format!("/blobstream/upload/{}", json(&body)["uuid"].as_str().unwrap_or_default()), body)
}

#[tokio::test]
async fn uploads_that_were_begun_in_time_bring_no_more_than_others() {
    let little = |config: &mut Config| {
        config.objects.limit = Size(6 * MIB as u64);
        config.objects.pending = Size(6 * MIB as u64);
    };
    let federation = Federation::with(2, false, little).await;
    let token = &federation.members[0].node_token;
    let mut paths = Vec::new();
    for _ in 0..3 {
        paths.push(begin(&federation, token).await.1);
    }
    let start = [("upload-offset", "0")];
    let content = text(5 * MIB, 1);
    let (status, ..) = federation.send(Method::PATCH, &paths[0], token, &start, in_pieces(&content)).await;
    assert_eq!(status, StatusCode::OK);
    // There is a megabyte left, and nothing is kept of what brings more at once.
    let (status, _, body) = federation.send(Method::PATCH, &paths[1], token, &start, in_pieces(&content)).await;
    assert_eq!(status, StatusCode::PAYLOAD_TOO_LARGE);
    assert_eq!(json(&body)["code"], "uploads_pending");
    let (status, ..) = federation.send(Method::PATCH, &paths[1], token, &start, in_pieces(&content[..MIB])).await;
    assert_eq!(status, StatusCode::OK);
    let (status, _, body) = federation.send(Method::PATCH, &paths[2], token, &start, untouchable()).await;
    assert_eq!(status, StatusCode::PAYLOAD_TOO_LARGE);
    assert_eq!(json(&body)["code"], "uploads_pending");
    // Whoever only says that this was all brings nothing.
    let offset = MIB.to_string();
    let end = [("upload-offset", offset.as_str()), ("upload-complete", "?1"), ("content-length", "0")];
    let (status, ..) = federation.send(Method::PATCH, &paths[1], token, &end, Body::empty()).await;
    assert_eq!(status, StatusCode::OK);
    let (status, ..) = begin(&federation, &federation.members[1].node_token).await;
    assert_eq!(status, StatusCode::CREATED, "others have their own");
}

#[tokio::test]
async fn an_organization_begins_only_so_many_uploads_at_a_time() {
    let federation = Federation::with(2, false, |config| config.objects.open_uploads = 1).await;
    let token = &federation.members[0].node_token;
    let (_, first, _) = begin(&federation, token).await;
    let (status, ..) = begin(&federation, &federation.members[0].researcher).await;
    assert_eq!(status, StatusCode::CREATED, "inputs and results do not keep each other out");
    let (status, _, body) = begin(&federation, token).await;
    assert_eq!(status, StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(json(&body)["code"], "too_many_uploads");
    let (status, ..) = begin(&federation, &federation.members[1].node_token).await;
    assert_eq!(status, StatusCode::CREATED, "others have their own");
    let end = [("upload-offset", "0"), ("upload-complete", "?1")];
    let (status, ..) = federation.send(Method::PATCH, &first, token, &end, Body::empty()).await;
    assert_eq!(status, StatusCode::OK);
    let (status, ..) = begin(&federation, token).await;
    assert_eq!(status, StatusCode::CREATED);
}

#[tokio::test]
async fn an_upload_that_pauses_for_too_long_is_broken_off_and_keeps_what_came() {
    let hasty = |config: &mut Config| config.objects.idle = Span(Duration::from_secs(1));
    let federation = Federation::with(1, false, hasty).await;
    let token = &federation.members[0].node_token;
    let begin = [("upload-complete", "?0")];
    let (_, _, body) = federation.send(Method::POST, "/blobstream", token, &begin, Body::empty()).await;
    let path = format!("/blobstream/upload/{}", json(&body)["uuid"].as_str().unwrap());
    let pieces = futures::stream::iter([Ok::<_, std::io::Error>(Bytes::from_static(b"AAAA"))]);
    let stalled = Body::from_stream(pieces.chain(futures::stream::pending()));
    let (status, ..) = federation.send(Method::PATCH, &path, token, &[("upload-offset", "0")], stalled).await;
    assert_eq!(status, StatusCode::REQUEST_TIMEOUT);
    let (_, headers, _) = federation.send(Method::HEAD, &path, token, &[], Body::empty()).await;
    assert_eq!(headers["upload-offset"], "4");
    let (status, ..) = federation.send(Method::DELETE, &path, token, &[], Body::empty()).await;
    assert_eq!(status, StatusCode::NO_CONTENT);
    let (status, ..) = federation.send(Method::HEAD, &path, token, &[], Body::empty()).await;
    assert_eq!(status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn an_input_may_be_a_whole_upload_of_ones_own_organization() {
    let federation = Federation::new(2, false).await;
    let [first, second] = [&federation.members[0], &federation.members[1]];
    let content = text(5 * MIB, 1);
    let uuid = upload(&federation, &first.researcher, &content).await;
    let foreign = upload(&federation, &second.researcher, &content).await;
    let begin = [("upload-complete", "?0")];
    let (_, _, body) =
        federation.send(Method::POST, "/blobstream", &first.researcher, &begin, in_pieces(&content)).await;
    let half = json(&body)["uuid"].as_str().unwrap().to_owned();
    for unknown in [foreign.as_str(), &half, "00000000-0000-4000-8000-000000000000"] {
        let answer = task_with(&federation, &[unknown]).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{}", answer.body);
        assert_eq!(answer.body["code"], "payload_unknown");
    }
    let task = task_with(&federation, &[&plain(), &uuid]).await.expect(201);
    let runs = [federation.run(id(&task), 0).await, federation.run(id(&task), 1).await];
    assert_eq!((&runs[0]["input"], &runs[0]["blob_storage_used"]), (&plain().into(), &false.into()));
    assert_eq!((&runs[1]["input"], &runs[1]["blob_storage_used"]), (&uuid.clone().into(), &true.into()));
    assert!(download(&federation, &second.node_token, &uuid).await.2 == content);
    // The same again for another task, and the same content under its own name.
    let again = upload(&federation, &first.researcher, &content).await;
    task_with(&federation, &[&again, &uuid]).await.expect(201);
    let malformed = upload(&federation, &first.researcher, b"{\"method\": \"m\"}").await;
    assert_eq!(task_with(&federation, &[&malformed]).await.body["code"], "input_malformed");
    let sealed = upload(&federation, &first.researcher, &sealed_bytes(100)).await;
    assert_eq!(task_with(&federation, &[&sealed]).await.body["code"], "input_encrypted");
}

#[tokio::test]
async fn an_upload_is_sealed_where_the_collaboration_is_encrypted_and_what_the_manifest_says() {
    let federation = Federation::new(2, true).await;
    let [asking, receiving] = [&federation.members[0], &federation.members[1]];
    let content = sealed_bytes(6 * MIB);
    let uuid = upload(&federation, &asking.researcher, &content).await;
    let ask = async |input: &str, digest: Digest| {
        let manifest = TaskManifest {
            version: MANIFEST_VERSION,
            collaboration_id: CollaborationId::new(federation.collaboration),
            image: IMAGE.into(),
            function: "m".into(),
            databases: vec![TaskDatabase { label: "default".into(), parameters: "{}".into() }],
            receivers: vec![Receiver {
                organization_id: OrganizationId::new(receiving.organization),
                input_sha256: digest,
            }],
            initiator: OrganizationId::new(asking.organization),
            user_id: None,
            parent: None,
            delegation: None,
            nonce: Nonce::new([7; 16]),
            issued_at: 1_800_000_000,
            not_after: 1_800_003_600,
        };
        let mut body = federation.task_body(&[1]);
        body["organizations"][0]["input"] = input.into();
        body["manifest"] = serde_json::to_value(Signed::sign(&manifest, &asking.key).unwrap()).unwrap();
        federation.post(&asking.researcher, "/task", body).await
    };
    for (bytes, code) in [(text(100, 1), "input_not_encrypted"), (vec![0; 100], "input_malformed")] {
        let bad = upload(&federation, &asking.researcher, &bytes).await;
        assert_eq!(ask(&bad, Digest::of(&bytes)).await.body["code"], code);
    }
    // As text a sealed payload goes into the row.
    let written = to_text(&sealed_bytes(10)).into_bytes();
    let bad = upload(&federation, &asking.researcher, &written).await;
    assert_eq!(ask(&bad, Digest::of(&written)).await.body["code"], "input_malformed");
    for digest in [Digest::of(uuid.as_bytes()), Digest::of(b"other")] {
        let answer = ask(&uuid, digest).await;
        assert_eq!(answer.body["code"], "manifest_refused");
        assert!(answer.msg().contains("input"), "{}", answer.msg());
    }
    let task = ask(&uuid, Digest::of(&content)).await.expect(201);
    assert_eq!(id(&ask(&uuid, Digest::of(&content)).await.expect(200)), id(&task), "asked again");

    let run = federation.run(id(&task), 1).await;
    let open = upload(&federation, &receiving.node_token, &text(100, 3)).await;
    let answer = federation.report(1, &run, json!({"status": "completed", "result": open})).await;
    assert_eq!(answer.body["code"], "result_not_encrypted");
    let result = upload(&federation, &receiving.node_token, &content).await;
    federation.report(1, &run, json!({"status": "completed", "result": result})).await.expect(200);
}

#[tokio::test]
async fn a_result_may_be_a_whole_upload_of_the_nodes_organization() {
    let federation = Federation::new(2, false).await;
    let task = federation.task(&[0, 1]).await;
    let [first, second] = [federation.run(id(&task), 0).await, federation.run(id(&task), 1).await];
    let foreign = upload(&federation, &federation.members[0].node_token, &text(100, 1)).await;
    let answer = federation.report(1, &second, json!({"status": "completed", "result": foreign})).await;
    assert_eq!((answer.status, answer.body["code"].as_str()), (StatusCode::BAD_REQUEST, Some("payload_unknown")));
    let sealed = upload(&federation, &federation.members[1].node_token, &sealed_bytes(100)).await;
    let answer = federation.report(1, &second, json!({"status": "completed", "result": sealed})).await;
    assert_eq!(answer.body["code"], "result_encrypted");

    let content = text(5 * MIB, 2);
    let uuid = upload(&federation, &federation.members[1].node_token, &content).await;
    federation.report(1, &second, json!({"status": "completed", "result": uuid})).await.expect(200);
    federation.report(0, &first, json!({"status": "completed", "result": plain()})).await.expect(200);
    let results = federation.get(&federation.root, &format!("/result?task_id={}", id(&task))).await.expect(200);
    let kept = |run: &Value| {
        let result = results["data"].as_array().unwrap().iter().find(|result| result["id"] == run["id"]).unwrap();
        (result["result"].clone(), result["blob_storage_used"].clone())
    };
    assert_eq!(kept(&first), (plain().into(), false.into()));
    assert_eq!(kept(&second), (uuid.clone().into(), true.into()));
    assert_eq!(federation.run(id(&task), 1).await["blob_storage_used"], false, "of a run that is its input");
    let body = download(&federation, &federation.members[0].researcher, &uuid).await.2;
    assert!(body == content);
    // What a run has cannot be taken back.
    let path = format!("/blobstream/upload/{uuid}");
    let (status, ..) =
        federation.send(Method::DELETE, &path, &federation.members[1].node_token, &[], Body::empty()).await;
    assert_eq!(status, StatusCode::CONFLICT);
}

#[tokio::test]
async fn equal_content_is_kept_once_and_for_as_long_as_somebody_needs_it() {
    let federation = Federation::with(1, false, patient).await;
    let token = &federation.members[0].researcher;
    let content = text(9 * MIB, 1);
    let first = upload(&federation, token, &content).await;
    let second = upload(&federation, token, &content).await;
    let directory = federation.directory.path();
    assert_eq!(stored(directory).await, 3);
    let first_task = task_with(&federation, &[&first]).await.expect(201);
    let second_task = task_with(&federation, &[&second]).await.expect(201);
    federation.pass(2 * DAY);
    assert_eq!(federation.tidy().await.objects, 0, "what a run has stays");

    federation.delete(&federation.root, &format!("/task/{}", id(&first_task))).await.expect(200);
    let tidied = federation.tidy().await;
    assert_eq!((tidied.objects, tidied.segments), (1, 0));
    assert_eq!(download(&federation, &federation.root, &first).await.0, StatusCode::NOT_FOUND);
    assert!(download(&federation, &federation.root, &second).await.2 == content);

    federation.delete(&federation.root, &format!("/task/{}", id(&second_task))).await.expect(200);
    let tidied = federation.tidy().await;
    assert_eq!((tidied.objects, tidied.segments), (1, 0), "who reads it now reads it to its end");
    assert_eq!(stored(directory).await, 3);
    federation.pass(DAY);
    assert_eq!(federation.tidy().await.segments, 3);
    assert_eq!(stored(directory).await, 0);
    // What was removed can come again.
    let third = upload(&federation, token, &content).await;
    assert!(download(&federation, token, &third).await.2 == content);
}

#[tokio::test]
async fn uploads_that_nobody_uses_or_ends_are_removed_after_a_while() {
    let federation = Federation::with(1, false, patient).await;
    let token = &federation.members[0].researcher;
    let unused = upload(&federation, token, &text(100, 1)).await;
    let begin = [("upload-complete", "?0")];
    let (_, _, body) = federation.send(Method::POST, "/blobstream", token, &begin, in_pieces(&text(100, 2))).await;
    let path = format!("/blobstream/upload/{}", json(&body)["uuid"].as_str().unwrap());
    federation.pass(DAY / 2);
    assert_eq!(federation.tidy().await.objects, 0);
    // Whoever goes on with an upload still wants it.
    let (status, ..) =
        federation.send(Method::PATCH, &path, token, &[("upload-offset", "100")], in_pieces(&text(50, 2))).await;
    assert_eq!(status, StatusCode::OK);
    federation.pass(DAY / 2 + Duration::from_secs(60));
    assert_eq!(federation.tidy().await.objects, 1);
    assert_eq!(download(&federation, token, &unused).await.0, StatusCode::NOT_FOUND);
    assert_eq!(task_with(&federation, &[&unused]).await.body["code"], "payload_unknown");
    federation.pass(DAY);
    assert_eq!(federation.tidy().await.objects, 1);
    let (status, ..) = federation.send(Method::HEAD, &path, token, &[], Body::empty()).await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    federation.pass(DAY);
    federation.tidy().await;
    assert_eq!(stored(federation.directory.path()).await, 0);
}

#[tokio::test]
async fn what_a_killed_coordinator_left_half_written_is_swept_and_what_is_being_written_stays() {
    if is_bucket() {
        // Nothing is left in one.
        return;
    }
    let federation = Federation::with(1, false, patient).await;
    let token = &federation.members[0].researcher;
    let content = text(5 * MIB, 1);
    let uuid = upload(&federation, token, &content).await;
    let directory = federation.directory.path().join("objects/sha256");
    let place = std::fs::read_dir(&directory).unwrap().next().unwrap().unwrap().path();
    let segment = std::fs::read_dir(&place).unwrap().next().unwrap().unwrap().path();
    let beside = |ending: &str| std::path::PathBuf::from(format!("{}{ending}", segment.display()));
    let leave = |path: &Path, ago: Duration| {
        let file = std::fs::File::create(path).unwrap();
        let written = file.metadata().unwrap().modified().unwrap();
        file.set_modified(written - ago).unwrap();
    };
    let hour = Duration::from_secs(3600);
    leave(&beside("#1"), hour + Duration::from_secs(1));
    leave(&beside("#22"), 30 * DAY);
    // Younger than an hour, and others' files.
    leave(&beside("#3"), hour / 2);
    leave(&beside("#notes"), 30 * DAY);
    let tidied = federation.tidy().await;
    assert_eq!((tidied.unfinished, tidied.segments), (2, 0));
    let left = ["#1", "#22", "#3", "#notes"].map(|ending| beside(ending).exists());
    assert_eq!(left, [false, false, true, true]);
    assert_eq!(federation.tidy().await.unfinished, 0);
    assert!(download(&federation, token, &uuid).await.2 == content);
    assert!(!federation.directory.path().join("objects/now").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_payload_that_a_task_takes_up_is_not_removed_at_the_same_time() {
    let federation = Arc::new(Federation::with(1, false, patient).await);
    let token = federation.members[0].researcher.clone();
    let mut taken = 0;
    for round in 0..12 {
        let content = text(1000, round + 1);
        let uuid = upload(&federation, &token, &content).await;
        federation.pass(2 * DAY);
        let tidying = {
            let federation = Arc::clone(&federation);
            tokio::spawn(async move {
                federation.tidy().await;
                federation.pass(DAY / 12);
                federation.tidy().await
            })
        };
        // Who comes first differs; the same content comes again while its old piece is being removed.
        let answer = task_with(&federation, &[&uuid]).await;
        let again = upload(&federation, &token, &content).await;
        tidying.await.unwrap();
        match answer.status {
            StatusCode::CREATED => {
                taken += 1;
                assert!(download(&federation, &token, &uuid).await.2 == content, "a task's input is there");
            }
            status => {
                assert_eq!((status, answer.body["code"].as_str()), (StatusCode::BAD_REQUEST, Some("payload_unknown")));
            }
        }
        assert!(download(&federation, &token, &again).await.2 == content);
    }
    federation.pass(2 * DAY);
    federation.tidy().await;
    federation.pass(DAY);
    federation.tidy().await;
    assert_eq!(stored(federation.directory.path()).await, taken, "what no run has is gone, and nothing else");
}

#[tokio::test]
async fn payloads_go_when_they_have_reached_their_age_and_what_happened_stays() {
    let ages = |config: &mut Config| {
        patient(config);
        config.retention.inputs = Some(Span(10 * DAY));
        config.retention.results = Some(Span(30 * DAY));
        config.retention.logs = Some(Span(20 * DAY));
    };
    let federation = Federation::with(2, false, ages).await;
    let token = &federation.members[0].researcher;
    let uuid = upload(&federation, token, &text(100, 1)).await;
    let task = task_with(&federation, &[&uuid, &plain()]).await.expect(201);
    let unfinished = federation.task(&[0]).await;
    let [first, second] = [federation.run(id(&task), 0).await, federation.run(id(&task), 1).await];
    let result = upload(&federation, &federation.members[0].node_token, &text(100, 2)).await;
    let report = json!({"status": "completed", "result": result, "log": "said"});
    federation.report(0, &first, report).await.expect(200);
    let report = json!({"status": "completed", "result": plain(), "log": "said"});
    federation.report(1, &second, report).await.expect(200);
    let is_last = |event: &Message| event.kind == "run_status" && event.data["run_id"] == second["id"];
    let happened = federation.follow(&federation.root, "0").await.until(is_last).await;

    let look = async || {
        let mut seen = Vec::new();
        for member in [0, 1] {
            let run = federation.run(id(&task), member).await;
            let result = federation.get(&federation.root, &format!("/result/{}", id(&run))).await.expect(200);
            assert_eq!(run["cleanup_at"], result["cleanup_at"]);
            let has = |value: &Value| !value.is_null();
            // The contract knows no input that is null.
            let has_input = !run["input"].as_str().unwrap().is_empty();
            seen.push((has_input, has(&result["result"]), has(&run["log"]), has(&run["cleanup_at"])));
        }
        assert_eq!(seen[0], seen[1]);
        seen[0]
    };
    federation.pass(9 * DAY);
    assert_eq!(federation.tidy().await.payloads, 0);
    assert_eq!(look().await, (true, true, true, false));
    federation.pass(2 * DAY);
    assert_eq!(federation.tidy().await.payloads, 2);
    assert_eq!(look().await, (false, true, true, true));
    assert_eq!(federation.run(id(&task), 0).await["blob_storage_used"], false);
    assert_eq!(download(&federation, &federation.root, &uuid).await.0, StatusCode::NOT_FOUND);
    federation.pass(10 * DAY);
    assert_eq!(federation.tidy().await.payloads, 2);
    assert_eq!(look().await, (false, true, false, true));
    assert_eq!(download(&federation, &federation.root, &result).await.0, StatusCode::OK);
    federation.pass(10 * DAY);
    assert_eq!(federation.tidy().await.payloads, 2);
    assert_eq!(look().await, (false, false, false, true));
    assert_eq!(download(&federation, &federation.root, &result).await.0, StatusCode::NOT_FOUND);
    federation.pass(DAY);
    federation.tidy().await;
    assert_eq!(stored(federation.directory.path()).await, 0);

    assert_eq!(federation.status(id(&task)).await, "completed");
    assert_eq!(federation.run(id(&unfinished), 0).await["input"], plain(), "what still runs keeps what it needs");
    let mut events = federation.follow(&federation.root, "0").await;
    assert_eq!(events.until(is_last).await, happened);
    // Whatever came after it would come before this.
    federation.task(&[0]).await;
    assert_eq!(events.next().await.kind, "task_created");
}

#[tokio::test]
async fn another_coordinator_goes_on_with_an_upload() {
    if !can_be_shared() {
        return;
    }
    let first = Federation::new(1, false).await;
    let mut place = objects(first.directory.path());
    place.url.get_or_insert_with(|| format!("file://{}/objects", first.directory.path().display()));
    let second = first.beside(|config| config.objects = place).await;
    let token = &first.members[0].node_token;
    let content = text(9 * MIB, 1);
    let begin = [("upload-complete", "?0")];
    let (_, _, body) = first.send(Method::POST, "/blobstream", token, &begin, in_pieces(&content[..5 * MIB])).await;
    let uuid = json(&body)["uuid"].as_str().unwrap().to_owned();
    let digest = write_repr_digest(Digest::of(&content));
    let rest = [("upload-offset", "5242880"), ("upload-complete", "?1"), ("repr-digest", digest.as_str())];
    let path = format!("/blobstream/upload/{uuid}");
    let (status, _, body) = second.send(Method::PATCH, &path, token, &rest, in_pieces(&content[5 * MIB..])).await;
    assert_eq!(status, StatusCode::OK, "{body:?}");
    assert!(download(&first, token, &uuid).await.2 == content);
}

/// A coordinator as a process of its own, and the first user's token there.
async fn process() -> (Daemon, String) {
    let place = tempfile::tempdir().unwrap();
    let daemon = Daemon::new(None).with("COORDINATOR__ROOT__PASSWORD", PASSWORD);
    let mut daemon = environment(place.path()).iter().fold(daemon, |daemon, (name, value)| daemon.with(name, value));
    daemon.start().await;
    let body = json!({"username": "root", "password": PASSWORD}).to_string();
    let ask = request(Method::POST, "none", "/token/user", &[], Body::from(body));
    let (status, answer) = daemon.connect_later().ask(ask).await.unwrap();
    assert_eq!(status, 200, "{answer}");
    (daemon, answer["access_token"].as_str().unwrap().to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_goes_on_after_the_coordinator_was_killed() {
    let (mut daemon, token) = process().await;
    let content = text(11 * MIB, 1);
    let begin = request(Method::POST, &token, "/blobstream", &[("upload-complete", "?0")], Body::empty());
    let (_, begun) = daemon.connect_later().ask(begin).await.unwrap();
    let path = format!("/blobstream/upload/{}", begun["uuid"].as_str().unwrap());
    let half = futures::stream::iter([Ok::<_, std::io::Error>(Bytes::copy_from_slice(&content[..9 * MIB]))]);
    let stalled = Body::from_stream(half.chain(futures::stream::pending()));
    let sending = {
        let mut connection = daemon.connect_later();
        let ask = request(Method::PATCH, &token, &path, &[("upload-offset", "0")], stalled);
        tokio::spawn(async move { connection.ask(ask).await })
    };
    let progress = async |connection: &mut Connection| {
        let (status, told) = connection.ask(request(Method::GET, &token, &path, &[], Body::empty())).await.unwrap();
        assert_eq!(status, 200, "{told}");
        told["offset"].as_u64().unwrap()
    };
    let mut connection = daemon.connect_later();
    let arrived = async {
        while progress(&mut connection).await < 8 * MIB as u64 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(DEADLINE, arrived).await.expect("two segments arrive");
    daemon.kill().await;
    assert!(sending.await.unwrap().is_none());
    daemon.start().await;
    let mut connection = daemon.connect_later();
    assert_eq!(progress(&mut connection).await, 8 * MIB as u64, "what was told to be there is there");
    let digest = write_repr_digest(Digest::of(&content));
    let rest = [("upload-offset", "8388608"), ("upload-complete", "?1"), ("repr-digest", digest.as_str())];
    let ask = request(Method::PATCH, &token, &path, &rest, Body::from(content[8 * MIB..].to_vec()));
    let (status, answer) = connection.ask(ask).await.unwrap();
    assert_eq!((status, &answer["complete"]), (200, &json!(true)), "{answer}");
    let path = format!("/blobstream/{}", begun["uuid"].as_str().unwrap());
    let response = connection.send(request(Method::GET, &token, &path, &[], Body::empty())).await.unwrap();
    let body = axum::body::to_bytes(Body::new(response.into_body()), usize::MAX).await.unwrap();
    assert!(body == content);
}

/// A figure of a process, in KiB.
fn memory(pid: u32, name: &str) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with(name)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_memory_that_a_payload_takes_does_not_grow_with_it() {
    let (daemon, token) = process().await;
    let mut connection = daemon.connect_later();
    let mut pass = async |mebibytes: usize| {
        // Every piece is another one, so that all of them are stored.
        let pieces = (0..mebibytes).map(move |number| {
            let mut piece = vec![b'A'; MIB];
            piece[..8].copy_from_slice(format!("{mebibytes:03}x{number:04}").as_bytes());
            Ok::<_, std::io::Error>(Bytes::from(piece))
        });
        let body = Body::from_stream(futures::stream::iter(pieces));
        let (status, answer) = connection.ask(request(Method::POST, &token, "/blobstream", &[], body)).await.unwrap();
        assert_eq!(status, 201, "{answer}");
        let path = format!("/blobstream/{}", answer["uuid"].as_str().unwrap());
        let response = connection.send(request(Method::GET, &token, &path, &[], Body::empty())).await.unwrap();
        let mut body = Body::new(response.into_body()).into_data_stream();
        let mut length = 0;
        while let Some(piece) = body.next().await {
            length += piece.unwrap().len();
        }
        assert_eq!(length, mebibytes * MIB);
    };
    // What is made once is not counted.
    pass(16).await;
    let pid = daemon.pid();
    // The peak is counted from here on (proc_pid_clear_refs(5)).
    std::fs::write(format!("/proc/{pid}/clear_refs"), "5").unwrap();
    let before = memory(pid, "VmRSS:");
    pass(128).await;
    let grown = memory(pid, "VmHWM:").saturating_sub(before) / 1024;
    assert!(grown < 32, "128 MiB up and down took {grown} MiB more");
}
