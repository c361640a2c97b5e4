"""Username and password of a credential set as an Authorization header, and which of them were refused lately.

The password is read anew for each use, so that a rotated one is taken up, in a thread: a file on a mount that hangs
holds up nobody else. The last good one is kept: while a file is empty, gone or gives no answer, what it held before
still serves.
"""

import asyncio
import base64
import time
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from cachetools import TTLCache

from proxy.config.secrets import SecretUnavailable
from proxy.errors import CredentialRefused, CredentialUnavailable
from proxy.events import CredentialJudged
from proxy.flights import Flights
from proxy.tasks import Tasks
from proxy.upstream.settings import CredentialSettings

# Docker Hub locks a user out for ten minutes after a few wrong passwords, and each try begins them anew (protocol U10).
REFUSED_FOR_S: Final = 600.0
REFUSALS_MAX: Final = 1024
READ_WITHIN_S: Final = 1.0
READERS: Final = 4  # threads, started when they are needed: one for each file that hangs, the next ones wait


@dataclass(frozen=True, slots=True, repr=False)
class Good:
    """A pair that could be read, and the settings that led to it."""

    settings: CredentialSettings
    pair: str


def unheard(_event: object) -> None:
    """Nobody listens."""


Reading = Mapping[str, Good | ValueError]


def read(sets: Mapping[str, CredentialSettings]) -> Reading:
    """Every set as it can be read now, or why it cannot. Blocks."""
    found: dict[str, Good | ValueError] = {}
    for name, one in sets.items():
        try:
            found[name] = Good(one, f"{one.username}:{one.secret()}")
        except SecretUnavailable as error:
            found[name] = error
        except (OSError, ValueError) as error:
            # Only the config's own error is known to name the place and not the secret.
            found[name] = SecretUnavailable(type(error).__name__)
    return found


