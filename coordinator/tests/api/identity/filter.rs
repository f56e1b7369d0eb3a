//! Every list can be narrowed and sorted as contract A.7 says.

use axum::http::Method;
use serde_json::json;

use crate::ledger::federation::{Federation, check, check_refused, id, ids};

/// Organizations 2, 3 and 4 (users 2, 4 and 6, nodes 3, 5 and 7) in collaboration 1, of which 2 and 3 are in study 1;
/// organization 5 (user 8) is in none but collaboration 2, with nobody else.
async fn federation() -> Federation {
    let federation = Federation::new(3, false).await;
    let root = federation.root.as_str();
    let body = json!({"name": "apart", "country": "NL", "domain": "apart.example", "zipcode": "1234"});
    federation.post(root, "/organization", body).await.expect(201);
    let body = json!({"name": "alone", "organization_ids": [5], "encrypted": true});
    federation.post(root, "/collaboration", body).await.expect(200);
    federation.add_user("apart", 5, &[4]).await;
    let body = json!({"name": "study", "collaboration_id": 1, "organization_ids": [2, 3]});
    federation.post(root, "/study", body).await.expect(201);
    federation
}

#[tokio::test]
async fn organizations_are_narrowed() {
    let federation = federation().await;
    let lists: &[(&str, &[i64])] = &[
        ("/organization?sort=id", &[1, 2, 3, 4, 5]),
        ("/organization?name=apart", &[5]),
        ("/organization?name=member%25&sort=-name", &[4, 3, 2]),
        ("/organization?country=NL", &[5]),
        ("/organization?country=N%25", &[]),
        ("/organization?collaboration_id=1", &[2, 3, 4]),
        ("/organization?study_id=1", &[2, 3]),
        ("/organization?ids=2&ids=5", &[2, 5]),
        ("/organization?ids=", &[]),
        ("/organization?sort=-country,id&per_page=2", &[5, 1]),
        ("/organization?nonsense=1&name=apart", &[5]),
    ];
    check(&federation, &federation.root, lists).await;
    let researcher = &federation.members[0].researcher;
    // Organizations of one's own collaborations, silently.
    check(&federation, researcher, &[("/organization", &[2, 3, 4]), ("/organization?name=apart", &[])]).await;
    check_refused(&federation, researcher, &[("/organization?collaboration_id=2", 401)]).await;
    for sort in ["id", "name", "domain", "address1", "address2", "zipcode", "country"] {
        let path = format!("/organization?sort={sort}");
        assert_eq!(federation.get(&federation.root, &path).await.expect(200)["data"].as_array().unwrap().len(), 5);
    }
}

#[tokio::test]
async fn an_algorithm_lists_the_organizations_of_its_collaboration_or_study() {
    let federation = federation().await;
    let task = federation.task(&[0]).await;
    let container = federation.container(0, id(&task)).await;
    let lists: &[(&str, &[i64])] = &[
        ("/organization?collaboration_id=1", &[2, 3, 4]),
        ("/organization?study_id=1", &[2, 3]),
        ("/study?collaboration_id=1", &[1]),
    ];
    check(&federation, &container, lists).await;
    check_refused(&federation, &container, &[("/organization?collaboration_id=2", 401)]).await;
}

#[tokio::test]
async fn collaborations_are_narrowed() {
    let federation = federation().await;
    let lists: &[(&str, &[i64])] = &[
        ("/collaboration", &[1, 2]),
        ("/collaboration?name=al%25", &[2]),
        ("/collaboration?encrypted=True", &[2]),
        ("/collaboration?encrypted=0", &[1]),
        ("/collaboration?organization_id=5", &[2]),
        ("/collaboration?sort=-name", &[1, 2]),
        ("/collaboration?sort=-encrypted", &[2, 1]),
        ("/collaboration?include=organizations&organization_id=2", &[1]),
    ];
    check(&federation, &federation.root, lists).await;
    let researcher = &federation.members[0].researcher;
    // The stock client's default asks for its own organization.
    check(&federation, researcher, &[("/collaboration?organization_id=2", &[1])]).await;
    check_refused(&federation, researcher, &[("/collaboration?organization_id=5", 401)]).await;
}

