"""A data host behind a registry: serves blobs by signed URLs, as object stores and their CDNs do.

A URL is good byte for byte: one re-quoted character is another URL, and 403 (protocol U14). With an Authorization
header it answers 400, as S3 does (U12). Signatures expire by the test's clock (U15).
"""

import secrets
import ssl
from collections.abc import Callable
from dataclasses import dataclass

from tests.support import script
from tests.support.clock import Clock
from tests.support.images import Blob
from tests.support.registry import ranged
from tests.support.site import Site
from tests.support.wire import Answer, Recorded, reply

S3_ERROR = '<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>{}</Code><Message>{}</Message></Error>'
# (blob's hex digest, signature) -> path and query. Each holds what a client would like to re-quote: %2F %3A %7E %2B ~ +
Style = Callable[[str, str], str]


def s3(encoded: str, signature: str) -> str:
    """AWS signature version 4 in the query."""
    return (
        f"/docker/registry/v2/blobs/sha256/{encoded[:2]}/{encoded}/data?X-Amz-Algorithm=AWS4-HMAC-SHA256"
        f"&X-Amz-Credential=AKIAEXAMPLE%2F20270115%2Fus-east-1%2Fs3%2Faws4_request&X-Amz-Expires=1200"
        f"&X-Amz-SignedHeaders=host&X-Amz-Signature={signature}"
    )


def cloudfront(encoded: str, signature: str) -> str:
    """CloudFront: base64 with `~` and `-`, both literal and quoted."""
    return f"/sha256%3A{encoded}?Expires=1800000600&Signature={signature}~x%7Ey-__&Key-Pair-Id=KEXAMPLE"


def cloudflare(encoded: str, signature: str) -> str:
    """Docker Hub's CDN."""
    return (
        f"/registry-v2/docker/registry/v2/blobs/sha256/{encoded[:2]}/{encoded}/data"
        f"?expires=1800000600&signature={signature}%2F%2B%3D&version=3"
    )


def azure(encoded: str, signature: str) -> str:
    """A shared access signature: colons and base64 in quoted form."""
    return f"/ghcrblobs/blobs/sha256:{encoded}?se=2027-01-15T08%3A05%3A00Z&sig={signature}%2B%2F%3D&sp=r&spr=https&sr=b"


def google(encoded: str, signature: str) -> str:
    """Google's V4 signature; the object's name has quoted slashes and colons."""
    return (
        f"/artifacts-blobs/docker%2Fsha256%3A{encoded}?X-Goog-Algorithm=GOOG4-RSA-SHA256"
        f"&X-Goog-Credential=reader%40project.iam.example%2F20270115%2Fauto%2Fstorage%2Fgoog4_request&X-Goog-Signature={signature}"
    )


@dataclass(frozen=True, slots=True)
class Signed:
    """One URL that was given out."""

    blob: Blob
    expires_at: float


class Cdn(Site):
    """Signed URLs for blobs: `sign` gives one out, a request for exactly that one is served.

    `head_status` answers HEAD (a GET's signature does not cover it: U16); None serves it. `multi_range_status` answers
    several ranges; `suffix_ranges` False refuses `-N`, as Azure does (B12).
    """

    def __init__(
        self,
        style: Style = s3,
        *,
        ttl_s: float = 600.0,
        clock: Callable[[], float] | None = None,
        head_status: int | None = 403,
        name: str | None = None,
        address: str = "127.0.0.1",
        tls: ssl.SSLContext | None = None,
    ) -> None:
        super().__init__(name=name, address=address, tls=tls)
        self.style = style
        self.ttl_s = ttl_s
        self.head_status = head_status
        self.multi_range_status = 400
        self.suffix_ranges = True
        self.given: dict[str, Signed] = {}
        self.signatures: list[str] = []
        self.refused: list[Recorded] = []
        self._clock: Callable[[], float] = clock or Clock()

    def sign(self, blob: Blob) -> str:
        """A new URL for a blob, good for `ttl_s`; it is kept out of every log by whoever gets it."""
        signature = secrets.token_hex(24)
        target = self.style(blob.digest.encoded, signature)
        self.signatures.append(signature)
        self.given[target] = Signed(blob, self._clock() + self.ttl_s)
        return self.url + target

    def expire_all(self) -> None:
        """Every URL given out so far is refused from now on."""
        for target, signed in self.given.items():
            self.given[target] = Signed(signed.blob, 0.0)

    def fetches_of(self, blob: Blob) -> list[Recorded]:
        """The GETs that a blob's URLs served, whole or in part."""
        mine = {target for target, signed in self.given.items() if signed.blob.digest == blob.digest}
        return [got for got in self.requests if got.method == "GET" and got.target in mine and got.status in (200, 206)]

    async def answer(self, request: Recorded) -> Answer:
        answer = self._answer(request)
        if answer.status >= 400:
            self.refused.append(request)
        return answer

    def _answer(self, request: Recorded) -> Answer:
        if "Authorization" in request.headers:
            return _s3_error(400, "InvalidArgument", "Only one auth mechanism allowed")
        signed = self.given.get(request.target)
        if signed is None:
            return _s3_error(403, "SignatureDoesNotMatch", "The request signature we calculated does not match")
        if self._clock() >= signed.expires_at:
            return _s3_error(403, "AccessDenied", "Request has expired")
        if request.method == "HEAD" and self.head_status is not None:
            return reply(self.head_status, b"", "application/xml")
        asked = request.headers.get("Range", "")
        if "," in asked:
            return _s3_error(self.multi_range_status, "InvalidRange", "several ranges are not supported")
        if asked.startswith("bytes=-") and not self.suffix_ranges:
            return _s3_error(400, "InvalidHeaderValue", "Range")
        answer = ranged(signed.blob, request, f'"0x{signed.blob.digest.encoded[:16]}"')  # not the digest
        return script.drop_header("Docker-Content-Digest")(answer)


def _s3_error(status: int, code: str, message: str) -> Answer:
    return reply(status, S3_ERROR.format(code, message).encode(), "application/xml")
