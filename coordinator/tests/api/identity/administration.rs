//! Organizations, collaborations, studies, users and roles, from creation to removal (contract A.7.1 to A.7.6).

use axum::http::Method;
use serde_json::{Value, json};
use twinmesh_protocol::key::OrganizationKey;

use crate::ledger::federation::{Federation, PASSWORD, id};

fn ids(list: &Value) -> Vec<i64> {
    list.as_array().unwrap().iter().map(id).collect()
}

#[tokio::test]
async fn an_organization_is_made_changed_and_removed() {
    let federation = Federation::new(1, false).await;
    let root = federation.root.as_str();
    let body = json!({"name": "new", "country": "NL", "address1": null, "public_key": null});
    let made = federation.post(root, "/organization", body.clone()).await.expect(201);
    assert_eq!((&made["public_key"], &made["address1"]), (&json!(""), &Value::Null));
    let again = federation.post(root, "/organization", body).await;
    assert_eq!(again.msg(), "Organization with name 'new' already exists!");
    again.expect(400);
    let path = format!("/organization/{}", id(&made));
    let changed = federation.patch(root, &path, json!({"domain": "new.example", "name": null})).await.expect(200);
    assert_eq!(
        (&changed["name"], &changed["domain"], &changed["country"]),
        (&json!("new"), &json!("new.example"), &json!("NL"))
    );
    federation.delete(root, &path).await.expect(200);
    federation.get(root, &path).await.expect(404);
}

#[tokio::test]
async fn a_public_key_is_kept_byte_for_byte_and_its_change_is_told() {
    let federation = Federation::new(2, true).await;
    let [first, second] = [&federation.members[0], &federation.members[1]];
    let path = format!("/organization/{}", first.organization);
    federation.add_user("keeper", first.organization, &[6]).await;
    let keeper = federation.log_in("keeper").await;
    let mut events = federation.follow(&second.node_token, "latest").await;
    let key = OrganizationKey::generate().public().to_api();
    let kept = federation.patch(&keeper, &path, json!({"public_key": key})).await.expect(200);
    assert_eq!(kept["public_key"], key.as_str());
    let told = events.until(|event| event.kind == "key_changed").await;
    assert_eq!(told.last().unwrap().data["organization_id"], first.organization);

    // The same key again changes nothing and tells nobody.
    federation.patch(&first.node_token, &path, json!({"public_key": key})).await.expect(200);
    assert!(events.arrived().iter().all(|event| event.kind != "key_changed"));
    // Not even root may speak for another organization.
    let other = OrganizationKey::generate().public().to_api();
    federation.patch(&federation.root, &path, json!({"public_key": other})).await.expect(401);
    federation.patch(&second.node_token, &path, json!({"public_key": other})).await.expect(401);
}

#[tokio::test]
async fn a_collaboration_lists_and_nests_its_organizations() {
    let federation = Federation::new(2, false).await;
    let root = federation.root.as_str();
    let path = format!("/collaboration/{}", federation.collaboration);
    let plain = federation.get(root, &path).await.expect(200);
    let link = format!("/api/organization?collaboration_id={}", federation.collaboration);
    assert_eq!((&plain["organizations"], &plain["encrypted"]), (&json!(link), &json!(false)));
    let nested = federation.get(root, &format!("{path}?include=organizations")).await.expect(200);
    assert_eq!(ids(&nested["organizations"]), [2, 3]);
    let seen = federation.get(&federation.members[0].researcher, &format!("{path}?include=organizations")).await;
    assert_eq!(ids(&seen.expect(200)["organizations"]), [2, 3]);

    let more = federation.add_organizations("late", 1).await[0];
    let listed = federation.post(root, &format!("{path}/organization"), json!({"id": more})).await.expect(200);
    assert_eq!(ids(&listed), [2, 3, more]);
    for (body, status) in [
        (json!({"name": "main", "organization_ids": [2], "encrypted": true}), 400),
        (json!({"name": "x", "organization_ids": [], "encrypted": true}), 400),
        (json!({"name": "x", "organization_ids": [2, 2], "encrypted": true}), 400),
        (json!({"name": "x", "organization_ids": [999], "encrypted": true}), 400),
        (json!({"name": "x", "organization_ids": [2]}), 400),
        (json!({"name": "x", "organization_ids": [2], "encrypted": true}), 200),
    ] {
        federation.post(root, "/collaboration", body).await.expect(status);
    }
    let encrypted = federation.get(root, "/collaboration?encrypted=true").await.expect(200);
    assert_eq!(encrypted["data"][0]["name"], "x");
}

