"""Figures and rows: what was measured, how far it spread, what it is held against. Pure: no process, no clock."""

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

CISTERN = "Cistern"
REGISTRY = "docker-registry"
NGINX = "nginx"
VARNISH = "Varnish"
SQUID = "Squid"
DISTRIBUTION = "Distribution 3"
ZOT = "zot"
DIRECT = "direct"
BARE = "bare aiohttp"
PLAIN = "nginx file"
RELAY = "bare relay"


@dataclass(frozen=True, slots=True)
class Figure:
    """A value and the range of the samples that it was chosen from."""

    value: float
    low: float
    high: float
    samples: int

    def scaled(self, factor: float) -> "Figure":
        return Figure(self.value * factor, self.low * factor, self.high * factor, self.samples)


def summary(samples: Sequence[float], choose: Callable[[Sequence[float]], float] = statistics.median) -> Figure:
    """The chosen sample (by default the median) with the spread. ValueError: there is none."""
    if not samples:
        raise ValueError("no sample was taken")
    return Figure(choose(samples), min(samples), max(samples), len(samples))


def percentile(samples: Sequence[float], share: float) -> float:
    """The nearest-rank percentile: the smallest sample that `share` (0 to 1) of all samples do not exceed."""
    if not samples or not 0 < share <= 1:
        raise ValueError(f"no percentile {share} of {len(samples)} samples")
    return sorted(samples)[math.ceil(share * len(samples)) - 1]


def ratios(samples: Sequence[float], base: Sequence[float]) -> list[float]:
    """Each round's sample over the same round's base: what disturbed a whole round cancels out."""
    return [sample / beneath for sample, beneath in zip(samples, base, strict=True)]


@dataclass(frozen=True, slots=True)
class Floor:
    """The limit that a row's ratio is held to."""

    limit: float
    at_most: bool

    def met(self, value: float) -> bool:
        return value <= self.limit if self.at_most else value >= self.limit

    def __str__(self) -> str:
        return f"{'≤' if self.at_most else '≥'} {self.limit:g}"


def at_most(limit: float) -> Floor:
    return Floor(limit, at_most=True)


def at_least(limit: float) -> Floor:
    return Floor(limit, at_most=False)


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table. `cells` holds what each subject reached, in `unit`; `judged` is what `floor` limits.

    Rows of one `curve` are its points, `at` is where on the axis.
    """

    topic: str
    name: str
    unit: str
    cells: Mapping[str, Figure]
    judged: float | None = None
    floor: Floor | None = None
    note: str = ""
    samples: Mapping[str, Sequence[float]] = field(default_factory=dict)
    curve: str = ""
    at: float = 0.0

    @property
    def met(self) -> bool | None:
        """Whether the floor is kept; None for a row that has none and is there to be known."""
        if self.floor is None or self.judged is None:
            return None
        return self.floor.met(self.judged)
