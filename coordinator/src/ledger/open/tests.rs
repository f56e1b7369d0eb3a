use twinmesh_protocol::payload::to_text;
use twinmesh_protocol::wire::{NewTaskDatabase, NewTaskOrganization};

use super::*;

const PLAIN: &str = "eyJtZXRob2QiOiAibSJ9";

fn organization(id: i64) -> OrganizationId {
    OrganizationId::new(id)
}

fn request(organizations: &[i64]) -> NewTask {
    NewTask {
        name: Some("a task".into()),
        description: None,
        image: "image:1".into(),
        collaboration_id: Some(CollaborationId::new(1)),
        study_id: None,
        store_id: None,
        server_url: None,
        organizations: organizations
            .iter()
            .map(|id| NewTaskOrganization { id: organization(*id), input: PLAIN.into() })
            .collect(),
        databases: None,
        manifest: None,
    }
}

fn place() -> Place {
    Place {
        collaboration: Some(KnownCollaboration {
            id: CollaborationId::new(1),
            encrypted: false,
            members: (1..=4).map(organization).collect(),
        }),
        study: None,
        nodes: (1..=3).map(|id| (organization(id), KnownNode::default())).collect(),
        store: None,
    }
}

fn researcher() -> Asker {
    Asker { organization: organization(1), user: Some(UserId::new(5)), may_create: true, run: None }
}

fn container() -> Asker {
    let parent = ParentTask {
        id: TaskId::new(8),
        job_id: JobId::new(3),
        image: "registry/image:1@sha256:00".into(),
        store_id: None,
        study_id: None,
        finished: false,
    };
    let run =
        AskingRun { image: "image:1".into(), collaboration_id: CollaborationId::new(1), kill_requested: false, parent };
    Asker { organization: organization(2), user: Some(UserId::new(5)), may_create: false, run: Some(run) }
}

fn open(request: NewTask, asker: &Asker, place: &Place) -> Result<OpenedTask, OpenRefusal> {
    let known = look_at_inputs(&request);
    open_task(request, &known, asker, place)
}

fn refusal(request: NewTask, asker: &Asker, place: &Place) -> OpenRefusal {
    open(request, asker, place).unwrap_err()
}

#[test]
fn a_users_task_begins_a_job_in_the_users_name() {
    let task = open(request(&[1, 2, 3]), &researcher(), &place()).unwrap();
    assert_eq!(task.parent, None);
    assert_eq!((task.init_org, task.init_user), (organization(1), Some(UserId::new(5))));
    assert_eq!(task.inputs.len(), 3);
}

#[test]
fn a_subtask_takes_image_and_job_from_its_parent() {
    let task = open(request(&[1]), &container(), &place()).unwrap();
    assert_eq!(task.parent, Some((TaskId::new(8), JobId::new(3))));
    assert_eq!(task.image, "registry/image:1@sha256:00");
    assert_eq!((task.init_org, task.init_user), (organization(2), Some(UserId::new(5))));
}

#[test]
fn a_run_asks_for_its_own_image_in_its_own_collaboration_while_its_task_lives() {
    let mut asker = container();
    let other = NewTask { image: "image:2".into(), ..request(&[1]) };
    assert!(matches!(refusal(other, &asker, &place()), OpenRefusal::Token(_)));
    let run = asker.run.as_mut().unwrap();
    run.parent.finished = true;
    assert!(matches!(refusal(request(&[1]), &asker, &place()), OpenRefusal::Token(_)));
    let run = asker.run.as_mut().unwrap();
    run.parent.finished = false;
    run.kill_requested = true;
    assert_eq!(refusal(request(&[1]), &asker, &place()), OpenRefusal::Token("the run is being killed"));
    let run = asker.run.as_mut().unwrap();
    run.kill_requested = false;
    run.collaboration_id = CollaborationId::new(2);
    assert!(matches!(refusal(request(&[1]), &asker, &place()), OpenRefusal::Token(_)));
}

#[test]
fn what_the_task_of_a_study_makes_stays_in_the_study() {
    let study = KnownStudy {
        id: StudyId::new(7),
        collaboration_id: CollaborationId::new(1),
        members: [organization(1), organization(2)].into(),
    };
    let within = Place { study: Some(study), ..place() };
    let mut asker = container();
    asker.run.as_mut().unwrap().parent.study_id = Some(StudyId::new(7));
    let named = |study: i64| NewTask { study_id: Some(StudyId::new(study)), ..request(&[1]) };
    for asked in [request(&[1]), named(7)] {
        assert_eq!(open(asked, &asker, &within).unwrap().study_id, Some(StudyId::new(7)));
    }
    assert_eq!(refusal(named(8), &asker, &within), OpenRefusal::Token("the study is another"));
    assert!(matches!(refusal(request(&[1, 3]), &asker, &within), OpenRefusal::OutsideStudy { .. }));
    // Whoever belongs to no study may narrow down whom they ask.
    assert!(open(named(7), &container(), &within).is_ok());
}

#[test]
fn each_wrong_field_is_named() {
    let cases: [(&str, NewTask); 9] = [
        ("name", NewTask { name: Some("123".into()), ..request(&[1]) }),
        ("name", NewTask { name: Some("x".repeat(129)), ..request(&[1]) }),
        ("description", NewTask { description: Some("x".repeat(1025)), ..request(&[1]) }),
        ("image", NewTask { image: String::new(), ..request(&[1]) }),
        ("_schema", NewTask { collaboration_id: None, ..request(&[1]) }),
        ("collaboration_id", NewTask { collaboration_id: Some(CollaborationId::new(0)), ..request(&[1]) }),
        ("organizations", request(&[])),
        ("organizations", request(&[1, 2, 1])),
        (
            "organizations",
            NewTask {
                organizations: vec![NewTaskOrganization { id: organization(1), input: String::new() }],
                ..request(&[1])
            },
        ),
    ];
    for (field, request) in cases {
        match refusal(request, &researcher(), &place()) {
            OpenRefusal::Body(errors) => assert!(errors.contains_key(field), "{errors:?} lacks {field}"),
            other => panic!("{field}: {other:?}"),
        }
    }
}

