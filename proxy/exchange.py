"""One request as the log line and the metrics tell it: filled in on the way, read once at its end."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from proxy.oci import Digest
from proxy.outcome import Outcome, Result
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
        """The fields of the log line; what does not apply is left out."""
        fields = {
            "id": self.id,
            "client": self.client,
            "method": self.method,
            "kind": self.kind,
            "rule": self.rule or None,
            "reference": self.reference or None,
            "range": self.range,
            "status": self.status,
            "outcome": self.result.value if self.result is not None else None,
            "not_kept": self.outcome.not_kept if self.outcome is not None else None,
            "upstream_status": self.outcome.checked_status if self.outcome is not None else None,
            "bytes": self.sent,
            "first_byte_s": None if self.first_byte_s is None else round(self.first_byte_s, 6),
            "seconds": round(self.seconds, 6),
            "error": self.error,
        }
        return {name: value for name, value in fields.items() if value is not None}