#[tokio::test]
async fn a_change_leaves_a_name_alone_that_it_does_not_mention() {
    let federation = Federation::new(1, false).await;
    let root = federation.root.as_str();
    let long = |letter: &str| letter.repeat(128);
    let organization = id(&federation.post(root, "/organization", json!({"name": long("o")})).await.expect(201));
    let body = json!({"name": long("c"), "organization_ids": [organization], "encrypted": false});
    let collaboration = id(&federation.post(root, "/collaboration", body).await.expect(200));
    let body = json!({"collaboration_id": collaboration, "organization_id": organization});
    let node = federation.post(root, "/node", body).await.expect(201);
    // Nobody chose it, so it may be longer than what people may choose.
    let name = format!("{} - {} Node", long("o"), long("c"));
    assert_eq!(node["name"], name);
    let path = format!("/node/{}", id(&node));
    let changed = federation.patch(root, &path, json!({"ip": "192.0.2.1"})).await.expect(200);
    assert_eq!((&changed["name"], &changed["ip"]), (&json!(name), &json!("192.0.2.1")));
    for name in ["", "7", &"x".repeat(129)] {
        let refused = federation.patch(root, &path, json!({"name": name})).await.expect(400);
        assert!(refused["errors"]["name"][0].is_string(), "{refused}");
    }
    let path = format!("/collaboration/{collaboration}");
    assert_eq!(federation.patch(root, &path, json!({"encrypted": true})).await.expect(200)["name"], long("c"));
}

#[tokio::test]
async fn names_hold_no_control_characters() {
    let federation = Federation::new(1, false).await;
    let (root, organization) = (federation.root.as_str(), federation.members[0].organization);
    let forged = "a\n2027-01-15T08:00:00Z  INFO user logged in";
    let user = |first: &str, last: &str, email: &str| {
        json!({
            "username": "ann", "firstname": first, "lastname": last, "password": "Correct-Horse-1", "email": email,
            "organization_id": organization,
        })
    };
    let mut task = federation.task_body(&[0]);
    task["name"] = json!(forged);
    let collaboration = federation.collaboration;
    for (path, field, body) in [
        ("/user", "firstname", user(forged, "b", "a@x.example")),
        ("/user", "lastname", user("a", forged, "a@x.example")),
        ("/user", "email", user("a", "b", "a\u{1b}@x.example")),
        ("/role", "name", json!({"name": forged, "rules": []})),
        ("/organization", "name", json!({"name": forged})),
        ("/collaboration", "name", json!({"name": forged, "organization_ids": [organization], "encrypted": false})),
        (
            "/study",
            "name",
            json!({"name": forged, "collaboration_id": collaboration, "organization_ids": [organization]}),
        ),
        ("/algorithmstore", "name", json!({"name": forged, "algorithm_store_url": "https://store.example/api"})),
        ("/task", "name", task),
    ] {
        let refused = federation.post(root, path, body).await.expect(400);
        assert!(refused["errors"][field].is_array(), "{path}: {refused}");
    }
    let found = federation.get(root, "/user?username=root").await.expect(200);
    for (path, field) in [
        (format!("/node/{}", federation.members[0].node), "name"),
        (format!("/organization/{organization}"), "name"),
        (format!("/collaboration/{collaboration}"), "name"),
        (format!("/user/{}", id(&found["data"][0])), "firstname"),
    ] {
        let refused = federation.patch(root, &path, json!({field: "a\u{7f}b"})).await.expect(400);
        assert!(refused["errors"][field].is_array(), "{path}: {refused}");
    }
}

#[tokio::test]
async fn false_as_text_deletes_no_dependents() {
    let federation = Federation::new(1, false).await;
    let root = federation.root.as_str();
    let task = federation.task(&[0]).await;
    let path = format!("/collaboration/{}", federation.collaboration);
    for query in ["", "?delete_dependents=False", "?delete_dependents=0", "?delete_dependents="] {
        federation.delete(root, &format!("{path}{query}")).await.expect(400);
    }
    let organization = format!("/organization/{}", federation.members[0].organization);
    federation.delete(root, &format!("{organization}?delete_dependents=False")).await.expect(400);
    federation.get(root, &format!("/task/{}", id(&task))).await.expect(200);

    federation.delete(root, &format!("{path}?delete_dependents=True")).await.expect(200);
    federation.get(root, &format!("/task/{}", id(&task))).await.expect(404);
    federation.get(root, &format!("/node/{}", federation.members[0].node)).await.expect(404);
    federation.delete(root, &format!("{organization}?delete_dependents=true")).await.expect(200);
    federation.get(&federation.members[0].researcher, "/rule").await.expect(401);
}

