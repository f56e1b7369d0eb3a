"""A researcher's tasks (contract G.2, item 3) in a plain collaboration of fifteen hospitals with their nodes."""

import json
import statistics
import threading

import pytest
from federation import IMAGE, PATIENCE_SECONDS, until, values
from vantage6.common.task_status import TaskStatus


def partials(answer):
    """The results of `summary_partial` by run, as they were listed."""
    return [(item["run"]["id"], json.loads(item["result"])) for item in answer["data"]]


def mean(number):
    return statistics.fmean(value for _, value in values(number))


@pytest.mark.parametrize("size", [1, 2, 15])
def test_every_hospital_answers_newest_run_first(federation, size):
    robin = federation.researcher()
    task = federation.task(robin, federation.ids(size), columns=["value"])
    answer = robin.wait_for_results(task["id"])

    assert "next" not in answer["links"]
    found = partials(answer)
    runs = [run for run, _ in found]
    assert len(runs) == size and runs == sorted(runs, reverse=True)
    for number, (_, partial) in enumerate(reversed(found)):
        column = partial["columns"]["value"]
        assert (partial["rows"], column["count"]) == (20, 20)
        assert column["mean"] == pytest.approx(mean(number))
        assert (column["min"], column["max"]) == (100 * (number + 1), 100 * (number + 1) + 19)
    assert robin.task.get(task["id"])["status"] == TaskStatus.COMPLETED
    assert robin.task.get(task["id"])["finished_at"]


def test_a_central_function_asks_all_hospitals(federation):
    robin = federation.researcher()
    task = federation.task(robin, federation.ids(1), "summary", columns=["value"], counts=["group"])
    [(_, summary)] = partials(robin.wait_for_results(task["id"]))

    pooled = [row for number in range(15) for row in values(number)]
    assert summary["rows"] == len(pooled)
    assert summary["organizations"] == {str(id_): 20 for id_ in federation.ids()}
    column = summary["columns"]["value"]
    assert column["mean"] == pytest.approx(statistics.fmean(value for _, value in pooled))
    assert column["sd"] == pytest.approx(statistics.stdev(value for _, value in pooled))
    assert summary["counts"]["group"]["levels"] == {"a": 150, "b": 150}
    # The subtask is there to see, made for the researcher by the first hospital.
    [subtask] = robin.task.list(parent=task["id"], collaboration=federation.collaboration)["data"]
    assert subtask["job_id"] == task["job_id"] and subtask["init_user"]["id"] == robin.whoami.id_
    assert [item["id"] for item in robin.task.list(user_created=False, job=task["job_id"])["data"]] == [subtask["id"]]
    assert len(robin.run.from_task(subtask["id"])["data"]) == 15


def test_twins_sum_in_secret(federation):
    """Fifteen runs that talk with each other directly, started by an unsigned task of a stock client."""
    robin = federation.researcher()
    task = federation.task(robin, federation.ids(), "secure_sum_twin", column="value")
    found = partials(robin.wait_for_results(task["id"]))
    pooled = [value for number in range(15) for _, value in values(number)]
    assert [(answer["total"], answer["twins"]) for _, answer in found] == [(sum(pooled), 15)] * 15


def test_a_study_is_asked_by_its_members(federation):
    root = federation.coordinator.root()
    study = root.study.create("stock-study", federation.ids(2), federation.collaboration)["id"]
    robin = federation.researcher()
    task = robin.task.create(
        federation.ids(2),
        "stock",
        IMAGE,
        "",
        {"method": "summary_partial", "kwargs": {"columns": ["value"]}},
        study=study,
        databases="default",
    )
    assert task["study"]["id"] == study
    assert len(robin.wait_for_results(task["id"])["data"]) == 2
    assert [item["id"] for item in robin.task.list(study=study)["data"]] == [task["id"]]


