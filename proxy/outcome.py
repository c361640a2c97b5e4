"""How one request was answered, as facts: what metrics count and what Cache-Status (RFC 9211) tells. Pure."""

import enum
import re
from dataclasses import dataclass
from typing import Final

TOKEN: Final = re.compile(r"[A-Za-z*][A-Za-z0-9!#$%&'*+.^_`|~:/-]*", re.ASCII)  # RFC 9651 section 3.3.4


class Result(enum.Enum):
    """The `outcome` label. `LEFT` and `ERROR` are the edge's to set."""

    HIT = "hit"
    MISS = "miss"
    COLLAPSED = "collapsed"
    STALE = "stale"
    UNKEPT = "unkept"
    REDIRECTED = "redirected"
    LEFT = "left"
    ERROR = "error"


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """`age_s` and `stale_because` belong to stale answers; `checked_status` to a tag checked upstream just now;
    `not_kept` is the reason why a body will not be stored; `fresh_for_s` is what is left, negative past it;
    `upstream_status` is what the upstream answered, if it was asked; nothing is stored of what `has_body` denies.
    """

    result: Result
    checked_status: int | None = None
    fresh_for_s: float | None = None
    age_s: float | None = None
    stale_because: str | None = None
    not_kept: str | None = None
    upstream_status: int | None = None
    has_body: bool = True


WARNING_MAX: Final = 1000  # characters; clients take 4096 bytes with what stands around them (E10)
HIT = Outcome(result=Result.HIT)
MISS = Outcome(result=Result.MISS, upstream_status=200)
HEAD_MISS = Outcome(result=Result.MISS, upstream_status=200, has_body=False)  # only its head was asked for
COLLAPSED = Outcome(result=Result.COLLAPSED, upstream_status=200)
REDIRECTED = Outcome(result=Result.REDIRECTED)  # somebody else sends the bytes


def unkept(reason: str) -> Outcome:
    return Outcome(result=Result.UNKEPT, not_kept=reason, upstream_status=200)


def told(not_kept: str | None) -> Outcome:
    """Of what was fetched just now; `not_kept` is why it is not stored, None if it is."""
    return MISS if not_kept is None else unkept(not_kept)


def cache_status(member: str, outcome: Outcome) -> str:
    """This member's entry of Cache-Status (RFC 9211): `cache-1; fwd=miss; stored`."""
    return "; ".join([_item(member), *_facts(outcome)])


def _item(text: str) -> str:
    """A token as it is; anything else, such as a host name that begins with a digit, as a quoted string."""
    return text if TOKEN.fullmatch(text) is not None else f'"{_quotable(text)}"'


def _quotable(text: str) -> str:
    """`text` with a space for every character that may not stand between quotes in a header."""
    return "".join(c if " " <= c <= "~" and c not in '"\\' else " " for c in text)


def _facts(outcome: Outcome) -> list[str]:
    if outcome.checked_status is not None:
        return ["fwd=stale", f"fwd-status={outcome.checked_status}"]
    match outcome.result:
        case Result.HIT:
            return ["hit"] if outcome.fresh_for_s is None or outcome.fresh_for_s >= 0 else ["hit", _ttl(outcome)]
        case Result.STALE:
            return ["hit", _ttl(outcome)]
        case Result.COLLAPSED:
            return ["fwd=miss", "collapsed", "stored"]
        case Result.REDIRECTED:
            return ["detail=redirected"]
        case Result.UNKEPT:
            return ["fwd=miss", f"detail={_item(outcome.not_kept or 'unknown')}"]
        case _:
            return ["fwd=miss", "stored"] if outcome.has_body else ["fwd=miss"]


def _ttl(outcome: Outcome) -> str:
    return f"ttl={round(outcome.fresh_for_s or 0.0)}"


def stale_headers(outcome: Outcome) -> dict[str, str]:
    """Warning (distribution-spec "Warnings": `299 - "text"`) and Age of a stale answer; nothing for any other."""
    if outcome.result is not Result.STALE:
        return {}
    text = _quotable(f"stale: {outcome.stale_because}")[:WARNING_MAX]
    return {"Warning": f'299 - "{text}"', "Age": str(round(outcome.age_s or 0.0))}
