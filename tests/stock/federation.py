"""Our programs as processes, and what an administrator gives them.

A process ends with the test that started it, and by the kernel's hand when this one dies first.
"""

import contextlib
import ctypes
import glob
import json
import os
import re
import secrets
import signal
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from vantage6.client import UserClient
from vantage6.common.encryption import RSACryptor

BINARIES = Path(os.environ["TWINMESH_BINARIES"])
POSTGRES = os.environ.get("TWINMESH_TEST_POSTGRES")

#: How long a process may take to get ready or to end; a machine with two cores may have much else to do.
PATIENCE_SECONDS = 120
ROOT_PASSWORD = "Choose-a-password-1"
PASSWORD = "Another-password-2"
#: The algorithms that every node carries.
IMAGE = "twinmesh/builtin:0.1.0"
#: Built-in roles have the same ids on every server (contract A.4.2).
VIEWER, RESEARCHER, ORGANIZATION_ADMIN, COLLABORATION_ADMIN = 4, 5, 6, 7

_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None)


def until(what, condition, patience_seconds=PATIENCE_SECONDS):
    """Waits until `condition` gives something."""
    deadline = time.monotonic() + patience_seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, f"not within {patience_seconds} s: {what}"
        time.sleep(0.02)
    return found


class Process:
    """One of our programs while it runs."""

    def __init__(self, name, arguments, log, environment=None):
        self.name = name
        self.log = Path(log)
        self._arguments = [str(argument) for argument in arguments]
        self._environment = environment or {}
        self._process = None

    @property
    def pid(self):
        return self._process.pid if self._process else None

    def start(self, **further):
        assert self._process is None, f"{self.name} runs already"
        with open(self.log, "ab") as log:
            self._process = subprocess.Popen(
                self._arguments,
                env=os.environ | self._environment | further,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                # Ctrl-C is for the tests, which then end what they have started.
                start_new_session=True,
                preexec_fn=lambda: _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM),
            )

    def until(self, what, condition):
        def look():
            assert self._process.poll() is None, f"{self.name} ended before {what}:\n{self.tail()}"
            return condition()

        try:
            return until(f"{self.name}: {what}", look)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.tail()}") from None

    def end(self, how=signal.SIGTERM):
        """Ends the process and waits for it; the way it is asked must suffice."""
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(how)
        try:
            process.wait(PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise AssertionError(f"{self.name} did not end:\n{self.tail()}") from None

    def tail(self):
        text = self.log.read_text(errors="replace") if self.log.exists() else ""
        return "\n".join(text.splitlines()[-20:])


class Coordinator(Process):
    """A coordinator with a data directory, and a database of its own on the server if there is one."""

    def __init__(self, directory, settings=""):
        self.directory = Path(directory)
        self.data = self.directory / "coordinator"
        self.data.mkdir(parents=True)
        self._database = None
        if POSTGRES:
            self._database = f"stock_{secrets.token_hex(8)}"
            _psql(f"CREATE DATABASE {self._database}")
            url = re.sub(r"/[^/]*$", f"/{self._database}", POSTGRES)
            settings += f'\n[database]\nurl = "{url}"\n'
        self.configuration = self.directory / "coordinator.toml"
        self.configuration.write_text(settings)
        self.configuration.chmod(0o600)
        self.listen = "127.0.0.1:0"
        self.overlay = ["/ip4/127.0.0.1/tcp/0"]
        super().__init__("coordinator", [], self.directory / "coordinator.log")

    def start(self, **further):
        arguments = ["start", "--config", self.configuration, "--data-dir", self.data, "--listen", self.listen]
        for address in self.overlay:
            arguments += ["--overlay-listen", address]
        self._arguments = [str(argument) for argument in [BINARIES / "twinmesh-coordinator", *arguments]]
        super().start(TWINMESH_ROOT_PASSWORD=ROOT_PASSWORD, **further)
        ready = self.until("it is ready", self._ready)
        # Where it is found again after a restart.
        self.listen = ready["url"].removeprefix("http://").removesuffix("/api")
        self.overlay = [address.split("/p2p/")[0] for address in ready["overlay"]]

    def _ready(self):
        try:
            ready = json.loads((self.data / "coordinator.json").read_text())
        except (FileNotFoundError, json.JSONDecodeError):
            return None
        return ready if ready["pid"] == self.pid else None

    def remove(self):
        """Ends the process and drops its database."""
        self.end()
        if self._database:
            _psql(f"DROP DATABASE {self._database} WITH (FORCE)")

    @property
    def url(self):
        return f"http://{self.listen}"

    def client(self, username=None, password=PASSWORD):
        """A client as a notebook makes it; logged in if a username is given."""
        host, port = self.url.rsplit(":", 1)
        client = UserClient(host, int(port), "/api", log_level="warn")
        if username:
            client.authenticate(username, password)
        return client

    def root(self):
        return self.client("root", ROOT_PASSWORD)


class Hospital(Process):
    """An organization with its node and data."""

    def __init__(self, name, organization, node, directory):
        self.organization = organization
        self.node = node
        self.directory = Path(directory)
        self.directory.mkdir()
        self.configuration = self.directory / "node.toml"
        arguments = [
            BINARIES / "twinmesh-node", "start", "--config", self.configuration, "--stop-runs-on-exit",
        ]  # fmt: skip
        super().__init__(name, arguments, self.directory / "node.log")

    def create_key(self, rsa=False):
        """Makes the organization's key, our own kind or vantage6's, and returns its path."""
        path = self.directory / "key.pem"
        if rsa:
            RSACryptor.create_new_rsa_key(path)
            path.chmod(0o600)
            return path
        arguments = [BINARIES / "twinmesh-node", "create-private-key", "--output", path]
        subprocess.run(arguments, check=True, capture_output=True)
        return path

    def configure(self, coordinator, rows, *, private_key=None, encrypted=False, extra=""):
        """Writes data and configuration; `extra` is further TOML."""
        lines = ["group,value", *(f"{group},{value}" for group, value in rows)]
        (self.directory / "data.csv").write_text("\n".join(lines) + "\n")
        key = f'private_key = "{private_key}"\n' if private_key else ""
        self.configuration.write_text(
            f'coordinator_url = "{coordinator.url}"\n'
            f'api_key = "{self.node["api_key"]}"\n'
            f'state_directory = "state"\n{key}'
            f"[encryption]\nenabled = {str(encrypted).lower()}\n"
            '[runtime]\nminimum = "lite"\n'
            '[[databases]]\nlabel = "default"\ntype = "csv"\npath = "data.csv"\n'
            '[overlay]\nlisten = ["/ip4/127.0.0.1/tcp/0"]\n' + extra
        )
        self.configuration.chmod(0o600)


def organizations(root, names):
    """Makes organizations as the client does, and returns their ids."""
    return [root.organization.create(name, "Street 1", "", "1000 AA", "NL", f"{name}.example")["id"] for name in names]


def user(root, username, organization, *roles):
    """Makes a user with the usual password."""
    made = root.user.create(username, "Robin", "Doe", PASSWORD, f"{username}@example.org", organization, list(roles))
    assert made["username"] == username, made
    return made


def values(number):
    """The rows of the hospital with this number from 0: 20 people, whose mean tells the hospital."""
    return [("ab"[i % 2], 100 * (number + 1) + i) for i in range(20)]


class Federation:
    """Hospitals in a collaboration, with a researcher of the first one."""

    def __init__(self, directory, size, encrypted=False, settings=""):
        self.directory = Path(directory)
        # Whoever is away is known to be at once, and a held question outlasts the slowest machine.
        limits = '[limits]\nnode_grace = "200ms"\nstatus_hold = "10m"\n'
        self.coordinator = Coordinator(self.directory, limits + settings)
        self.hospitals = []
        self._size = size
        self._encrypted = encrypted

    def start(self):
        self.coordinator.start()
        root = self.coordinator.root()
        names = [f"hospital-{number}" for number in range(1, self._size + 1)]
        ids = organizations(root, names)
        self.collaboration = root.collaboration.create("stock", ids, encrypted=self._encrypted)["id"]
        for number, (name, organization) in enumerate(zip(names, ids)):
            node = root.node.create(self.collaboration, organization)
            hospital = Hospital(name, organization, node, self.directory / name)
            self.hospitals.append(hospital)
        with ThreadPoolExecutor() as pool:
            # In a plain collaboration not for payloads, but to prove itself to its twins.
            keys = pool.map(lambda hospital: hospital.create_key(rsa=self._encrypted), self.hospitals)
        for number, (hospital, key) in enumerate(zip(self.hospitals, keys)):
            # Stock clients sign nothing.
            extra = "[policies]\nrequire_signed_tasks = false\n" if self._encrypted else ""
            hospital.configure(
                self.coordinator, values(number), private_key=key, encrypted=self._encrypted, extra=extra
            )  # fmt: skip
            hospital.start()
        user(root, "researcher", ids[0], RESEARCHER)
        self.wait_online()

    def wait_online(self):
        root = self.coordinator.root()
        for hospital in self.hospitals:
            hospital.until("its node is online", lambda: root.node.get(hospital.node["id"])["status"] == "online")

    @contextlib.contextmanager
    def away(self, hospital):
        """While this lasts, a hospital's node is not there, and the coordinator knows it."""
        root = self.coordinator.root()
        hospital.end()
        until(f"{hospital.name} is away", lambda: root.node.get(hospital.node["id"])["status"] == "offline")
        try:
            yield
        finally:
            hospital.start()

    def researcher(self):
        return self.coordinator.client("researcher")

    def ids(self, number=None):
        return [hospital.organization for hospital in self.hospitals][:number]

    def task(self, client, organizations, method="summary_partial", **arguments):
        """Creates a task as a notebook does."""
        return client.task.create(
            collaboration=self.collaboration,
            organizations=organizations,
            name="stock",
            image=IMAGE,
            description="by the stock client",
            input_={"method": method, "kwargs": arguments},
            databases=[{"label": "default"}],
        )

    def stop(self):
        with contextlib.ExitStack() as stack:
            stack.callback(self.coordinator.remove)
            for hospital in self.hospitals:
                stack.callback(hospital.end)


def _psql(command):
    subprocess.run(["psql", "-q", "-v", "ON_ERROR_STOP=1", POSTGRES, "-c", command], check=True)


def later(hours):
    """The environment of a process whose clock is ahead."""
    [library] = glob.glob("/usr/lib/*/faketime/libfaketimeMT.so.1")
    return {"LD_PRELOAD": library, "FAKETIME": f"+{hours}h", "FAKETIME_DONT_FAKE_MONOTONIC": "1"}
