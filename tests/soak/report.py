"""What a soak found: pulls, faults, memory and disk, and how that reads."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Final

from tests.support.leaks import Footprint

MIB: Final = 1 << 20
LOWS: Final = 5  # of the last life, told
WORST_MAX: Final = 20  # faults that are told in full


@dataclass(slots=True)
class Report:
    """What a soak saw. `faults` is empty if all was well."""

    seed: int
    pulls: Counter[str] = field(default_factory=Counter)
    excused: Counter[str] = field(default_factory=Counter)
    restarts: int = 0
    probes: int = 0
    jobs_left: int = 0
    footprints: list[Footprint] = field(default_factory=list)
    resident: list[int] = field(default_factory=list)  # bytes, once a second from the first footprint to the last
    disk_bytes: int = 0
    most_disk_bytes: int = 0  # seen while it ran, if there was a cap
    content_bytes: int = 0
    faults: list[str] = field(default_factory=list)

    def fault(self, words: str) -> None:
        self.faults.append(words)

    def lows(self, parts: int) -> list[int]:
        """The least memory in each of so many equal parts of the last life: what a crowd needs for a moment comes and
        goes, what leaks stays.
        """
        count = len(self.resident)
        return [min(self.resident[part * count // parts : (part + 1) * count // parts]) for part in range(parts)]

    def __str__(self) -> str:
        first, last = self.footprints[0], self.footprints[-1]
        lows = ", ".join(f"{low / MIB:.1f}" for low in self.lows(LOWS))
        lines = [
            f"seed {self.seed}: {sum(self.pulls.values())} pulls ({_counted(self.pulls)}), "
            f"{sum(self.excused.values())} failed in trouble ({_counted(self.excused)}), "
            f"{self.restarts} restarts, {self.probes} probes, {self.jobs_left} hydrations left for later",
            f"last life: memory at its lowest {lows}, at most {max(self.resident) / MIB:.1f}, at rest "
            f"{last.resident_bytes / MIB:.1f} MiB; descriptors {first.files} -> {last.files}, "
            f"threads {first.threads} -> {last.threads}; disk {self.disk_bytes / MIB:.1f} MiB for "
            f"{self.content_bytes / MIB:.1f} MiB of content"
            + (f", at most {self.most_disk_bytes / MIB:.1f} MiB" if self.most_disk_bytes else ""),
            *(f"FAULT: {words}" for words in self.faults[:WORST_MAX]),
        ]
        return "\n".join([*lines, f"{len(self.faults)} faults"])


def _counted(counter: Counter[str]) -> str:
    return ", ".join(f"{count} {word}" for word, count in counter.most_common())
