//! Nobody gets at more than they were given: by granting, moving, nesting, filtering or detours.

use axum::http::Method;
use serde_json::json;

use crate::ledger::federation::{Federation, id};

const ORGANIZATION_ADMIN: i64 = 6;
const COLLABORATION_ADMIN: i64 = 7;

/// Two collaborations that share nothing; an administrator of the first organization.
async fn two_worlds(role: i64) -> (Federation, String, i64, i64) {
    let federation = Federation::new(2, false).await;
    let strangers = federation.add_organizations("stranger", 1).await;
    let (elsewhere, _) = federation.add_collaboration("elsewhere", &strangers, false).await;
    federation.add_user("admin", federation.members[0].organization, &[role]).await;
    let admin = federation.log_in("admin").await;
    (federation, admin, strangers[0], elsewhere)
}

#[tokio::test]
async fn lists_show_what_the_widest_rule_shows_and_foreign_filters_are_refused() {
    let (federation, admin, stranger, elsewhere) = two_worlds(ORGANIZATION_ADMIN).await;
    for (path, total) in
        [("/organization", "2"), ("/collaboration", "1"), ("/node", "2"), ("/user", "2"), ("/study", "0")]
    {
        let answer = federation.get(&admin, path).await;
        assert_eq!(answer.headers["total-count"], total, "{path}: {}", answer.body);
    }
    for path in [
        format!("/organization?collaboration_id={elsewhere}"),
        format!("/collaboration?organization_id={stranger}"),
        format!("/node?organization_id={stranger}"),
        format!("/node?collaboration_id={elsewhere}"),
        format!("/user?organization_id={stranger}"),
        format!("/user?collaboration_id={elsewhere}"),
        format!("/study?collaboration_id={elsewhere}"),
        format!("/role?organization_id={stranger}"),
        format!("/organization/{stranger}"),
        format!("/collaboration/{elsewhere}"),
        format!("/collaboration/{elsewhere}?include=organizations"),
    ] {
        federation.get(&admin, &path).await.expect(401);
    }
}

#[tokio::test]
async fn an_administrator_gives_no_rule_that_they_do_not_hold() {
    let (federation, admin, _, _) = two_worlds(ORGANIZATION_ADMIN).await;
    let user = |roles: &[i64], rules: &[i64]| {
        json!({
            "username": "minion", "firstname": "a", "lastname": "b", "password": "Correct-Horse-1",
            "email": "m@x.example", "roles": roles, "rules": rules,
        })
    };
    for body in [user(&[1], &[]), user(&[COLLABORATION_ADMIN], &[]), user(&[], &[1]), user(&[4], &[33])] {
        federation.post(&admin, "/user", body).await.expect(401);
    }
    federation.post(&admin, "/role", json!({"name": "r", "rules": [1]})).await.expect(401);
    let role = federation.post(&admin, "/role", json!({"name": "r", "rules": [3]})).await.expect(201);
    let path = format!("/role/{}", id(&role));
    federation.patch(&admin, &path, json!({"rules": [3, 1]})).await.expect(401);
    federation.post(&admin, &format!("{path}/rule/1"), json!({})).await.expect(401);
    // Nor takes one away.
    federation.patch(&federation.root, &path, json!({"rules": [1, 3]})).await.expect(200);
    federation.patch(&admin, &path, json!({"rules": [3]})).await.expect(401);
    federation.delete(&admin, &format!("{path}/rule/1")).await.expect(401);
    federation.delete(&admin, &path).await.expect(401);

    let made = federation.post(&admin, "/user", user(&[ORGANIZATION_ADMIN], &[3])).await.expect(201);
    let path = format!("/user/{}", id(&made));
    federation.patch(&admin, &path, json!({"rules": [1]})).await.expect(401);
    federation.patch(&admin, &path, json!({"username": "other"})).await.expect(401);
}

