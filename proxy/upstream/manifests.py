"""Manifests and lists of one endpoint: HEAD and GET as registries really answer them (protocol U11, U18..U27)."""

from collections.abc import Mapping
from typing import Final

from proxy.errors import UpstreamDenied, UpstreamLied
from proxy.oci import ACCEPT, OCI_INDEX, Digest
from proxy.upstream import answers
from proxy.upstream.base import Listing, ManifestBody, ManifestHead
from proxy.upstream.endpoint import Ask, Endpoint

NO_HEAD_HERE: Final = frozenset({404, 405, 501})  # 404: Nexus; 405: old GitHub, GAR


async def head(
    endpoint: Endpoint, repository: str, target: str | Digest, credentials: str | None, limit: int
) -> ManifestHead:
    """What HEAD tells; by GET where HEAD does not work, and at once so where it never did."""
    if endpoint.is_head_trusted is not False:
        ask = _ask("HEAD", repository, target, credentials)
        async with endpoint.ask(ask) as answer:
            if answer.status == 200:
                endpoint.is_head_trusted = True
                return ManifestHead(
                    answers.digest(endpoint.upstream, answer.headers),
                    answers.media_type(endpoint.upstream, answer.headers),
                    _told_size(endpoint, answer.headers),
                    endpoint.origin,
                )
            fault = await endpoint.fault(answer, credentials)
            if answer.status in (405, 501):
                endpoint.is_head_trusted = False
            is_odd = answer.status in NO_HEAD_HERE and not (answer.status == 404 and endpoint.is_head_trusted)
            if not is_odd and not isinstance(fault, UpstreamDenied):
                raise fault
            if isinstance(fault, UpstreamDenied) and endpoint.is_head_trusted:
                raise fault
    got = await get(endpoint, repository, target, credentials, limit)
    return ManifestHead(Digest.of(got.body), got.media_type, len(got.body), got.origin)


def _told_size(endpoint: Endpoint, headers: answers.Headers) -> int | None:
    if not answers.is_identity(endpoint.upstream, headers):
        return None
    return answers.content_length(endpoint.upstream, headers)


async def get(
    endpoint: Endpoint, repository: str, target: str | Digest, credentials: str | None, limit: int
) -> ManifestBody:
    """The exact bytes, at most `limit`."""
    async with endpoint.ask(_ask("GET", repository, target, credentials)) as answer:
        if answer.status != 200:
            raise await endpoint.fault(answer, credentials)
        media_type = answers.media_type(endpoint.upstream, answer.headers)
        digest = answers.digest(endpoint.upstream, answer.headers)
        body = await answer.read(limit)
        if not body:
            raise UpstreamLied(endpoint.upstream, "its manifest is empty")
        return ManifestBody(body, media_type, digest, endpoint.origin)


def _ask(method: str, repository: str, target: str | Digest, credentials: str | None) -> Ask:
    return Ask(
        kind="manifest",
        method=method,
        path=f"{repository}/manifests/{target}",
        headers={"Accept": ACCEPT},
        credentials=credentials,
    )


async def listing(
    endpoint: Endpoint, kind: str, path: str, query: Mapping[str, str], credentials: str | None, limit: int
) -> Listing:
    """One page of `tags/list` or `referrers`."""
    accept = "application/json" if kind == "tags" else OCI_INDEX
    ask = Ask(kind=kind, method="GET", path=path, query=query, headers={"Accept": accept}, credentials=credentials)
    async with endpoint.ask(ask) as answer:
        if answer.status != 200:
            raise await endpoint.fault(answer, credentials)
        media_type = answers.media_type(endpoint.upstream, answer.headers)
        following = answers.next_query(endpoint.upstream, answer.headers, answer.url)
        filters = answers.plain(endpoint.upstream, answer.headers, "OCI-Filters-Applied")
        return Listing(await answer.read(limit), media_type, following, filters)
