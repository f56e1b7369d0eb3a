"""An administrator's day (contract G.2, item 2): everything the client can make, list, look at, change and remove."""

import pytest
from federation import (
    COLLABORATION_ADMIN,
    ORGANIZATION_ADMIN,
    PASSWORD,
    RESEARCHER,
    VIEWER,
    organizations,
    until,
    user,
)  # fmt: skip
from vantage6.common.task_status import TaskStatus


def names(answer):
    return [item["name"] for item in answer["data"]]


def test_the_server_says_what_it_is(root):
    assert root.util.get_server_version(attempts_on_timeout=0)["version"] == "4.15.2"
    assert root.util.get_server_health()["database"] is True


def test_an_organization_is_made_listed_changed_and_removed(root, prefix):
    made = root.organization.create(f"{prefix}-north", "Street 1", "c/o Robin", "1000 AA", "NL", "north.example")
    assert made["name"] == f"{prefix}-north" and made["public_key"] == ""
    root.organization.create(f"{prefix}-south", "Street 2", "", "2000", "BE", "south.example", public_key=None)

    assert root.organization.get(made["id"]) == made
    assert root.organization.get()["name"] == "root"
    assert names(root.organization.list(name=f"{prefix}-%")) == [f"{prefix}-north", f"{prefix}-south"]
    assert names(root.organization.list(name=f"{prefix}-nort_")) == [f"{prefix}-north"]
    assert names(root.organization.list(name=f"{prefix}")) == []
    assert names(root.organization.list(name=f"{prefix}-%", country="BE")) == [f"{prefix}-south"]
    page = root.organization.list(name=f"{prefix}-%", page=2, per_page=1)
    assert names(page) == [f"{prefix}-south"]
    assert set(page["links"]) == {"first", "previous", "self", "last"}
    assert root.organization.list(name=f"{prefix}-%", field="name") == [
        {"name": f"{prefix}-north"},
        {"name": f"{prefix}-south"},
    ]
    # `filters` of the client itself gives a bare list.
    assert root.organization.list(per_page=1000, filter_=("name", f"{prefix}-north")) == [made]

    changed = root.organization.update(
        made["id"], f"{prefix}-polar", "Ice 1", "Floe 2", "0000", "NO", "polar.example"
    )  # fmt: skip
    expected = ("Ice 1", "Floe 2", "0000", "NO", "polar.example")
    assert tuple(changed[key] for key in ("address1", "address2", "zipcode", "country", "domain")) == expected
    # What is not given stays.
    assert root.organization.update(made["id"], country="SE") == {**changed, "country": "SE"}
    assert root.organization.update(domain="root.example")["domain"] == "root.example"

    assert root.organization.create(f"{prefix}-polar", "", "", "", "", "")["msg"]
    root.organization.delete(made["id"])
    assert "not found" in root.organization.get(made["id"])["msg"]


