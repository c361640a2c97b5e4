"""`WWW-Authenticate` -> challenges (RFC 9110 section 11.6.1; protocol U01). Pure.

Several header lines, several challenges in one line, commas inside quotes, unquoted values (even URLs), schemes and
keys in any case, token68 data, `Negotiate` first. What cannot be read ends the list; it never raises.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

HEADERS_MAX: Final = 32
LINE_MAX: Final = 8192
WORD: Final = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
SCHEME: Final = re.compile(rf"[\s,]*({WORD})(?=[\s,]|$)")
# An unquoted value may hold what a token may not (`realm=https://h/t?a=b`): it ends at a comma or white space.
PARAMETER: Final = re.compile(
    rf'[\s,]*({WORD})[ \t]*=[ \t]*(?:"((?:[^"\\]|\\.)*)"|([^\s,"=][^\s,"]*))(?=[\s,]|$)', re.DOTALL
)
TOKEN68: Final = re.compile(r"[ \t]+([A-Za-z0-9._~+/-]+=*)(?=[ \t]*(?:,|$))")
ESCAPE: Final = re.compile(r"\\(.)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Challenge:
    """One challenge: its scheme in lower case, and its parameters by lower-case name."""

    scheme: str
    parameters: dict[str, str]

    @property
    def realm(self) -> str | None:
        return self.parameters.get("realm") or None

    @property
    def service(self) -> str | None:
        return self.parameters.get("service") or None

    @property
    def error(self) -> str | None:
        return self.parameters.get("error")


def parse(lines: Iterable[str]) -> list[Challenge]:
    """Every challenge of every header line, in order."""
    found: list[Challenge] = []
    for line in list(lines)[:HEADERS_MAX]:
        found += _parse_line(line[:LINE_MAX])
    return found


def _parse_line(line: str) -> list[Challenge]:
    found: list[Challenge] = []
    place = 0
    while found or place == 0:
        parameter = PARAMETER.match(line, place) if found else None
        if parameter is not None:
            name, quoted, plain = parameter.groups()
            value = plain if quoted is None else ESCAPE.sub(r"\1", quoted)
            found[-1].parameters.setdefault(name.lower(), value)
            place = parameter.end()
            continue
        scheme = SCHEME.match(line, place)
        if scheme is None:
            break
        found.append(Challenge(scheme[1].lower(), {}))
        place = scheme.end()
        if PARAMETER.match(line, place) is None and (data := TOKEN68.match(line, place)) is not None:
            place = data.end()
    return found


def pick(challenges: Iterable[Challenge]) -> Challenge | None:
    """The challenge to answer: a Bearer with a realm before a Basic; others (`Negotiate`, `Digest`) we do not speak."""
    listed = list(challenges)
    bearer = next((one for one in listed if one.scheme == "bearer" and one.realm), None)
    return bearer or next((one for one in listed if one.scheme == "basic"), None)
