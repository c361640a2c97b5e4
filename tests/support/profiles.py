"""Ten public registries as they meet a client: challenge, token, redirect, HEAD, 404 and 429 shapes (protocol 7).

Data only: `public.public_registry` starts their hosts. The names end in `.example`: none exists in the world.
"""

from dataclasses import dataclass, field

from tests.support import cdn
from tests.support.realm import TokenShape
from tests.support.wire import Answer, refusal, reply

ECR_PASSWORD = "eyJwYXlsb2FkIjoi" + "QUJDRA" * 400  # ECR's are KBs long


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """One registry's shapes. Host names are without port; `realm` and `data` None: it has no such host.

    `missing` answers an unknown manifest, blob or repository; `throttles` are its 429s; `no_digest` leaves out
    Docker-Content-Digest; `manifest_head` is the status of a manifest's HEAD, None for an honest one.
    """

    name: str
    registry: str
    realm: str | None = None
    data: str | None = None
    auth: str = "bearer"  # bearer | basic | none
    service: str | None = None
    shape: TokenShape = field(default_factory=TokenShape)
    ping_scope: str | None = None
    service_in_ping: bool = True
    challenge_requests: bool = True
    stale: str | None = None
    style: cdn.Style = cdn.s3
    redirect_status: int = 307
    data_head: int | None = None
    multi_range: int = 400
    suffix_ranges: bool = True
    url_ttl_s: float = 600.0
    manifest_head: int | None = None
    no_digest: bool = False
    no_tags: bool = False
    has_referrers: bool = False
    headers: tuple[tuple[str, str], ...] = ()
    missing: Answer | None = None
    throttles: tuple[Answer, ...] = (refusal(429, "TOOMANYREQUESTS"),)
    user: tuple[str, str] = ("robot", "s3cret-of-the-robot")


def _plain(status: int, text: str, **headers: str) -> Answer:
    return reply(status, text.encode(), "text/plain; charset=utf-8", **headers)


PROFILES = {
    profile.name: profile
    for profile in (
        Profile(
            name="hub",
            registry="registry-1.hub.example",
            realm="auth.hub.example",
            data="production.cdn.hub.example",
            service="registry.hub.example",
            shape=TokenShape(keys=("token", "access_token"), expires_in=300, issued_at=True, length=1500),
            style=cdn.cloudflare,
            headers=(
                ("ratelimit-limit", "100;w=21600"),
                ("ratelimit-remaining", "76;w=21600"),
                ("docker-ratelimit-source", "192.0.2.1"),
            ),
            throttles=(
                refusal(429, "TOOMANYREQUESTS", "You have reached your pull rate limit."),
                _plain(429, "Too Many Requests", Retry_After="60"),
            ),
        ),
        Profile(
            name="ghcr",
            registry="ghcr.example",
            realm="ghcr.example",
            data="pkg-containers.ghcr.example",
            service="ghcr.example",
            shape=TokenShape(
                expires_in=None,
                refuse_anonymous=refusal(403, "DENIED", "requested access to the resource is denied"),
            ),
            ping_scope="repository:user/image:pull",
            style=cdn.azure,
            data_head=403,
            multi_range=501,
            url_ttl_s=300.0,
            suffix_ranges=False,
            throttles=(refusal(429, "TOOMANYREQUESTS", "retry-after: 1ms, allowed: 44000/minute", Retry_After="1"),),
        ),
        Profile(
            name="quay",
            registry="quay.example",
            realm="quay.example",
            data="cdn01.quay.example",
            service="quay.example",
            shape=TokenShape(path="/v2/auth", expires_in=None, length=900),
            style=cdn.cloudfront,
            redirect_status=302,
            data_head=403,
            no_digest=True,
            missing=_plain(404, "Not found"),
            throttles=(_plain(429, "<html><body>429 Too Many Requests</body></html>"),),
        ),
        Profile(
            name="ecr",
            registry="123456789012.dkr.ecr.eu-west-1.aws.example",
            data="prod-eu-west-1-starport.s3.aws.example",
            auth="basic",
            service="ecr.aws.example",
            data_head=403,
            missing=refusal(
                404, "NAME_UNKNOWN", "The repository does not exist in the registry with id '123456789012'"
            ),
            throttles=(refusal(429, "TOOMANYREQUESTS", "Rate exceeded"),),
            user=("AWS", ECR_PASSWORD),
        ),
        Profile(
            name="ecr-public",
            registry="public.ecr.example",
            realm="public.ecr.example",
            data="d5l0dvt14r5h8.cloudfront.example",
            service="public.ecr.example",
            shape=TokenShape(path="/token/", expires_in=None, length=2500),
            ping_scope="aws",
            style=cdn.cloudfront,
            no_digest=True,
            no_tags=True,
            missing=refusal(404, "NOT_FOUND", "404 page not found"),
            throttles=(refusal(429, "TOOMANYREQUESTS", "Rate exceeded"),),
        ),
        Profile(
            name="gar",
            registry="europe-docker.pkg.example",
            realm="europe-docker.pkg.example",
            data="storage.googleapis.example",
            service="europe-docker.pkg.example",
            shape=TokenShape(path="/v2/token", expires_in=3600, post=404),
            service_in_ping=False,
            challenge_requests=False,
            style=cdn.google,
            redirect_status=302,
            manifest_head=405,
            missing=refusal(404, "404", "Not Found"),
            throttles=(refusal(429, "TOOMANYREQUESTS", "Quota exceeded for quota metric", Retry_After="30"),),
        ),
        Profile(
            name="mcr",
            registry="mcr.example",
            data="westeurope.data.mcr.example",
            auth="none",
            style=cdn.azure,
            data_head=403,
            suffix_ranges=False,
            missing=refusal(404, "MANIFEST_UNKNOWN", "manifest tagged by it is not found"),
            throttles=(_plain(429, "", Retry_After="5"),),
        ),
        Profile(
            name="k8s",
            registry="registry.k8s.example",
            realm="europe-west4-docker.pkg-k8s.example",  # where its manifests really are; it asks for a token itself
            data="prod-registry-k8s-io-eu-west-1.s3.dualstack.k8s.example",
            auth="none",
            service="europe-west4-docker.pkg-k8s.example",
            shape=TokenShape(path="/v2/token", expires_in=3600),
            no_tags=True,
            missing=_plain(404, "Not found"),
        ),
        Profile(
            name="gitlab",
            registry="registry.gitlab.example",
            realm="gitlab.example",
            data="cdn.registry.gitlab-static.example",
            service="container_registry",
            shape=TokenShape(path="/jwt/auth", expires_in=None, length=600),
            style=cdn.google,
            data_head=403,
            missing=refusal(404, "NOT_FOUND", "not found"),
            throttles=(_plain(429, "Retry later\n", Retry_After="17", RateLimit_Limit="10"),),
        ),
        Profile(
            name="harbor",
            registry="harbor.example",
            realm="harbor.example",
            service="harbor-registry",
            shape=TokenShape(path="/service/token", keys=("token", "access_token"), expires_in=1800, issued_at=True),
            stale='Basic realm="harbor"',
            manifest_head=404,
            headers=(("Set-Cookie", "sid=cafe; Path=/; HttpOnly"),),
            has_referrers=True,
            missing=refusal(404, "NOT_FOUND", "artifact library/x:none not found"),
        ),
    )
}
