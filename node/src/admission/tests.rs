use std::{collections::BTreeMap, sync::Mutex};

use async_trait::async_trait;
use serde_json::json;
use twinmesh_client::ApiError;
use twinmesh_protocol::{
    id::CollaborationId,
    key::{OrganizationKey, PublicKey},
    manifest::{Delegation, MANIFEST_VERSION, Nonce, Receiver},
    payload,
    signed::Signed,
};

use super::*;
use crate::{config::BUILTIN_IMAGE, policy::tests::config, trust::Ancestor};

const NOW: Time = Time::from_micros(2_000_000_000_000);
/// The node under test, who asks, and who runs the central function.
const HOME: OrganizationId = OrganizationId::new(1);
const RESEARCHER: OrganizationId = OrganizationId::new(2);
const CENTRAL: OrganizationId = OrganizationId::new(3);

fn key(organization: OrganizationId) -> OrganizationKey {
    OrganizationKey::from_seed(&[u8::try_from(organization.get()).unwrap(); 32])
}

#[derive(Default)]
struct World {
    ancestors: BTreeMap<TaskId, Ancestor>,
    kept: Mutex<Vec<TaskId>>,
}

#[async_trait]
impl Sources for World {
    async fn key(&self, organization: OrganizationId) -> Result<PublicKey, TrustError> {
        Ok(key(organization).public().into())
    }

    async fn key_in_use(&self, organization: OrganizationId) -> Result<PublicKey, TrustError> {
        self.key(organization).await
    }

    async fn ancestor(&self, task_id: TaskId) -> Result<Ancestor, TrustError> {
        Ok(self.ancestors.get(&task_id).cloned().unwrap_or(Ancestor { manifest: None, parent_id: None }))
    }

    async fn payload(&self, id: ObjectId) -> Result<Vec<u8>, TrustError> {
        Err(TrustError::Api(ApiError::PayloadTooLarge { id, limit: 0 }))
    }

    fn keep_ancestor(&self, task_id: TaskId, _: Ancestor) {
        self.kept.lock().unwrap().push(task_id);
    }
}

fn manifest(function: &str, receiver: OrganizationId, initiator: OrganizationId) -> TaskManifest {
    TaskManifest {
        version: MANIFEST_VERSION,
        collaboration_id: CollaborationId::new(1),
        image: BUILTIN_IMAGE.into(),
        function: function.into(),
        databases: vec![],
        receivers: vec![Receiver { organization_id: receiver, input_sha256: Digest::of(input(function).as_bytes()) }],
        initiator,
        user_id: None,
        parent: None,
        delegation: None,
        nonce: Nonce::new([1; 16]),
        issued_at: NOW.seconds(),
        not_after: NOW.seconds() + 60,
    }
}

fn input(function: &str) -> String {
    payload::to_text(json!({"method": function}).to_string().as_bytes())
}

fn run(function: &str, signed: &SignedManifest, initiator: OrganizationId, parent: Option<i64>) -> Run {
    let link = |id: i64| json!({"id": id, "link": "", "methods": []});
    let task = json!({"id": 9, "name": "", "description": null, "image": BUILTIN_IMAGE, "job_id": 1, "created_at": null,
        "status": "pending", "finished_at": null, "collaboration": link(1), "study": null, "algorithm_store": null,
        "init_org": link(initiator.get()), "init_user": link(5), "parent": parent.map(link), "children": "",
        "runs": "", "results": "", "databases": [], "manifest": signed});
    serde_json::from_value(json!({"id": 90, "status": "pending", "input": input(function), "blob_storage_used": false,
        "task": task, "ports": []}))
    .unwrap()
}

async fn admit(world: &World, run: &Run) -> Result<Admitted, AdmissionError> {
    admit_with(world, run, "").await
}

/// With further policies.
async fn admit_with(world: &World, run: &Run, policies: &str) -> Result<Admitted, AdmissionError> {
    let home = Home {
        organization_id: HOME,
        collaboration_id: CollaborationId::new(1),
        encrypted: false,
        key: Some(key(HOME).into()),
    };
    let policy = Policy::new(&config(&format!("[policies]\nrequire_signed_tasks = true\n{policies}")), false);
    Judge { home: &home, policy: &policy, sources: world }.admit(run, NOW).await
}

