"""What a serving process and the engine say to each other, as data; how it travels stands in `wire`."""

from dataclasses import dataclass

Headers = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Message:
    """Something said. Its kinds stand below, each named for what it tells."""


# From the engine


@dataclass(frozen=True, slots=True)
class Hello(Message):
    """The engine has taken this connection: it is there."""


@dataclass(frozen=True, slots=True)
class Settings(Message):
    """What a serving process has to know of the configuration; again whenever that changes."""

    max_connections: int
    certificate: str | None
    key: str | None
    drain_s: float


@dataclass(frozen=True, slots=True)
class Cut(Message):
    """Answers that carry these digests end now, and nothing of them is kept."""

    digests: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Forget(Message):
    """These digests, or all for an empty list, are not kept any more; answers on their way go on."""

    digests: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Flush(Message):
    """Tell what was counted now."""

    number: int


@dataclass(frozen=True, slots=True)
class Facts(Message):
    """What the answer to a question is about, for those who give it again."""

    kind: str
    rule: str
    reference: str
    digest: str
    changes: int
    checked_at: float | None
    fresh_for_s: float


@dataclass(frozen=True, slots=True)
class Small(Message):
    """An answer of `length` bytes of body, which follow here and in as many `More` as it takes. `facts`: it stands."""

    status: int
    headers: Headers
    length: int
    facts: Facts | None


@dataclass(frozen=True, slots=True)
class More(Message):
    """The next bytes of a body."""


@dataclass(frozen=True, slots=True)
class Blob(Message):
    """A blob's answer: its head, and which bytes of which file leave (`parts`: what stands in front of each, start and
    stop). `length` is None for a body whose size nobody knows. `size` is the blob's where its file, whole and trusted,
    comes with this message; None where each step is asked for by `At`.
    """

    status: int
    headers: Headers
    length: int | None
    parts: tuple[tuple[str, int, int], ...]
    tail: str
    is_open_ended: bool
    digest: str
    size: int | None
    facts: Facts | None


@dataclass(frozen=True, slots=True)
class UpTo(Message):
    """Bytes of the file may leave up to `end`; the file comes with the first of these."""

    end: int


@dataclass(frozen=True, slots=True)
class Bytes(Message):
    """The next bytes come with this message: no file has them."""


@dataclass(frozen=True, slots=True)
class Failed(Message):
    """The body will never be whole."""

    why: str


# From a serving process


@dataclass(frozen=True, slots=True)
class Serve(Message):
    """This connection is the standing one of a serving process."""

    index: int


@dataclass(frozen=True, slots=True)
class Taken(Message):
    """Bytes of a file, named by its device and inode."""

    device: int
    inode: int
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class Ask(Message):
    """One request of a client at one of the addresses (`door`). `url` is its path, query and fragment as aiohttp read
    them. `taken`: these bytes of the answer have left already, of this file, given by an engine that is gone.
    """

    door: str
    method: str
    target: str
    url: tuple[str, str, str]
    version: tuple[int, int]
    headers: Headers
    client: str
    taken: Taken | None


@dataclass(frozen=True, slots=True)
class Heard(Message):
    """An answer to this request target, with the content of this digest, was given again without a question."""

    target: str
    digest: str


@dataclass(frozen=True, slots=True)
class At(Message):
    """How far may bytes leave from `offset` on?"""

    offset: int


@dataclass(frozen=True, slots=True)
class Fault(Message):
    """Reading the file met an error."""

    errno: int
    why: str


@dataclass(frozen=True, slots=True)
class End(Message):
    """The answer is over: so many bytes were sent; `error` says why not all, None if all were."""

    sent: int
    error: str | None


@dataclass(frozen=True, slots=True)
class Counted(Message):
    """Requests under one set of labels that were answered without a question, as `proxy.metrics` counts them."""

    rule: str
    kind: str
    method: str
    outcome: str
    status: int
    requests: int
    sent: int
    first_s: float
    within: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Counts(Message):
    """What was counted and used since the last time; `flushed` is the number of the `Flush` that asked, 0 if none."""

    cells: tuple[Counted, ...]
    heard: tuple[Heard, ...]
    connections: int
    flushed: int