#[tokio::test]
async fn an_organization_that_leaves_has_no_node_there() {
    let federation = Federation::new(2, false).await;
    let path = format!("/collaboration/{}/organization", federation.collaboration);
    let leaver = &federation.members[1];
    let body = json!({"id": leaver.organization});
    let answer =
        federation.ask(axum::http::Method::DELETE, &path, Some(&federation.root), Some(body), &[]).await.expect(200);
    assert_eq!(ids(&answer), [federation.members[0].organization]);
    federation.get(&leaver.node_token, &format!("/node/{}", leaver.node)).await.expect(401);
}

#[tokio::test]
async fn a_study_is_some_organizations_of_a_collaboration() {
    let federation = Federation::new(3, false).await;
    let root = federation.root.as_str();
    let collaboration = federation.collaboration;
    let body = json!({"name": "s", "collaboration_id": collaboration, "organization_ids": [2, 3]});
    let study = federation.post(root, "/study", body.clone()).await.expect(201);
    assert_eq!(ids(&study["organizations"]), [2, 3]);
    federation.post(root, "/study", body).await.expect(400);
    let outside = json!({"name": "t", "collaboration_id": collaboration, "organization_ids": [1]});
    federation.post(root, "/study", outside).await.expect(400);
    let path = format!("/study/{}", id(&study));
    let changed = federation.patch(root, &path, json!({"organization_ids": [3]})).await.expect(200);
    assert_eq!(ids(&changed["organizations"]), [3]);
    let added = federation.post(root, &format!("{path}/organization"), json!({"id": 4})).await.expect(200);
    assert_eq!(ids(&added), [3, 4]);
    // A viewer sees the studies of the own organization only (rule 77).
    federation.get(&federation.members[0].researcher, &path).await.expect(401);
    federation.get(&federation.members[1].researcher, &path).await.expect(200);
    let list = federation.get(&federation.members[0].researcher, "/study").await.expect(200);
    assert_eq!(list["data"], json!([]));
    let organizations = federation.get(root, &format!("/organization?study_id={}", id(&study))).await.expect(200);
    assert_eq!(ids(&organizations["data"]), [3, 4]);
    federation.delete(root, &path).await.expect(200);
}

#[tokio::test]
async fn a_user_is_made_as_the_stock_client_asks() {
    let federation = Federation::new(1, false).await;
    let root = federation.root.as_str();
    let body = |username: &str, password: &str| {
        json!({
            "username": username, "firstname": "a", "lastname": "b", "password": password,
            "email": format!("{username}@x.example"), "organization_id": null, "roles": [4, 999], "rules": [1],
        })
    };
    let user = federation.post(root, "/user", body("ann", "Correct-Horse-1")).await.expect(201);
    assert_eq!(user["organization"]["id"], 1);
    assert_eq!(user["otp_secret"], Value::Null);
    assert_eq!(user["roles"], format!("/api/role?user_id={}", id(&user)));
    let path = format!("/user/{}", id(&user));
    let roles = federation.get(root, &format!("/role?user_id={}", id(&user))).await.expect(200);
    assert_eq!(ids(&roles["data"]), [4]);
    let detailed = federation.get(root, &format!("{path}?include_permissions=1")).await.expect(200);
    assert_eq!(detailed["permissions"]["roles"], json!([4]));
    for (username, password) in
        [("ann", "Correct-Horse-1"), ("bob", "weak"), ("4bob", "Correct-Horse-1"), ("bo", "Correct-Horse-1")]
    {
        federation.post(root, "/user", body(username, password)).await.expect(400);
    }
    federation.patch(root, &path, json!({"password": "Correct-Horse-2"})).await.expect(400);
    federation.patch(root, &path, json!({"firstname": "c", "organization_id": 2})).await.expect(200);
    let changed = federation.get(root, &path).await.expect(200);
    assert_eq!((&changed["firstname"], &changed["organization"]["id"]), (&json!("c"), &json!(1)));
    let found = federation.get(root, "/user?username=a%25&firstname=c").await.expect(200);
    assert_eq!(ids(&found["data"]), [id(&user)]);
    federation.delete(root, &path).await.expect(200);
}

