"""What the values of the models are: each type reads one text of the file, and a section refuses unknown keys."""

import re
from pathlib import Path
from typing import Annotated, Any, Final

from pydantic import BaseModel, BeforeValidator, ConfigDict, PlainValidator, model_validator

from proxy import oci
from proxy.config import units
from proxy.config.patterns import Pattern
from proxy.errors import DigestInvalid

NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._:-]{0,127}", re.ASCII)

Text = Annotated[str, PlainValidator(units.text)]
Flag = Annotated[bool, PlainValidator(units.flag)]
Workers = Annotated[int, PlainValidator(units.workers)]
Positive = Annotated[int, PlainValidator(units.positive)]
Size = Annotated[int, PlainValidator(units.positive_size)]
MaxShare = Annotated[units.Share, PlainValidator(units.positive_share)]
Fraction = Annotated[float, PlainValidator(units.fraction)]
FreeShare = Annotated[units.Share, PlainValidator(units.share)]
Seconds = Annotated[float, PlainValidator(units.seconds)]
PositiveSeconds = Annotated[float, PlainValidator(units.positive_seconds)]
SecondsOrForever = Annotated[float, PlainValidator(units.seconds_or_forever)]
File = Annotated[Path, PlainValidator(units.path)]
Host = Annotated[str, PlainValidator(units.host)]
HostOrNetwork = Annotated[str, PlainValidator(units.host_or_network)]
Network = Annotated[str, PlainValidator(units.network)]
HttpUrl = Annotated[str, PlainValidator(units.http_url)]
EgressProxy = Annotated[str, PlainValidator(units.egress_proxy)]
Listen = Annotated[units.Address, PlainValidator(units.Address.parse)]


def _or_none(read: Any) -> Any:
    """Read a value that may be `none`."""
    return lambda value: None if value is None or value == "none" else read(value)


HostOrNone = Annotated[str | None, PlainValidator(_or_none(units.host))]
SizeOrNone = Annotated[int | None, PlainValidator(_or_none(units.positive_size))]


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
    """A section or list with nothing under it is an empty one."""
    return empty if value is None else value


Name = Annotated[str, PlainValidator(_name)]
OfficialPrefix = Annotated[str | None, PlainValidator(_prefix)]
Blocked = Annotated[oci.Digest, PlainValidator(_digest)]
EMPTY_LIST = BeforeValidator(lambda value: _given(value, []))
EMPTY_MAP = BeforeValidator(lambda value: _given(value, {}))


class Section(BaseModel):
    """One map of the file: unknown keys refused, nothing changes after load."""

    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)

    @model_validator(mode="before")
    @classmethod
    def _empty_section(cls, value: object) -> object:
        return _given(value, {})
