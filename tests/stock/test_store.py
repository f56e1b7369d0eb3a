"""Algorithm stores (contract A.11): the links that the coordinator keeps, and the store that the client then asks itself."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

import pytest
import requests
from federation import RESEARCHER, organizations, user

REVIEWED = "registry.example/reviewed"
DIGEST = "sha256:" + "0123456789abcdef" * 4


class Store(ThreadingHTTPServer):
    """A store that knows one algorithm, and lets in whom the coordinator vouches for."""

    daemon_threads = True

    def __init__(self):
        #: Which servers are registered, by their id here.
        self.servers = {}
        #: Who asked what: username, verb and path.
        self.asked = []
        #: Whether each token that it was shown would have let it ask the coordinator itself.
        self.may_ask = []
        super().__init__(("127.0.0.1", 0), Counter)
        self.url = f"http://127.0.0.1:{self.server_address[1]}/api"
        threading.Thread(target=self.serve_forever, daemon=True).start()


class Counter(BaseHTTPRequestHandler):
    """Answers one question."""

    def log_message(self, *_):
        pass

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers.get("content-length", 0))) or "null")
        if path := self._who_asks("vantage6-server"):
            self.server.servers[len(self.server.servers) + 1] = body["url"]
        self._answer(201, {"id": len(self.server.servers), "path": path})

    do_PATCH = do_POST

    def do_GET(self):
        path, query = self._who_asks(), parse_qs(urlsplit(self.path).query)
        if path == "vantage6-server":
            found = [{"id": id_, "url": url} for id_, url in self.server.servers.items() if url in query["url"]]
        elif path == "algorithm":
            image = query.get("image", [""])[0]
            found = [{"id": 1, "image": REVIEWED, "digest": DIGEST}] if image.startswith(REVIEWED) else []
        else:
            found = []
        self._answer(200, {"data": found, "links": {}})

    def do_DELETE(self):
        if (path := self._who_asks()).startswith("vantage6-server/"):
            del self.server.servers[int(path.split("/")[1])]
        self._answer(200, {"msg": "gone"})

    def _who_asks(self, only=None):
        """Asks the coordinator whose token this is, as stores do, and returns the path under the API."""
        server = self.headers["server_url"] or self.headers["server-url"]
        token = {"authorization": self.headers["authorization"]}
        known = requests.post(f"{server}/token/user/validate", headers=token).json()
        # Who has what a store is shown: a user's own token is good for this, too.
        self.server.may_ask.append(requests.get(f"{server}/organization", headers=token).status_code == 200)
        path = urlsplit(self.path).path.removeprefix("/api/")
        self.server.asked.append((known["username"], self.command, path))
        return path if only in (None, path) else None

    def _answer(self, status, body):
        text = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)


@pytest.fixture
def store():
    with Store() as store:
        yield store
        store.shutdown()


def test_a_store_is_linked_listed_changed_and_removed(root, prefix, store):
    [organization] = organizations(root, [prefix])
    collaborations = [root.collaboration.create(f"{prefix}-{name}", [organization])["id"] for name in ("one", "two")]
    assert root.store.create(store.url, prefix) is None
    # Anything may run on the coordinator's own machine.
    assert "force" in root.store.create(store.url, f"{prefix}-store", collaborations[0])["msg"]
    # The client sends the collaboration as a list of one (contract F.1-7).
    made = root.store.create(store.url, f"{prefix}-store", collaborations[0], force=True)
    assert (made["name"], made["url"]) == (f"{prefix}-store", store.url)
    assert list(store.servers.values()) == [root.base_path]
    assert root.store.get(made["id"]) == made
    assert root.store.create(store.url, f"{prefix}-again", collaborations[0], force=True)["msg"]

    def found(**filters):
        return [item["id"] for item in root.store.list(**filters)["data"]]

    assert found(name=f"{prefix}%") == found(url=store.url) == found(collaboration=collaborations[0]) == [made["id"]]
    assert found(collaboration=collaborations[1]) == []
    assert found(name=f"{prefix}%", page=2, per_page=1) == []
    assert root.store.update(made["id"], name=f"{prefix}-shop")["name"] == f"{prefix}-shop"
    root.store.update(made["id"], collaboration=collaborations[1])
    assert found(collaboration=collaborations[0]) == [] and found(collaboration=collaborations[1]) == [made["id"]]
    # All of them: the client sends null.
    assert root.store.update(made["id"], all_collaborations=True)["collaborations"] is None
    assert found(collaboration=collaborations[0]) == found(collaboration=collaborations[1]) == [made["id"]]
    root.store.set(made["id"])
    root.store.delete()
    assert root.store.get(made["id"])["msg"]
    assert store.servers == {}
    everywhere = root.store.create(store.url, f"{prefix}-all", all_collaborations=True, force=True)
    assert everywhere["collaborations"] is None
    root.store.delete(everywhere["id"])


def test_a_task_by_a_store_runs_what_was_reviewed(coordinator, root, prefix, store):
    [organization] = organizations(root, [prefix])
    collaboration = root.collaboration.create(prefix, [organization])["id"]
    root.node.create(collaboration, organization)
    user(root, f"{prefix}-robin", organization, RESEARCHER)
    link = root.store.create(store.url, prefix, collaboration, force=True)["id"]
    robin = coordinator.client(f"{prefix}-robin")
    place = {"collaboration": collaboration, "server_url": robin.base_path}

    robin.store.set(link)
    task = robin.task.create([organization], "name", f"{REVIEWED}:1", "", {"method": "m"}, **place)
    assert task["image"] == f"{REVIEWED}@{DIGEST}" and task["algorithm_store"]["id"] == link
    assert robin.task.list(store=link)["data"][0]["id"] == task["id"]
    refused = robin.task.create([organization], "name", "registry.example/other:1", "", {"method": "m"}, **place)
    assert "id" not in refused and refused["msg"]
    # The coordinator asked in the researcher's name, but gave no token away.
    assert (f"{prefix}-robin", "GET", "algorithm") in store.asked
    root.store.delete(link)
    assert store.may_ask and not any(store.may_ask)


def test_a_store_itself_lets_in_whom_the_coordinator_vouches_for(root, prefix, store):
    link = root.store.create(store.url, prefix, all_collaborations=True, force=True)["id"]
    root.store.set(link)
    store.asked.clear()
    assert root.algorithm.list(image=REVIEWED)["data"][0]["digest"] == DIGEST
    root.algorithm.get(1)
    root.algorithm.create("name", "", "image", "horizontal", "4", "https://code.example", [])
    root.algorithm.update(1, name="other")
    root.algorithm.invalidate(1)
    root.algorithm.delete(1)
    root.store.role.list()
    root.store.role.create("name", "", [1])
    root.store.role.edit(1, name="other")
    root.store.role.delete(1)
    root.store.rule.list()
    root.store.user.list()
    root.store.user.get(1)
    root.store.user.register("robin", [1])
    root.store.user.update(1, [1])
    root.store.user.delete(1)
    root.store.policy.get()
    root.store.review.list()
    root.store.review.get(1)
    root.store.review.create(1, 2)
    root.store.review.approve(1)
    root.store.review.reject(1)
    root.store.review.delete(1)
    assert len(store.asked) == 23 and {username for username, _, _ in store.asked} == {"root"}
    root.store.delete(link)
