//! Ways in that vantage6's published advisories and our own list of escalations tell of: one test each.
//!
//! Told elsewhere, where the rest of the subject is tested:
//!
//! | advisory | what | test |
//! |---|---|---|
//! | GHSA-99r4-cjp4-3hmx | a collaboration's administrator pulls organizations in | `escalation::a_collaborations_administrator_pulls_nobody_in_and_reaches_no_other` |
//! | GHSA-36gx-9q6h-g429, GHSA-45gq-q4xh-cp53 | answers or their time tell which users exist | `log_in::every_failed_log_in_has_the_same_answer` |
//! | GHSA-4w59-c3gc-rrhp | refresh tokens live for ever | `log_in::a_refresh_token_is_good_once_and_its_second_use_ends_the_log_in` |
//! | GHSA-fgmc-2hqj-86v4 | the first user's password is `root` | `process::the_first_start_makes_up_a_password_and_keeps_it_private` |
//! | GHSA-rjmv-52mp-gjrr | unencrypted input in an encrypted collaboration | `task::inputs_are_encrypted_where_the_collaboration_is_and_nowhere_else` |
//! | – | `delete_dependents=False` deletes | `administration::false_as_text_deletes_no_dependents` |
//! | – | an algorithm's token outlives its run | `run::an_algorithms_token_lives_as_long_as_its_run` |
//! | – | a node reports on another node's run, or registers its ports | `run::only_the_node_of_a_run_reports_on_it`, `twin::only_a_runs_node_registers_its_ports_and_only_algorithms_ask_for_addresses` |
//! | – | a large body of a stranger | `conventions::a_body_beyond_the_limit_is_refused` |
//!
//! GHSA-vc3v-ppc7-v486 (images with a made-up parent), GHSA-w9h2-px87-74vx (variables of algorithms) and
//! GHSA-x9f6-9rvm-mmrg (files of other algorithms) are about nodes and tested there: `admission`, `environment` in
//! `protocol`, `sandbox`. GHSA-5m22-cfq9-86x6 (pickle) and GHSA-2wgc-48g2-cj5w (SSH in images) have no counterpart here.

use std::sync::atomic::Ordering;

use axum::http::Method;
use data_encoding::BASE64URL_NOPAD;
use serde_json::{Value, json};

use crate::ledger::federation::{Federation, PASSWORD, id};

const SECOND: i64 = 1_000_000;
const VIEW_OWN_ORGANIZATION: i64 = 21;
const VIEW_COLLABORATION: i64 = 14;
const VIEW_TASKS_OF_COLLABORATION: i64 = 29;
const COLLABORATION_ADMIN: i64 = 7;

/// A user of the first organization who holds these rules and no role.
async fn user_with(federation: &Federation, name: &str, rules: &[i64]) -> String {
    let body = json!({
        "username": name, "password": PASSWORD, "email": format!("{name}@example.org"),
        "organization_id": federation.members[0].organization, "rules": rules,
    });
    federation.post(&federation.root, "/user", body).await.expect(201);
    federation.log_in(name).await
}

/// GHSA-gc57-xhh5-m94r (CVE-2023-41882): who saw a collaboration saw its tasks.
#[tokio::test]
async fn who_sees_a_collaboration_does_not_thereby_see_its_tasks() {
    let federation = Federation::new(2, false).await;
    let task = id(&federation.task(&[0, 1]).await);
    let collaboration = federation.collaboration;
    let viewer = user_with(&federation, "viewer", &[VIEW_COLLABORATION]).await;
    federation.get(&viewer, &format!("/collaboration/{collaboration}")).await.expect(200);
    for path in [
        format!("/task?collaboration_id={collaboration}"),
        format!("/task/{task}"),
        format!("/task/{task}/status"),
        format!("/run?collaboration_id={collaboration}"),
        format!("/run?task_id={task}"),
        format!("/result?task_id={task}"),
    ] {
        federation.get(&viewer, &path).await.expect(401);
    }
    federation.get(&viewer, &format!("/collaboration/{collaboration}/task")).await.expect(404);
}

