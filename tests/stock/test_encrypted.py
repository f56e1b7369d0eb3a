"""A researcher's tasks in an encrypted collaboration (contract G.2, item 4, and A.9), with vantage6's own kind of key."""

import json
import statistics

import pytest
from federation import ORGANIZATION_ADMIN, RESEARCHER, Federation, organizations, user, values
from vantage6.common import Singleton, base64s_to_bytes
from vantage6.common.encryption import RSACryptor


@pytest.fixture(scope="module")
def sealed(tmp_path_factory):
    """Fifteen hospitals in an encrypted collaboration, each with an RSA key of its own."""
    federation = Federation(tmp_path_factory.mktemp("sealed"), 15, encrypted=True)
    try:
        federation.start()
        yield federation
    finally:
        federation.stop()


@pytest.fixture
def robin(sealed):
    """The researcher with their organization's key, which is also its node's."""
    client = sealed.researcher()
    client.setup_encryption(str(sealed.hospitals[0].directory / "key.pem"))
    return client


def another_process():
    """The client keeps one key per process; what comes after this is in another one."""
    Singleton._instances.clear()


def test_a_key_is_uploaded_as_the_client_writes_it(coordinator, root, prefix, tmp_path, wire):
    [organization] = organizations(root, [prefix])
    user(root, f"{prefix}-admin", organization, ORGANIZATION_ADMIN)
    user(root, f"{prefix}-robin", organization, RESEARCHER)
    change = ("PATCH", f"/api/organization/{organization}")
    path = tmp_path / "key.pem"
    key = RSACryptor.create_public_key_bytes(RSACryptor.create_new_rsa_key(path))

    admin = coordinator.client(f"{prefix}-admin")
    admin.setup_encryption(str(path))
    assert base64s_to_bytes(admin.organization.get()["public_key"]) == key
    since = len(wire.exchanges)
    # What is there already is left alone, also by somebody who could not change it.
    admin.setup_encryption(path)
    another_process()
    coordinator.client(f"{prefix}-robin").setup_encryption(str(path))
    assert wire.asked(*change, since) == []

    another_process()
    robin = coordinator.client(f"{prefix}-robin")
    RSACryptor.create_new_rsa_key(tmp_path / "other.pem")
    robin.setup_encryption(str(tmp_path / "other.pem"))
    assert {exchange.status for exchange in wire.asked(*change, since)} == {401}
    assert base64s_to_bytes(robin.organization.get()["public_key"]) == key

    another_process()
    admin = coordinator.client(f"{prefix}-admin")
    admin.util.generate_private_key(str(tmp_path / "new.pem"))
    assert admin.cryptor.verify_public_key(admin.organization.get()["public_key"])
    assert base64s_to_bytes(admin.organization.get()["public_key"]) != key
    admin.setup_encryption(None)


@pytest.mark.parametrize("size", [1, 2, 15])
def test_every_hospital_answers_newest_run_first(sealed, robin, size):
    task = sealed.task(robin, sealed.ids(size), columns=["value"])
    answer = robin.wait_for_results(task["id"])
    assert "next" not in answer["links"]
    runs = [item["run"]["id"] for item in answer["data"]]
    assert len(runs) == size and runs == sorted(runs, reverse=True)
    for number, item in enumerate(reversed(answer["data"])):
        column = json.loads(item["result"])["columns"]["value"]
        assert column["mean"] == pytest.approx(statistics.fmean(value for _, value in values(number)))
    assert robin.result.get(runs[0]) == answer["data"][0]["result"]


def test_a_central_function_asks_all_hospitals(sealed, robin):
    task = sealed.task(robin, sealed.ids(1), "summary", columns=["value"])
    [item] = robin.wait_for_results(task["id"])["data"]
    summary = json.loads(item["result"])
    pooled = [value for number in range(15) for _, value in values(number)]
    assert summary["rows"] == len(pooled)
    assert summary["columns"]["value"]["mean"] == pytest.approx(statistics.fmean(pooled))


def test_the_coordinator_has_envelopes_only(sealed, robin):
    """The lengths are those of the contract's vector (G.1): a key of 512 bytes, a counter of 16."""
    task = sealed.task(robin, sealed.ids(1), columns=["value"])
    answer = robin.wait_for_results(task["id"])
    [run] = robin.request("run", params={"task_id": task["id"]})["data"]
    [result] = robin.request("result", params={"task_id": task["id"]})["data"]
    texts = {
        run["input"]: json.dumps({"method": "summary_partial", "kwargs": {"columns": ["value"]}}),
        result["result"]: answer["data"][0]["result"],
    }
    for envelope, text in texts.items():
        key, counter, message = envelope.split("$")
        assert (len(key), len(counter), len(base64s_to_bytes(message))) == (684, 24, len(text.encode()))
        assert text.encode() not in base64s_to_bytes(message)
    # It was sealed to the first hospital, whose key this is.
    assert robin.run.get(run["id"])["input"] == texts[run["input"]]


def test_input_of_the_wrong_kind_is_refused(sealed, federation, robin):
    plain = sealed.researcher()
    refused = sealed.task(plain, sealed.ids(2), columns=["value"])
    assert "id" not in refused and "encrypted" in refused["msg"]

    another_process()
    somebody = federation.researcher()
    somebody.cryptor = robin.cryptor
    key = robin.organization.get()["public_key"]
    envelope = robin.cryptor.encrypt_bytes_to_str(b"{}", key)
    body = {
        "name": "name",
        "image": "image",
        "collaboration_id": federation.collaboration,
        "organizations": [{"id": federation.ids(1)[0], "input": envelope}],
    }
    refused = somebody.request("task", method="post", json=body)
    assert "id" not in refused and "encrypted" in refused["msg"]
