"""A registry that wants tokens of a realm, and the password that buys them."""

import json
from pathlib import Path

from tests.unit.upstream_peers import Asked, Peer, Reply

BASIC = "Basic bWU6c2VjcmV0LXdvcmQ="  # me:secret-word
MANIFEST = b'{"schemaVersion":2}'


def token(value: str, expires_in: object = 300, name: str = "token") -> Reply:
    return Reply(body=json.dumps({name: value, "expires_in": expires_in}).encode())


def challenge(realm: str, *more: str) -> Reply:
    lines = [f'Bearer realm="{realm}",service="svc",scope="repository:user/image:pull"', *more]
    return Reply(401, [("WWW-Authenticate", line) for line in lines], b'{"errors":[{"code":"UNAUTHORIZED"}]}')


class Registry(Peer):
    """A registry that wants one of `good` tokens from `realm`; else it answers `refusal`."""

    def __init__(self, realm: Peer, *good: str) -> None:
        super().__init__(self.serve)
        self.realm = f"{realm.url()}/token"
        self.good = {f"Bearer {value}" for value in good}
        self.refusal: Reply | None = None

    def serve(self, asked: Asked) -> Reply:
        if asked.authorization in self.good:
            return Reply(body=MANIFEST)
        if self.refusal is not None and asked.authorization is not None:
            return self.refusal
        return challenge(self.realm)


def rewrite(file: Path, text: str | None) -> None:
    """What rotates a secret does; None takes the file away."""
    if text is None:
        file.unlink()
    else:
        file.write_text(text)