#[tokio::test]
async fn nodes_are_narrowed() {
    let federation = federation().await;
    let root = federation.root.as_str();
    federation.patch(root, "/node/5", json!({"ip": "192.0.2.7"})).await.expect(200);
    let mut events = federation.follow(root, "latest").await;
    let node = federation.follow(&federation.members[0].node_token, "latest").await;
    events.until(|event| event.kind == "node_online").await;
    let lists: &[(&str, &[i64])] = &[
        ("/node?sort=id", &[3, 5, 7]),
        ("/node?sort=-name", &[7, 5, 3]),
        ("/node?name=member+1%25", &[3]),
        ("/node?organization_id=3", &[5]),
        ("/node?collaboration_id=1&sort=-id", &[7, 5, 3]),
        ("/node?collaboration_id=2", &[]),
        ("/node?study_id=1&sort=id", &[3, 5]),
        ("/node?status=online", &[3]),
        ("/node?status=offline", &[]),
        ("/node?ip=192.0.2.7", &[5]),
        ("/node?last_seen_from=1999-01-01T00:00:00&last_seen_till=2000-01-01T00:00:00", &[]),
    ];
    check(&federation, root, lists).await;
    drop(node);
    let researcher = &federation.members[0].researcher;
    let refused = [("/node?organization_id=5", 401), ("/node?collaboration_id=2", 401)];
    check_refused(&federation, researcher, &refused).await;
    check_refused(&federation, root, &[("/node?last_seen_from=soon", 400)]).await;
    let body = json!({"name": "apart", "collaboration_id": 2, "organization_ids": [5]});
    federation.post(root, "/study", body).await.expect(201);
    check_refused(&federation, researcher, &[("/node?study_id=2", 401)]).await;
}

#[tokio::test]
async fn a_node_tells_what_it_offers_and_to_whom() {
    let federation = federation().await;
    let root = federation.root.as_str();
    let (first, second) = (&federation.members[0], &federation.members[1]);
    let put = |token, node: i64, body| federation.ask(Method::PUT, node_path(node), Some(token), Some(body), &[]);
    let details = json!({
        "encryption": false, "allowed_algorithms": ["a", "b"], "allowed_orgs": [3],
        "databases": [{"label": "default", "type": "csv", "columns": ["age", "sex"]}, {"label": "x", "type": "sql"}],
    });
    let told = put(&first.node_token, first.node, details.clone()).await.expect(200);
    let rows: Vec<(String, String)> = told["config"]
        .as_array()
        .unwrap()
        .iter()
        .map(|row| (row["key"].as_str().unwrap().to_owned(), row["value"].as_str().unwrap().to_owned()))
        .collect();
    let expected = [
        ("encryption", "False"),
        ("allowed_algorithms", "a"),
        ("allowed_algorithms", "b"),
        ("allowed_orgs", "3"),
        ("database_labels", "default"),
        ("db_type_default", "csv"),
        ("columns_default", "age"),
        ("columns_default", "sex"),
        ("database_labels", "x"),
        ("db_type_x", "sql"),
    ];
    assert_eq!(rows, expected.map(|(key, value)| (key.to_owned(), value.to_owned())));
    assert_eq!(federation.get(root, &format!("/node/{}", first.node)).await.expect(200)["config"], told["config"]);

    // Whom a node does not admit is told at once; one of users and organizations suffices.
    let body = federation.task_body(&[0]);
    let refused = federation.post(&first.researcher, "/task", body.clone()).await;
    assert!(refused.msg().contains("does not accept tasks from you"), "{}", refused.msg());
    refused.expect(400);
    federation.post(&second.researcher, "/task", body.clone()).await.expect(201);
    let mut wider = details.clone();
    wider["allowed_users"] = json!([2]);
    put(&first.node_token, first.node, wider).await.expect(200);
    federation.post(&first.researcher, "/task", body.clone()).await.expect(201);
    federation.post(&federation.members[2].researcher, "/task", body.clone()).await.expect(400);
    let nothing = put(&first.node_token, first.node, json!({})).await.expect(200);
    assert_eq!(nothing["config"], json!([]));
    federation.post(&federation.members[2].researcher, "/task", body).await.expect(201);

    for (token, status) in [(&second.node_token, 401), (&first.researcher, 401), (&federation.root, 401)] {
        put(token, first.node, details.clone()).await.expect(status);
    }
    put(&first.node_token, 99, details.clone()).await.expect(404);
    put(&first.node_token, first.node, json!({"colour": 1})).await.expect(400);
    let many: Vec<String> = (0..6000).map(|number| number.to_string()).collect();
    put(&first.node_token, first.node, json!({"allowed_algorithms": many})).await.expect(400);
    put(&first.node_token, first.node, json!({"allowed_algorithms": ["x".repeat(2000)]})).await.expect(400);
}

