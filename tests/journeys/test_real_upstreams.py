"""Real registries that want a login, come in pairs, or stand behind nginx: Debian's docker-registry, skopeo and ctr."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.conftest import fill
from tests.support.cistern import CisternProcess, assert_image_whole, assert_store_true
from tests.support.clients import Containerd, Mirror, skopeo_copy, skopeo_holds, write_hosts
from tests.support.images import Image
from tests.support.jwt import SigningRealm
from tests.support.nginx import Nginx
from tests.support.origin import Origin, View
from tests.support.real import RealImages
from tests.support.tls import Authority
from tests.support.waiting import seen

pytestmark = [pytest.mark.real, pytest.mark.xdist_group("real")]
NAME = "real.example"


def config(*urls: str, password: Path | None = None, extra: dict[str, object] | None = None) -> dict[str, object]:
    """One upstream with these endpoints, and with a credential set if there is a password."""
    upstream: dict[str, object] = {
        "endpoints": [{"url": url} for url in urls],
        "plain_http": True,
        "proxy": "none",
        **(extra or {}),
    }
    if password is None:
        return {"upstreams": {NAME: upstream}}
    upstream |= {"credentials": "own", "allow_insecure_credentials": True}
    sets = {"own": {"username": "puller", "password": {"file": str(password)}}}
    return {"upstreams": {NAME: upstream}, "credentials": sets}


def secret(path: Path, text: str) -> Path:
    path.write_text(text)
    path.chmod(0o600)
    return path


@pytest.fixture
async def private(tmp_path: Path, real: RealImages) -> AsyncIterator[Origin]:
    """A docker-registry with an htpasswd file."""
    origin = Origin(tmp_path / "private", users={"puller": "good"})
    fill(origin, real)
    await origin.set_passwords()
    origin.start()
    yield origin
    origin.stop()


async def pulls(cistern: CisternProcess, image: Image, folder: Path) -> None:
    """skopeo pulls `real/docker:1` whole through Cistern."""
    (await skopeo_copy(f"{cistern.netloc}/{NAME}/real/docker:1", folder)).check()
    skopeo_holds(folder, image)


async def test_a_registry_with_htpasswd_is_logged_in_to(
    private: Origin, real: RealImages, short_tmp: Path, tmp_path: Path
) -> None:
    """The client logs in nowhere and gets the image; a wrong password is 403 naming its set, and the right one, put
    into the file, is taken up.
    """
    password = secret(tmp_path / "password", "wrong")
    async with CisternProcess(short_tmp / "c", config(private.url, password=password)) as cistern:
        refused = await skopeo_copy(f"{cistern.netloc}/{NAME}/real/docker:1", tmp_path / "refused")
        assert not refused.succeeded
        assert "the credentials own" in refused.output
        secret(password, "good")
        await pulls(cistern, real.docker, tmp_path / "held")
    async with CisternProcess(short_tmp / "anonymous", config(private.url)) as cistern:
        hidden = await skopeo_copy(f"{cistern.netloc}/{NAME}/real/docker:1", tmp_path / "hidden")
        assert not hidden.succeeded
        assert "unauthorized" not in hidden.output.lower().replace("authentication required", "")


async def test_a_registry_in_token_mode_is_logged_in_to(
    real: RealImages, short_tmp: Path, tmp_path: Path, containerd: Containerd
) -> None:
    """docker-registry checks the signature of each token: Cistern fetches one with its password, for pull of this
    repository alone, and skopeo and ctr pull whole without any login.
    """
    async with SigningRealm(tmp_path) as realm:
        realm.users["puller"] = "good"
        realm.private.add("real/docker")
        origin = Origin(tmp_path / "origin", auth=realm.registry_auth())
        fill(origin, real)
        origin.start()
        try:
            password = secret(tmp_path / "password", "good")
            async with CisternProcess(short_tmp / "c", config(origin.url, password=password)) as cistern:
                await pulls(cistern, real.docker, tmp_path / "held")
                hosts = write_hosts(tmp_path / "hosts", "_default", [Mirror(cistern.registry_url)])
                (await containerd.pull(f"{NAME}/real/layered:1", hosts_dir=hosts)).check()
                await containerd.holds(real.layered)
            scopes = [grant.repositories for grant in realm.grants.values()]
            assert set(scopes) == {frozenset({"real/docker"}), frozenset({"real/layered"})}
            assert len(scopes) == 2  # one token for each repository, whatever the number of requests
            async with CisternProcess(short_tmp / "anonymous", config(origin.url)) as cistern:
                denied = await skopeo_copy(f"{cistern.netloc}/{NAME}/real/docker:1", tmp_path / "denied")
                assert not denied.succeeded
        finally:
            origin.stop()


async def test_one_of_two_registries_dies_in_mid_blob(
    origin: View, real: RealImages, short_tmp: Path, tmp_path: Path, containerd: Containerd
) -> None:
    """Two docker-registries are two endpoints: the first is killed in mid-blob while skopeo and ctr pull, and both end
    whole, by Range from the second.
    """
    first = Origin(tmp_path / "first")
    fill(first, real)
    first.start()
    keys: dict[str, object] = {"max_bandwidth": "20MB"}  # so that there is a middle to die in
    try:
        async with CisternProcess(short_tmp / "c", config(first.url, origin.url, extra=keys)) as cistern:
            hosts = write_hosts(tmp_path / "hosts", "_default", [Mirror(cistern.registry_url)])
            by_skopeo = asyncio.ensure_future(
                skopeo_copy(f"{cistern.netloc}/{NAME}/real/layered:1", tmp_path / "copied")
            )
            by_ctr = asyncio.ensure_future(containerd.pull(f"{NAME}/real/layered:1", hosts_dir=hosts))
            await half_read(cistern, real.layered)
            first.stop()
            (await by_skopeo).check()
            skopeo_holds(tmp_path / "copied", real.layered)
            (await by_ctr).check()
            await containerd.holds(real.layered)
            resumed = [access for access in await origin.blob_requests() if access.status == 206]
            assert resumed, "nothing was gone on with at the second registry"
            await cistern.logged(lambda line: line["event"] == "hydration ended", timeout_s=60.0)
            assert_image_whole(cistern.cache_dir, real.layered)
            assert_store_true(cistern.cache_dir)
    finally:
        first.stop()


async def half_read(cistern: CisternProcess, image: Image) -> None:
    """Wait until some of the image's largest blob is here, and not all of it."""
    largest = max(image.blobs, key=lambda one: one.size)
    part = cistern.cache_dir / "parts" / f"{largest.digest.algorithm}-{largest.digest.encoded}.part"
    await seen(lambda: part.exists() and part.stat().st_size > largest.size // 8, within_s=30)
    assert part.stat().st_size < largest.size


async def test_nginx_with_tls_and_redirects_stands_before_the_registry(
    origin: View, real: RealImages, short_tmp: Path, tmp_path: Path, ca: Authority
) -> None:
    """Blobs come by a 307 over TLS, checked by the authority that the config names; without it nothing is pulled."""
    certificate = ca.files(tmp_path, "127.0.0.1")
    async with Nginx(short_tmp / "nginx", origin.url, certificate, burst=None, redirects=True) as front:
        trusting = config(front.url, extra={"tls": {"ca": str(ca.path)}})
        async with CisternProcess(short_tmp / "c", trusting) as cistern:
            await pulls(cistern, real.docker, tmp_path / "held")
            assert 307 in front.statuses()
        async with CisternProcess(short_tmp / "d", config(front.url)) as cistern:
            refused = await skopeo_copy(f"{cistern.netloc}/{NAME}/real/docker:1", tmp_path / "refused")
            assert not refused.succeeded
            await cistern.logged(lambda line: "certificate" in str(line))


async def test_nginx_that_limits_requests_is_asked_no_more_than_it_wants(
    origin: View, real: RealImages, short_tmp: Path, tmp_path: Path, ca: Authority
) -> None:
    """`limit_req` says 429 with no Retry-After: one such answer, then silence; what is held is pulled on, marked
    stale, and what is not is refused at once.
    """
    certificate = ca.files(tmp_path, "127.0.0.1")
    async with Nginx(short_tmp / "nginx", origin.url, certificate, burst=40, redirects=False) as front:
        settings = config(front.url, extra={"tls": {"ca": str(ca.path)}}) | {"tags": {"fresh_for": "0s"}}
        async with CisternProcess(short_tmp / "c", settings) as cistern:
            await pulls(cistern, real.docker, tmp_path / "held")
            for number in range(60):
                missing = await skopeo_copy(f"{cistern.netloc}/{NAME}/real/absent{number}:1", tmp_path / "no")
                if front.statuses().count(429):
                    break
                assert not missing.succeeded
            asked = len(front.statuses())
            for number in range(5):
                await pulls(cistern, real.docker, tmp_path / f"again{number}")
            assert front.statuses().count(429) == 1
            assert len(front.statuses()) == asked