def test_a_collaboration_is_made_listed_changed_and_removed(root, prefix):
    north, south, east = organizations(root, [f"{prefix}-{name}" for name in ("north", "south", "east")])
    made = root.collaboration.create(f"{prefix}-plain", [north, south])
    sealed = root.collaboration.create(f"{prefix}-sealed", [north], encrypted=True)
    assert (made["encrypted"], sealed["encrypted"]) == (False, True)

    assert root.collaboration.get(made["id"]) == made
    everywhere = {"scope": "global", "name": f"{prefix}-%"}
    assert names(root.collaboration.list(**everywhere)) == [f"{prefix}-plain", f"{prefix}-sealed"]
    # The default scope asks for the caller's own organization.
    assert names(root.collaboration.list(name=f"{prefix}-%")) == []
    assert names(root.collaboration.list(**everywhere, encrypted=True)) == [f"{prefix}-sealed"]
    assert names(root.collaboration.list(**everywhere, encrypted=False)) == [f"{prefix}-plain"]
    assert names(root.collaboration.list(**everywhere, organization=south)) == [f"{prefix}-plain"]
    assert names(root.collaboration.list(**everywhere, page=2, per_page=1)) == [f"{prefix}-sealed"]

    changed = root.collaboration.update(made["id"], name=f"{prefix}-open", organizations=[north, east])
    assert changed["name"] == f"{prefix}-open" and changed["encrypted"] is False
    assert root.collaboration.update(made["id"], encrypted=True)["encrypted"] is True
    members = root.collaboration.add_organization(south, made["id"])
    assert [member["id"] for member in members] == [north, south, east]
    members = root.collaboration.remove_organization(east, made["id"])
    assert [member["id"] for member in members] == [north, south]
    assert names(root.organization.list(collaboration=made["id"])) == [f"{prefix}-north", f"{prefix}-south"]

    root.setup_collaboration(made["id"])
    assert names(root.organization.list()) == [f"{prefix}-north", f"{prefix}-south"]
    assert root.collaboration.update(name=f"{prefix}-again")["name"] == f"{prefix}-again"
    root.collaboration.delete()
    assert root.collaboration.get(made["id"])["msg"]
    root.setup_collaboration(made["id"])


def test_a_plain_delete_spares_what_depends_on_it(root, prefix):
    """The client sends `delete_dependents=False` as a text, which stock servers take for true (contract F.1-1)."""
    [north] = organizations(root, [f"{prefix}-north"])
    collaboration = root.collaboration.create(f"{prefix}-kept", [north])["id"]
    node = root.node.create(collaboration, north)["id"]
    study = root.study.create(f"{prefix}-study", [north], collaboration)["id"]

    root.collaboration.delete(collaboration)
    root.organization.delete(north)
    assert root.collaboration.get(collaboration)["id"] == collaboration
    assert root.node.get(node)["id"] == node
    assert root.study.get(study)["id"] == study
    assert root.organization.get(north)["id"] == north

    root.collaboration.delete(collaboration, delete_dependents=True)
    assert root.collaboration.get(collaboration)["msg"]
    assert root.node.get(node)["msg"] and root.study.get(study)["msg"]
    user(root, f"{prefix}-robin", north)
    root.organization.delete(north, delete_dependents=True)
    assert root.organization.get(north)["msg"]
    assert root.user.list(username=f"{prefix}-robin")["data"] == []


def test_a_node_is_made_listed_changed_and_removed(root, prefix):
    north, south = organizations(root, [f"{prefix}-north", f"{prefix}-south"])
    collaboration = root.collaboration.create(f"{prefix}-both", [north, south])["id"]
    made = root.node.create(collaboration, north, name=f"{prefix}-named")
    assert made["name"] == f"{prefix}-named" and len(made["api_key"]) == 36
    default = root.node.create(collaboration, south)
    assert default["name"] == f"{prefix}-south - {prefix}-both Node"
    # The key is shown once.
    shown = {key: value for key, value in made.items() if key != "api_key"}
    assert root.node.get(made["id"]) == shown
    assert shown["organization"]["id"] == north and shown["collaboration"]["id"] == collaboration

    def found(**filters):
        return sorted(node["id"] for node in root.node.list(**filters)["data"])

    study = root.study.create(f"{prefix}-study", [south], collaboration)["id"]
    both = sorted([made["id"], default["id"]])
    assert found(collaboration=collaboration) == both
    assert found(name=f"{prefix}-na%") == [made["id"]]
    assert found(organization=south) == [default["id"]]
    assert found(study=study) == [default["id"]]
    assert found(collaboration=collaboration, is_online=True) == []
    assert found(collaboration=collaboration, is_online=False) == []  # never seen
    assert found(collaboration=collaboration, ip="192.0.2.1") == []
    assert found(collaboration=collaboration, last_seen_from="2020-01-01") == []
    assert found(collaboration=collaboration, last_seen_till="2020-01-01T00:00:00+00:00") == []
    pages = [found(collaboration=collaboration, page=page, per_page=1) for page in (1, 2, 3)]
    assert sorted(sum(pages, [])) == both and pages[2] == []
    root.setup_collaboration(collaboration)
    assert found() == both

    assert root.node.update(made["id"], name=f"{prefix}-other")["name"] == f"{prefix}-other"
    assert root.node.update(made["id"], clear_ip=True)["ip"] is None
    assert root.node.create(collaboration, north)["msg"]
    assert "msg" in root.node.kill_tasks(made["id"])
    root.node.delete(made["id"])
    assert root.node.get(made["id"])["msg"]