#[tokio::test]
async fn a_role_is_its_organizations_and_built_in_ones_stay() {
    let federation = Federation::new(1, false).await;
    let root = federation.root.as_str();
    let body = json!({"name": "r", "description": "d", "rules": [2, 3], "organization_id": 2});
    let role = federation.post(root, "/role", body).await.expect(201);
    let path = format!("/role/{}", id(&role));
    let nulls = json!({"name": null, "description": null, "rules": null});
    assert_eq!(federation.patch(root, &path, nulls).await.expect(200)["name"], "r");
    let rules = federation.post(root, &format!("{path}/rule/6"), json!({})).await.expect(201);
    assert_eq!(ids(&rules), [2, 3, 6]);
    let rules = federation.delete(root, &format!("{path}/rule/2")).await.expect(200);
    assert_eq!(ids(&rules), [3, 6]);
    federation.post(root, "/role", json!({"name": "researcher", "rules": []})).await.expect(400);
    federation.patch(root, "/role/5", json!({"rules": []})).await.expect(400);
    federation.delete(root, "/role/5").await.expect(400);
    // So it is told to whoever may see it; others are told that they may not.
    federation.add_user("admin", 2, &[6]).await;
    federation.add_user("guest", 2, &[]).await;
    for (name, status) in [("admin", 400), ("guest", 401)] {
        let token = federation.log_in(name).await;
        federation.patch(&token, "/role/5", json!({"rules": []})).await.expect(status);
        federation.delete(&token, "/role/5").await.expect(status);
        federation.post(&token, "/role/5/rule/1", json!({})).await.expect(status);
        federation.delete(&token, "/role/5/rule/1").await.expect(status);
    }
    for path in ["/role/%ff/rule/1", "/role/5/rule/%ff", "/role/x/rule/1"] {
        assert_eq!(federation.post(root, path, json!({})).await.expect(404)["code"], "unknown_route");
        assert_eq!(federation.delete(root, path).await.expect(404)["code"], "unknown_route");
    }
    let user = federation.add_user("somebody", 2, &[id(&role)]).await;
    federation.delete(root, &path).await.expect(400);
    federation.delete(root, &format!("{path}?delete_dependents=true")).await.expect(200);
    let rest = federation.get(root, &format!("/role?user_id={user}")).await.expect(200);
    assert_eq!(rest["data"], json!([]));
}

#[tokio::test]
async fn who_may_write_is_not_refused_for_what_the_answer_would_show() {
    const CREATE_STUDIES: i64 = 83;
    const EDIT_STUDIES: i64 = 80;
    let federation = Federation::new(2, false).await;
    let members = [0, 1].map(|at| federation.members[at].organization);
    let body = json!({
        "username": "clerk", "password": PASSWORD, "email": "clerk@example.org", "organization_id": members[0],
        "rules": [CREATE_STUDIES, EDIT_STUDIES],
    });
    federation.post(&federation.root, "/user", body).await.expect(201);
    let clerk = federation.log_in("clerk").await;
    let body = json!({"name": "study", "collaboration_id": 1, "organization_ids": members});
    let study = federation.post(&clerk, "/study", body).await.expect(201);
    // Of organizations a clerk learns nothing.
    assert_eq!(study["organizations"], json!([]));
    let path = format!("/study/{}", id(&study));
    let changed = federation.patch(&clerk, &path, json!({"name": "renamed"})).await.expect(200);
    assert_eq!((&changed["name"], &changed["organizations"]), (&json!("renamed"), &json!([])));
    let body = Some(json!({"id": members[1]}));
    let left = federation.ask(Method::DELETE, &format!("{path}/organization"), Some(&clerk), body, &[]).await;
    assert_eq!(left.expect(200), json!([]));
    let found = federation.get(&federation.root, &format!("{path}?include=organizations")).await.expect(200);
    assert_eq!(ids(&found["organizations"]), [members[0]]);
}

#[tokio::test]
async fn what_an_organization_has_not_finished_fails_when_it_leaves_the_collaboration() {
    let federation = Federation::new(4, false).await;
    let root = federation.root.as_str();
    let members = [0, 1, 2, 3].map(|at| federation.members[at].organization);
    let tasks = [federation.task(&[0, 1]).await, federation.task(&[2]).await, federation.task(&[0]).await];
    let taken = federation.run(id(&tasks[1]), 2).await;
    federation.report(2, &taken, json!({"status": "active"})).await.expect(200);
    let body = json!({"organization_ids": [members[0], members[2], members[3]]});
    federation.patch(root, "/collaboration/1", body).await.expect(200);
    let body = Some(json!({"id": members[2]}));
    federation.ask(Method::DELETE, "/collaboration/1/organization", Some(root), body, &[]).await.expect(200);
    for (task, member) in [(&tasks[0], 1), (&tasks[1], 2)] {
        assert_eq!(federation.status(id(task)).await, "failed");
        let log = federation.run(id(task), member).await["log"].clone();
        let words = format!("Organization {} left the collaboration", members[member]);
        assert!(log.as_str().unwrap().contains(&words), "{log}");
    }
    assert_eq!(federation.status(id(&tasks[2])).await, "pending");
}
