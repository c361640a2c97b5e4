"""A public registry's profile at work: its hosts (registry, realm, data) under TLS names of a test CA, on loopback.

The names are placed where a resolver finds them; each host has an address and a port of its own.
"""

import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace

from tests.support import script
from tests.support.cdn import Cdn
from tests.support.images import Image
from tests.support.profiles import PROFILES, Profile
from tests.support.realm import Basic, Bearer, Realm
from tests.support.registry import Registry
from tests.support.tls import Authority, Names
from tests.support.wire import Answer, Recorded, reply


@dataclass(slots=True)
class PublicRegistry:
    """A profile at work. `regional` is the host that really has the manifests, where that is another (k8s)."""

    profile: Profile
    registry: Registry
    realm: Realm | None
    data: Cdn | None
    regional: Registry | None

    @property
    def url(self) -> str:
        return self.registry.url

    @property
    def password(self) -> tuple[str, str]:
        """User name and password of its one account."""
        return self.profile.user

    def add(self, repository: str, tag: str | None, image: Image) -> Image:
        """Hold an image on every host that may be asked for it."""
        if self.regional is not None:
            self.regional.add(repository, tag, image)
        return self.registry.add(repository, tag, image)

    def throttle(self, kind: int = 0, *, times: int | None = None) -> None:
        """Answer everything by one of the profile's 429s."""
        self.registry.script("*", script.become(self.profile.throttles[kind]), times=times, methods=("GET", "HEAD"))

    def sites(self) -> list[Registry | Realm | Cdn]:
        return [site for site in (self.registry, self.realm, self.data, self.regional) if site is not None]


@asynccontextmanager
async def public_registry(
    name: str, ca: Authority, names: Names, *, clock: Callable[[], float]
) -> AsyncIterator[PublicRegistry]:
    """Start a profile's hosts, each on an address and port of its own; its names are placed in `names`."""
    profile = PROFILES[name]
    async with AsyncExitStack() as stack:

        def context(host: str, address: str) -> ssl.SSLContext:
            names.place(host, address)
            return ca.server(host)

        registry = Registry(name=profile.registry, tls=context(profile.registry, "127.0.0.1"))
        realm = data = regional = None
        if profile.realm is not None:
            # A realm on the registry's own host is another port of it.
            address = names.hosts[profile.realm][0] if profile.realm in names.hosts else "127.0.0.2"
            tls = context(profile.realm, address)
            realm = Realm(
                profile.service, shape=profile.shape, clock=clock, name=profile.realm, address=address, tls=tls
            )
            realm.users = dict([profile.user])
        if profile.data is not None:
            tls = context(profile.data, "127.0.0.3")
            data = Cdn(
                profile.style, ttl_s=profile.url_ttl_s, clock=clock, head_status=profile.data_head,
                name=profile.data, address="127.0.0.3", tls=tls,
            )  # fmt: skip
            data.multi_range_status, data.suffix_ranges = profile.multi_range, profile.suffix_ranges
        if profile.name == "k8s" and profile.realm is not None:
            regional = Registry(name=profile.realm, address="127.0.0.2", tls=ca.server(profile.realm))
        public = PublicRegistry(profile, registry, realm, data, regional)
        for site in public.sites():
            await stack.enter_async_context(site)
        _furnish(public)
        yield public


def _furnish(public: PublicRegistry) -> None:
    profile, registry = public.profile, public.registry
    main = public.regional or registry
    if profile.auth == "basic":
        registry.authority = Basic(dict([profile.user]), realm=f"https://{profile.registry}/", service=profile.service)
    elif public.realm is not None:
        main.authority = Bearer(
            public.realm,
            ping_scope=profile.ping_scope,
            service_in_ping=profile.service_in_ping,
            challenge_requests=profile.challenge_requests,
            stale=profile.stale,
        )
    for site in (registry, main):
        site.redirect_status = profile.redirect_status
        site.redirect_blobs = public.data.sign if public.data is not None else None
        site.has_referrers = profile.has_referrers
        site.quirk = lambda request, answer: _quirk(public, request, answer)
    if public.regional is not None:
        registry.quirk = lambda request, answer: _elsewhere(public, request, _quirk(public, request, answer))


def _quirk(public: PublicRegistry, request: Recorded, answer: Answer) -> Answer:
    profile = public.profile
    if answer.status in (401, 429):
        return answer
    is_manifest = "/manifests/" in request.path
    if is_manifest and request.method == "HEAD" and profile.manifest_head is not None:
        return profile.missing if profile.manifest_head == 404 and profile.missing else reply(profile.manifest_head)
    if answer.status == 404 or (profile.no_tags and request.path.endswith("/tags/list")):
        return profile.missing or answer
    if is_manifest:
        for name, value in profile.headers:
            answer = answer.with_header(name, value)
    if is_manifest and profile.no_digest:
        answer = script.drop_header("Docker-Content-Digest")(answer)
    return answer


def _elsewhere(public: PublicRegistry, request: Recorded, answer: Answer) -> Answer:
    """registry.k8s.io: all but blobs is redirected to a regional registry, the ping included (U11)."""
    assert public.regional is not None
    if "/blobs/" in request.path:
        return answer
    moved = reply(307, b"", "text/html; charset=utf-8", Location=public.regional.url + request.target)
    return replace(moved, body=b'<a href="elsewhere">Temporary Redirect</a>.\n')