def test_a_user_is_made_listed_changed_and_removed(coordinator, root, prefix):
    [north] = organizations(root, [f"{prefix}-north"])
    name = f"{prefix}-robin"
    made = root.user.create(
        name, "Robin", "Doe", PASSWORD, f"{name}@example.org", north, roles=[RESEARCHER], rules=[44]
    )  # fmt: skip
    assert made["organization"]["id"] == north and made["otp_secret"] is None
    # The client sends `organization_id: null` when none is given (contract F.1-7).
    own = root.user.create(f"{prefix}-sam", "Sam", "Roe", PASSWORD, f"{prefix}-sam@example.org")
    assert own["organization"]["id"] == root.whoami.organization_id

    assert root.user.get(made["id"]) == made
    assert root.user.get()["username"] == "root"

    def found(**filters):
        return [item["username"] for item in root.user.list(**filters)["data"]]

    assert found(username=f"{prefix}-%") == [name, f"{prefix}-sam"]
    assert found(username=f"{prefix}-%", firstname="Rob%") == [name]
    assert found(username=f"{prefix}-%", lastname="Roe") == [f"{prefix}-sam"]
    assert found(email=f"{name}@%") == [name]
    assert found(organization=north) == [name]
    assert found(organization=north, role=RESEARCHER) == [name]
    assert found(organization=north, role=VIEWER) == []
    assert found(organization=north, rule=44) == [name]
    assert found(organization=north, last_seen_from="2020-01-01") == []
    coordinator.client(name)
    # Written down in passing, not by the request itself.
    until("the user is seen", lambda: found(organization=north, last_seen_from="2020-01-01") == [name])
    assert found(organization=north, last_seen_from="2020-01-01", last_seen_till="2100-01-01") == [name]
    assert found(username=f"{prefix}-%", page=2, per_page=1) == [f"{prefix}-sam"]

    changed = root.user.update(
        made["id"], "Robina", "Dove", organization=root.whoami.organization_id, rules=[], roles=[VIEWER]
    )  # fmt: skip
    # A user stays with their organization; asking otherwise changes nothing.
    assert (changed["firstname"], changed["lastname"], changed["organization"]["id"]) == ("Robina", "Dove", north)
    assert found(organization=north, role=RESEARCHER) == found(organization=north, rule=44) == []
    assert found(organization=north, role=VIEWER) == [name]
    assert root.user.update(made["id"], email=f"{name}@example.net")["email"] == f"{name}@example.net"
    assert root.user.update(firstname="Ada")["firstname"] == "Ada"

    for refused in (
        root.user.create(name, "Robin", "Doe", PASSWORD, "new@example.org"),
        root.user.create(f"{prefix}-new", "Robin", "Doe", PASSWORD, f"{name}@example.net"),
        root.user.create(f"{prefix}-new", "Robin", "Doe", "weak", f"{prefix}-new@example.org"),
        root.user.create("1x", "Robin", "Doe", PASSWORD, f"{prefix}-new@example.org"),
    ):
        assert refused["msg"] and "id" not in refused
    root.user.delete(made["id"])
    assert root.user.get(made["id"])["msg"]


