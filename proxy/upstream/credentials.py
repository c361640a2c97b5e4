"""Username and password of a credential set as an Authorization header, and which of them were refused lately.

The password is read anew for each use, so that a rotated one is taken up; it is kept nowhere.
"""

import base64
import time
from collections.abc import Callable, Mapping
from typing import Final

from cachetools import TTLCache

from proxy.config.secrets import SecretUnavailable
from proxy.errors import CredentialRefused, CredentialUnavailable
from proxy.upstream.settings import CredentialSettings

# Docker Hub locks a user out for ten minutes after a few wrong passwords: ask seldom (protocol U10).
REFUSED_FOR_S: Final = 30.0
REFUSALS_MAX: Final = 1024


class Credentials:
    """The credential sets of the configuration."""

    def __init__(
        self, sets: Mapping[str, CredentialSettings], *, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._sets = sets
        self._refused: TTLCache[tuple[str, str], bool] = TTLCache(REFUSALS_MAX, REFUSED_FOR_S, monotonic)

    def basic(self, upstream: str, name: str, place: str) -> str:
        """The header for set `name` at `place` (a realm or registry); raises CredentialUnavailable if it cannot be
        read, CredentialRefused if that very pair was refused there a moment ago.
        """
        try:
            one = self._sets[name]
            pair = f"{one.username}:{one.secret()}"
        except (KeyError, OSError, ValueError) as error:
            # Only the config's own error is known to name the place and not the secret.
            why = str(error) if isinstance(error, SecretUnavailable) else type(error).__name__
            raise CredentialUnavailable(upstream, f"the credentials {name} cannot be read: {why}") from None
        header = "Basic " + base64.b64encode(pair.encode()).decode()
        if (place, header) in self._refused:
            raise self.refusal(upstream, name)
        return header

    def refused(self, upstream: str, name: str, place: str, header: str) -> CredentialRefused:
        """Remember that `place` refused this pair; the error to raise."""
        self._refused[(place, header)] = True
        return self.refusal(upstream, name)

    @staticmethod
    def refusal(upstream: str, name: str) -> CredentialRefused:
        return CredentialRefused(upstream, f"it refuses the credentials {name}", credentials=name)
