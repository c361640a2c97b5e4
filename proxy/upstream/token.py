"""Bearer tokens: fetched from a realm, kept until shortly before they expire, one request at a time for each.

Knows no registry request; the realm's URL was already judged (`trust.realm`). The scope is computed by us: challenges
carry placeholders (protocol U02, U04). A token is never written to a log, an error or a repr.
"""

import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlencode

import orjson
from cachetools import TLRUCache
from yarl import URL

from proxy.errors import (
    CredentialUnavailable,
    DialRefused,
    UpstreamDenied,
    UpstreamFault,
    UpstreamLied,
    UpstreamThrottled,
    UpstreamTimeout,
    UpstreamUnavailable,
)
from proxy.flights import Flights
from proxy.tasks import Tasks
from proxy.upstream import answers
from proxy.upstream.credentials import Credentials
from proxy.upstream.session import Exchange, Wire

BODY_MAX: Final = 64 * 1024
TOKENS_MAX: Final = 4096
DEFAULT_S: Final = 60.0  # docs/spec/auth/token.md: the lifetime if none is told
LIFETIME_MAX_S: Final = 24 * 3600.0
SKEW_MAX_S: Final = 30.0
TOKEN: Final = re.compile(r"[\x21-\x7e]{1,49152}", re.ASCII)


@dataclass(frozen=True, slots=True)
class TokenKey:
    """What a token is good for: one realm and service, one scope (None: no repository), one credential set.

    `version` counts the set's rotations: a token that an older username or password bought is never found again.
    """

    realm: URL
    service: str | None
    scope: str | None
    credentials: str | None
    version: int = 0

    @property
    def url(self) -> URL:
        """The URL to GET: the realm with its own query kept, service and scope behind it."""
        asked = {"service": self.service, "scope": self.scope}
        query = urlencode({name: value for name, value in asked.items() if value is not None})
        text = str(self.realm)
        if not query:
            return self.realm
        return URL(f"{text}{'&' if '?' in text else '?'}{query}", encoded=True)


@dataclass(frozen=True, slots=True, repr=False)
class Token:
    value: str
    usable_s: float


def parse(body: bytes) -> Token:
    """A realm's answer; raises ValueError. A lifetime out of bounds is brought into them; one that is over already
    makes a token for this one request.
    """
    document = orjson.loads(body)
    answer = document if isinstance(document, dict) else {}
    value = answer.get("token") or answer.get("access_token")
    if not isinstance(value, str) or TOKEN.fullmatch(value) is None:
        raise ValueError("no token in it")
    return Token(value, _usable_s(answer.get("expires_in")))


def _usable_s(expires_in: Any) -> float:
    is_number = isinstance(expires_in, int | float) and not isinstance(expires_in, bool)
    lifetime_s = min(max(float(expires_in), 0.0), LIFETIME_MAX_S) if is_number else DEFAULT_S
    # Both clocks and the road cost time: stop using it a little before its end.
    return lifetime_s - min(lifetime_s * 0.2, SKEW_MAX_S)


class Tokens:
    """The tokens of one endpoint."""

    def __init__(
        self,
        wire: Wire,
        credentials: Credentials,
        tasks: Tasks,
        *,
        clock: Callable[[], float],
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._wire = wire
        self._credentials = credentials
        self._clock = clock
        self._flights: Flights[TokenKey, Token] = Flights(tasks, "token")
        self._held: TLRUCache[TokenKey, Token] = TLRUCache(
            TOKENS_MAX, lambda _key, token, now: now + token.usable_s, monotonic
        )

    def held(self, key: TokenKey) -> str | None:
        """A token that is still good, as far as we know."""
        token = self._held.get(key)
        return None if token is None else token.value

    async def obtain(self, key: TokenKey, rejected: str | None = None) -> str:
        """A token other than `rejected`: the one held, else a new one, fetched once for all who wait.

        Raises CredentialUnavailable (an outage of the realm), CredentialRefused, UpstreamDenied, UpstreamThrottled.
        """
        held = self._held.get(key)
        if held is not None and held.value != rejected:
            return held.value
        self._held.pop(key, None)
        return (await self._flights.fly(key, lambda: self._fetch(key))).value

    async def _fetch(self, key: TokenKey) -> Token:
        headers = {"Accept": "application/json, */*;q=0.5"}
        place = str(key.realm)
        if key.credentials is not None:
            headers["Authorization"] = self._credentials.basic(self._wire.upstream, key.credentials, place)
        try:
            exchange = await self._wire.send("token", "GET", key.url, headers, self._wire.realms)
            try:
                body = await exchange.read(BODY_MAX)
            finally:
                exchange.close()
        except DialRefused:
            raise
        except (UpstreamUnavailable, UpstreamTimeout, UpstreamLied) as error:
            raise CredentialUnavailable(
                self._wire.upstream, f"its token realm fails: {error}", error.retry_after_s
            ) from error
        if exchange.status != 200:
            raise self._refusal(key, exchange, body, headers.get("Authorization"))
        try:
            token = parse(body)
        except ValueError as cause:
            why = "its token realm answers what is no token"
            raise CredentialUnavailable(self._wire.upstream, why) from cause
        if token.usable_s > 0:
            self._held[key] = token
        return token

    def _refusal(self, key: TokenKey, exchange: Exchange, body: bytes, header: str | None) -> UpstreamFault:
        upstream, status = self._wire.upstream, exchange.status
        if status == 401 and key.credentials is not None and header is not None:
            return self._credentials.refused(upstream, key.credentials, str(key.realm), header)
        error = answers.fault(upstream, status, exchange.headers, body, credentials=key.credentials, now=self._clock())
        if isinstance(error, UpstreamDenied | UpstreamThrottled):
            return error
        # A redirect is not followed: the credential would go where nobody judged.
        return CredentialUnavailable(upstream, f"its token realm answered {status}", error.retry_after_s)
