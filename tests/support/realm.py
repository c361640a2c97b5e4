"""Who a scripted registry lets in: a bearer realm with a token server of its own, or basic authentication.

A `Realm` is a `Site`: it counts and records token requests, may be scripted like any other, and its tokens expire by a
clock that the test turns. Invariant: a token is honoured for exactly the repositories it was granted for.
"""

import base64
import json
import re
import secrets
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, urlsplit

from tests.support.clock import Clock
from tests.support.site import Site
from tests.support.wire import Answer, Recorded, refusal, reply

SCOPE = re.compile(r"repository:(?P<repository>[^:]+):(?P<actions>[a-z,*]+)")


@dataclass(frozen=True, slots=True)
class Grant:
    """What one token opens, and until when (the realm's clock)."""

    repositories: frozenset[str]
    expires_at: float
    user: str | None


@dataclass(frozen=True, slots=True)
class TokenShape:
    """How a realm's answers look. `post` is the status of a POST (200: OAuth2 works); `expires_in` None is left out;
    `refuse_anonymous` answers a token request for a repository that is not public, None grants an empty token.
    """

    path: str = "/token"
    keys: tuple[str, ...] = ("token",)
    expires_in: int | None = 300
    issued_at: bool = False
    post: int = 405
    length: int = 40
    refuse_anonymous: Answer | None = None


class Realm(Site):
    """A token server. `users` are its accounts; `private` the repositories that anonymous tokens do not open."""

    def __init__(
        self,
        service: str | None = "registry.test",
        *,
        shape: TokenShape | None = None,
        clock: Callable[[], float] | None = None,
        name: str | None = None,
        address: str = "127.0.0.1",
        tls: ssl.SSLContext | None = None,
    ) -> None:
        super().__init__(name=name, address=address, tls=tls)
        self.service = service
        self.shape = shape or TokenShape()
        self.users: dict[str, str] = {}
        self.private: set[str] = set()
        self.grants: dict[str, Grant] = {}
        self._clock: Callable[[], float] = clock or Clock()

    @property
    def realm(self) -> str:
        return self.url + self.shape.path

    @property
    def issued(self) -> int:
        """How many tokens it gave out."""
        return len(self.grants)

    def opens(self, authorization: str | None, repository: str | None) -> bool:
        """Whether this Authorization header opens a repository now; None is the ping."""
        scheme, _, token = (authorization or "").partition(" ")
        grant = self.grants.get(token) if scheme.lower() == "bearer" else None
        if grant is None or self._clock() >= grant.expires_at:
            return False
        return repository is None or repository in grant.repositories

    def knows(self, authorization: str | None) -> bool:
        """Whether this is a token of its own that has not expired, whatever it opens."""
        return self.opens(authorization, None)

    def expire_all(self) -> None:
        """Every token given out so far is refused from now on, whatever its expires_in said."""
        for token, grant in self.grants.items():
            self.grants[token] = Grant(grant.repositories, 0.0, grant.user)

    async def answer(self, request: Recorded) -> Answer:
        if request.path != self.shape.path:
            return reply(404, b"no such page", "text/plain")
        asked = list(parse_qsl(urlsplit(request.target).query))
        user = _user(request.headers.get("Authorization"))
        if request.method == "POST":
            if self.shape.post != 200:
                return reply(self.shape.post, b"", "text/plain")
            asked = list(parse_qsl(request.body.decode()))
            form = dict(asked)
            user = (form["username"], form.get("password", "")) if "username" in form else None
        if user is not None and self.users.get(user[0]) != user[1]:
            return refusal(401, "UNAUTHORIZED", "incorrect username or password")
        scopes = [scope for name, value in asked if name == "scope" for scope in value.split()]
        return self._grant(scopes, user[0] if user else None)

    def mint(self, repositories: frozenset[str], user: str | None, lifetime_s: float) -> str:
        """A new token's text."""
        return secrets.token_urlsafe(self.shape.length)

    def _grant(self, scopes: list[str], user: str | None) -> Answer:
        wanted = {match["repository"] for scope in scopes if (match := SCOPE.fullmatch(scope))}
        allowed = wanted if user is not None else wanted - self.private
        if wanted and not allowed and self.shape.refuse_anonymous is not None:
            return self.shape.refuse_anonymous
        lifetime_s = 60 if self.shape.expires_in is None else self.shape.expires_in
        token = self.mint(frozenset(allowed), user, lifetime_s)
        self.grants[token] = Grant(frozenset(allowed), self._clock() + lifetime_s, user)
        body: dict[str, object] = dict.fromkeys(self.shape.keys, token)
        if self.shape.expires_in is not None:
            body["expires_in"] = self.shape.expires_in
        if self.shape.issued_at:
            body["issued_at"] = "2027-01-15T08:00:00.000000000Z"
        return reply(200, json.dumps(body).encode())


@dataclass(slots=True)
class Bearer:
    """The registry's half: challenges what no token of `realm` opens.

    `ping_scope` stands in the ping's challenge (GHCR's placeholder); without `challenge_requests` a real request gets
    a bare 401 (GCR). `stale` replaces the challenge for a token that is no longer good (Harbor answers Basic).
    """

    realm: Realm
    ping_scope: str | None = None
    service_in_ping: bool = True
    challenge_requests: bool = True
    stale: str | None = None

    def challenge(self, request: Recorded, repository: str | None) -> Answer | None:
        authorization = request.headers.get("Authorization")
        if self.realm.opens(authorization, repository):
            return None
        answer = refusal(401, "UNAUTHORIZED", "authentication required")
        if authorization is not None and not self.realm.knows(authorization) and self.stale is not None:
            return answer.with_header("WWW-Authenticate", self.stale)
        if repository is not None and not self.challenge_requests:
            return answer
        scope = self.ping_scope if repository is None else f"repository:{repository}:pull"
        fields = {
            "realm": self.realm.realm,
            "service": self.realm.service if self.service_in_ping or repository is not None else None,
            "scope": scope,
            "error": "insufficient_scope" if self.realm.knows(authorization) else None,
        }
        listed = ",".join(f'{name}="{value}"' for name, value in fields.items() if value is not None)
        return answer.with_header("WWW-Authenticate", f"Bearer {listed}")


@dataclass(slots=True)
class Basic:
    """HTTP basic authentication on every request, the ping included."""

    users: dict[str, str] = field(default_factory=dict)
    realm: str = "registry"
    service: str | None = None

    def challenge(self, request: Recorded, repository: str | None) -> Answer | None:
        user = _user(request.headers.get("Authorization"))
        if user is not None and self.users.get(user[0]) == user[1]:
            return None
        service = f',service="{self.service}"' if self.service else ""
        answer = refusal(401, "UNAUTHORIZED", "authentication required")
        return answer.with_header("WWW-Authenticate", f'Basic realm="{self.realm}"{service}')


def _user(authorization: str | None) -> tuple[str, str] | None:
    scheme, _, value = (authorization or "").partition(" ")
    if scheme.lower() != "basic":
        return None
    name, _, password = base64.b64decode(value).decode().partition(":")
    return (name, password) if name else None
