"""A scripted OCI registry over real sockets: serves images from memory and, where a test says so, lies.

Honest, it answers as Debian's docker-registry does (tests/journeys/test_support_registry.py holds both to one journey).
Authorization and redirects are ports: see `realm` and `cdn`.
"""

import json
import re
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol
from urllib.parse import quote

from multidict import CIMultiDict

from proxy import oci
from proxy.errors import DigestInvalid
from proxy.oci import Digest
from tests.support.images import Blob, Image, described
from tests.support.site import Site
from tests.support.wire import Answer, Recorded, refusal, reply

CONTENT = re.compile(r"/v2/(?P<repository>.+)/(?P<kind>manifests|blobs|referrers)/(?P<target>[^/]+)")
TAGS = re.compile(r"/v2/(?P<repository>.+)/tags/list")
RANGE = re.compile(r"bytes=(?:(?P<start>\d+)-(?P<last>\d*)|-(?P<suffix>\d+))")
VERSION = {"Docker-Distribution-Api-Version": "registry/2.0"}


class Authority(Protocol):
    """Who says whether a request may be answered."""

    def challenge(self, request: Recorded, repository: str | None) -> Answer | None: ...


@dataclass(slots=True)
class Repository:
    """What one repository holds; a digest is served under it only if it is here."""

    tags: dict[str, Digest] = field(default_factory=dict)
    manifests: dict[Digest, Blob] = field(default_factory=dict)
    blobs: dict[Digest, Blob] = field(default_factory=dict)


class Registry(Site):
    """An OCI registry. `redirect_blobs` turns a blob into a Location (a CDN's signed URL) in place of its bytes."""

    def __init__(
        self,
        *,
        name: str | None = None,
        address: str = "127.0.0.1",
        tls: ssl.SSLContext | None = None,
        authority: Authority | None = None,
    ) -> None:
        super().__init__(name=name, address=address, tls=tls)
        self.authority = authority
        self.repositories: dict[str, Repository] = {}
        self.redirect_blobs: Callable[[Blob], str] | None = None
        self.redirect_status = 307
        self.has_referrers = True
        self.quirk: Callable[[Recorded, Answer], Answer] = lambda _request, answer: answer

    # Content

    def add(self, repository: str, tag: str | None, image: Image) -> Image:
        """Hold an image, as after a push; a tag that exists is moved."""
        here = self.repositories.setdefault(repository, Repository())
        here.manifests.update({found.digest: found for found in image.all_manifests()})
        here.blobs.update({found.digest: found for found in image.all_blobs()})
        if tag is not None:
            here.tags[tag] = image.digest
        return image

    def add_blob(self, repository: str, blob: Blob) -> Blob:
        """Hold a blob that no manifest names."""
        self.repositories.setdefault(repository, Repository()).blobs[blob.digest] = blob
        return blob

    def untag(self, repository: str, tag: str) -> None:
        """Forget a tag, not its content."""
        del self.repositories[repository].tags[tag]

    # Answers

    def challenge(self, request: Recorded) -> Answer | None:
        if self.authority is None:
            return None
        match = CONTENT.fullmatch(request.path) or TAGS.fullmatch(request.path)
        found = self.authority.challenge(request, match["repository"] if match else None)
        return found and self._versioned(request, found)

    async def answer(self, request: Recorded) -> Answer:
        return self._versioned(request, self._answer(request))

    def _versioned(self, request: Recorded, answer: Answer) -> Answer:
        for name, value in VERSION.items():
            answer = answer.with_header(name, value)
        return self.quirk(request, answer)

    def _answer(self, request: Recorded) -> Answer:
        if request.path == "/v2/":
            return reply(200, b"{}")
        if request.method not in ("GET", "HEAD"):
            return refusal(405, "UNSUPPORTED")
        if listed := TAGS.fullmatch(request.path):
            return self._tags(listed["repository"], request)
        match = CONTENT.fullmatch(request.path)
        if match is None:
            return reply(404, b"404 page not found\n", "text/plain; charset=utf-8")
        here = self.repositories.get(match["repository"], Repository())
        if match["kind"] == "manifests":
            return self._manifest(here, match["target"], request)
        if match["kind"] == "blobs":
            return self._blob(here, match["target"], request)
        return self._referrers(here, match["target"])

    def _manifest(self, here: Repository, target: str, request: Recorded) -> Answer:
        digest = _digest(target) if ":" in target else here.tags.get(target)
        found = here.manifests.get(digest) if digest is not None else None
        if found is None:
            return refusal(404, "MANIFEST_UNKNOWN", "manifest unknown")
        headers = CIMultiDict(
            {
                "Content-Type": found.media_type,
                "Docker-Content-Digest": str(found.digest),
                "Etag": f'"{found.digest}"',
            }
        )
        if request.headers.get("If-None-Match") in (f'"{found.digest}"', str(found.digest)):
            return Answer(304, headers)
        return Answer(200, headers, found.data, found.data)

    def _blob(self, here: Repository, target: str, request: Recorded) -> Answer:
        digest = _digest(target)
        found = here.blobs.get(digest) if digest is not None else None
        if found is None:
            return refusal(404, "BLOB_UNKNOWN" if digest else "DIGEST_INVALID", "blob unknown to registry")
        if self.redirect_blobs is not None:
            return reply(self.redirect_status, b"", "text/plain", Location=self.redirect_blobs(found))
        return ranged(found, request)

    def _tags(self, repository: str, request: Recorded) -> Answer:
        here = self.repositories.get(repository)
        if here is None:
            return refusal(404, "NAME_UNKNOWN", "repository name not known to registry")
        tags = [tag for tag in sorted(here.tags) if tag > request.query.get("last", "")]
        limit = int(request.query.get("n", len(tags)))
        answer = _document({"name": repository, "tags": tags[:limit]})
        if not 0 < limit < len(tags):
            return answer
        after = f"/v2/{repository}/tags/list?n={limit}&last={quote(tags[limit - 1])}"
        return answer.with_header("Link", f'<{after}>; rel="next"')

    def _referrers(self, here: Repository, target: str) -> Answer:
        if not self.has_referrers:
            return reply(404, b"404 page not found\n", "text/plain; charset=utf-8")
        if _digest(target) is None:
            return refusal(400, "DIGEST_INVALID")
        listed = []
        for found in here.manifests.values():
            body = json.loads(found.data)
            if body.get("subject", {}).get("digest") == target:
                extra = {key: body[key] for key in ("artifactType", "annotations") if key in body}
                listed.append(described(found.descriptor) | extra)
        return _document({"schemaVersion": 2, "mediaType": oci.OCI_INDEX, "manifests": listed}, oci.OCI_INDEX)


