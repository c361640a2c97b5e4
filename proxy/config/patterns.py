"""The two sides of a rule as patterns: `dockerhub/*` and `docker.io/library/*`. Pure; knows no rule and no upstream.

A pattern is exact, or ends in `/*` (or is `*` alone): the star stands for one or more whole path components, so that
`team/*` never matches `team-b/x`.
"""

from dataclasses import dataclass

from proxy import oci
from proxy.config import units
from proxy.errors import NameInvalid


@dataclass(frozen=True, slots=True)
class Pattern:
    """`literal` is the whole name, or with `is_wildcard` what stands before the star: empty, or ending in a slash."""

    literal: str
    is_wildcard: bool

    @classmethod
    def parse(cls, written: str) -> "Pattern":
        is_wildcard = written == "*" or written.endswith("/*")
        literal = written[:-1] if is_wildcard else written
        if "*" in literal:
            raise ValueError("may have one *, at its end, after a slash: it stands for whole path components")
        name = literal.rstrip("/")
        if name or not is_wildcard:
            try:
                oci.repository(name)
            except NameInvalid:
                raise ValueError("must be a repository name (lower case), or one with /* behind it") from None
        return cls(literal, is_wildcard)

    def __str__(self) -> str:
        return f"{self.literal}*" if self.is_wildcard else self.literal


@dataclass(frozen=True, slots=True)
class UpstreamSide:
    """An upstream's name or alias, and the pattern of its repositories."""

    host: str
    pattern: Pattern

    def __str__(self) -> str:
        return f"{self.host}/{self.pattern}"


def repository_side(value: object) -> Pattern:
    return Pattern.parse(units.text(value))


def upstream_side(value: object) -> UpstreamSide:
    host, slash, rest = units.text(value).partition("/")
    if not slash or not rest:
        raise ValueError("must be UPSTREAM/REPOSITORY, such as docker.io/library/*")
    return UpstreamSide(units.host(host), Pattern.parse(rest))