/// GHSA-rf54-7qrr-96j6 (CVE-2023-41881): the tasks of a deleted collaboration turned up in the next one of its id.
#[tokio::test]
async fn what_was_in_a_deleted_collaboration_is_gone_and_its_id_is_not_given_again() {
    let federation = Federation::new(2, false).await;
    let root = federation.root.as_str();
    let task = id(&federation.task(&[0, 1]).await);
    let run = id(&federation.run(task, 0).await);
    let (collaboration, node) = (federation.collaboration, federation.members[0].node);
    federation.delete(root, &format!("/collaboration/{collaboration}?delete_dependents=true")).await.expect(200);
    for path in [
        format!("/collaboration/{collaboration}"),
        format!("/task/{task}"),
        format!("/run/{run}"),
        format!("/result/{run}"),
        format!("/node/{node}"),
    ] {
        federation.get(root, &path).await.expect(404);
    }
    for path in ["/task", "/run", "/result"] {
        assert_eq!(federation.get(root, path).await.headers["total-count"], "0", "{path}");
    }
    let organizations: Vec<i64> = federation.members.iter().map(|member| member.organization).collect();
    let (next, members) = federation.add_collaboration("next", &organizations, false).await;
    assert!(next > collaboration && members[0].node > node);
    assert_eq!(federation.get(&members[0].researcher, "/task").await.headers["total-count"], "0");
}

/// GHSA-vvjv-97j8-94xh (CVE-2023-22738): a user took their rights along into another organization.
#[tokio::test]
async fn a_user_stays_in_their_organization_and_a_role_in_its_own() {
    let federation = Federation::new(2, false).await;
    let root = federation.root.as_str();
    let [ours, theirs] = [federation.members[0].organization, federation.members[1].organization];
    let user = federation.add_user("somebody", ours, &[5]).await;
    let body = json!({"organization_id": theirs, "firstname": "moved"});
    let after = federation.patch(root, &format!("/user/{user}"), body).await.expect(200);
    assert_eq!((&after["organization"]["id"], &after["firstname"]), (&json!(ours), &json!("moved")));

    let body = json!({"name": "ours", "rules": [], "organization_id": ours});
    let role = id(&federation.post(root, "/role", body).await.expect(201));
    federation.patch(root, &format!("/role/{role}"), json!({"organization_id": theirs})).await.expect(400);
    assert_eq!(federation.get(root, &format!("/role/{role}")).await.expect(200)["organization"]["id"], ours);
    let node = federation.members[0].node;
    federation.patch(root, &format!("/node/{node}"), json!({"organization_id": theirs})).await.expect(400);
}

/// GHSA-7x94-6g2m-3hp2 (CVE-2023-28635): a thing named like another's id was taken for it.
#[tokio::test]
async fn nothing_is_named_like_an_id() {
    let federation = Federation::new(1, false).await;
    let root = federation.root.as_str();
    let (organization, collaboration) = (federation.members[0].organization, federation.collaboration);
    for (path, body) in [
        ("/organization", json!({"name": "1"})),
        ("/collaboration", json!({"name": "1", "organization_ids": [organization], "encrypted": false})),
        ("/study", json!({"name": "1", "organization_ids": [organization], "collaboration_id": collaboration})),
        ("/role", json!({"name": "1", "rules": [], "organization_id": organization})),
        ("/user", json!({"username": "123", "password": PASSWORD, "email": "a@example.org"})),
    ] {
        let answer = federation.post(root, path, body).await.expect(400);
        assert_eq!(answer["code"], "invalid_body", "{path}: {answer}");
    }
    let node = format!("/node/{}", federation.members[0].node);
    federation.patch(root, &node, json!({"name": "1"})).await.expect(400);
}