#[tokio::test]
async fn nobody_changes_their_own_roles_or_takes_over_a_stronger_account() {
    let (federation, admin, _, _) = two_worlds(ORGANIZATION_ADMIN).await;
    let organization = federation.members[0].organization;
    let found = federation.get(&admin, "/user?username=admin").await.expect(200);
    let me = format!("/user/{}", id(&found["data"][0]));
    for body in [json!({"roles": [1]}), json!({"roles": []}), json!({"rules": [3]})] {
        federation.patch(&admin, &me, body).await.expect(401);
    }
    federation.patch(&admin, &me, json!({"firstname": "new", "roles": [ORGANIZATION_ADMIN]})).await.expect(200);
    let strong = federation.add_user("strong", organization, &[COLLABORATION_ADMIN]).await;
    federation.patch(&admin, &format!("/user/{strong}"), json!({"email": "mine@x.example"})).await.expect(401);
    federation.patch(&admin, &format!("/user/{strong}"), json!({"roles": []})).await.expect(401);
    federation.patch(&admin, &format!("/user/{strong}"), json!({"firstname": "fine"})).await.expect(200);
}

/// The rules of the role, as `root` sees them.
async fn rules(federation: &Federation, role: i64) -> Vec<i64> {
    let path = format!("/rule?role_id={role}&no_pagination=1");
    let rules = federation.get(&federation.root, &path).await.expect(200);
    rules["data"].as_array().unwrap().iter().map(id).collect()
}

#[tokio::test]
async fn nobody_gains_by_changing_the_role_that_they_hold() {
    for built_in in [ORGANIZATION_ADMIN, COLLABORATION_ADMIN] {
        let federation = Federation::new(2, false).await;
        let organization = federation.members[0].organization;
        let held = rules(&federation, built_in).await;
        let body = json!({"name": "held", "rules": held, "organization_id": organization});
        let role = id(&federation.post(&federation.root, "/role", body).await.expect(201));
        let me = federation.add_user("holder", organization, &[role]).await;
        let holder = federation.log_in("holder").await;
        let path = format!("/role/{role}");
        let all = federation.get(&federation.root, "/rule?no_pagination=1").await.expect(200);
        let all = all["data"].as_array().unwrap();

        // What may be added is what one may do already, in a scope that is not wider.
        const SCOPES: [&str; 4] = ["OWN", "ORGANIZATION", "COLLABORATION", "GLOBAL"];
        let scope = |rule: &serde_json::Value| SCOPES.iter().position(|name| rule["scope"] == *name).unwrap();
        let covered = |rule: &serde_json::Value| {
            all.iter().any(|known| {
                held.contains(&id(known))
                    && known["name"] == rule["name"]
                    && known["operation"] == rule["operation"]
                    && scope(known) >= scope(rule)
            })
        };
        let mut gained = 0;
        for rule in all.iter().filter(|rule| !held.contains(&id(rule))) {
            let more: Vec<i64> = held.iter().copied().chain([id(rule)]).collect();
            let by_patch = federation.patch(&holder, &path, json!({"rules": more})).await.status.as_u16();
            federation.patch(&federation.root, &path, json!({"rules": held})).await.expect(200);
            let by_post = federation.post(&holder, &format!("{path}/rule/{}", id(rule)), json!({})).await;
            let by_post = by_post.status.as_u16();
            federation.patch(&federation.root, &path, json!({"rules": held})).await.expect(200);
            let expected = if covered(rule) { (200, 201) } else { (401, 401) };
            assert_eq!((by_patch, by_post), expected, "{rule}");
            gained += usize::from(by_patch == 200);
        }
        assert!(gained < 10, "{gained}");

        // Nor by its name, by handing it on beyond the organization, or by another user's hands.
        for name in ["Root", "root", "Collaboration Admin"] {
            federation.patch(&holder, &path, json!({"name": name})).await.expect(400);
        }
        federation.patch(&holder, &path, json!({"organization_id": 1})).await.expect(400);
        federation.patch(&holder, &path, json!({"is_default_role": true})).await.expect(400);
        federation.patch(&holder, &format!("/user/{me}"), json!({"roles": [role, 1]})).await.expect(401);

        // What one gives up is gone: nobody gives it back to themselves.
        let less: Vec<i64> = held.iter().copied().filter(|rule| *rule != 47).collect();
        federation.patch(&holder, &path, json!({"rules": less})).await.expect(200);
        let widest = less.iter().any(|rule| matches!(rule, 45 | 46));
        let again = federation.patch(&holder, &path, json!({"rules": held})).await.status.as_u16();
        assert_eq!(again, if widest { 200 } else { 401 });
        federation.delete(&holder, &path).await.expect(400);
        federation.delete(&holder, &format!("{path}?delete_dependents=true")).await.expect(200);
        federation.get(&holder, "/node").await.expect(401);
        federation.post(&holder, "/role", json!({"name": "again", "rules": [3]})).await.expect(401);
    }
}

