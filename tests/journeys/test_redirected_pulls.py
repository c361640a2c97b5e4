"""Real clients follow the redirect to the data address, cold and warm: Cistern's own, and Debian's nginx before it."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest

from tests.support.cistern import CisternProcess, assert_store_true, image_kept, stored_path
from tests.support.clients import Containerd, Mirror, Podman, hashed, skopeo_copy, skopeo_holds, write_hosts
from tests.support.data import Asking
from tests.support.images import Blob, Image
from tests.support.nginx import DataNginx, free_port
from tests.support.origin import View
from tests.support.process import run
from tests.support.real import RealImages
from tests.support.tls import Authority
from tests.support.waiting import seen

pytestmark = [pytest.mark.real, pytest.mark.xdist_group("real")]
OVER: Final = 1 << 20


@dataclass(slots=True)
class Site:
    """A Cistern that sends its clients to `url`; `nginx` is what stands there, None for its own listener."""

    cistern: CisternProcess
    url: str
    ca: Path
    nginx: DataNginx | None

    def blob_lines(self, *, at_data: bool) -> list[dict[str, Any]]:
        """The log lines of blobs by GET, of one address."""
        return [
            line
            for line in self.cistern.log_lines()
            if line["event"] == "request" and (line["kind"], line["method"]) == ("blob", "GET")
            if line["id"].startswith("data-") is at_data
        ]

    async def came_by_redirect(self, image: Image, pulls: int) -> None:
        """Each layer over the bound was sent for as often, and came from the data address; the config did not."""
        large = sorted(str(layer.digest) for layer in image.layers if layer.size > OVER) * pulls
        await seen(lambda: len(self.blob_lines(at_data=True)) >= len(large))
        sent_for = [line for line in self.blob_lines(at_data=False) if line["outcome"] == "redirected"]
        assert sorted(line["reference"].partition("@")[2] for line in sent_for) == sorted(large)
        came = self.blob_lines(at_data=True)
        assert sorted(line["reference"].partition("@")[2] for line in came) == sorted(large)
        assert {line["status"] for line in came} == {200}
        if self.nginx is not None:
            assert self.nginx.statuses() == [200] * len(large)


@pytest.fixture
async def site(request: pytest.FixtureRequest, short_tmp: Path, origin: View, ca: Authority) -> AsyncIterator[Site]:
    """`own` speaks plain HTTP as the registry address does; nginx speaks TLS."""
    home, socket = short_tmp / "cistern", short_tmp / "data.sock"
    async with AsyncExitStack() as stack:
        nginx = None
        if request.param == "nginx":
            front = DataNginx(short_tmp / "nginx", home / "cache", socket, ca.files(short_tmp, "127.0.0.1"))
            nginx = await stack.enter_async_context(front)
            url, listen = nginx.url, f"unix:{socket}"
        else:
            port = free_port()
            url, listen = f"http://127.0.0.1:{port}", f"127.0.0.1:{port}"
        config = {
            "upstreams": {"real.example": {"endpoints": [{"url": origin.url}], "plain_http": True, "proxy": "none"}},
            "blobs": {"redirect": {"url": url, "clients": ["127.0.0.0/8"]}, "listen": listen},
        }
        cistern = await stack.enter_async_context(CisternProcess(home, config))
        yield Site(cistern, url, ca.path, nginx)


@pytest.mark.parametrize("site", ["own", "nginx"], indirect=True)
async def test_ctr_pulls_by_redirect(
    site: Site, origin: View, real: RealImages, containerd: Containerd, tmp_path: Path
) -> None:
    """Cold, then warm with the origin stopped, on a fresh node."""
    mirror = Mirror(site.cistern.registry_url, ca=site.ca)
    hosts = write_hosts(tmp_path / "hosts", "_default", [mirror])
    for pulls in (1, 2):
        (await containerd.pull("real.example/real/docker:1", hosts_dir=hosts)).check()
        await containerd.holds(real.docker)
        await image_kept(site.cistern.cache_dir, real.docker)
        await site.came_by_redirect(real.docker, pulls)
        origin.stop()
        await containerd.fresh()
    origin.start()
    await origin.fetched_once(real.docker.all_blobs())
    assert_store_true(site.cistern.cache_dir)


@pytest.mark.parametrize("site", ["nginx"], indirect=True)
async def test_skopeo_copies_by_redirect(site: Site, origin: View, real: RealImages, tmp_path: Path) -> None:
    """Twice, the second time without the origin."""
    reference = f"{site.cistern.netloc}/real.example/real/docker:1"
    for pulls in (1, 2):
        (await skopeo_copy(reference, tmp_path / f"{pulls}")).check()
        skopeo_holds(tmp_path / f"{pulls}", real.docker)
        await image_kept(site.cistern.cache_dir, real.docker)
        await site.came_by_redirect(real.docker, pulls)
        origin.stop()
    origin.start()
    await origin.fetched_once(real.docker.all_blobs())


@pytest.mark.parametrize("site", ["own"], indirect=True)
async def test_podman_pulls_by_redirect(site: Site, origin: View, real: RealImages, podman: Podman) -> None:
    """Twice, with an empty storage each time."""
    reference = f"{site.cistern.netloc}/real.example/real/docker:1"
    for pulls in (1, 2):
        (await podman.pull(reference)).check()
        assert (await podman.images())[reference] == str(real.docker.digest)
        await image_kept(site.cistern.cache_dir, real.docker)
        await site.came_by_redirect(real.docker, pulls)
        await podman.remove()
    await origin.fetched_once(real.docker.all_blobs())


async def curl(site: Site, address: str, target: Path, *options: str) -> tuple[int, dict[str, str]]:
    """A GET with curl, which trusts the site's authority: the status and the headers; the body goes to `target`."""
    head = target.with_suffix(".head")
    arguments: list[str | Path] = [
        "--silent",
        "--cacert",
        site.ca,
        "--output",
        target,
        "--dump-header",
        head,
        "--request-target",
    ]
    host, _, path = address.removeprefix("https://").removeprefix("http://").partition("/")
    url = f"{address.partition('://')[0]}://{host}/"
    (await run("curl", *arguments, f"/{path}", *options, url)).check()
    first, *lines = head.read_text().strip().splitlines()
    named = (line.partition(":") for line in lines)
    return int(first.split()[1]), {name.lower(): value.strip() for name, _, value in named}