/// GHSA-4946-85pr-fvxh (CVE-2024-23823): any page could ask with whatever a browser sends by itself.
#[tokio::test]
async fn a_foreign_page_has_nothing_that_a_browser_would_send_by_itself() {
    let federation = Federation::new(1, false).await;
    let origin = [("origin", "https://elsewhere.example")];
    let preflight = [
        ("origin", "https://elsewhere.example"),
        ("access-control-request-method", "DELETE"),
        ("access-control-request-headers", "cookie"),
    ];
    let log_in = json!({"username": "root", "password": PASSWORD});
    for answer in [
        federation.ask(Method::GET, "/rule", None, None, &origin).await,
        federation.ask(Method::GET, "/rule", Some(&federation.root), None, &origin).await,
        federation.ask(Method::POST, "/token/user", None, Some(log_in), &origin).await,
        federation.ask(Method::OPTIONS, "/user/1", None, None, &preflight).await,
    ] {
        assert_eq!(answer.headers["access-control-allow-origin"], "*", "the origin is never echoed");
        assert!(!answer.headers.contains_key("access-control-allow-credentials"));
        assert!(!answer.headers.contains_key("set-cookie"));
    }
    // A token counts in its header only.
    let path = format!("/rule?access_token={}", federation.root);
    federation.ask(Method::GET, &path, None, None, &[("cookie", &federation.root)]).await.expect(401);
}

/// Tokens are signed with a secret of one's own and one algorithm, whatever their header says (RFC 8725 §2.1).
#[tokio::test]
async fn a_token_counts_only_under_our_own_signature() {
    let federation = Federation::new(1, false).await;
    let other = Federation::new(1, false).await;
    let root = federation.root.as_str();
    federation.get(root, "/rule").await.expect(200);
    let [header, payload, signature] = root.split('.').collect::<Vec<_>>()[..] else { panic!("no token: {root}") };
    let with_header =
        |algorithm: &str| BASE64URL_NOPAD.encode(json!({"alg": algorithm, "typ": "JWT"}).to_string().as_bytes());
    let claims: Value = serde_json::from_slice(&BASE64URL_NOPAD.decode(payload.as_bytes()).unwrap()).unwrap();
    let stretched = {
        let mut claims = claims.clone();
        claims["exp"] = json!(9_999_999_999_i64);
        BASE64URL_NOPAD.encode(claims.to_string().as_bytes())
    };
    let mut forged: Vec<String> = ["none", "None", "NONE", "HS512", "RS256", "EdDSA"]
        .into_iter()
        .flat_map(|algorithm| {
            let header = with_header(algorithm);
            [format!("{header}.{payload}."), format!("{header}.{payload}.{signature}")]
        })
        .collect();
    forged.push(format!("{header}.{stretched}.{signature}"));
    forged.push(format!("{header}.{payload}."));
    // Signed well, by somebody else.
    forged.push(other.root.clone());
    for token in forged {
        let answer = federation.get(&token, "/rule").await;
        assert!(matches!(answer.body["code"].as_str(), Some("token_invalid" | "token_malformed")), "{}", answer.body);
        answer.expect(422);
    }
}

/// A token says who somebody was when it was made; whether they still are is asked each time.
#[tokio::test]
async fn a_token_ends_with_its_owner() {
    let federation = Federation::new(1, false).await;
    let root = federation.root.as_str();
    let organization = federation.members[0].organization;
    let user = federation.add_user("leaving", organization, &[5]).await;
    let body = json!({"username": "leaving", "password": PASSWORD});
    let pair = federation.ask(Method::POST, "/token/user", None, Some(body), &[]).await.expect(200);
    let token = pair["access_token"].as_str().unwrap();
    federation.get(token, "/task").await.expect(200);
    federation.delete(root, &format!("/user/{user}")).await.expect(200);
    assert_eq!(federation.get(token, "/task").await.expect(401)["code"], "token_owner_gone");
    let refresh = pair["refresh_token"].as_str();
    federation.ask(Method::POST, "/token/refresh", refresh, None, &[]).await.expect(401);

    let node = &federation.members[0];
    federation.get(&node.node_token, "/task").await.expect(200);
    federation.delete(root, &format!("/node/{}", node.node)).await.expect(200);
    assert_eq!(federation.get(&node.node_token, "/task").await.expect(401)["code"], "token_owner_gone");
}

