"""Errors are JSON with a sentence, whatever is asked (contract G.2, item 10, and F.1-11, F.1-17)."""

import json

import pytest
import requests

ROUTES = (
    "organization", "organization/1", "collaboration", "collaboration/1", "collaboration/1/organization",
    "collaboration/1/node", "node", "node/1", "user", "user/1", "role", "role/1", "role/1/rule/1", "rule", "rule/1",
    "study", "study/1", "study/1/organization", "task", "task/1", "task/1/status", "run", "run/1", "result",
    "result/1", "port", "kill/task", "kill/node/tasks", "token/user", "token/node", "token/container",
    "token/refresh", "token/user/validate", "token/node/validate", "password/change", "recover/lost",
    "recover/reset", "recover/2fa/lost", "recover/2fa/reset", "recover/node", "blobstream", "blobstream/status",
    "blobstream/x", "vpn", "vpn/algorithm/addresses", "vpn/update", "algorithmstore", "algorithmstore/1", "column",
    "version", "health", "event",
)  # fmt: skip


@pytest.mark.parametrize(
    "path", ["/", "/nowhere", "/api", "/api/", "/api/nowhere", "/api/task/1/nowhere", "/favicon.ico", "/api/%ff", "/%00"]
)
def test_what_is_not_there_is_told_as_json(root, coordinator, wire, path):
    answer = requests.get(coordinator.url + path, headers=root.headers)
    assert answer.status_code == 404
    assert answer.json()["msg"]


@pytest.mark.parametrize("route", ROUTES)
def test_no_verb_and_no_body_gets_anything_but_json(root, coordinator, wire, route):
    """The observer of the fixture `wire` judges each answer: JSON, with a sentence if an error, and never our fault."""
    url = f"{coordinator.url}/api/{route}"
    bodies = (b"", b"{", b"[]", b"null", b'"text"', b'{"unknown": 1}', b"\xff", b"[" * 5000)
    for headers in ({}, {"authorization": "Bearer nonsense"}, {"authorization": "Basic x"}, root.headers):
        # Whoever may see events gets a stream that does not end.
        if route != "event" or headers != root.headers:
            requests.get(url, headers=headers)
        for method in ("PUT", "TRACE", "PROPFIND"):
            answer = requests.request(method, url, headers=headers)
            assert answer.status_code in (404, 405), (method, answer.text)
            if answer.status_code == 405:
                assert answer.json()["message"] == "The method is not allowed for the requested URL."
    for method in ("POST", "PATCH"):
        for body in bodies:
            for kind in ("application/json", "text/plain"):
                requests.request(method, url, data=body, headers={"content-type": kind} | root.headers)


@pytest.mark.parametrize("route", ["organization", "node", "user", "role", "rule", "study", "task", "run", "result"])
def test_a_list_that_cannot_be_had_is_a_bad_request(root, coordinator, route):
    for query in ("page=0", "page=x", "per_page=-1", "sort=nothing", "page=99999999999999999999", "sort=-"):
        answer = requests.get(f"{coordinator.url}/api/{route}?{query}", headers=root.headers)
        assert answer.status_code == 400, (query, answer.text)
    for number in ("0", "-1", "x", "99999999999999999999", "1.5", "%20"):
        answer = requests.get(f"{coordinator.url}/api/{route}/{number}", headers=root.headers)
        assert answer.status_code == 404, (number, answer.text)
    # What nobody knows is ignored.
    assert requests.get(f"{coordinator.url}/api/{route}?nothing=1", headers=root.headers).status_code == 200


def test_a_token_is_refused_in_the_words_of_a_stock_server(root, coordinator):
    def ask(**headers):
        answer = requests.get(f"{coordinator.url}/api/organization", headers=headers)
        return answer.status_code, answer.json()["msg"]

    assert ask() == (401, "Missing Authorization Header")
    assert ask(authorization="Bearer nonsense") == (422, "Not enough segments")
    header, claims, _ = root.token.split(".")
    assert ask(authorization=f"Bearer {header}.{claims}.AAAA") == (422, "Signature verification failed")
    refresh = root._ClientBase__refresh_token
    assert ask(authorization=f"Bearer {refresh}") == (422, "Only non-refresh tokens are allowed")


def test_the_client_hands_an_error_to_its_caller_as_data(root):
    assert root.request("nowhere")["msg"]
    assert root.request("version", method="patch")["msg"]
    assert "4711" in root.task.get(4711)["msg"]
    assert root.task.create([1], "name", "image", "", {"method": "m"}, collaboration=4711)["msg"]


def test_a_nodes_gateway_answers_in_json_too(probed):
    asked = [
        ("GET", "/nowhere", None),
        ("GET", "/", None),
        ("PUT", "/task", None),
        ("PATCH", "/organization/1", "{}"),
        ("DELETE", "/task/1", None),
        ("POST", "/task", "{"),
        ("POST", "/task", "{}"),
        ("GET", "/task/4711", None),
        ("GET", "/task/x", None),
        ("GET", "/result?task_id=4711", None),
        ("GET", "/organization/x", None),
        ("GET", "/user", None),
        ("GET", "/organization?page=0", None),
        ("GET", "/vpn/algorithm/addresses?label=%ff", None),
    ]
    for question, (status, kind, body) in zip(asked, probed(*asked)["answers"]):
        assert kind.startswith("application/json"), (question, status, kind, body)
        answer = json.loads(body)
        assert status <= 210 or isinstance(answer["msg"], str), (question, status, body)
        assert status < 500, (question, status, body)
