"""The registry's URL space: one raw request path -> one `Call`, parsed from the right so that names may hold any word.

Source: distribution-spec 1.1 "Endpoints". Pure. Nothing here is looked up, so a bad path costs no upstream and no file.
"""

import enum
import re
from dataclasses import dataclass
from urllib.parse import unquote

from proxy import oci
from proxy.errors import NameInvalid, PathUnknown
from proxy.oci import Digest

PATH_MAX = 2048
PREFIX = re.compile(r"[A-Za-z0-9\[][A-Za-z0-9._:\[\]-]*", re.ASCII)  # a registry's host, perhaps with a port


class Kind(enum.Enum):
    PING = "other"
    CATALOG = "other "
    MANIFEST = "manifest"
    BLOB = "blob"
    TAGS = "tags"
    REFERRERS = "referrers"

    @property
    def label(self) -> str:
        """The value of the `kind` label of metrics and logs."""
        return self.value.strip()


@dataclass(frozen=True, slots=True)
class Call:
    """What a client asks for. `prefix` is the first component of `/PREFIX/v2/…`; `target` a tag or digest."""

    kind: Kind
    name: str = ""
    target: str | Digest | None = None
    prefix: str | None = None

    @property
    def digest(self) -> Digest:
        """The digest of a call whose kind always has one (blobs, referrers)."""
        if not isinstance(self.target, Digest):
            raise TypeError(f"{self.kind} has no digest")
        return self.target


def parse(raw_path: str) -> Call:
    """Parse a raw (still percent-encoded) path without its query; raises NameInvalid, TagInvalid, DigestInvalid or
    PathUnknown.
    """
    if len(raw_path) > PATH_MAX:
        raise NameInvalid(f"the path has more than {PATH_MAX} characters")
    first, *components = _decoded(raw_path).split("/")
    prefix = None
    if components[:1] != ["v2"] and components[1:2] == ["v2"]:
        prefix = components.pop(0)
        if PREFIX.fullmatch(prefix) is None:
            raise NameInvalid(f"not the name of a registry: {prefix[:80]!r}")
    if first or components[:1] != ["v2"]:
        raise PathUnknown("not a registry path: it does not start with /v2/")
    return _call(components[1:], prefix)


def _decoded(raw_path: str) -> str:
    """Percent-decode exactly once (protocol R17: clients encode the colon); an encoded slash is never a separator."""
    if "%" not in raw_path:
        return raw_path
    if "%2f" in raw_path.lower():
        raise NameInvalid("an encoded slash (%2F) is not part of any name")
    try:
        return unquote(raw_path, errors="strict")
    except UnicodeDecodeError as cause:
        raise NameInvalid("the path is not UTF-8") from cause


def _call(rest: list[str], prefix: str | None) -> Call:
    match rest:
        case [] | [""]:
            return Call(Kind.PING, prefix=prefix)
        case ["_catalog"]:
            return Call(Kind.CATALOG, prefix=prefix)
        case [*name, "manifests", reference] if name:
            return Call(Kind.MANIFEST, _name(name), oci.tag_or_digest(reference), prefix)
        case [*name, "blobs", digest] if name:
            return Call(Kind.BLOB, _name(name), Digest.parse(digest), prefix)
        case [*name, "tags", "list"] if name:
            return Call(Kind.TAGS, _name(name), None, prefix)
        case [*name, "referrers", digest] if name:
            return Call(Kind.REFERRERS, _name(name), Digest.parse(digest), prefix)
    raise PathUnknown("no such registry path: manifests, blobs, tags/list, referrers and _catalog are served")


def _name(components: list[str]) -> str:
    return oci.repository("/".join(components))