def test_a_role_is_made_listed_changed_and_removed(root, prefix):
    [north] = organizations(root, [f"{prefix}-north"])
    made = root.role.create(f"{prefix}-reader", "reads", [30, 40], organization=north)
    assert made["organization"]["id"] == north and made["is_default_role"] is False
    own = root.role.create(f"{prefix}-own", "", [])
    assert own["organization"]["id"] == root.whoami.organization_id

    def found(**filters):
        return names(root.role.list(**filters))

    assert root.role.get(made["id"]) == made
    assert found(name=f"{prefix}-%") == [f"{prefix}-reader", f"{prefix}-own"]
    assert found(description="read_", organization=north) == [f"{prefix}-reader"]
    assert found(organization=north) == [f"{prefix}-reader"]
    assert found(organization=north, include_root=True, rule=40) == ["Root", f"{prefix}-reader"]
    assert found(rule=40, name=f"{prefix}%") == [f"{prefix}-reader"]
    assert found(name=f"{prefix}-%", page=2, per_page=1) == [f"{prefix}-own"]
    robin = user(root, f"{prefix}-robin", north, made["id"])
    assert found(user=robin["id"]) == [f"{prefix}-reader"]

    # The client sends nulls for what is not to change (contract F.1-7).
    changed = root.role.update(made["id"], description="reads more")
    assert (changed["name"], changed["description"]) == (f"{prefix}-reader", "reads more")
    changed = root.role.update(made["id"], name=f"{prefix}-viewer", rules=[30])
    assert [rule["id"] for rule in root.rule.list(role=made["id"])["data"]] == [30]
    assert root.role.update(RESEARCHER, name="mine")["msg"]
    root.user.delete(robin["id"])
    for role in (made, own):
        root.role.delete(role["id"])
        assert root.role.get(role["id"])["msg"]


def test_the_rules_are_those_of_a_stock_server(root):
    assert root.rule.get(33) == {
        **root.rule.get(33),
        "id": 33,
        "name": "task",
        "operation": "CREATE",
        "scope": "COLLABORATION",
    }
    everything = root.rule.list(per_page=1000)
    assert sorted(rule["id"] for rule in everything["data"]) == list(range(1, 87))
    assert len(root.rule.list()["data"]) == 20

    def found(**filters):
        return [rule["id"] for rule in root.rule.list(**filters)["data"]]

    assert found(name="task", operation="CREATE") == [32, 33]
    assert found(name="task", operation="CREATE", scope="GLOBAL") == [32]
    assert found(name="task", operation="c", scope="glo") == [32]
    assert found(role=RESEARCHER, operation="CREATE") == [33]
    # The contract's vector (G.1); the client itself sends no order.
    links = root.request("rule", params={"per_page": 2, "page": 3, "sort": "-id"})["links"]
    assert links == {
        name: f"/api/rule?per_page=2&page={page}&sort=-id"
        for name, page in {"first": 1, "previous": 2, "self": 3, "next": 4, "last": 43}.items()
    }


def test_a_study_is_made_listed_changed_and_removed(root, prefix):
    north, south, east = organizations(root, [f"{prefix}-{name}" for name in ("north", "south", "east")])
    collaboration = root.collaboration.create(f"{prefix}-both", [north, south])["id"]
    made = root.study.create(f"{prefix}-study", [north], collaboration)
    assert [member["id"] for member in made["organizations"]] == [north]
    root.setup_collaboration(collaboration)
    other = root.study.create(f"{prefix}-other", [north, south])

    assert root.study.get(made["id"])["name"] == f"{prefix}-study"
    assert names(root.study.list(name=f"{prefix}-%")) == [f"{prefix}-study", f"{prefix}-other"]
    assert names(root.study.list(organization=south)) == [f"{prefix}-other"]
    assert names(root.study.list(collaboration=collaboration, page=2, per_page=1)) == [f"{prefix}-other"]
    [nested] = root.study.list(name=f"{prefix}-study", include_organizations=True)["data"]
    assert [member["id"] for member in nested["organizations"]] == [north]
    assert names(root.organization.list(collaboration=None, study=other["id"])) == [
        f"{prefix}-north",
        f"{prefix}-south",
    ]

    changed = root.study.update(made["id"], name=f"{prefix}-changed", organizations=[south])
    assert changed["name"] == f"{prefix}-changed" and changed["organizations"][0]["id"] == south
    assert [member["id"] for member in root.study.add_organization(north, made["id"])] == [north, south]
    assert [member["id"] for member in root.study.remove_organization(south, made["id"])] == [north]
    assert root.study.add_organization(east, made["id"])["msg"]
    root.study.delete(made["id"])
    assert root.study.get(made["id"])["msg"]


