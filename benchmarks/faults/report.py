"""What the rows showed, as a table for people: printed, and kept as Markdown. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from benchmarks.figures import CISTERN, REGISTRY
from tests.faults.matrix import WITHIN_S, Cell, table
from tests.faults.playing import Seen

HEAD = """\
# Faults: Cistern beside docker-registry in proxy mode

Written by `python -m benchmarks.faults`; every cell was seen in that run, none is from memory. One scripted upstream
behind a TCP fault proxy, each cache a fresh process with an empty folder and its defaults, but that Cistern's
`tags.fresh_for` is 0s, so that both check a tag at each pull. The rows are data in `tests/faults/rows.py`, where
`make test` plays the same ones against Cistern with a clock turned by hand. Ids are those of the fault list that this
project is built by.

How to read a cell: what became of the clients (`exact`: all bytes; `stale`: the same, marked so; `unmarked`: the same
while the upstream could not be asked, and nothing says so; `broken`: the connection ended early, so the client knows;
`wrong`: a complete body of wrong bytes; `hung`: no end within {patience:.0f} s; a number: that status, `+` with
Retry-After), then how often the upstream was asked for it, how many copies of the layer left the upstream, what is
committed afterwards, and the slowest client's time.
"""
MATRIX_HEAD = """\
# Trouble: what real clients get

Written by `python -m benchmarks.faults --matrix`; every cell is one real pull of that run. skopeo, containerd's `ctr`
and podman pull through HAProxy, which checks `/-/rules/NAME` of two Cisterns in front of one registry with a token
realm; `fresh_for` is 0s, so every pull by tag wants a check. Held: all of the image is in both caches. Half: all but
its last layer. Cold: nothing. A held image must pull within {within:g} s of that client's time while all was well.
"""


@dataclass(frozen=True, slots=True)
class Played:
    """One row at one subject."""

    id: str
    fault: str
    clients: int
    subject: str
    seen: Seen
    is_marked: bool = False  # the row asks for a mark on what is served stale

    @property
    def passed(self) -> bool:
        return not self.seen.faults

    @property
    def cell(self) -> str:
        seen = self.seen
        words = seen.words.replace("exact", "unmarked") if self.is_marked else seen.words
        asked = "not asked" if seen.asked == 0 else f"asked {seen.asked}x"
        copies = f", {seen.copies:.2f} copies" if seen.copies else ""
        return f"{words}; {asked}{copies}; {seen.committed}; {seen.slowest_s:.1f} s"


def markdown(played: Sequence[Played], facts: Mapping[str, object], patience_s: float) -> str:
    """The whole document."""
    by_row: dict[tuple[str, str, int], dict[str, Played]] = {}
    for one in played:
        by_row.setdefault((one.id, one.fault, one.clients), {})[one.subject] = one
    lines = [
        HEAD.format(patience=patience_s),
        f"Machine: {facts['cpu']}, {facts['cores']} cores, Linux {facts['kernel']}; docker-registry: "
        f"{facts['registry']}.\n",
        *_claims(by_row),
        "| row | fault | clients | Cistern | as it should be | docker-registry | as it should be |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for (name, fault, clients), found in sorted(by_row.items()):
        cells = [word for subject in (CISTERN, REGISTRY) for word in _cells(found.get(subject))]
        lines.append(f"| {name} | {fault} | {clients} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def matrix_markdown(cells: Sequence[Cell], wrong: Sequence[str], facts: Mapping[str, object]) -> str:
    """The matrix as a document."""
    lines = [
        MATRIX_HEAD.format(within=WITHIN_S),
        f"Machine: {facts['cpu']}, {facts['cores']} cores, Linux {facts['kernel']}.\n",
        table(cells),
        "All is as it must be." if not wrong else "Not as it must be:\n",
        *(f"- {' '.join(words.split())}" for words in wrong),
    ]
    return "\n".join(lines) + "\n"


def _claims(by_row: Mapping[tuple[str, str, int], Mapping[str, Played]]) -> list[str]:
    both = [found for found in by_row.values() if CISTERN in found and REGISTRY in found]
    ours = sum(found[CISTERN].passed for found in both)
    theirs = sum(found[REGISTRY].passed for found in both)
    only = sum(found[CISTERN].passed and not found[REGISTRY].passed for found in both)
    return [f"Of {len(both)} plays Cistern passes {ours}, docker-registry {theirs}; {only} only Cistern passes.\n"]


def _cells(one: Played | None) -> tuple[str, str]:
    if one is None:
        return "not played", ""
    return one.cell, "yes" if one.passed else f"NO: {'; '.join(one.seen.faults)}"
