"""The coordinator goes and comes back while a notebook waits (contract G.2, item 12)."""

import signal
import threading

import pytest
from federation import PATIENCE_SECONDS, Federation, until
from vantage6.common.task_status import TaskStatus


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    federation = Federation(tmp_path_factory.mktemp("restart"), 2)
    try:
        federation.start()
        yield federation
    finally:
        federation.stop()


class Notebook(threading.Thread):
    """Somebody who waits for results."""

    def __init__(self, client, task):
        super().__init__()
        self._client, self._task = client, task
        self.answer = None
        self.start()

    def run(self):
        self.answer = self._client.wait_for_results(self._task)


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_whoever_waits_for_results_outlives_the_coordinator(pair, wire, how):
    robin = pair.researcher()
    since = len(wire.exchanges)

    def asked():
        return wire.asked("GET", f"/api/task/{task['id']}/status", since)

    with pair.away(pair.hospitals[1]):
        task = pair.task(robin, pair.ids(), columns=["value"])
        notebook = Notebook(robin, task["id"])
        until("the client waits", asked)
        pair.coordinator.end(how)
        until("the client was cut off and then refused", lambda: len([one for one in asked() if one.cut]) > 1)
        pair.coordinator.start()
        until("the client waits again", lambda: not asked()[-1].cut)
    notebook.join(PATIENCE_SECONDS)

    results = notebook.answer["data"]
    assert len(results) == 2 and all(item["result"] for item in results)
    # What was not cut was answered; nothing in between made the client give up.
    assert {exchange.status for exchange in asked() if not exchange.cut} == {200}
    assert robin.task.get(task["id"])["status"] == TaskStatus.COMPLETED


def test_what_is_asked_while_the_coordinator_is_away_is_answered_when_it_is_back(pair, wire):
    robin = pair.researcher()
    pair.coordinator.end()
    since = len(wire.exchanges)
    tasks = []
    notebook = threading.Thread(target=lambda: tasks.append(pair.task(robin, pair.ids(), columns=["value"])))
    notebook.start()
    until("the client has been refused", lambda: [exchange for exchange in wire.exchanges[since:] if exchange.cut])
    pair.coordinator.start()
    notebook.join(PATIENCE_SECONDS)
    assert len(robin.wait_for_results(tasks[0]["id"])["data"]) == 2
