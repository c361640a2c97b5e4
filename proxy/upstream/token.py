"""Bearer tokens: fetched from a realm, kept until shortly before they expire, one request at a time for each.

A realm that fails is asked again after a second, then two, up to a minute, one request first; one that throttles, when
it says. Meanwhile a token that nears its end serves until it is really over.
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
from cachetools import LRUCache
from yarl import URL

from proxy.errors import (
    CredentialUnavailable,
    DialRefused,
    Failure,
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
from proxy.upstream.exchange import Exchange
from proxy.upstream.gate import GateClosed, Gates, Limit
from proxy.upstream.session import Wire

BODY_MAX: Final = 64 * 1024
TOKENS_MAX: Final = 4096
DEFAULT_S: Final = 60.0  # docs/spec/auth/token.md: the lifetime if none is told
LIFETIME_MAX_S: Final = 24 * 3600.0
SKEW_MAX_S: Final = 30.0
REALM_WAIT_S: Final = 1.0
DOWN: Final = "a realm that fails"
BUSY: Final = "a realm that throttles"
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
    """It is used for `usable_s` without a second thought, and for `lifetime_s` while the realm fails."""

    value: str
    usable_s: float
    lifetime_s: float


def parse(body: bytes) -> Token:
    """A realm's answer; raises ValueError. A lifetime out of bounds is brought into them; one that is over already
    makes a token for this one request.
    """
    document = orjson.loads(body)
    answer = document if isinstance(document, dict) else {}
    value = answer.get("token") or answer.get("access_token")
    if not isinstance(value, str) or TOKEN.fullmatch(value) is None:
        raise ValueError("no token in it")
    lifetime_s = _lifetime_s(answer.get("expires_in"))
    # Both clocks and the road cost time: stop using it a little before its end.
    return Token(value, lifetime_s - min(lifetime_s * 0.2, SKEW_MAX_S), lifetime_s)


def _lifetime_s(expires_in: Any) -> float:
    is_number = isinstance(expires_in, int | float) and not isinstance(expires_in, bool)
    return min(max(float(expires_in), 0.0), LIFETIME_MAX_S) if is_number else DEFAULT_S


@dataclass(frozen=True, slots=True, repr=False)
class Kept:
    """A token and when it came (monotonic seconds)."""

    token: Token
    at: float


class Tokens:
    """The tokens of one endpoint. `gates` are its own: a realm has places among them."""

    def __init__(
        self,
        wire: Wire,
        credentials: Credentials,
        tasks: Tasks,
        gates: Gates,
        *,
        clock: Callable[[], float],
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._wire = wire
        self._credentials = credentials
        self._gates = gates
        self._clock = clock
        self._monotonic = monotonic
        self._flights: Flights[TokenKey, Token] = Flights(tasks, "token")
        self._kept: LRUCache[TokenKey, Kept] = LRUCache(TOKENS_MAX)

    def held(self, key: TokenKey) -> str | None:
        """A token that is still good, as far as we know."""
        kept = self._kept.get(key)
        if kept is None or self._monotonic() - kept.at >= kept.token.usable_s:
            return None
        return kept.token.value

    async def obtain(self, key: TokenKey, rejected: str | None = None) -> str:
        """A token other than `rejected`: the one held, else a new one, fetched once for all who wait.

        Raises CredentialUnavailable (an outage of the realm), CredentialRefused, UpstreamDenied, UpstreamThrottled.
        """
        held = self.held(key)
        if held is not None and held != rejected:
            return held
        kept = self._kept.get(key)
        if kept is not None and kept.token.value == rejected:
            del self._kept[key]
        try:
            return (await self._flights.fly(key, lambda: self._fetch(key))).value
        except (CredentialUnavailable, UpstreamThrottled):
            last = self._kept.get(key)
            if last is None or self._monotonic() - last.at >= last.token.lifetime_s:
                raise
            return last.token.value

    async def _fetch(self, key: TokenKey) -> Token:
        """Ask the realm through its two gates, one for its outages and one for each credential that it throttles."""
        upstream, realm = self._wire.upstream, key.realm.origin()
        header = None
        if key.credentials is not None:
            header = await self._credentials.basic(upstream, key.credentials, str(key.realm))
        down = self._gates.at((DOWN, realm), None, Limit.REQUESTS)
        busy = self._gates.at((BUSY, realm), key.credentials, Limit.REQUESTS)
        try:
            async with down.passage() as outage, busy.passage() as limit:
                try:
                    token = await self._ask(key, header)
                except CredentialUnavailable as error:
                    error.retry_after_s = down.strike(error.retry_after_s or REALM_WAIT_S)
                    raise
                except UpstreamThrottled as error:
                    outage.answered()
                    error.retry_after_s = busy.strike(error.retry_after_s)
                    raise
                except UpstreamDenied:
                    outage.answered()
                    limit.answered()
                    raise
                outage.answered()
                limit.answered()
        except GateClosed as gate:
            if gate.gate is busy:
                raise UpstreamThrottled(upstream, "its token realm asks us to slow down", gate.left_s) from None
            raise CredentialUnavailable(upstream, "its token realm has just failed", gate.left_s) from None
        if key.credentials is not None:
            self._credentials.accepted(upstream, key.credentials)
        if token.usable_s > 0:
            self._kept[key] = Kept(token, self._monotonic())
        return token

    async def _ask(self, key: TokenKey, header: str | None) -> Token:
        """One request. Every CredentialUnavailable from here is the realm's fault."""
        headers = {"Accept": "application/json, */*;q=0.5"} | ({} if header is None else {"Authorization": header})
        try:
            exchange = await self._wire.send("token", "GET", key.url, headers, self._wire.realms)
            try:
                body = await exchange.read(BODY_MAX)
            finally:
                exchange.close()
        except DialRefused:
            raise
        except (UpstreamUnavailable, UpstreamTimeout, UpstreamLied) as error:
            if error.failure is Failure.DESCRIPTORS:  # the realm was not asked
                raise
            raise CredentialUnavailable(
                self._wire.upstream, f"its token realm fails: {error}", error.retry_after_s
            ) from error
        if exchange.status != 200:
            raise self._refusal(key, exchange, body, header)
        try:
            return parse(body)
        except ValueError as cause:
            why = "its token realm answers what is no token"
            raise CredentialUnavailable(self._wire.upstream, why) from cause

    def _refusal(self, key: TokenKey, exchange: Exchange, body: bytes, header: str | None) -> UpstreamFault:
        upstream, status = self._wire.upstream, exchange.status
        if status == 401 and key.credentials is not None and header is not None:
            return self._credentials.refused(upstream, key.credentials, str(key.realm), header)
        error = answers.fault(upstream, status, exchange.headers, body, credentials=key.credentials, now=self._clock())
        if isinstance(error, UpstreamDenied | UpstreamThrottled):
            return error
        # A redirect is not followed: the credential would go where nobody judged.
        return CredentialUnavailable(upstream, f"its token realm answered {status}", error.retry_after_s)