/// GHSA-4w59-c3gc-rrhp (CVE-2023-23929): refresh tokens had no end.
#[tokio::test]
async fn a_refresh_token_ends_after_two_days() {
    let federation = Federation::new(1, false).await;
    let log_in = json!({"username": "root", "password": PASSWORD});
    let pair = federation.ask(Method::POST, "/token/user", None, Some(log_in), &[]).await.expect(200);
    federation.clock.fetch_add(48 * 3600 * SECOND, Ordering::Relaxed);
    let refresh = pair["refresh_token"].as_str();
    let answer = federation.ask(Method::POST, "/token/refresh", refresh, None, &[]).await;
    assert_eq!(answer.expect(401)["code"], "token_expired");
}

/// Nesting shows nothing that asking for it would not.
#[tokio::test]
async fn what_is_nested_is_seen_by_the_rules_of_what_it_is() {
    let federation = Federation::new(2, false).await;
    let task = id(&federation.task(&[0, 1]).await);
    let collaboration = federation.collaboration;
    let viewer = user_with(&federation, "viewer", &[VIEW_TASKS_OF_COLLABORATION]).await;
    federation.get(&viewer, "/task").await.expect(200);
    federation.get(&viewer, &format!("/task/{task}")).await.expect(200);
    for include in ["runs", "results", "runs,results"] {
        federation.get(&viewer, &format!("/task?include={include}")).await.expect(401);
        federation.get(&viewer, &format!("/task/{task}?include={include}")).await.expect(401);
    }
    federation.get(&viewer, &format!("/task/{task}?include=results&include=runs")).await.expect(401);

    let rules = [VIEW_COLLABORATION, VIEW_OWN_ORGANIZATION];
    let narrow = user_with(&federation, "narrow", &rules).await;
    let answer = federation.get(&narrow, &format!("/collaboration/{collaboration}?include=organizations")).await;
    let shown: Vec<i64> = answer.expect(200)["organizations"].as_array().unwrap().iter().map(id).collect();
    assert_eq!(shown, [federation.members[0].organization]);
    let answer = federation.get(&narrow, "/collaboration?include=organizations").await.expect(200);
    assert_eq!(answer["data"][0]["organizations"].as_array().unwrap().len(), 1);
}

/// Filters tell nothing of what lists do not show.
#[tokio::test]
async fn a_foreign_id_in_a_filter_finds_nothing() {
    let federation = Federation::new(1, false).await;
    let strangers = federation.add_organizations("stranger", 1).await;
    let (elsewhere, members) = federation.add_collaboration("elsewhere", &strangers, false).await;
    let body = json!({
        "name": "theirs", "image": "registry.example.org/image:1", "collaboration_id": elsewhere,
        "organizations": [{"id": strangers[0], "input": crate::ledger::federation::plain()}],
    });
    let task = federation.post(&members[0].researcher, "/task", body).await.expect(201);
    let (task, job) = (id(&task), &task["job_id"]);
    let runs = federation.get(&federation.root, &format!("/run?task_id={task}")).await.expect(200);
    let run = id(&runs["data"][0]);
    let me = &federation.members[0].researcher;
    for path in [
        format!("/run?task_id={task}"),
        format!("/result?task_id={task}"),
        format!("/task?run_id={run}"),
        format!("/task?job_id={job}"),
        format!("/task?parent_id={task}"),
        "/task?name=theirs".into(),
        format!("/organization?ids={}", strangers[0]),
        format!("/run?node_id={}", members[0].node),
        "/collaboration?name=elsewhere".into(),
        "/node?name=%25elsewhere%25".into(),
        "/user?username=elsewhere-%25".into(),
    ] {
        let answer = federation.get(me, &path).await;
        assert_eq!(answer.headers["total-count"], "0", "{path}: {}", answer.body);
        answer.expect(200);
    }
    for path in [
        format!("/task?collaboration_id={elsewhere}"),
        format!("/task?init_org_id={}", strangers[0]),
        format!("/run?collaboration_id={elsewhere}"),
        format!("/run?organization_id={}", strangers[0]),
        format!("/result?collaboration_id={elsewhere}"),
        format!("/peer?collaboration_id={elsewhere}"),
        format!("/task/{task}"),
        format!("/task/{task}/status"),
        format!("/run/{run}"),
        format!("/result/{run}"),
    ] {
        federation.get(me, &path).await.expect(401);
    }
}

