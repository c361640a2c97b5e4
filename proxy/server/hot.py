"""Answers that stand ready: a manifest asked for again is sent as it was, headers and all.

Nothing is decided here. An answer was made on the ordinary road, and it is used only under the same rules object (a
reload makes another, and with it another block list) and while `pull` says that it still stands: no record changed and
its tag is fresh. Whatever differs in the least, a conditional request for one, takes the ordinary road.
"""

from collections.abc import Mapping
from dataclasses import dataclass
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
from proxy.server.lane import Message
from proxy.server.ready import head

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

    def find(self, message: Message, rules: Rules) -> Answer | None:
        """The answer to this very request of HTTP/1.1; None if it takes the ordinary road."""
        if rules is not self._rules:  # nothing of the old ones may be kept alive here
            self._rules = rules
            self._answers.clear()
        answer = self._answers.get((message.method, message.path))
        if answer is None or hdrs.IF_NONE_MATCH in message.headers or not self._pull.repeats(answer.standing):
            return None
        return answer

    def tell(self, answer: Answer, exchange: Exchange, message: Message) -> None:
        """Fill the exchange in for an answer that is given again, and let its use be heard."""
        if answer.method == "GET" and exchange.started - answer.heard_at >= HEARD_AGAIN_AFTER_S:
            answer.heard_at = exchange.started
            self._pull.fetched(answer.route, answer.digest)
        exchange.kind = Kind.MANIFEST.value
        exchange.route = answer.route
        exchange.reference = answer.reference
        exchange.range = message.headers.get(hdrs.RANGE)

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
                body=found.body or b"",
                method=exchange.method,
                route=asked.route,
                digest=found.descriptor.digest,
                heard_at=exchange.started,
            ),
        )


def _weight(answer: Answer) -> int:
    return len(answer.body) + ENTRY
