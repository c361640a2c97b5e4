"""One request as the log line and the metrics tell it: filled in on the way, read once at its end."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from proxy.log import plain, tell
from proxy.oci import Digest
from proxy.outcome import HIT, Outcome, Result
from proxy.rules import Route


@dataclass(slots=True)
class Exchange:
    """`first_byte_s` and `seconds` count from the request's arrival; `sent` are body bytes."""

    id: str
    client: str
    method: str
    clock: Callable[[], float] = field(default=time.monotonic, repr=False)
    started: float = field(init=False)
    kind: str = "other"
    route: Route | None = None
    reference: str = ""
    range: str | None = None
    outcome: Outcome | None = None
    result: Result | None = None
    status: int = 0
    sent: int = 0
    first_byte_s: float | None = None
    seconds: float = 0.0
    error: str | None = None
    upstream_status: int | None = None  # of an error; of an answer it stands in the outcome

    def __post_init__(self) -> None:
        self.started = self.clock()

    def begin(self, status: int) -> None:
        """The headers leave now."""
        self.status = status
        self.first_byte_s = self.clock() - self.started

    def end(self, result: Result | None = None) -> None:
        self.seconds = self.clock() - self.started
        if result is not None:
            self.result = result
        elif self.result is None:
            self.result = self.outcome.result if self.outcome is not None else Result.HIT

    @property
    def rule(self) -> str:
        return self.route.rule if self.route is not None else ""

    def name(self, repository: str, target: str | Digest | None) -> None:
        self.reference = repository if target is None else f"{repository}{'@' if ':' in str(target) else ':'}{target}"

    def line(self) -> dict[str, Any]:
        """The fields of the log line, plain and short; what does not apply is left out."""
        result, outcome = self.result, self.outcome
        fields = {
            "id": self.id,
            "client": self.client,
            "method": self.method,
            "kind": self.kind,
            "status": self.status,
            "bytes": self.sent,
            "seconds": round(self.seconds, 6),
        }
        if rule := self.rule:
            fields["rule"] = rule
        if self.reference:  # of names, tags and digests that passed the grammar: there is no other way into it
            fields["reference"] = self.reference
        if result is not None:
            fields["outcome"] = result.value
        if self.first_byte_s is not None:
            fields["first_byte_s"] = round(self.first_byte_s, 6)
        if outcome is not None and outcome is not HIT:
            fields |= _of_outcome(outcome)
        if self.range is not None:
            fields["range"] = plain(self.range)
        if self.upstream_status is not None:
            fields["upstream_status"] = self.upstream_status
        if self.error is not None:
            fields["error"] = plain(self.error)
        return fields


def _of_outcome(outcome: Outcome) -> dict[str, Any]:
    told = {"not_kept": outcome.not_kept, "upstream_status": outcome.checked_status or outcome.upstream_status}
    return {name: value for name, value in told.items() if value is not None}


def tell_request(exchange: Exchange) -> None:
    """The line of one request: a failure that is ours or an upstream's is a warning, also after the headers."""
    dropped = exchange.result is Result.ERROR and exchange.status < 400
    tell("request", "warning" if dropped or exchange.status >= 500 else "info", "request", exchange.line())
