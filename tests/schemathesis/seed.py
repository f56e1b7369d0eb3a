"""Fills a new coordinator with a little of everything and prints the access tokens of who is to ask it.

    seed.py URL PASSWORD

The first line is the token of a user with the root role, the second a researcher's, the third a node's.
"""

import json
import sys
import urllib.request

url, password = sys.argv[1:]


def ask(method, path, body=None, token=None):
    headers = {"content-type": "application/json"}
    if token:
        headers["authorization"] = f"Bearer {token}"
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url + path, data, headers, method=method)
    with urllib.request.urlopen(request) as answer:
        return json.load(answer)


def log_in(username):
    return ask("POST", "/token/user", {"username": username, "password": password})["access_token"]


def add_user(username, organization, role):
    ask(
        "POST",
        "/user",
        {
            "username": username,
            "password": password,
            "email": f"{username}@example.org",
            "organization_id": organization,
            "roles": [role],
        },
        root,
    )
    return log_in(username)


root = log_in("root")
organizations = [ask("POST", "/organization", {"name": f"hospital {word}"}, root)["id"] for word in ("one", "two")]
collaboration = ask(
    "POST", "/collaboration", {"name": "a trial", "organization_ids": organizations, "encrypted": False}, root
)["id"]
keys = [
    ask("POST", "/node", {"collaboration_id": collaboration, "organization_id": organization}, root)["api_key"]
    for organization in organizations
]
study = {"name": "a study", "collaboration_id": collaboration, "organization_ids": organizations[:1]}
ask("POST", "/study", study, root)
ask("POST", "/role", {"name": "a role", "rules": [3], "organization_id": organizations[0]}, root)
strong = add_user("strong", organizations[0], 1)
researcher = add_user("researcher", organizations[0], 5)
add_user("viewer", organizations[1], 4)
for number in range(3):
    task = {
        "name": f"task {number}",
        "image": "registry.example.org/image:1",
        "collaboration_id": collaboration,
        "organizations": [{"id": organization, "input": "e30="} for organization in organizations],
        "databases": [{"label": "default"}],
    }
    ask("POST", "/task", task, researcher)
node = ask("POST", "/token/node", {"api_key": keys[0]})["access_token"]
print(strong, researcher, node, sep="\n")
