use axum::http::StatusCode;
use serde_json::{Value, json};
use twinmesh_protocol::address::overlay_address;
use twinmesh_protocol::id::OrganizationId;

use super::federation::{Federation, id, plain};

async fn open_port(federation: &Federation, member: usize, task: &Value, port: u16, label: Option<&str>) {
    let run = federation.run(id(task), member).await;
    let body = json!({"port": port, "run_id": run["id"], "label": label});
    let answer = federation.post(&federation.members[member].node_token, "/port", body).await.expect(201);
    assert_eq!((answer["port"].as_u64(), answer["label"].as_str()), (Some(port.into()), label));
}

/// The ports that a container is told, in order.
async fn ports(federation: &Federation, container: &str, query: &str) -> Vec<u64> {
    let answer = federation.get(container, &format!("/vpn/algorithm/addresses?{query}")).await.expect(200);
    answer["addresses"].as_array().unwrap().iter().map(|address| address["port"].as_u64().unwrap()).collect()
}

#[tokio::test]
async fn each_flag_lists_the_twins_it_names() {
    let federation = Federation::new(3, false).await;
    let parent = federation.task(&[0]).await;
    let central = federation.container(0, id(&parent)).await;
    let child = federation.post(&central, "/task", federation.task_body(&[0, 1, 2])).await.expect(201);
    open_port(&federation, 0, &parent, 50_000, Some("main")).await;
    open_port(&federation, 2, &child, 50_002, Some("main")).await;
    open_port(&federation, 1, &child, 50_001, Some("main")).await;
    open_port(&federation, 1, &child, 50_011, Some("side")).await;
    open_port(&federation, 0, &child, 50_003, None).await;
    let twin = federation.container(1, id(&child)).await;

    for (container, query, expected) in [
        (&central, "", vec![50_000]),
        (&central, "include_children=True", vec![50_000, 50_002, 50_001, 50_011, 50_003]),
        (&central, "only_children=True", vec![50_002, 50_001, 50_011, 50_003]),
        (&central, "only_children=True&label=main", vec![50_002, 50_001]),
        (&central, "only_parent=True", vec![]),
        (&central, "only_self=True", vec![50_000]),
        (&twin, "", vec![50_002, 50_001, 50_011, 50_003]),
        (&twin, "only_siblings=True", vec![50_002, 50_003]),
        (&twin, "only_self=True&label=side", vec![50_011]),
        (&twin, "only_parent=True", vec![50_000]),
        (&twin, "include_parent=True&label=main", vec![50_000, 50_002, 50_001]),
        (&twin, "only_children=True", vec![]),
        (&twin, "only_self=False", vec![50_002, 50_001, 50_011, 50_003]),
    ] {
        assert_eq!(ports(&federation, container, query).await, expected, "{query}");
    }
    let both = federation.get(&twin, "/vpn/algorithm/addresses?only_self=True&only_parent=True").await;
    assert_eq!(both.status, StatusCode::BAD_REQUEST);

    let answer = federation.get(&twin, "/vpn/algorithm/addresses?only_self=True&label=main").await.expect(200);
    let organization = federation.members[1].organization;
    let ip = overlay_address(OrganizationId::new(organization)).unwrap().to_string();
    let expected = json!([{
        "ip": ip, "port": 50_001, "label": "main", "organization_id": organization, "task_id": child["id"],
        "parent_id": parent["id"],
    }]);
    assert_eq!(answer["addresses"], expected);
}

#[tokio::test]
async fn addresses_vanish_with_the_run_or_when_its_node_says_so() {
    let federation = Federation::new(2, false).await;
    let task = federation.task(&[0, 1]).await;
    let twin = federation.container(1, id(&task)).await;
    for member in [0, 1] {
        open_port(&federation, member, &task, 50_000, None).await;
    }
    open_port(&federation, 0, &task, 50_000, None).await;
    assert_eq!(ports(&federation, &twin, "").await.len(), 2, "a port registered twice is one");
    let run = federation.run(id(&task), 0).await;
    assert_eq!(run["ports"][0]["port"], 50_000);
    federation.report(0, &run, json!({"status": "completed", "result": plain()})).await.expect(200);
    assert_eq!(ports(&federation, &twin, "").await.len(), 1);
    assert_eq!(federation.run(id(&task), 0).await["ports"], json!([]));
    let path = format!("/port?run_id={}", id(&federation.run(id(&task), 1).await));
    federation.delete(&federation.members[1].node_token, &path).await.expect(200);
    assert_eq!(ports(&federation, &twin, "").await.len(), 0);
}

#[tokio::test]
async fn only_a_runs_node_registers_its_ports_and_only_algorithms_ask_for_addresses() {
    let federation = Federation::new(2, false).await;
    let task = federation.task(&[0]).await;
    let run = federation.run(id(&task), 0).await;
    let body = |port: i64| json!({"port": port, "run_id": run["id"]});
    for token in [&federation.members[1].node_token, &federation.root] {
        assert_eq!(federation.post(token, "/port", body(50_000)).await.status, StatusCode::UNAUTHORIZED);
        let path = format!("/port?run_id={}", id(&run));
        assert_eq!(federation.delete(token, &path).await.status, StatusCode::UNAUTHORIZED);
    }
    let node = &federation.members[0].node_token;
    for port in [0, 65_536, -1] {
        assert_eq!(federation.post(node, "/port", body(port)).await.status, StatusCode::BAD_REQUEST, "{port}");
    }
    assert_eq!(federation.post(node, "/port", json!({"port": 1, "run_id": 99})).await.status, 404);
    assert_eq!(federation.delete(node, "/port").await.status, StatusCode::BAD_REQUEST);
    for token in [node, &federation.root] {
        let answer = federation.get(token, "/vpn/algorithm/addresses").await;
        assert_eq!(answer.status, StatusCode::UNAUTHORIZED);
    }
    federation.report(0, &run, json!({"status": "crashed"})).await.expect(200);
    assert_eq!(federation.post(node, "/port", body(50_000)).await.status, StatusCode::BAD_REQUEST);
}