@pytest.mark.parametrize("role", [ORGANIZATION_ADMIN, COLLABORATION_ADMIN])
def test_an_administrator_of_some_rights_works_within_them(coordinator, root, prefix, role):
    north, south = organizations(root, [f"{prefix}-north", f"{prefix}-south"])
    collaboration = root.collaboration.create(f"{prefix}-both", [north, south])["id"]
    user(root, f"{prefix}-admin", north, role)
    admin = coordinator.client(f"{prefix}-admin")

    made = user(admin, f"{prefix}-colleague", north, VIEWER)
    own_role = admin.role.create(f"{prefix}-role", "", [30])
    assert admin.user.update(made["id"], roles=[own_role["id"]])["id"] == made["id"]
    assert admin.node.create(collaboration)["api_key"]
    assert names(admin.collaboration.list()) == [f"{prefix}-both"]
    foreign = admin.node.create(collaboration, south)
    assert ("api_key" in foreign) == (role == COLLABORATION_ADMIN)
    # Nobody gives what they do not have: rule 1 sees all nodes of the world.
    assert admin.role.create(f"{prefix}-mighty", "", [1])["msg"]
    assert admin.user.update(rules=[1])["msg"]
    assert admin.organization.create(f"{prefix}-new", "", "", "", "", "")["msg"]
    assert admin.collaboration.create(f"{prefix}-new", [north])["msg"]


