"""Answers that stand ready: a manifest asked for again is sent as it was, headers and all.

Nothing is decided here. An answer was made on the ordinary road, and it is used only under the same rules object (a
reload makes another, and with it another block list) and while `pull` says that it still stands: no record changed and
its tag is fresh. Whatever differs in the least, a conditional request for one, takes the ordinary road.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Final

from aiohttp import hdrs

from proxy.exchange import Exchange
from proxy.lately import Lately
from proxy.oci import Digest
from proxy.paths import Kind
from proxy.pull import Pull
from proxy.pulled import ManifestAnswer, Standing
from proxy.rules import Route, Rules
from proxy.server.asked import Asked
from proxy.server.ready import Prepared, head

MOST_BYTES: Final = 16 << 20  # a generation's; two are kept
HEARD_AGAIN_AFTER_S: Final = 1.0  # who notes uses and queues images need not hear of each request of a crowd
ENTRY: Final = 2048  # bytes that an entry takes beside its body, rather more than less


@dataclass(slots=True, kw_only=True)
class Answer:
    """One answer, and what its log line tells. `heard_at`: when its use was last told (monotonic seconds)."""

    asked: Asked
    reference: str
    standing: Standing
    head: bytes
    body: bytes
    method: str
    route: Route
    digest: Digest
    heard_at: float


class Hot:
    """The answers that were asked for lately, by method and request target."""

    def __init__(self, pull: Pull) -> None:
        self._pull = pull
        self._rules: Rules | None = None
        self._answers: Lately[tuple[str, str], Answer] = Lately(MOST_BYTES, _weight)

    def find(self, method: str, target: str, headers: Mapping[str, str], rules: Rules) -> Prepared | None:
        """The answer to this very request of HTTP/1.1; None if it takes the ordinary road."""
        if rules is not self._rules:  # nothing of the old ones may be kept alive here
            self._rules = rules
            self._answers.clear()
        answer = self._answers.get((method, target))
        if answer is None or hdrs.IF_NONE_MATCH in headers or not self._pull.repeats(answer.standing):
            return None
        return Prepared(answer.head, answer.body, partial(self._tell, answer, headers))

    def _tell(self, answer: Answer, headers: Mapping[str, str], exchange: Exchange) -> None:
        """Fill the exchange in for an answer that is given again, and let its use be heard."""
        if answer.method == "GET" and exchange.started - answer.heard_at >= HEARD_AGAIN_AFTER_S:
            answer.heard_at = exchange.started
            self._pull.fetched(answer.route, answer.digest)
        exchange.kind = Kind.MANIFEST.value
        exchange.route = answer.route
        exchange.reference = answer.reference
        exchange.range = headers.get(hdrs.RANGE)

    def keep(self, asked: Asked, found: ManifestAnswer, headers: Mapping[str, str], exchange: Exchange) -> None:
        """Let a 200 with these headers stand ready for the next one who asks the same, if it stands at all."""
        if found.standing is None or asked.route is None or not asked.is_short or asked.rules is not self._rules:
            return
        self._answers.put(
            (exchange.method, asked.target),
            Answer(
                asked=asked,
                reference=exchange.reference,
                standing=found.standing,
                head=head(200, {**headers, "Content-Length": str(found.descriptor.size)}),
                body=b"" if found.body is None or exchange.method == "HEAD" else found.body,
                method=exchange.method,
                route=asked.route,
                digest=found.descriptor.digest,
                heard_at=exchange.started,
            ),
        )


def _weight(answer: Answer) -> int:
    return len(answer.body) + ENTRY