#[tokio::test]
async fn a_role_of_one_organization_is_not_given_to_a_user_of_another() {
    let (federation, _, stranger, _) = two_worlds(ORGANIZATION_ADMIN).await;
    let root = federation.root.as_str();
    let body = json!({"name": "theirs", "rules": [3], "organization_id": stranger});
    let role = id(&federation.post(root, "/role", body).await.expect(201));
    let user = federation.add_user("somebody", federation.members[0].organization, &[]).await;
    federation.patch(root, &format!("/user/{user}"), json!({"roles": [role]})).await.expect(401);
}

/// What makes a user.
fn new_user(username: &str, organization: i64, roles: &[i64], rules: &[i64]) -> serde_json::Value {
    json!({
        "username": username, "firstname": "a", "lastname": "b", "password": "Correct-Horse-1",
        "email": format!("{username}@x.example"), "organization_id": organization, "roles": roles, "rules": rules,
    })
}

#[tokio::test]
async fn a_partners_users_get_no_more_than_their_maker_reaches_there() {
    let federation = Federation::new(2, false).await;
    let (root, partner) = (federation.root.as_str(), federation.members[1].organization);
    federation.add_user("admin", federation.members[0].organization, &[COLLABORATION_ADMIN]).await;
    let admin = federation.log_in("admin").await;
    let strong = federation.add_user("strong", partner, &[ORGANIZATION_ADMIN]).await;
    let strong = format!("/user/{strong}");

    // Whoever sees and asks in all of a partner's collaborations makes others there who do.
    let body = new_user("theirs", partner, &[5], &[51]);
    let made = format!("/user/{}", id(&federation.post(&admin, "/user", body).await.expect(201)));
    federation.patch(&admin, &made, json!({"roles": [4, 5], "rules": []})).await.expect(200);
    federation.patch(&admin, &made, json!({"email": "other@x.example"})).await.expect(200);
    // But nobody who could replace the partner's key: by a role, by a rule, or by somebody else's mail.
    for (roles, rules, rule) in [
        (vec![ORGANIZATION_ADMIN], vec![], "6 (node, EDIT, ORGANIZATION)"),
        (vec![], vec![24], "24 (organization, EDIT, ORGANIZATION)"),
        (vec![], vec![25], "25 (organization, EDIT, COLLABORATION)"),
    ] {
        let refused = federation.post(&admin, "/user", new_user("minion", partner, &roles, &rules)).await.expect(401);
        let told = refused["msg"].as_str().unwrap();
        assert!(told.contains(rule) && told.contains(&format!("id={partner}")), "{told}");
        federation.patch(&admin, &made, json!({"roles": roles, "rules": rules})).await.expect(401);
    }
    let refused = federation.patch(&admin, &strong, json!({"email": "mine@x.example"})).await.expect(401);
    assert!(refused["msg"].as_str().unwrap().contains("mail address"), "{refused}");
    assert!(refused["detail"].as_str().unwrap().contains("rule 6 (node, EDIT"), "{refused}");
    federation.patch(&admin, &strong, json!({"roles": [4]})).await.expect(401);
    federation.delete(&admin, &strong).await.expect(401);
    federation.patch(&admin, &strong, json!({"firstname": "fine"})).await.expect(200);

    // Where the partner works with others too, its users would reach what their maker does not.
    let strangers = federation.add_organizations("stranger", 1).await;
    federation.add_collaboration("elsewhere", &[partner, strangers[0]], false).await;
    for (roles, rules) in [(vec![4], vec![]), (vec![5], vec![]), (vec![], vec![3]), (vec![], vec![47])] {
        federation.post(&admin, "/user", new_user("minion", partner, &roles, &rules)).await.expect(401);
    }
    federation.patch(&admin, &made, json!({"rules": [6]})).await.expect(401);
    federation.patch(&admin, &made, json!({"roles": []})).await.expect(401);
    federation.patch(&admin, &made, json!({"email": "mine@x.example"})).await.expect(401);
    federation.delete(&admin, &made).await.expect(401);
    federation.post(&admin, "/user", new_user("harmless", partner, &[], &[51])).await.expect(201);
    // Whoever has a rule everywhere gives it everywhere.
    federation.post(root, "/user", new_user("chosen", partner, &[ORGANIZATION_ADMIN], &[])).await.expect(201);
}