#[test]
fn the_first_of_several_obstacles_is_the_contracts() {
    let asker = researcher();
    let nowhere = Place { collaboration: None, ..place() };
    assert_eq!(refusal(request(&[9]), &asker, &nowhere), OpenRefusal::NoCollaboration(CollaborationId::new(1)));
    assert!(matches!(refusal(request(&[9]), &asker, &place()), OpenRefusal::OutsideCollaboration { .. }));
    assert_eq!(refusal(request(&[4, 1]), &asker, &place()), OpenRefusal::NoNode(vec![organization(4)]));
    let stranger = Asker { organization: organization(9), may_create: false, ..researcher() };
    assert!(matches!(refusal(request(&[1]), &stranger, &place()), OpenRefusal::NotMember { .. }));
    let viewer = Asker { may_create: false, ..researcher() };
    let mut sealed = request(&[1]);
    sealed.organizations[0].input = to_text(b"\x89TMS\x01rest");
    assert_eq!(refusal(sealed, &viewer, &place()), OpenRefusal::NotAllowed);
}

#[test]
fn a_study_narrows_who_may_be_asked() {
    let study = KnownStudy {
        id: StudyId::new(7),
        collaboration_id: CollaborationId::new(1),
        members: [organization(1)].into(),
    };
    let within = Place { study: Some(study.clone()), ..place() };
    let asked = |organizations: &[i64]| NewTask { study_id: Some(StudyId::new(7)), ..request(organizations) };
    assert!(open(asked(&[1]), &researcher(), &within).is_ok());
    let by_study_alone = NewTask { collaboration_id: None, ..asked(&[1]) };
    assert!(open(by_study_alone, &researcher(), &within).is_ok());
    assert!(matches!(refusal(asked(&[2]), &researcher(), &within), OpenRefusal::OutsideStudy { .. }));
    assert_eq!(refusal(asked(&[1]), &researcher(), &place()), OpenRefusal::NoStudy(StudyId::new(7)));
    let elsewhere = Place { study: Some(KnownStudy { collaboration_id: CollaborationId::new(2), ..study }), ..place() };
    assert!(matches!(refusal(asked(&[1]), &researcher(), &elsewhere), OpenRefusal::StudyElsewhere { .. }));
}

#[test]
fn a_node_admits_whom_it_published() {
    let mut place = place();
    place.nodes.get_mut(&organization(2)).unwrap().allowed_users = vec!["6".into()];
    let refused = refusal(request(&[1, 2]), &researcher(), &place);
    assert_eq!(refused, OpenRefusal::NotAdmitted { organization: organization(2) });
    place.nodes.get_mut(&organization(2)).unwrap().allowed_organizations = vec!["1".into()];
    assert!(open(request(&[1, 2]), &researcher(), &place).is_ok());
}

#[test]
fn inputs_are_encrypted_where_the_collaboration_is_and_nowhere_else() {
    let mut encrypted = place();
    encrypted.collaboration.as_mut().unwrap().encrypted = true;
    let sealed = to_text(b"\x89TMS\x01rest");
    let envelope = format!("{}${}${}", to_text(&[7; 512]), to_text(&[1; 16]), to_text(b"message"));
    let ask = |input: &str, place: &Place| {
        let mut request = request(&[1]);
        request.organizations[0].input = input.into();
        open(request, &researcher(), place)
    };
    for input in [sealed.as_str(), envelope.as_str()] {
        assert!(ask(input, &encrypted).is_ok());
        assert!(matches!(ask(input, &place()), Err(OpenRefusal::Encrypted { .. })));
    }
    assert!(matches!(ask(PLAIN, &encrypted), Err(OpenRefusal::NotEncrypted { .. })));
    for place in [&encrypted, &place()] {
        assert!(matches!(ask("not base64!", place), Err(OpenRefusal::Malformed { .. })));
    }
}

#[test]
fn a_store_must_exist_and_be_linked() {
    let asked = || NewTask { store_id: Some(AlgorithmStoreId::new(3)), ..request(&[1]) };
    assert_eq!(refusal(asked(), &researcher(), &place()), OpenRefusal::NoStore(AlgorithmStoreId::new(3)));
    let linked = |collaboration_id| Place { store: Some(KnownStore { collaboration_id }), ..place() };
    assert!(open(asked(), &researcher(), &linked(None)).is_ok());
    assert!(open(asked(), &researcher(), &linked(Some(CollaborationId::new(1)))).is_ok());
    let refused = refusal(asked(), &researcher(), &linked(Some(CollaborationId::new(2))));
    assert!(matches!(refused, OpenRefusal::StoreElsewhere { .. }));
}

#[test]
fn a_databases_parameters_are_compact_json_without_the_label() {
    let mut asked = request(&[1]);
    asked.databases = Some(vec![
        NewTaskDatabase { label: "default".into(), query: Some("select 1".into()), ..NewTaskDatabase::default() },
        NewTaskDatabase { label: "two".into(), ..NewTaskDatabase::default() },
    ]);
    let task = open(asked, &researcher(), &place()).unwrap();
    assert_eq!(task.databases[0].parameters, r#"{"query":"select 1"}"#);
    assert_eq!(task.databases[1].parameters, "{}");
}
