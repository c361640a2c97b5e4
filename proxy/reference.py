"""References as people type them: `nginx`, `docker.io/library/nginx:1.27`, `host:5000/x@sha256:…`. Pure.

Knows the grammar of containers' short names (distribution/reference): the first component is a registry's name if it
has a dot, a colon or a capital, or is `localhost`. Which registry a bare name means is the rules' business.
"""

import re
from dataclasses import dataclass
from typing import Final

from proxy import oci
from proxy.errors import NameInvalid
from proxy.oci import Digest

LATEST: Final = "latest"
REFERENCE_MAX: Final = 1024
SCHEME: Final = re.compile(r"(?P<scheme>[a-z][a-z0-9+.-]*)://(?P<rest>.*)", re.ASCII | re.IGNORECASE)
# What tools put before a registry's name: skopeo and buildah `docker://`, containerd's own `oci://` for artifacts.
TRANSPORTS: Final = frozenset({"docker", "oci"})


@dataclass(frozen=True, slots=True)
class ClientReference:
    """What a person named. `name` and `namespace` are what a client would send: the repository of the path, and `ns`
    where the registry's name cannot stand in a path. `target` is None where only a repository was named.
    """

    name: str
    namespace: str | None
    target: str | Digest | None

    @property
    def repository(self) -> str:
        """The name with its registry, as a person writes it."""
        return self.name if self.namespace is None else f"{self.namespace}/{self.name}"

    def __str__(self) -> str:
        if self.target is None:
            return self.repository
        return f"{self.repository}{'@' if isinstance(self.target, Digest) else ':'}{self.target}"


def parse(text: str, *, default_tag: str | None = LATEST) -> ClientReference:
    """Read a reference. With both a tag and a digest the digest counts; with neither `default_tag` does.

    Raises NameInvalid, TagInvalid or DigestInvalid, each with the part that is wrong.
    """
    written = _without_transport(text.strip())
    if len(written) > REFERENCE_MAX:
        raise NameInvalid(f"a reference has at most {REFERENCE_MAX} characters")
    before, at, digest_text = written.partition("@")
    target: str | Digest | None = Digest.parse(digest_text) if at else None
    named, tag = _split_tag(before)
    if tag is not None:
        oci.tag(tag)  # checked, even where a digest wins
    if target is None:
        target = tag if tag is not None else default_tag
    first, slash, rest = named.partition("/")
    if slash and not _may_stand_in_a_path(first):
        return ClientReference(oci.repository(rest), first.lower(), target)
    return ClientReference(oci.repository(named), None, target)


def _without_transport(text: str) -> str:
    match = SCHEME.fullmatch(text)
    if match is None:
        return text
    if match["scheme"].lower() not in TRANSPORTS:
        raise NameInvalid(f"{text[:80]!r} is a URL: write REGISTRY/REPOSITORY:TAG, without {match['scheme']}://")
    return match["rest"]


def _split_tag(text: str) -> tuple[str, str | None]:
    """The name, and the tag behind the last colon; a colon before a slash belongs to a port."""
    name, colon, tag = text.rpartition(":")
    return (name, tag) if colon and "/" not in tag else (text, None)


def _may_stand_in_a_path(first: str) -> bool:
    """Whether a registry's name is also a repository's first component, so that `/v2/NAME/…` can hold it."""
    return ":" not in first and not first.startswith("[") and first == first.lower()
