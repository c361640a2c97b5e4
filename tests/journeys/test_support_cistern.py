"""Cistern as a process: the fixture starts, kills, restarts and ends the real server, and looks at its store."""

from pathlib import Path

import pytest

from tests.support import images
from tests.support.cistern import CisternProcess, assert_store_true, image_kept, stored
from tests.support.clients import Containerd, Mirror, skopeo_copy, write_hosts
from tests.support.registry import Registry

pytestmark = pytest.mark.real


@pytest.fixture
def served(short_tmp: Path, registry: Registry) -> CisternProcess:
    """A server whose one upstream is the scripted registry; not started."""
    upstream = {"endpoints": [{"url": registry.url}], "plain_http": True, "proxy": "none"}
    return CisternProcess(short_tmp / "cistern", {"upstreams": {"hub.example": upstream}})


async def test_killed_and_started_again_it_serves_what_it_kept(
    served: CisternProcess, registry: Registry, containerd: Containerd, tmp_path: Path
) -> None:
    """The same addresses after SIGKILL, the image whole on disk, and no upstream blob request for the second pull."""
    image = registry.add("team/app", "1", images.manifest())
    async with served:
        address = served.registry_url
        (await skopeo_copy(f"{served.netloc}/hub.example/team/app:1", tmp_path / "first")).check()
        await image_kept(served.cache_dir, image)
        await served.kill()
        await served.start()
        assert served.registry_url == address
        hosts = write_hosts(tmp_path, "_default", [Mirror(served.registry_url)])
        (await containerd.pull("hub.example/team/app:1", hosts_dir=hosts)).check()
        await containerd.holds(image)
    assert [registry.requests_for(blob.digest) for blob in image.blobs] == [1, 1]
    assert stored(served.cache_dir) == {image.digest, *(blob.digest for blob in image.blobs)}
    assert_store_true(served.cache_dir)


async def test_terminated_it_drains_and_says_so(served: CisternProcess) -> None:
    """SIGTERM ends it with exit code 0; its log lines are structured, its ready line names both addresses."""
    await served.start()
    assert served.admin_url.startswith("http://127.0.0.1:")
    ready = await served.logged(lambda line: line["event"] == "ready")
    assert ready["registry"] == served.registry_url
    assert await served.terminate() == 0
    assert "stopped" in {line["event"] for line in served.log_lines()}


async def test_a_server_that_cannot_start_leaves_nothing_behind(short_tmp: Path) -> None:
    """A bad config ends it before the ready line; the failure shows what it said."""
    with pytest.raises(AssertionError, match="upstreems"):
        await CisternProcess(short_tmp / "bad", "upstreems: {}\n").start()