class Readings:
    """Reads sets in threads of its own, each once for all who ask meanwhile."""

    def __init__(self, tasks: Tasks) -> None:
        self._threads = ThreadPoolExecutor(READERS, thread_name_prefix="secret")
        self._flights: Flights[tuple[str, int], Good | ValueError] = Flights(tasks, "read credentials")
        self._late: set[tuple[str, int]] = set()  # readings under way that have outlasted READ_WITHIN_S

    def close(self) -> None:
        """Let the threads go; one that still waits for a mount ends by itself."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def read(self, name: str, one: CredentialSettings, taken: int) -> Good | ValueError:
        """A set as it can be read within READ_WITHIN_S, or why it cannot. `taken` tells one configuration's set from
        the next one's.
        """
        key, late = (name, taken), SecretUnavailable(f"no answer within {READ_WITHIN_S:g} s")
        if key in self._late:
            return late  # somebody has waited for this very reading already: nobody waits again
        reading = self._flights.start(key, lambda: self._read(key, one))
        try:
            async with asyncio.timeout(READ_WITHIN_S):
                return await asyncio.shield(reading)
        except TimeoutError:
            if not reading.done():  # else it ended in this very turn, and nobody would take it off again
                self._late.add(key)
            return late

    async def _read(self, key: tuple[str, int], one: CredentialSettings) -> Good | ValueError:
        name, _ = key
        try:
            return (await asyncio.get_running_loop().run_in_executor(self._threads, read, {name: one}))[name]
        finally:
            self._late.discard(key)


class Credentials:
    """The credential sets of the configuration. `version` changes with a set's username or password."""

    def __init__(
        self,
        sets: Mapping[str, CredentialSettings],
        tasks: Tasks,
        *,
        monotonic: Callable[[], float] = time.monotonic,
        on_judged: Callable[[CredentialJudged], None] = unheard,
        on_changed: Callable[[str], None] = unheard,
    ) -> None:
        self._on_judged = on_judged
        self._on_changed = on_changed
        self._judged: dict[tuple[str, str], bool] = {}  # the last word on a set, by upstream
        self._sets: Mapping[str, CredentialSettings] = {}
        self._good: dict[str, Good] = {}
        self._readings = Readings(tasks)
        self._taken = 0  # configurations
        self._versions: Counter[str | None] = Counter()
        self._refused: TTLCache[tuple[str, str], bool] = TTLCache(REFUSALS_MAX, REFUSED_FOR_S, monotonic)
        self.take(sets, {})

    async def begin(self) -> None:
        """Read every set, as far as they can be read within READ_WITHIN_S; the others are read when they are used."""
        sets, taken = self._sets, self._taken
        found = await asyncio.gather(*(self._readings.read(name, one, taken) for name, one in sets.items()))
        if taken == self._taken:
            for name, reading in zip(sets, found, strict=True):
                if isinstance(reading, Good):
                    self._note(name, reading)

    async def current(self, name: str) -> int:
        """The version of a set, read now; the last one if it cannot be read."""
        with suppress(CredentialUnavailable):
            await self._pair("", name)
        return self.version(name)

    def take(self, sets: Mapping[str, CredentialSettings], reading: Reading) -> None:
        """From now on these sets, as they were read. One that is gone is used no more."""
        self._sets = sets
        self._taken += 1
        for name in self._good.keys() - sets.keys():
            self._on_changed(name)
        self._good = {name: good for name, good in self._good.items() if name in sets}
        for name, found in reading.items():
            if isinstance(found, Good) and name in sets:
                self._note(name, found)

    def close(self) -> None:
        self._readings.close()

    def version(self, name: str | None) -> int:
        """How often the set has changed. Tokens of another version are not used."""
        return self._versions[name]

    def _note(self, name: str, found: Good) -> None:
        before = self._good.get(name)
        self._good[name] = found
        if before is None or before.pair != found.pair:
            self._versions[name] += 1
        if before is not None and before.pair != found.pair:
            self._on_changed(name)

    async def basic(self, upstream: str, name: str, place: str) -> str:
        """The header for set `name` at `place` (a realm or registry); raises CredentialUnavailable if it cannot be
        read and never could, CredentialRefused if that very pair was refused there within REFUSED_FOR_S.
        """
        header = "Basic " + base64.b64encode((await self._pair(upstream, name)).encode()).decode()
        if (place, header) in self._refused:
            raise self.refusal(upstream, name)
        return header

    async def _pair(self, upstream: str, name: str) -> str:
        taken = None
        while taken != self._taken:  # read again if another configuration was taken meanwhile
            taken, one = self._taken, self._sets.get(name)
            if one is None:
                raise CredentialUnavailable(upstream, f"no credentials {name} are configured")
            found = await self._readings.read(name, one, taken)
        if isinstance(found, Good):
            self._note(name, found)
            return found.pair
        kept = self._good.get(name)
        if kept is None or kept.settings != one:  # another file, another user: what the old one held is not meant
            raise CredentialUnavailable(upstream, f"the credentials {name} cannot be read: {found}") from None
        return kept.pair

    def refused(self, upstream: str, name: str, place: str, header: str) -> CredentialRefused:
        """Remember that `place` refused this pair; the error to raise."""
        self._refused[(place, header)] = True
        self._judge(upstream, name, accepted=False)
        return self.refusal(upstream, name)

    def accepted(self, upstream: str, name: str) -> None:
        """The upstream, or its realm, took this set."""
        self._judge(upstream, name, accepted=True)

    def _judge(self, upstream: str, name: str, *, accepted: bool) -> None:
        if self._judged.get((upstream, name)) is not accepted and name in self._sets:
            self._judged[upstream, name] = accepted
            self._on_judged(CredentialJudged(upstream, name, accepted))

    @staticmethod
    def refusal(upstream: str, name: str) -> CredentialRefused:
        return CredentialRefused(upstream, f"it refuses the credentials {name}", credentials=name)
