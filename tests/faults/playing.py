"""One row played at one subject with so many clients: what was seen, and what of it is not as the row says."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from proxy.oci import Digest
from tests.faults import stage as parts
from tests.faults.rows import Row
from tests.faults.stage import Stage, Subject, Visit

TAG_AGE_S = 61.0  # past `fresh_for`
CALM_S = 1300.0  # three of them are past every breaker, gate and remembered answer
RECOVERIES = 4  # pulls until one must be whole again


@dataclass(slots=True)
class Seen:
    """What a row showed. `faults` are the ways in which that is not what the row says; none is what is hoped for."""

    clients: Counter[str]
    asked: int
    copies: float
    slowest_s: float
    committed: str
    signalled: bool | None
    recovered: bool = False
    faults: list[str] = field(default_factory=list)

    @property
    def words(self) -> str:
        """The clients' outcomes in short."""
        return ", ".join(f"{count} {word}" for word, count in sorted(self.clients.items()))


async def play(row: Row, stage: Stage, subject: Subject, clients: int, *, patience_s: float) -> Seen:
    """Play one row: set up, pull while all is well if it is to be held, spoil, let the crowd in, heal, pull again."""
    row.prepare(stage)
    if row.held:
        await held(stage, subject, patience_s)
    elif row.play is not parts.tag:
        await _know_the_image(row, stage, subject, patience_s)
    stage.forget()
    issued = stage.realm.issued
    row.spoil(stage)
    visit = Visit(stage, subject, clients, patience_s)
    words = [word for _ in range(row.waves) for word in await visit.crowd(row.play)]
    await subject.quiet()
    seen = Seen(
        Counter(words),
        stage.realm.issued - issued if row.target == "token" else stage.asked(_target(row, stage)),
        stage.copies(),
        max(visit.seconds),
        committed(stage, subject),
        None if row.signal is None or (told := await subject.signal(row.signal)) is None else told > 0,
    )
    _judge(row, clients, seen)
    await _recover(row, stage, subject, seen, patience_s)
    return seen


async def held(stage: Stage, subject: Subject, patience_s: float) -> None:
    """The whole image is pulled, and its tag is then old enough to be checked."""
    visit = Visit(stage, subject, 1, patience_s)
    for part in (parts.tag, parts.digest, parts.config, parts.layer):
        assert await visit.crowd(part) == ["exact"], "the cache does not serve an upstream that is well"
    await subject.quiet()
    await subject.age(TAG_AGE_S)


async def _know_the_image(row: Row, stage: Stage, subject: Subject, patience_s: float) -> None:
    """The manifest is pulled first, as clients do; not where the row is about just that."""
    if row.play not in (parts.head_then_moved, parts.manifest_then_moved) and row.target != "token":
        assert await Visit(stage, subject, 1, patience_s).crowd(parts.tag) == ["exact"]


def _target(row: Row, stage: Stage) -> Digest | str:
    return stage.image.blobs[0].digest if row.target == "config" else row.target or stage.layer.digest


def committed(stage: Stage, subject: Subject) -> str:
    """`kept`, `nothing`, or `WRONG`: bytes under a digest that they do not hash to."""
    words = []
    for blob in (stage.layer, stage.image.blobs[0]):
        data = subject.committed(blob.digest)
        words.append("nothing" if data is None else "kept" if data == blob.data else "WRONG")
    return "WRONG" if "WRONG" in words else words[0]


def _judge(row: Row, clients: int, seen: Seen) -> None:
    """Write down everything that is not as the row says."""
    seen.faults += [f"a client ended with: {word}" for word in seen.clients if word not in row.client]
    if seen.asked > row.asked + row.each * clients:
        seen.faults.append(f"the upstream was asked {seen.asked} times, {row.asked + row.each * clients} are enough")
    if seen.copies > row.copies:
        seen.faults.append(f"{seen.copies:.2f} copies left the upstream, {row.copies:g} are enough")
    if seen.committed == "WRONG" or (row.kept is not None and seen.committed != ("kept" if row.kept else "nothing")):
        seen.faults.append(f"committed: {seen.committed}")
    if seen.signalled is False:
        seen.faults.append(f"{row.signal} tells nothing")


async def _recover(row: Row, stage: Stage, subject: Subject, seen: Seen, patience_s: float) -> None:
    """The upstream is well again: soon the whole image comes through, exact."""
    stage.heal()
    wanted: Sequence[parts.Play] = (parts.tag, parts.config, parts.layer)
    for _ in range(RECOVERIES):
        words = [(await Visit(stage, subject, 1, patience_s).crowd(part))[0] for part in wanted]
        await subject.quiet()
        seen.recovered = set(words) == {"exact"}
        if seen.recovered:
            break
        await subject.age(CALM_S)
    if not seen.recovered:
        seen.faults.append(f"with the upstream well again: {', '.join(words)}")
    if committed(stage, subject) == "WRONG":
        seen.faults.append("committed at the end: WRONG")
