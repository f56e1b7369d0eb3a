"""Payloads outside of the rows (contract A.9.3): where the operator wants it, stock clients upload what they ask."""

import json
import uuid

import pytest
import requests
from federation import Federation


@pytest.mark.parametrize("encrypted", [False, True])
def test_inputs_go_by_the_object_store_if_the_coordinator_says_so(tmp_path, wire, encrypted):
    federation = Federation(tmp_path, 2, encrypted, "[objects]\nstock_clients = true\n")
    try:
        federation.start()
        robin = federation.researcher()
        if encrypted:
            robin.setup_encryption(str(federation.hospitals[0].directory / "key.pem"))
        since = len(wire.exchanges)
        task = federation.task(robin, federation.ids(), columns=["value"])
        assert [one.status for one in wire.asked("POST", "/api/blobstream", since)] == [201, 201]
        answer = robin.wait_for_results(task["id"])
        means = [json.loads(item["result"])["columns"]["value"]["mean"] for item in answer["data"]]
        assert means == pytest.approx([209.5, 109.5])

        [run] = robin.request("run", params={"task_id": task["id"], "organization_id": federation.ids(1)[0]})["data"]
        assert run["blob_storage_used"] and str(uuid.UUID(run["input"])) == run["input"]
        assert json.loads(robin.run.get(run["id"])["input"])["method"] == "summary_partial"
        # What is kept there is for those who may see the run.
        answer = requests.get(f"{robin.base_path}/blobstream/{run['input']}")
        assert answer.status_code == 401 and answer.json()["msg"]
        missing = requests.get(f"{robin.base_path}/blobstream/{uuid.uuid4()}", headers=robin.headers)
        assert missing.status_code == 404 and missing.json()["msg"]
    finally:
        federation.stop()
