"""What the stories share: the federations, and an eye on what goes over the wire."""

import itertools
import json
import logging
import threading
from dataclasses import dataclass
from urllib.parse import urlsplit

import pytest
import requests
from federation import RESEARCHER, Coordinator, Federation, Hospital, organizations, until, user, values
from vantage6.common import Singleton


@dataclass
class Exchange:
    """A request of the client, and its answer once there is one."""

    method: str
    path: str
    status: int | None = None
    cut: bool = False


class Wire:
    """Everything that clients of this process asked, in order of asking."""

    def __init__(self):
        self.exchanges = []
        #: Answers that the contract does not know, in words.
        self.complaints = []
        self._lock = threading.Lock()

    def send(self, original, session, request, **settings):
        exchange = Exchange(request.method, urlsplit(request.url).path)
        with self._lock:
            self.exchanges.append(exchange)
        try:
            response = original(session, request, **settings)
        except requests.exceptions.ConnectionError:
            exchange.cut = True
            raise
        exchange.status = response.status_code
        if complaint := self._judge(response):
            self.complaints.append(f"{request.method} {request.url}: {complaint}")
        return response

    @staticmethod
    def _judge(response):
        """What the client cannot live with: an answer that is no JSON, or an error without a sentence (A.1, F.1-17)."""
        if response.status_code >= 500:
            return f"status {response.status_code}: {response.text}"
        if response.status_code == 200 and response.headers.get("content-type") == "application/octet-stream":
            is_payload = urlsplit(response.url).path.startswith("/api/blobstream/")
            return None if is_payload else "bytes that are no payload"
        if response.status_code <= 210:
            return None if _is_json(response) else "an answer that is no JSON"
        if not _is_json(response) or not isinstance(response.json().get("msg"), str):
            return f"an error that is no JSON with `msg`: {response.text}"
        return None

    def asked(self, method, path, since=0):
        return [
            exchange
            for exchange in self.exchanges[since:]
            if (exchange.method, exchange.path) == (method, path)
        ]  # fmt: skip


def _is_json(response):
    try:
        json.loads(response.text)
    except json.JSONDecodeError:
        return False
    return response.headers.get("content-type", "").startswith("application/json")


@pytest.fixture(scope="session", autouse=True)
def session_wire():
    """Looks on while the client, itself unchanged, uses `requests`."""
    wire = Wire()
    original = requests.Session.send
    requests.Session.send = lambda session, request, **settings: wire.send(original, session, request, **settings)
    yield wire
    requests.Session.send = original


@pytest.fixture(autouse=True)
def wire(session_wire):
    """Fails a story in which an answer was no JSON, an error without a sentence, or our fault."""
    session_wire.complaints.clear()
    yield session_wire
    assert not session_wire.complaints


@pytest.fixture(autouse=True)
def fresh_process():
    """The client keeps one cryptor per process; each story is a notebook of its own."""
    yield
    Singleton._instances.clear()
    # The client makes the root logger its own.
    logging.getLogger().handlers.clear()


@pytest.fixture(scope="session")
def coordinator(tmp_path_factory):
    """A coordinator for stories of administrators."""
    # The stores of these stories are on this machine.
    settings = "[algorithm_stores]\nallow_local = true\n"
    coordinator = Coordinator(tmp_path_factory.mktemp("administration"), settings)
    try:
        coordinator.start()
        yield coordinator
    finally:
        coordinator.remove()


@pytest.fixture
def root(coordinator):
    """The administrator, logged in."""
    return coordinator.root()


_numbers = itertools.count(1)


@pytest.fixture
def prefix():
    """What the names of a story begin with."""
    return f"story{next(_numbers)}x"


@pytest.fixture(scope="session")
def federation(tmp_path_factory):
    """Fifteen hospitals in a plain collaboration, their nodes online."""
    federation = Federation(tmp_path_factory.mktemp("federation"), 15)
    try:
        federation.start()
        yield federation
    finally:
        federation.stop()


#: What an algorithm of any language would do: ask its gateway, and answer with what came back.
PROBE = """
import json, os, sys, urllib.request, urllib.error, base64
def variable(name):
    return base64.b32decode(os.environ[name].replace("!", "=")).decode()
with open(variable("TOKEN_FILE")) as file:
    token = file.read()
with open(variable("INPUT_FILE")) as file:
    asked = json.load(file)["kwargs"]["asked"]
base = variable("HOST") + ":" + variable("PORT") + variable("API_PATH")
answers = []
for method, path, body in asked:
    request = urllib.request.Request(base + path, method=method, data=body.encode() if body else None)
    request.add_header("authorization", "Bearer " + token)
    request.add_header("content-type", "application/json")
    try:
        answer = urllib.request.urlopen(request)
    except urllib.error.HTTPError as error:
        answer = error
    answers.append([answer.status, answer.headers.get("content-type"), answer.read().decode()])
with open(variable("OUTPUT_FILE"), "w") as file:
    json.dump({"answers": answers, "environment": dict(os.environ)}, file)
"""


@pytest.fixture(scope="session")
def probed(coordinator, tmp_path_factory):
    """Asks a node's gateway from within a run of a foreign program: this machine's Python."""
    directory = tmp_path_factory.mktemp("gateway")
    root = coordinator.root()
    [organization] = organizations(root, ["gateway"])
    collaboration = root.collaboration.create("gateway", [organization])["id"]
    user(root, "gateway-robin", organization, RESEARCHER)
    hospital = Hospital("gateway", organization, root.node.create(collaboration, organization), directory / "node")
    command = json.dumps(["/usr/bin/python3", "-c", PROBE])
    hospital.configure(
        coordinator,
        values(0),
        extra=(
            '\n[[algorithms]]\nimage = "stock/probe:1"\nroot = "/"\n'
            f"command = {command}\n[policies]\nallowed_algorithms = [\"stock/probe:1\"]\n"
        ),
    )
    hospital.start()
    try:
        until("the node is online", lambda: root.node.list(organization=organization, is_online=True)["data"])
        robin = coordinator.client("gateway-robin")

        def ask(*asked):
            task = robin.task.create(
                [organization],
                "probe",
                "stock/probe:1",
                "",
                {"method": "probe", "kwargs": {"asked": asked}},
                collaboration,
                databases="default",
            )
            [result] = robin.wait_for_results(task["id"])["data"]
            [run] = robin.run.from_task(task["id"])["data"]
            assert run["status"] == "completed", f"{run}\n{hospital.tail()}"
            return json.loads(result["result"])

        yield ask
    finally:
        hospital.end()
