"""Logging in and staying logged in (contract G.2, item 1, and A.3)."""

import threading

import pytest
from federation import (
    PASSWORD,
    PATIENCE_SECONDS,
    RESEARCHER,
    Coordinator,
    Federation,
    later,
    organizations,
    user,
)  # fmt: skip
from vantage6.common.exceptions import AuthenticationException


@pytest.fixture(scope="module")
def door(tmp_path_factory):
    """A coordinator at which people fail to log in."""
    coordinator = Coordinator(tmp_path_factory.mktemp("door"))
    try:
        coordinator.start()
        yield coordinator
    finally:
        coordinator.remove()


@pytest.fixture
def robin(door, prefix):
    """Somebody with an account; their username."""
    root = door.root()
    [organization] = organizations(root, [f"{prefix}-north"])
    user(root, f"{prefix}-robin", organization, RESEARCHER)
    return f"{prefix}-robin"


def test_whoever_knows_the_password_is_let_in(door, robin):
    client = door.client(robin)
    whoami = client.whoami
    assert (whoami.type_, whoami.name) == ("user", "Robin")
    assert whoami.organization_name == robin.replace("robin", "north")
    assert client.user.get()["username"] == robin
    assert client.cryptor


def test_whoever_does_not_is_told_nothing_more(door, robin):
    for username, password in ((robin, "wrong"), (f"{robin}-nobody", PASSWORD), (robin, PASSWORD + " ")):
        client = door.client()
        with pytest.raises(AuthenticationException):
            client.authenticate(username, password)
        assert client.token is None


def test_an_account_is_locked_after_five_wrong_passwords(door, robin):
    """Even the right one is refused then; others are not concerned."""
    inside = door.client(robin)
    for _ in range(5):
        with pytest.raises(AuthenticationException):
            door.client(robin, "wrong")
    with pytest.raises(AuthenticationException):
        door.client(robin)
    # Whoever is in stays in.
    assert inside.user.get()["username"] == robin
    assert door.root().whoami.name


def test_a_password_is_changed_by_whoever_knows_it(door, robin):
    client = door.client(robin)
    new = "Quite-another-3"
    assert "not correct" in client.util.change_my_password("wrong", new)["msg"]
    assert "same" in client.util.change_my_password(PASSWORD, PASSWORD)["msg"]
    for weak in ("Short-1", "no-upper-case-1", "NO-LOWER-CASE-1", "No-number", "NoSpecial1"):
        assert client.util.change_my_password(PASSWORD, weak)["msg"]
    assert "success" in client.util.change_my_password(PASSWORD, new)["msg"]
    with pytest.raises(AuthenticationException):
        door.client(robin, PASSWORD)
    assert door.client(robin, new).whoami.name == "Robin"


def test_a_script_goes_on_after_its_token_has_expired(tmp_path, wire):
    """The coordinator comes back with its clock ahead, as if the script had taken the night; the client renews its token."""
    federation = Federation(tmp_path / "night", 1)
    try:
        federation.start()
        [hospital] = federation.hospitals
        coordinator = federation.coordinator
        robin = federation.researcher()

        def refreshed():
            return [one.status for one in wire.asked("POST", "/api/token/refresh", since) if not one.cut]

        since = len(wire.exchanges)
        with federation.away(hospital):
            task = federation.task(robin, federation.ids(), columns=["value"])
            answers = []
            notebook = threading.Thread(target=lambda: answers.append(robin.wait_for_results(task["id"])))
            notebook.start()
            coordinator.end()
            # A token is good for 6 hours, and can be renewed for 48.
            coordinator.start(**later(hours=7))
        notebook.join(PATIENCE_SECONDS)
        assert len(answers[0]["data"]) == 1 and answers[0]["data"][0]["result"]
        assert refreshed() == [200]

        # The token that renews is renewed, too.
        coordinator.end()
        coordinator.start(**later(hours=50))
        assert robin.task.get(task["id"])["id"] == task["id"]
        assert robin.user.get()["username"] == "researcher"
        assert refreshed() == [200, 200]

        # Whoever comes back after days has to log in again.
        coordinator.end()
        coordinator.start(**later(hours=50 + 49))
        with pytest.raises(Exception, match="Authentication Error"):
            robin.task.get(task["id"])
        assert refreshed() == [200, 200, 401]
        robin.authenticate("researcher", PASSWORD)
        assert robin.task.get(task["id"])["id"] == task["id"]
    finally:
        federation.stop()
