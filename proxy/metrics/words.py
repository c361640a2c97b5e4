"""Label values: bounded by the configuration and by sets that stand here, never by what clients or upstreams send."""

import http
import re
from typing import Final

OTHER: Final = "other"
METHODS: Final = frozenset({"GET", "HEAD"})
STATUSES: Final = frozenset(str(status.value) for status in http.HTTPStatus)
PLACES_OF_FAULT: Final = frozenset({"upstream", "resume", "store"})
RESULTS_OF_HYDRATION: Final = frozenset({"done", "failed"})
WORD: Final = re.compile(r"[a-z][a-z_]{0,39}", re.ASCII)
WORDS_MAX: Final = 64


def among(word: str, known: frozenset[str]) -> str:
    """The word if it is one of those known, else `other`."""
    return word if word in known else OTHER


class Words:
    """Words of our own code as label values: any, but so many and no more, whatever a bug may one day put in."""

    def __init__(self) -> None:
        self._known: set[str] = set()

    def __call__(self, word: str) -> str:
        if word not in self._known and len(self._known) < WORDS_MAX and WORD.fullmatch(word):
            self._known.add(word)
        return word if word in self._known else OTHER


def status_label(outcome: str, words: Words) -> str:
    """An upstream's status if HTTP knows it, else its class; a fault's own word as it is."""
    if outcome in STATUSES:
        return outcome
    if outcome.isdigit():
        return f"{outcome[0]}xx" if len(outcome) == 3 and outcome[0] in "12345" else OTHER
    return words(outcome)