def ranged(blob: Blob, request: Recorded, etag: str | None = None) -> Answer:
    """A blob as asked: whole, or one range of it. Several ranges are refused, as Google's storage does (B12). `etag` is
    the store's own; without one it is the digest.
    """
    data = blob.data
    etag = etag or f'"{blob.digest}"'
    headers = CIMultiDict(
        {
            "Accept-Ranges": "bytes",
            "Content-Type": "application/octet-stream",
            "Docker-Content-Digest": str(blob.digest),
            "Etag": etag,
        }
    )
    asked = request.headers.get("Range") if request.method == "GET" else None
    if asked is None or request.headers.get("If-Range", etag) != etag:
        return Answer(200, headers, data, data)
    match = RANGE.fullmatch(asked)
    if match is None:
        return refusal(400 if "," in asked else 416, "SIZE_INVALID", f"range {asked[:80]}")
    if match["suffix"] is not None:
        start, stop = max(0, len(data) - int(match["suffix"])), len(data)
    else:
        start = int(match["start"])
        stop = min(int(match["last"]) + 1, len(data)) if match["last"] else len(data)
    if start >= stop:
        return refusal(416, "SIZE_INVALID").with_header("Content-Range", f"bytes */{len(data)}")
    headers["Content-Range"] = f"bytes {start}-{stop - 1}/{len(data)}"
    return Answer(206, headers, data[start:stop], data)


def _digest(text: str) -> Digest | None:
    try:
        return Digest.parse(text)
    except DigestInvalid:
        return None


def _document(body: dict[str, Any], media_type: str = "application/json") -> Answer:
    return reply(200, json.dumps(body).encode(), media_type)