def test_tasks_are_filtered_in_every_way_the_client_offers(coordinator, root, prefix):
    """No node is there: the tasks stay pending until they are killed or deleted."""
    north, south = organizations(root, [f"{prefix}-north", f"{prefix}-south"])
    collaboration = root.collaboration.create(f"{prefix}-both", [north, south])["id"]
    nodes = {organization: root.node.create(collaboration, organization)["id"] for organization in (north, south)}
    study = root.study.create(f"{prefix}-study", [south], collaboration)["id"]
    user(root, f"{prefix}-robin", north, RESEARCHER)
    robin = coordinator.client(f"{prefix}-robin")
    robin.setup_collaboration(collaboration)

    first = robin.task.create(
        [north, south],
        f"{prefix}-first",
        "registry.example/image:1",
        "what for",
        {"method": "m"},
        databases=[
            {"label": "default", "query": "select 1"},
            {"label": "sheets", "sheet_name": "Sheet 1"},
        ],
    )
    assert [database["label"] for database in first["databases"]] == ["default", "sheets"]
    assert first["databases"][0]["parameters"] == '{"query":"select 1"}'
    second = robin.task.create(
        [south], f"{prefix}-second", "registry.example/other:1", "", {"method": "m"}, study=study, databases="default"
    )  # fmt: skip
    assert second["study"]["id"] == study and second["job_id"] == first["job_id"] + 1

    def found(**filters):
        return [task["id"] for task in robin.task.list(**filters)["data"]]

    both = [second["id"], first["id"]]
    assert found() == both
    assert found(initiating_org=north) == found(initiating_user=robin.whoami.id_) == both
    assert found(collaboration=collaboration, name=f"{prefix}-f%") == [first["id"]]
    assert found(study=study) == [second["id"]]
    assert found(image="registry.example/other%") == [second["id"]]
    assert found(description="what for") == [first["id"]]
    assert found(database="sheets") == [first["id"]]
    assert found(job=second["job_id"]) == [second["id"]]
    assert found(parent=first["id"]) == []
    assert found(status="pending") == both and found(status="completed") == []
    assert found(user_created=True) == both and found(user_created=False) == []
    assert found(page=2, per_page=1) == [first["id"]]
    [item] = robin.task.list(name=f"{prefix}-second", include_results=True)["data"]
    assert [result["result"] for result in item["results"]] == [None]
    assert [result["result"] for result in robin.task.get(first["id"], include_results=True)["results"]] == [None] * 2
    assert robin.task.get(first["id"])["results"] == f"/api/result?task_id={first['id']}"

    runs = robin.run.from_task(first["id"])["data"]
    assert [run["organization"]["id"] for run in runs] == [south, north]
    assert {run["input"] for run in runs} == {'{"method": "m"}'}
    assert found(run=runs[0]["id"]) == [first["id"]]
    run = robin.run.get(runs[0]["id"], include_task=True)
    assert run["task"]["name"] == f"{prefix}-first" and run["input"] == '{"method": "m"}'
    assert robin.run.get(runs[0]["id"], decrypt_input=False)["input"] == "eyJtZXRob2QiOiAibSJ9"
    assert robin.run.from_task(first["id"], include_task=True)["data"][0]["task"]["id"] == first["id"]

    def listed(**filters):
        return [run["id"] for run in robin.run.list(**filters)["data"]]

    own = [run["id"] for run in runs]
    assert listed(task=first["id"]) == listed(task=first["id"], state="open") == own
    assert listed(task=first["id"], organization=north) == listed(task=first["id"], node=nodes[north]) == own[1:]
    assert listed(task=first["id"], assigned=("2020-01-01", "2100-01-01")) == own
    assert listed(task=first["id"], assigned=("2100-01-01", None)) == []
    assert listed(task=first["id"], started=("2020-01-01", "2100-01-01")) == []
    assert listed(task=first["id"], finished=("2020-01-01", "2100-01-01")) == []
    assert listed(task=first["id"], port=8888) == []
    assert listed(task=first["id"], page=2, per_page=1) == own[1:]
    assert robin.run.list(task=first["id"], include_task=True)["data"][0]["task"]["id"] == first["id"]
    assert robin.result.get(own[0]) is None
    assert [result["result"] for result in robin.result.from_task(first["id"])["data"]] == [None, None]

    # A researcher may delete their tasks; killing takes the right to send events.
    robin.task.kill(first["id"])
    assert robin.task.get(first["id"])["status"] == TaskStatus.PENDING
    root.task.kill(first["id"])
    assert robin.task.get(first["id"])["status"] == TaskStatus.KILLED
    assert found(status="killed by user") == [first["id"]]
    for task in both:
        robin.task.delete(task)
        assert robin.task.get(task)["msg"]
    assert robin.run.get(own[0], decrypt_input=False)["msg"]


def test_a_task_that_makes_no_sense_is_refused_with_the_reason(coordinator, root, prefix):
    north, south, east = organizations(root, [f"{prefix}-{name}" for name in ("north", "south", "east")])
    collaboration = root.collaboration.create(f"{prefix}-both", [north, south])["id"]
    study = root.study.create(f"{prefix}-study", [north], collaboration)["id"]
    root.node.create(collaboration, north)
    user(root, f"{prefix}-robin", north, RESEARCHER)
    robin = coordinator.client(f"{prefix}-robin")

    def refused(organizations, **place):
        answer = robin.task.create(organizations, "name", "image", "", {"method": "m"}, **place)
        assert "id" not in answer, answer
        return answer["msg"]

    assert "node" in refused([south], collaboration=collaboration)
    assert str(east) in refused([east], collaboration=collaboration)
    assert refused([south], study=study)
    assert refused([], collaboration=collaboration)
    assert refused([north, north], collaboration=collaboration)
    assert refused([north], collaboration=collaboration, store=4711)
    assert "4711" in refused([north], collaboration=4711)
    assert "4711" in refused([north], study=4711)
    assert robin.task.list(collaboration=collaboration)["data"] == []