/// A parent task of the researcher at the central organization, and its world.
fn family() -> (World, SignedManifest) {
    let parent = TaskManifest {
        delegation: Some(Delegation {
            functions: ["partial".to_owned()].into(),
            organizations: [HOME, CENTRAL].into(),
        }),
        ..manifest("central", CENTRAL, RESEARCHER)
    };
    let parent = Signed::sign(&parent, &key(RESEARCHER)).unwrap();
    let ancestor = Ancestor { manifest: Some(parent.clone()), parent_id: None };
    (World { ancestors: [(TaskId::new(4), ancestor)].into(), ..World::default() }, parent)
}

fn subtask(parent: &SignedManifest, function: &str, signer: OrganizationId) -> Run {
    let subtask = TaskManifest { parent: Some(parent.digest()), ..manifest(function, HOME, signer) };
    run(function, &Signed::sign(&subtask, &key(signer)).unwrap(), signer, Some(4))
}

#[tokio::test]
async fn a_subtask_of_a_central_function_is_admitted_into_the_mesh_of_its_root() {
    let (world, parent) = family();
    let admitted = admit(&world, &subtask(&parent, "partial", CENTRAL)).await.unwrap();
    assert_eq!(admitted.details.mesh, parent.digest().to_string());
    assert_eq!(admitted.details.members, [HOME, CENTRAL]);
    assert_eq!(admitted.details.initiator, CENTRAL);
    assert_eq!(*world.kept.lock().unwrap(), [TaskId::new(4)]);
}

#[tokio::test]
async fn who_asks_is_who_signed_the_root_whatever_the_coordinator_says() {
    let (world, parent) = family();
    let subtask = subtask(&parent, "partial", CENTRAL);
    admit_with(&world, &subtask, "allowed_organizations = [2]").await.unwrap();
    let refusal = admit_with(&world, &subtask, "allowed_organizations = [3]").await.unwrap_err().to_string();
    assert!(refusal.contains("organization 2") && refusal.contains("allowed_organizations"), "{refusal}");
    // The coordinator says that user 5 made the task; signed is user 6, or nobody.
    for (user_id, allowed, is_admitted) in
        [(Some(6), "[6]", true), (Some(6), "[5]", false), (None, "[5]", false), (None, "[6]", false)]
    {
        let manifest = TaskManifest { user_id: user_id.map(UserId::new), ..manifest("echo", HOME, RESEARCHER) };
        let run = run("echo", &Signed::sign(&manifest, &key(RESEARCHER)).unwrap(), RESEARCHER, None);
        let admitted = admit_with(&World::default(), &run, &format!("allowed_users = {allowed}")).await;
        assert_eq!(admitted.is_ok(), is_admitted, "{user_id:?} {allowed}: {admitted:?}");
    }
}

#[tokio::test]
async fn a_subtask_that_its_parent_does_not_allow_is_refused() {
    let (world, parent) = family();
    for (case, run) in [
        ("function", subtask(&parent, "other", CENTRAL)),
        ("does not run the parent", subtask(&parent, "partial", HOME)),
    ] {
        let refusal = admit(&world, &run).await.unwrap_err().to_string();
        assert!(refusal.contains(case), "{case}: {refusal}");
    }
    let lonely = admit(&World::default(), &subtask(&parent, "partial", CENTRAL)).await.unwrap_err().to_string();
    assert!(lonely.contains("parent task 4 is not signed"), "{lonely}");
}

#[tokio::test]
async fn a_parent_that_somebody_else_signed_counts_for_nothing() {
    let (mut world, parent) = family();
    let forged = Signed::sign(&parent.read_unverified().unwrap(), &key(CENTRAL)).unwrap();
    world.ancestors.insert(TaskId::new(4), Ancestor { manifest: Some(forged.clone()), parent_id: None });
    let refusal = admit(&world, &subtask(&forged, "partial", CENTRAL)).await.unwrap_err().to_string();
    assert!(refusal.contains("pinned for organization 2"), "{refusal}");
    assert!(world.kept.lock().unwrap().is_empty(), "what is wrong is not remembered");
}

#[tokio::test]
async fn an_input_that_calls_another_function_than_signed_is_refused() {
    let mut signed = manifest("echo", HOME, RESEARCHER);
    signed.function = "harmless".into();
    let signed = Signed::sign(&signed, &key(RESEARCHER)).unwrap();
    let refusal = admit(&World::default(), &run("echo", &signed, RESEARCHER, None)).await.unwrap_err().to_string();
    assert!(refusal.contains("`echo`") && refusal.contains("`harmless`"), "{refusal}");
}
