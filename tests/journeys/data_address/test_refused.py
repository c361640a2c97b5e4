"""What the data address refuses: whoever was not sent there, forged addresses, tricks with the path."""

import os
from pathlib import Path
from typing import Any

import pytest

from tests.support.images import Image
from tests.support.proxy import Reply
from tests.support.redirecting import APP, BLOBS, HUB, Site, flipped
from tests.support.waiting import turns


async def untouched(site: Site, target: str, **options: Any) -> Reply:
    """The answer to a request of which nobody behind the address hears."""
    before, opened = len(site.registry.requests), set(os.listdir(site.server.rooms.disk.directory.root / "parts"))
    reply = await site.data.ask(target, **options)
    await turns()
    assert len(site.registry.requests) == before
    assert set(os.listdir(site.server.rooms.disk.directory.root / "parts")) == opened
    return reply


async def test_nothing_is_here_for_who_was_not_sent(site: Site, image: Image) -> None:
    """No manifest, list or ping, and no blob without a signature, whether it is here or not."""
    await site.warm(image)
    blob = image.layers[0]
    paths = ("/v2/", f"{APP}/manifests/1", f"{APP}/tags/list", "/v2/_catalog", f"{APP}/blobs/{blob.digest}")
    for path in paths:
        for method in ("GET", "HEAD"):
            reply = await untouched(site, path, method=method)
            assert reply.status == 403
            assert method == "HEAD" or reply.code == "DENIED"
    assert (await untouched(site, f"{APP}/blobs/{blob.digest}", method="PUT")).code == "UNSUPPORTED"


async def test_a_forged_address_opens_nothing(site: Site, image: Image) -> None:
    """Another digest, repository, upstream or expiry under the same signature; the log names what was tried."""
    await site.warm(image)
    one, two, _ = image.layers
    target = await site.signed(one)
    forged = {
        "digest": target.replace(str(one.digest), str(two.digest)),
        "repository": target.replace("team/app", "team/other"),
        "upstream": target.replace(HUB, "other.test"),
        "signature": flipped(target),
        "namespace": f"{target}&ns={HUB}",
        "expires": target.replace("expires=1", "expires=2"),
        "expires twice": f"{target}&expires=1800000000",
        "prefix": f"/{HUB}{target}",
    }
    for name, tried in forged.items():
        assert tried != target, name
        reply = await untouched(site, tried)
        assert (reply.status, reply.code) == (403, "DENIED"), name
    assert site.exchanges[-1].status == 403
    assert site.exchanges[-1].id.startswith("data-")


TRICKS = {
    "dots": ("team/app", "team/app/../app", 400),
    "encoded dots": ("team/app", "team/app/%2e%2e/app", 400),
    "encoded slash": ("team/app", "team%2fapp", 400),
    "double slash": ("team/app", "team//app", 400),
    "double encoding": ("sha256:", "sha256%253A", 400),
    "backslash": ("team/app", "team\\app", 400),
    "a byte of zero": ("team/app", "team/app%00", 400),
    "upper case": ("team/app", "team/App", 400),
    "below the blob": ("?expires", "/../x?expires", 404),
    "a fragment": ("?expires", "#?expires", 400),
}


@pytest.mark.parametrize(("part", "other", "status"), TRICKS.values(), ids=TRICKS)
async def test_a_trick_with_the_path_opens_nothing(
    site: Site, image: Image, part: str, other: str, status: int
) -> None:
    """Paths are read by the grammar, once, and signed as they were read."""
    await site.warm(image)
    target = await site.signed(image.layers[0])
    assert part in target
    reply = await untouched(site, target.replace(part, other, 1))
    assert reply.status == status
    assert image.layers[0].data not in reply.body


async def test_an_encoded_colon_is_the_same_address(site: Site, image: Image) -> None:
    """Clients encode it (protocol R17)."""
    await site.warm(image)
    target = await site.signed(image.layers[0])
    assert (await site.data.ask(target.replace("sha256:", "sha256%3A"))).body == image.layers[0].data


async def test_another_server_s_address_opens_nothing_unless_they_share_a_key(
    opened: Any, image: Image, short_tmp: Path
) -> None:
    """With one key in a file they agree; a new one signs at once, and what the old one signed is still good."""
    key = short_tmp / "key"
    key.write_text("a" * 40)
    site = await opened(blobs=BLOBS | {"key": {"file": str(key)}})
    await site.front.ask(f"{APP}/manifests/1")
    before = await site.signed(image.layers[0])
    key.write_text("b" * 40)
    assert await site.server.reload.reload()
    for _ in range(500):  # the key is read beside the requests, in a thread of its own
        if (after := await site.signed(image.layers[0])) != before:
            break
    assert after != before
    for target in (before, after):
        assert (await site.data.ask(target)).body == image.layers[0].data
