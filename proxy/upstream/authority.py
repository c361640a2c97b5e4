"""Who may read here, as one registry sees it: its challenge remembered, and the Authorization that answers it.

One authority per origin: the endpoint's own, with our credential sets, and one for each host that a redirect led to and
that asks for a token itself (lscr.io -> ghcr.io), always anonymous: no credential leaves its registry (protocol U13).
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from yarl import URL

from proxy.errors import CredentialRefused, DialRefused
from proxy.upstream import challenge, trust
from proxy.upstream.challenge import Challenge
from proxy.upstream.credentials import Credentials
from proxy.upstream.exchange import Exchange
from proxy.upstream.token import TokenKey, Tokens
from proxy.upstream.trust import Trusted, UrlOdd

# ECR answers an expired token with 403, public ECR with 400: only a token that was good before deserves a second try.
EXPIRED_TOKEN: Final = frozenset({400, 401, 403})

Probe = Callable[[], Awaitable[list[Challenge]]]


@dataclass(frozen=True, slots=True, repr=False)
class Grant:
    """An Authorization header; `key` names its token, None is Basic. `is_fresh`: made for this very request."""

    header: str
    key: TokenKey | None
    is_fresh: bool

    @property
    def token(self) -> str | None:
        return None if self.key is None else self.header.removeprefix("Bearer ")


@dataclass(frozen=True, slots=True)
class Known:
    """What a challenge asked for: a token of `realm` for `service`, or Basic (no realm)."""

    realm: URL | None
    service: str | None


class Authority:
    """The challenges of one origin, and the answers to them. `probe` asks `/v2/` without credentials."""

    def __init__(
        self,
        upstream: str,
        origin: URL,
        tokens: Tokens,
        credentials: Credentials,
        trusted: Trusted,
        probe: Probe | None,
    ) -> None:
        self._upstream = upstream
        self._origin = origin
        self._tokens = tokens
        self._credentials = credentials
        self._trusted = trusted
        self._probe = probe
        self._known: dict[str | None, Known] = {}

    async def recall(self, credentials: str | None, scope: str | None) -> Grant | None:
        """What to send at once, by the last challenge; None while none is known: then the first try goes bare."""
        known = self._known.get(credentials)
        return None if known is None else await self._grant(known, credentials, scope, rejected=None)

    @staticmethod
    def is_rejected(status: int, grant: Grant | None) -> bool:
        """Whether an answer calls for one more try with other credentials."""
        return status == 401 or (grant is not None and not grant.is_fresh and status in EXPIRED_TOKEN)

    async def renew(
        self, answer: Exchange, grant: Grant | None, credentials: str | None, scope: str | None
    ) -> Grant | None:
        """The grant for the second and last try; None if nothing new can be offered. Raises DialRefused for a realm
        that may not be asked.
        """
        before = self._known.get(credentials)
        known = before if answer.status != 401 else await self._learn(answer, grant)
        if known is None or (grant is not None and grant.is_fresh and known == before):
            return None
        self._known[credentials] = known
        renewed = await self._grant(known, credentials, scope, rejected=grant)
        if renewed is None or (grant is not None and renewed.header == grant.header):
            return None
        return renewed

    def judge(self, status: int, grant: Grant | None, credentials: str | None) -> CredentialRefused | None:
        """What the last answer says of a username and password that were sent. 401: they are wrong, and this is the
        error. Below 400: they are right. Else nothing: a 404 hides what is denied, and ECR's 403 an expired password.
        """
        if grant is None or grant.key is not None or credentials is None:
            return None
        if status < 400:
            self._credentials.accepted(self._upstream, credentials)
        if status != 401:
            return None
        return self._credentials.refused(self._upstream, credentials, str(self._origin), grant.header)

    async def _learn(self, answer: Exchange, grant: Grant | None) -> Known | None:
        picked = challenge.pick(challenge.parse(answer.headers.getall("WWW-Authenticate", [])))
        sent_bearer = grant is not None and grant.key is not None
        if picked is None or (sent_bearer and picked.scheme != "bearer"):
            # GCR challenges on /v2/ only; Harbor answers a stale token with Basic: ask bare (protocol U04, U06).
            picked = None if self._probe is None else challenge.pick(await self._probe())
        if picked is None:
            return None
        if picked.scheme == "basic" or picked.realm is None:
            return Known(None, None)
        try:
            realm = trust.realm(picked.realm, self._origin, self._trusted)
        except UrlOdd as odd:
            raise DialRefused(self._upstream, f"its token realm {odd}: it is not asked") from None
        return Known(realm, picked.service)

    async def _grant(
        self, known: Known, credentials: str | None, scope: str | None, *, rejected: Grant | None
    ) -> Grant | None:
        if known.realm is None:
            if credentials is None:
                return None
            header = await self._credentials.basic(self._upstream, credentials, str(self._origin))
            return Grant(header, None, is_fresh=False)
        key = TokenKey(known.realm, known.service, scope, credentials, self._credentials.version(credentials))
        held = self._tokens.held(key)
        if held is not None and (rejected is None or held != rejected.token):
            return Grant(f"Bearer {held}", key, is_fresh=False)
        token = await self._tokens.obtain(key, None if rejected is None else rejected.token)
        return Grant(f"Bearer {token}", key, is_fresh=True)