def test_runs_and_results_are_seen_in_every_way_the_client_offers(federation):
    robin = federation.researcher()
    task = federation.task(robin, federation.ids(), columns=["value"])
    answer = robin.wait_for_results(task["id"])
    runs = robin.run.from_task(task["id"])["data"]
    assert [run["id"] for run in runs] == [item["id"] for item in answer["data"]]
    for run in runs:
        assert run["status"] == TaskStatus.COMPLETED
        assert run["assigned_at"] <= run["started_at"] <= run["finished_at"]
        assert json.loads(run["input"])["method"] == "summary_partial"
        assert "result" not in run or run["results"]["id"] == run["id"]
    assert robin.result.get(runs[0]["id"]) == answer["data"][0]["result"]
    pages = [robin.run.list(task=task["id"], page=page, per_page=6)["data"] for page in (1, 2, 3, 4)]
    assert [len(page) for page in pages] == [6, 6, 3, 0]
    assert [run["id"] for page in pages for run in page] == [run["id"] for run in runs]
    assert robin.run.list(task=task["id"], state="open")["data"] == []
    assert robin.run.list(task=task["id"], finished=(runs[0]["assigned_at"][:10], None))["data"]
    assert robin.run.from_task(task["id"], filter_=("organization", runs[0]["organization"])) == runs[:1]
    [nested] = [
        item
        for item in robin.task.list(collaboration=federation.collaboration, include_results=True)["data"]
        if item["id"] == task["id"]
    ]
    assert len(nested["results"]) == 15


def test_a_failed_task_ends_the_wait_and_tells_why(federation):
    robin = federation.researcher()
    task = federation.task(robin, federation.ids(1), columns=["salary"])
    [item] = robin.wait_for_results(task["id"])["data"]
    assert not item["result"]
    assert robin.task.get(task["id"])["status"] == TaskStatus.CRASHED
    [run] = robin.run.from_task(task["id"])["data"]
    assert "salary" in run["log"]


def test_an_image_that_is_not_allowed_is_told_by_its_status(federation):
    robin = federation.researcher()
    place = {"collaboration": federation.collaboration}
    task = robin.task.create(federation.ids(1), "name", "somebody/else:1", "", {"method": "m"}, **place)
    robin.wait_for_results(task["id"])
    assert robin.task.get(task["id"])["status"] == TaskStatus.NOT_ALLOWED


def test_a_notebook_gets_its_answer_with_one_question(federation, wire):
    """The question for the status is held until there is something to say, so the client need not ask again.

    One hospital is away, so that the client is sure to ask before the task is done.
    """
    *_, last = federation.hospitals
    robin = federation.researcher()
    with federation.away(last):
        task = federation.task(robin, federation.ids(), columns=["value"])
        question = ("GET", f"/api/task/{task['id']}/status")
        since = len(wire.exchanges)
        answers = []
        notebook = threading.Thread(target=lambda: answers.append(robin.wait_for_results(task["id"])))
        notebook.start()
        until("the client asks", lambda: wire.asked(*question, since))
        colleague = federation.researcher()
        until("the others are done", lambda: len(colleague.run.list(task=task["id"], state="open")["data"]) == 1)
        assert notebook.is_alive()
    notebook.join(PATIENCE_SECONDS)
    assert len(answers[0]["data"]) == 15
    assert [exchange.status for exchange in wire.asked(*question, since)] == [200]


def test_a_task_is_killed_at_every_hospital(federation):
    first, second, *_, last = federation.hospitals
    robin, root = federation.researcher(), federation.coordinator.root()
    with federation.away(last):
        # Twins wait for each other, and one of them is not there.
        members = [hospital.organization for hospital in (first, second, last)]
        task = federation.task(robin, members, "secure_sum_twin", column="value")

        def active():
            return [run for run in robin.run.from_task(task["id"])["data"] if run["status"] == TaskStatus.ACTIVE]

        until("two of them run", lambda: len(active()) == 2)
        assert robin.task.get(task["id"])["status"] == TaskStatus.ACTIVE
        root.task.kill(task["id"])
        robin.wait_for_results(task["id"])
        until("the nodes have confirmed it", lambda: not robin.run.list(task=task["id"], state="open")["data"])
        runs = robin.run.from_task(task["id"])["data"]
        assert [run["status"] for run in runs] == [TaskStatus.KILLED] * 3
        assert "finished" in root.request("kill/task", method="post", json={"id": task["id"]})["msg"]

        # All that is open at one node, here one that has not even seen it.
        unseen = federation.task(robin, [last.organization], columns=["value"])
        assert root.node.kill_tasks(last.node["id"])["msg"]
        assert robin.task.get(unseen["id"])["status"] == TaskStatus.KILLED
    later = federation.task(robin, [last.organization], columns=["value"])
    assert len(partials(robin.wait_for_results(later["id"]))) == 1
    assert [run["started_at"] for run in robin.run.from_task(unseen["id"])["data"]] == [None]