#[tokio::test]
async fn a_partners_roles_get_no_rule_that_their_maker_does_not_reach_there() {
    let federation = Federation::new(2, false).await;
    let (home, partner) = (federation.members[0].organization, federation.members[1].organization);
    // Makes and changes roles in all collaborations, and has the rules about nodes and organizations.
    let body = json!({"name": "roles", "rules": [2, 3, 24, 25, 57, 60, 63, 66], "organization_id": home});
    let role = id(&federation.post(&federation.root, "/role", body).await.expect(201));
    federation.add_user("maker", home, &[role]).await;
    let maker = federation.log_in("maker").await;
    let new = |rules: &[i64]| json!({"name": "theirs", "rules": rules, "organization_id": partner});
    federation.post(&maker, "/role", new(&[24])).await.expect(401);
    let path = format!("/role/{}", id(&federation.post(&maker, "/role", new(&[3])).await.expect(201)));
    federation.patch(&maker, &path, json!({"rules": [3, 24]})).await.expect(401);
    federation.post(&maker, &format!("{path}/rule/25"), json!({})).await.expect(401);
    federation.post(&maker, &format!("{path}/rule/2"), json!({})).await.expect(201);
    federation.patch(&federation.root, &path, json!({"rules": [3, 24]})).await.expect(200);
    federation.delete(&maker, &format!("{path}/rule/24")).await.expect(401);
    federation.delete(&maker, &path).await.expect(401);
    let body = json!({"name": "ours", "rules": [24, 25], "organization_id": home});
    federation.post(&maker, "/role", body).await.expect(201);
}

#[tokio::test]
async fn a_user_is_deleted_by_whoever_could_take_their_rights_or_is_the_user() {
    let federation = Federation::new(1, false).await;
    let organization = federation.members[0].organization;
    federation.add_user("admin", organization, &[ORGANIZATION_ADMIN]).await;
    let admin = federation.log_in("admin").await;
    let strong = federation.add_user("strong", organization, &[COLLABORATION_ADMIN]).await;
    let weak = federation.add_user("weak", organization, &[4]).await;
    federation.delete(&admin, &format!("/user/{strong}")).await.expect(401);
    federation.delete(&admin, &format!("/user/{weak}")).await.expect(200);
    let me = federation.log_in("strong").await;
    federation.delete(&me, &format!("/user/{strong}")).await.expect(200);
}

#[tokio::test]
async fn the_last_user_with_every_right_stays() {
    let federation = Federation::new(1, false).await;
    let organization = federation.members[0].organization;
    let first = id(&federation.get(&federation.root, "/user?username=root").await.expect(200)["data"][0]);
    let first = format!("/user/{first}");
    let refused = federation.delete(&federation.root, &first).await.expect(400);
    assert_eq!(refused["code"], "last_root");
    federation.get(&federation.root, &first).await.expect(200);

    // A role with every rule is as good as the one that is built in.
    let every: Vec<i64> = (1..=86).collect();
    let body = json!({"name": "every", "rules": every, "organization_id": organization});
    let role = format!("/role/{}", id(&federation.post(&federation.root, "/role", body).await.expect(201)));
    let roles: Vec<i64> = vec![role[6..].parse().unwrap()];
    let other = federation.add_user("other", organization, &roles).await;
    let other_token = federation.log_in("other").await;
    federation.patch(&other_token, &first, json!({"roles": [5]})).await.expect(200);
    let fewer = federation.patch(&other_token, &role, json!({"rules": [1, 2, 3]})).await.expect(400);
    assert_eq!(fewer["code"], "last_root");
    for path in [format!("{role}/rule/86"), format!("{role}?delete_dependents=true"), format!("/user/{other}")] {
        assert_eq!(federation.delete(&other_token, &path).await.expect(400)["code"], "last_root", "{path}");
    }
    federation.patch(&other_token, &first, json!({"roles": [1]})).await.expect(200);
    federation.delete(&federation.root, &format!("/user/{other}")).await.expect(200);
}

