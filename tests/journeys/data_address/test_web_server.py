"""A web server in front of the data address is told the file of a whole, trusted blob, and of no other."""

import hashlib

from proxy.outcome import Result
from tests.support.images import Image
from tests.support.redirecting import APP, Site, flipped
from tests.support.registry import Registry


async def test_a_web_server_is_told_the_file_of_a_whole_blob(site: Site, image: Image) -> None:
    """Below the place it names; what it could not answer as we do is sent from here."""
    await site.warm(image)
    large = image.layers[0]
    target = await site.signed(large)
    left = await site.data.ask(target, X_Accel_Below="/whole/")
    name = f"/whole/sha256/{large.digest.encoded[:2]}/{large.digest.encoded}"
    assert (left.status, left.body, left.headers["X-Accel-Redirect"]) == (200, b"", name)
    assert left.headers["ETag"] == f'"{large.digest}"'
    assert site.exchanges[-1].result is Result.REDIRECTED
    etag = f'"{large.digest}"'
    direct: list[dict[str, str]] = [
        {"If_Range": etag, "Range": "bytes=0-9"},
        {"Range": "bytes=0-1,4-5"},
        {"If_None_Match": '"x"'},
        {"X_Accel_Below": "whole"},
        {"X_Accel_Below": "/who\tle/"},
        {"X_Accel_Below": ""},
    ]
    for headers in direct:
        reply = await site.data.ask(target, **({"X_Accel_Below": "/whole/"} | headers))
        assert "X-Accel-Redirect" not in reply.headers, headers
        assert (headers, reply.status) == (headers, 206 if "Range" in headers else 200)
    assert (await site.data.ask(flipped(target), X_Accel_Below="/whole/")).status == 403


async def test_a_blob_on_its_way_is_never_left_to_a_web_server(site: Site, image: Image) -> None:
    """There is no whole file yet."""
    await site.front.ask(f"{APP}/manifests/1")
    large = image.layers[0]
    reply = await site.data.ask(await site.signed(large), X_Accel_Below="/whole/")
    assert hashlib.sha256(reply.body).hexdigest() == large.digest.encoded


async def test_a_suspect_blob_is_never_left_to_a_web_server(site: Site, registry: Registry, image: Image) -> None:
    """It is hashed again first, and a bad one is fetched again, as at the registry address."""
    await site.warm(image)
    large = image.layers[0]
    path = site.server.rooms.disk.blobs.path_of(large.digest)
    path.write_bytes(b"x" * large.size)
    target = await site.signed(large)
    reply = await site.data.ask(target, X_Accel_Below="/whole/")
    assert reply.body == large.data
    assert registry.requests_for(large.digest) == 2