fn node_path(node: i64) -> &'static str {
    match node {
        3 => "/node/3/details",
        _ => "/node/99/details",
    }
}

#[tokio::test]
async fn when_somebody_was_seen_narrows_nodes_and_users() {
    let federation = federation().await;
    let root = federation.root.as_str();
    // Who asks is noted soon afterwards.
    let seen = async |path: &str| {
        let deadline = tokio::time::Instant::now() + crate::ledger::federation::DEADLINE;
        loop {
            let answer = federation.get(root, path).await.expect(200);
            if answer["last_seen"].is_string() {
                return answer["last_seen"].as_str().unwrap().to_owned();
            }
            assert!(tokio::time::Instant::now() < deadline, "{path} is never seen");
            tokio::task::yield_now().await;
        }
    };
    federation.get(&federation.members[1].node_token, "/node/5").await.expect(200);
    federation.get(&federation.members[1].researcher, "/user/4").await.expect(200);
    let (node, user) = (seen("/node/5").await, seen("/user/4").await);
    for (path, at, one) in [("/node", node, 5), ("/user", user, 4)] {
        let exact = format!("{path}?last_seen_from={at}&last_seen_till={at}");
        check(&federation, root, &[(&exact, &[one])]).await;
        let found = ids(&federation.get(root, &format!("{path}?last_seen_from=2100-01-01T00:00:00")).await.expect(200));
        assert_eq!(found, [0; 0]);
        let till = ids(&federation.get(root, &format!("{path}?last_seen_till={at}Z")).await.expect(200));
        assert!(till.contains(&one), "{path}: {till:?}");
    }
}

#[tokio::test]
async fn users_are_narrowed() {
    let federation = federation().await;
    let root = federation.root.as_str();
    federation.patch(root, "/user/6", json!({"firstname": "Zoe", "lastname": "Ypma", "rules": [3]})).await.expect(200);
    let lists: &[(&str, &[i64])] = &[
        ("/user", &[1, 2, 4, 6, 8]),
        ("/user?username=main-%25", &[2, 4, 6]),
        ("/user?firstname=zo_", &[6]),
        ("/user?lastname=Ypma", &[6]),
        ("/user?email=apart@%25", &[8]),
        ("/user?organization_id=3", &[4]),
        ("/user?role_id=5", &[2, 4, 6]),
        ("/user?role_id=4", &[8]),
        ("/user?rule_id=3", &[6]),
        ("/user?collaboration_id=1", &[2, 4, 6]),
        ("/user?sort=-username", &[1, 6, 4, 2, 8]),
        ("/user?sort=-organization_id,id", &[8, 6, 4, 2, 1]),
        ("/user?sort=ip,email,-id&per_page=1&page=9", &[]),
    ];
    check(&federation, root, lists).await;
    let researcher = &federation.members[0].researcher;
    check(&federation, researcher, &[("/user", &[2])]).await;
    let refused = [("/user?organization_id=3", 401), ("/user?collaboration_id=2", 401), ("/user?role_id=x", 400)];
    check_refused(&federation, researcher, &refused).await;
}

#[tokio::test]
async fn roles_are_narrowed() {
    let federation = federation().await;
    let root = federation.root.as_str();
    for (name, organization) in [("first", 2), ("second", 3), ("third", 5)] {
        let body =
            json!({"name": name, "description": format!("{name} one"), "rules": [3], "organization_id": organization});
        federation.post(root, "/role", body).await.expect(201);
    }
    federation.patch(root, "/user/2", json!({"roles": [5, 8]})).await.expect(200);
    let lists: &[(&str, &[i64])] = &[
        ("/role?per_page=99", &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10]),
        ("/role?name=fir%25", &[8]),
        ("/role?description=second+one", &[9]),
        ("/role?organization_id=2", &[8]),
        ("/role?organization_id=2&organization_id=5", &[8, 10]),
        ("/role?organization_id=2&include_root=1", &[1, 2, 3, 4, 5, 6, 7, 8]),
        ("/role?organization_id=2&include_root=false", &[8]),
        ("/role?collaboration_id=1", &[8, 9]),
        ("/role?rule_id=17", &[1]),
        ("/role?user_id=2", &[5, 8]),
        ("/role?sort=-name&organization_id=2&organization_id=3", &[9, 8]),
        ("/role?sort=-is_default_role,-organization_id&per_page=2&page=4", &[7, 10]),
    ];
    check(&federation, root, lists).await;
    let researcher = &federation.members[0].researcher;
    check(&federation, researcher, &[("/role", &[1, 2, 3, 4, 5, 6, 7, 8])]).await;
    let refused = [
        ("/role?organization_id=5", 401),
        ("/role?organization_id=2&organization_id=5", 401),
        ("/role?collaboration_id=2", 401),
        ("/role?user_id=8", 401),
    ];
    check_refused(&federation, researcher, &refused).await;
    let rules = federation.get(root, "/role/8/rule").await.expect(200);
    assert_eq!(id(&rules[0]), 3);
}

