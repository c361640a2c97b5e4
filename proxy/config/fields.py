"""What the values of the models are: each type reads one text of the file."""

import re
from pathlib import Path
from typing import Annotated, Any, Final

from proxy import oci
from proxy.config import units
from proxy.config.patterns import Pattern
from proxy.config.section import Before, Read
from proxy.errors import DigestInvalid

NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._:-]{0,127}", re.ASCII)

Text = Annotated[str, Read(units.text)]
Flag = Annotated[bool, Read(units.flag)]
Workers = Annotated[int, Read(units.workers)]
Positive = Annotated[int, Read(units.positive)]
Size = Annotated[int, Read(units.positive_size)]
MaxShare = Annotated[units.Share, Read(units.positive_share)]
Fraction = Annotated[float, Read(units.fraction)]
FreeShare = Annotated[units.Share, Read(units.share)]
Seconds = Annotated[float, Read(units.seconds)]
PositiveSeconds = Annotated[float, Read(units.positive_seconds)]
SecondsOrForever = Annotated[float, Read(units.seconds_or_forever)]
File = Annotated[Path, Read(units.path)]
Host = Annotated[str, Read(units.host)]
HostOrNetwork = Annotated[str, Read(units.host_or_network)]
Network = Annotated[str, Read(units.network)]
HttpUrl = Annotated[str, Read(units.http_url)]
EgressProxy = Annotated[str, Read(units.egress_proxy)]
Listen = Annotated[units.Address, Read(units.Address.parse)]


def _or_none(read: Any) -> Any:
    """Read a value that may be `none`."""
    return lambda value: None if value is None or value == "none" else read(value)


HostOrNone = Annotated[str | None, Read(_or_none(units.host))]
SizeOrNone = Annotated[int | None, Read(_or_none(units.positive_size))]


def _prefix(value: object) -> str | None:
    if value is None or value == "none":
        return None
    prefix = Pattern.parse(units.text(value))
    if prefix.is_wildcard:
        raise ValueError("must be a repository prefix without *")
    return prefix.literal


def _digest(value: object) -> oci.Digest:
    try:
        return oci.Digest.parse(units.text(value))
    except DigestInvalid as cause:
        raise ValueError(str(cause)) from None


def _name(value: object) -> str:
    name = units.text(value)
    if NAME.fullmatch(name) is None:
        raise ValueError("must be a short name: letters, digits and . _ - : (it stands in URLs and metric labels)")
    return name


def _given(value: object, empty: object) -> object:
    """A list or map with nothing under it is an empty one."""
    return empty if value is None else value


Name = Annotated[str, Read(_name)]
OfficialPrefix = Annotated[str | None, Read(_prefix)]
Blocked = Annotated[oci.Digest, Read(_digest)]
EMPTY_LIST = Before(lambda value: _given(value, []))
EMPTY_MAP = Before(lambda value: _given(value, {}))