/// Secrets of users and nodes are in no answer.
#[tokio::test]
async fn no_list_shows_a_secret() {
    let federation = Federation::new(1, false).await;
    let root = federation.root.as_str();
    for user in federation.get(root, "/user?per_page=99").await.expect(200)["data"].as_array().unwrap() {
        assert_eq!(user["otp_secret"], Value::Null);
        assert!(user.get("password").is_none());
        let one = federation.get(root, &format!("/user/{}?include_permissions=1", id(user))).await.expect(200);
        assert_eq!(one["otp_secret"], Value::Null);
    }
    for node in federation.get(root, "/node?per_page=99").await.expect(200)["data"].as_array().unwrap() {
        assert!(node.get("api_key").is_none(), "{node}");
    }
}

/// A collaboration's administrator may change its organizations, but not in whose name they speak.
#[tokio::test]
async fn a_public_key_is_replaced_by_members_only() {
    let federation = Federation::new(2, false).await;
    let [us, them] = [&federation.members[0], &federation.members[1]];
    federation.add_user("admin", us.organization, &[COLLABORATION_ADMIN]).await;
    let admin = federation.log_in("admin").await;
    let theirs = format!("/organization/{}", them.organization);
    let key = json!({"public_key": us.key.public().to_api()});
    federation.patch(&admin, &theirs, json!({"domain": "example.org"})).await.expect(200);
    assert_eq!(federation.patch(&admin, &theirs, key.clone()).await.expect(401)["code"], "not_a_member");
    // Nor does the root user, who is of another organization.
    federation.patch(&federation.root, &theirs, key.clone()).await.expect(401);
    federation.patch(&us.node_token, &theirs, key.clone()).await.expect(401);
    // Not along with something allowed either: nothing of the request happens.
    let both = json!({"domain": "taken.example", "public_key": us.key.public().to_api()});
    federation.patch(&admin, &theirs, both).await.expect(401);
    let after = federation.get(&admin, &theirs).await.expect(200);
    assert_eq!((&after["domain"], &after["public_key"]), (&json!("example.org"), &json!(them.key.public().to_api())));
}

/// An algorithm speaks for its own run: its token is worth nothing for others and makes no other image's task.
#[tokio::test]
async fn an_algorithm_asks_in_nobody_elses_name() {
    let federation = Federation::new(2, false).await;
    let task = id(&federation.task(&[0, 1]).await);
    let container = federation.container(0, task).await;
    let mut body = federation.task_body(&[1]);
    body["image"] = json!("registry.example.org/another:1");
    federation.post(&container, "/task", body).await.expect(401);
    let run = id(&federation.run(task, 0).await);
    federation.patch(&container, &format!("/run/{run}"), json!({"status": "completed"})).await.expect(401);
    federation.post(&container, "/port", json!({"run_id": run, "port": 5000})).await.expect(401);
    let token = json!({"task_id": task, "image": crate::ledger::federation::IMAGE});
    federation.post(&container, "/token/container", token).await.expect(401);
    federation.post(&container, "/kill/task", json!({"id": task})).await.expect(401);
    federation.delete(&container, &format!("/task/{task}")).await.expect(401);
}
