"""What the client offers, and what the stories use of it."""

from pathlib import Path

from vantage6.common.client.client_base import ClientBase


def methods(client, path=""):
    """The paths of all methods of the parts of a client: `node.kill_tasks`, `store.role.edit`."""
    for name, part in vars(client).items():
        if isinstance(part, ClientBase.SubClient) and not name.startswith(("parent", "base")):
            here = f"{path}{name}."
            yield from (here + verb for verb in dir(part) if not verb.startswith("_") and callable(getattr(part, verb)))
            yield from methods(part, here)


def test_there_is_a_story_for_every_method(coordinator):
    text = "".join(path.read_text() for path in Path(__file__).parent.glob("test_*.py"))
    offered = set(methods(coordinator.client()))
    assert {"task.create", "util.change_my_password", "store.review.approve"} <= offered
    assert [method for method in sorted(offered) if f".{method}(" not in text] == []