@pytest.mark.parametrize("site", ["nginx"], indirect=True)
async def test_nginx_answers_as_cistern_does(site: Site, real: RealImages, tmp_path: Path) -> None:
    """Whole blobs, ranges, conditions, a blob that was evicted after nginx was told its file, and what is forged."""
    front = Asking(site.cistern.netloc)
    image, path = real.docker, "/v2/real.example/real/docker"
    blob: Blob = max(image.layers, key=lambda layer: layer.size)
    (await skopeo_copy(f"{site.cistern.netloc}/real.example/real/docker:1", tmp_path / "image")).check()
    await image_kept(site.cistern.cache_dir, image)
    address = (await front.ask(f"{path}/blobs/{blob.digest}")).headers["Location"]
    assert address.startswith(site.url)
    got, etag = tmp_path / "got", f'"{blob.digest}"'
    status, headers = await curl(site, address, got)
    hashed({blob.digest: got})
    assert (status, headers["etag"], headers["docker-content-digest"]) == (200, etag, str(blob.digest))
    assert headers["content-length"] == str(blob.size)
    await site.cistern.logged(lambda line: line.get("outcome") == "redirected" and line["id"].startswith("data-"))
    whole = got.read_bytes()
    for options, expected in (
        (["-r", "100-199"], (206, whole[100:200])),
        (["-r", "100-199", "-H", f"If-Range: {etag}"], (206, whole[100:200])),
        (["-r", "0-1,5-6", "-H", 'If-Range: "x"'], (200, whole)),
        (["-r", "-7"], (206, whole[-7:])),
        (["-H", f"If-None-Match: {etag}"], (304, b"")),
    ):
        got.write_bytes(b"")
        status, headers = await curl(site, address, got, *options)
        assert (status, got.read_bytes()) == expected, options
        assert status == 304 or headers["etag"] == etag
    status, headers = await curl(site, address, got, "-r", f"{blob.size}-")
    assert (status, headers["content-range"]) == (416, f"bytes */{blob.size}")
    assert b'"errors"' in got.read_bytes()
    status, headers = await curl(site, address, got, "--head")
    assert (status, headers["content-length"]) == (200, str(blob.size))
    for forged, refused in (
        (address.replace("real/docker", "real/layered"), 403),
        (address[:-1] + ("0" if address[-1] != "0" else "1"), 403),
        (f"{site.url}/whole/sha256/{blob.digest.encoded[:2]}/{blob.digest.encoded}", 404),
        (f"{site.url}/whole/../whole/sha256/{blob.digest.encoded[:2]}/{blob.digest.encoded}", 404),
    ):
        status, _ = await curl(site, forged, got)
        assert (forged, status) == (forged, refused)
        assert blob.size != got.stat().st_size
    stored_path(site.cistern.cache_dir, blob.digest).unlink()
    status, _ = await curl(site, address, got)
    assert status == 200
    hashed({blob.digest: got})