#[tokio::test]
async fn rules_are_narrowed() {
    let federation = federation().await;
    let root = federation.root.as_str();
    federation.patch(root, "/user/6", json!({"rules": [3, 86]})).await.expect(200);
    let lists: &[(&str, &[i64])] = &[
        ("/rule?per_page=3", &[1, 2, 3]),
        ("/rule?name=port", &[68, 69]),
        ("/rule?name=event&operation=RECEIVE", &[70, 71, 72]),
        ("/rule?name=event&operation=r&scope=org", &[70]),
        ("/rule?name=user&scope=OWN", &[41 + 10, 55]),
        ("/rule?role_id=2", &[3, 14, 21, 22, 29, 39, 69, 77]),
        ("/rule?user_id=6", &[3, 86]),
        ("/rule?sort=-id&per_page=2&page=3", &[82, 81]),
        ("/rule?sort=name,-id&per_page=1", &[19]),
    ];
    check(&federation, root, lists).await;
    let all = federation.get(root, "/rule?no_pagination=1").await;
    assert_eq!(all.headers["total-count"], "86");
    assert_eq!(ids(&all.body).len(), 86);
    let researcher = &federation.members[0].researcher;
    let refused = [("/rule?user_id=8", 401), ("/rule?role_id=999", 404), ("/rule/999", 404)];
    check_refused(&federation, researcher, &refused).await;
}

#[tokio::test]
async fn studies_are_narrowed() {
    let federation = federation().await;
    let root = federation.root.as_str();
    let body = json!({"name": "other", "collaboration_id": 2, "organization_ids": [5]});
    federation.post(root, "/study", body).await.expect(201);
    let lists: &[(&str, &[i64])] = &[
        ("/study", &[1, 2]),
        ("/study?name=ot%25", &[2]),
        ("/study?organization_id=3", &[1]),
        ("/study?collaboration_id=2", &[2]),
        ("/study?sort=name", &[2, 1]),
        ("/study?sort=-collaboration_id", &[2, 1]),
    ];
    check(&federation, root, lists).await;
    let nested = federation.get(root, "/study?include=organizations&name=study").await.expect(200);
    assert_eq!(nested["data"][0]["organizations"].as_array().unwrap().len(), 2);
    let researcher = &federation.members[0].researcher;
    check(&federation, researcher, &[("/study", &[1])]).await;
    check_refused(&federation, researcher, &[("/study?collaboration_id=2", 401)]).await;
    check_refused(&federation, researcher, &[("/study?organization_id=5", 401)]).await;
}

#[tokio::test]
async fn nodes_are_moved_in_and_out_of_collaborations_as_stock_answers() {
    let federation = federation().await;
    let root = federation.root.as_str();
    let listed = federation.post(root, "/collaboration/1/node", json!({"id": 3})).await.expect(201);
    assert_eq!(listed.as_array().unwrap().len(), 3);
    federation.post(root, "/collaboration/2/node", json!({"id": 3})).await.expect(400);
    let remove = |path| federation.ask(Method::DELETE, path, Some(root), Some(json!({"id": 3})), &[]);
    remove("/collaboration/2/node").await.expect(400);
    remove("/collaboration/1/node").await.expect(200);
    federation.get(root, "/node/3").await.expect(404);
}

#[tokio::test]
async fn there_is_no_vpn_and_stock_nodes_are_told_so() {
    let federation = federation().await;
    let node = federation.members[0].node_token.as_str();
    let answer = federation.get(node, "/vpn").await;
    assert_eq!(answer.msg(), "This server does not support VPN");
    answer.expect(501);
    federation.get(&federation.members[0].researcher, "/vpn").await.expect(401);
    federation.ask(Method::GET, "/vpn", None, None, &[]).await.expect(401);
    federation.post(node, "/vpn/update", json!({"vpn_config": "x"})).await.expect(405);
}