#[tokio::test]
async fn a_collaborations_administrator_pulls_nobody_in_and_reaches_no_other() {
    let (federation, admin, stranger, elsewhere) = two_worlds(COLLABORATION_ADMIN).await;
    let own = format!("/collaboration/{}", federation.collaboration);
    federation.patch(&admin, &own, json!({"name": "renamed"})).await.expect(200);
    federation.patch(&admin, &own, json!({"organization_ids": [2, 3, stranger]})).await.expect(401);
    federation.post(&admin, &format!("{own}/organization"), json!({"id": stranger})).await.expect(401);
    let body = Some(json!({"id": 3}));
    let removed = federation.ask(Method::DELETE, &format!("{own}/organization"), Some(&admin), body, &[]).await;
    removed.expect(401);
    for (method, path, body) in [
        (Method::PATCH, format!("/collaboration/{elsewhere}"), json!({"name": "mine"})),
        (Method::DELETE, format!("/collaboration/{elsewhere}"), json!({})),
        (Method::POST, "/node".into(), json!({"collaboration_id": elsewhere, "organization_id": stranger})),
        (
            Method::POST,
            "/study".into(),
            json!({"name": "s", "collaboration_id": elsewhere, "organization_ids": [stranger]}),
        ),
        (Method::PATCH, format!("/organization/{stranger}"), json!({"domain": "mine"})),
        (Method::POST, "/organization".into(), json!({"name": "x"})),
        (Method::POST, "/role".into(), json!({"name": "x", "rules": [], "organization_id": stranger})),
    ] {
        let answer = federation.ask(method.clone(), &path, Some(&admin), Some(body), &[]).await;
        assert_eq!(answer.status.as_u16(), 401, "{method} {path}: {}", answer.body);
    }
    // One may make nodes for one's own organization, but only where it takes part.
    let body = json!({"collaboration_id": elsewhere});
    assert_eq!(federation.post(&admin, "/node", body).await.expect(400)["code"], "not_a_member");
}

#[tokio::test]
async fn a_node_and_its_algorithm_stay_in_their_collaboration() {
    let federation = Federation::new(2, false).await;
    let me = &federation.members[0];
    // The same organization takes part in another collaboration, with another node.
    let (elsewhere, theirs) = federation.add_collaboration("elsewhere", &[me.organization], false).await;
    let task = federation.task(&[0, 1]).await;
    let container = federation.container(0, id(&task)).await;
    for token in [&me.node_token, &container] {
        let organizations = federation.get(token, "/organization").await;
        assert_eq!(organizations.headers["total-count"], "2");
        federation.get(token, &format!("/collaboration/{}", federation.collaboration)).await.expect(200);
        federation.get(token, &format!("/collaboration/{elsewhere}")).await.expect(401);
        assert_eq!(federation.get(token, "/collaboration").await.headers["total-count"], "1");
        for path in ["/user", "/role", "/rule"] {
            federation.get(token, path).await.expect(401);
        }
        federation.post(token, "/organization", json!({"name": "x"})).await.expect(401);
    }
    federation.get(&me.node_token, &format!("/node/{}", theirs[0].node)).await.expect(401);
    assert_eq!(federation.get(&me.node_token, "/node").await.headers["total-count"], "1");
    let own = format!("/organization?collaboration_id={}", federation.collaboration);
    assert_eq!(federation.get(&container, &own).await.headers["total-count"], "2");
    federation.get(&container, &format!("/organization?collaboration_id={elsewhere}")).await.expect(401);
    federation.get(&container, "/study").await.expect(200);
}
