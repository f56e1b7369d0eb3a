"""Second factors, and the way back in when something is lost (contract G.2, item 1, and A.3)."""

import re
import socketserver
import threading

import pyotp
import pytest
from federation import PASSWORD, ROOT_PASSWORD, Coordinator, until
from vantage6.common.exceptions import AuthenticationException


class Mailbox(socketserver.ThreadingTCPServer):
    """A mail server that keeps what it gets."""

    daemon_threads = True

    def __init__(self):
        self.mails = []
        super().__init__(("127.0.0.1", 0), Conversation)
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def settings(self):
        return (
            f'[mail]\nserver = "127.0.0.1"\nport = {self.server_address[1]}\nencryption = "none"\n'
            'from = "Twinmesh <noreply@example.org>"\n'
        )

    def token(self, method, number):
        """The token that the mail with this number tells a user to give to a method of the client."""
        mail = until("a mail comes", lambda: self.mails[number:])[0]
        # Long lines of a mail may be folded (quoted-printable).
        text = mail.replace("=\r\n", "").replace("=3D", "=").replace("\r\n", "\n")
        return re.search(rf'{method}\(\s*"([^"]+)"', text)[1]


class Conversation(socketserver.StreamRequestHandler):
    """What SMTP (RFC 5321) needs for one mail after the other."""

    def handle(self):
        self.wfile.write(b"220 mail\r\n")
        while line := self.rfile.readline():
            word = line.strip().upper()
            if word == b"DATA":
                self.wfile.write(b"354 go on\r\n")
                lines = iter(self.rfile.readline, b".\r\n")
                self.server.mails.append(b"".join(lines).decode())
            elif word == b"QUIT":
                self.wfile.write(b"221 bye\r\n")
                return
            self.wfile.write(b"250 ok\r\n")


@pytest.fixture
def mailbox():
    with Mailbox() as mailbox:
        yield mailbox
        mailbox.shutdown()


@pytest.fixture
def start(tmp_path, mailbox):
    """Starts a coordinator with further settings."""
    coordinators = []

    def start(settings=""):
        coordinators.append(Coordinator(tmp_path, mailbox.settings() + settings))
        coordinators[0].start()
        return coordinators[0]

    try:
        yield start
    finally:
        for coordinator in coordinators:
            coordinator.remove()


def test_a_lost_password_is_replaced_by_a_token_that_comes_by_mail(start, mailbox):
    coordinator = start()
    root = coordinator.root()
    for name in ("robin", "sam"):
        root.user.create(name, name, "Doe", PASSWORD, f"{name}@example.org")
    stranger = coordinator.client()
    answer = stranger.util.reset_my_password(username="robin")
    token = mailbox.token("set_my_password", 0)
    assert "robin@example.org" in mailbox.mails[0]
    # Nobody is told who has an account.
    assert stranger.util.reset_my_password(email="nobody@example.org")["msg"] == answer["msg"]
    assert stranger.util.reset_my_password() is None

    new = "Quite-another-3"
    assert "success" in stranger.util.set_my_password(token, new)["msg"]
    with pytest.raises(AuthenticationException):
        coordinator.client("robin")
    assert coordinator.client("robin", new).whoami.name == "robin"
    # It is good once. The client renews its own token after an error, so it must have one.
    assert "token" in root.util.set_my_password(token, PASSWORD)["msg"]

    assert stranger.util.reset_my_password(email="sam@example.org")["msg"] == answer["msg"]
    assert "success" in stranger.util.set_my_password(mailbox.token("set_my_password", 1), new)["msg"]
    assert coordinator.client("sam", new).whoami.name == "sam"


def test_a_second_factor_is_set_up_used_lost_and_set_up_again(start, mailbox, capsys):
    coordinator = start("[two_factor]\nrequired = true\n")

    def secret():
        """What the client prints beside the picture for the authenticator."""
        return re.search(r"to your authenticator app: (\w+)$", capsys.readouterr().out, re.MULTILINE)[1]

    client = coordinator.client()
    client.authenticate("root", ROOT_PASSWORD)
    assert client.token is None
    shown = pyotp.TOTP(secret())
    client.authenticate("root", ROOT_PASSWORD, shown.now())
    assert client.whoami.name and client.user.get()["otp_secret"] is None

    with pytest.raises(Exception, match="include your two-factor authentication code"):
        coordinator.client().authenticate("root", ROOT_PASSWORD)
    with pytest.raises(AuthenticationException):
        coordinator.client().authenticate("root", ROOT_PASSWORD, "000000" if shown.now() != "000000" else "000001")
    with pytest.raises(AuthenticationException):
        coordinator.client().authenticate("root", "wrong", shown.now())
    client.user.update(email="root@example.org")

    stranger = coordinator.client()
    refused = stranger.util.reset_two_factor_auth("wrong", username="root")
    assert "email" not in refused["msg"]
    # The client sends `email: null` beside the username (contract F.1-7).
    assert "email" in stranger.util.reset_two_factor_auth(ROOT_PASSWORD, username="root")["msg"]
    token = mailbox.token("set_two_factor_auth", 0)
    answer = stranger.util.set_two_factor_auth(token)
    assert answer["otp_secret"] == secret() != shown.secret
    assert "token" in stranger.util.set_two_factor_auth(token)["msg"]
    again = coordinator.client()
    again.authenticate("root", ROOT_PASSWORD, pyotp.TOTP(answer["otp_secret"]).now())
    assert again.whoami.id_ == client.whoami.id_
