"""The client files of config/clients: what `cistern client-config` prints, and what the real clients make of them."""

import json
import tempfile
import tomllib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, Final

import pytest
import yaml
from aiohttp import web

from proxy import clients
from proxy.clients import CLIENTS, FOLDERS, Mirror, client_files
from proxy.config.builtin import WELL_KNOWN
from proxy.errors import ConfigInvalid
from tests.house.source import ROOT
from tests.support.clients import Containerd, Podman, skopeo, skopeo_holds
from tests.support.images import Image, manifest

URL: Final = "http://127.0.0.1:5090"
REGISTRIES: Final = tuple(WELL_KNOWN)
EXAMPLES: Final = ROOT / "config" / "clients"


@pytest.mark.parametrize("client", CLIENTS)
def test_the_example_is_what_the_command_prints(client: str) -> None:
    """Each file under config/clients is, byte for byte, what `cistern client-config` writes for the default address."""
    folder = EXAMPLES / client
    held = {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}
    assert held == CLIENTS[client](Mirror.parse(URL), REGISTRIES)


def test_every_example_is_of_a_client() -> None:
    """config/clients has one folder for each client that `client-config` knows, and nothing else."""
    assert sorted(path.name for path in EXAMPLES.iterdir()) == sorted(CLIENTS)
    assert sorted(FOLDERS) == sorted(CLIENTS)


@pytest.mark.parametrize("client", CLIENTS)
def test_a_file_goes_where_its_client_looks(client: str) -> None:
    """`--write` is given absolute paths under the client's own folder."""
    written = client_files(client, URL, REGISTRIES)
    assert written
    assert all(path.startswith(f"{FOLDERS[client]}/") for path in written)


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("http://127.0.0.1:5090", "127.0.0.1:5090"),
        ("https://cache.corp.example", "cache.corp.example"),
        ("http://cache:5090/", "cache:5090"),
        ("http://[::1]:5090", "[::1]:5090"),
    ],
)
def test_an_address_is_read(url: str, host: str) -> None:
    """Scheme, host and port are kept as clients write them."""
    assert Mirror.parse(url) == Mirror(url.split(":", 1)[0], host)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "127.0.0.1:5090",
        "ftp://cache:5090",
        "http://",
        "http://me:secret@cache:5090",
        "http://cache:5090/v2",
        "http://cache:5090?ns=docker.io",
        "http://cache:5090#x",
        "http://cache:port",
        "http://cache:99999",
        'http://ca"che:5090',
        "http://cache:5090\n[host]",
    ],
)
def test_an_address_that_not_every_client_can_use_is_refused(url: str) -> None:
    """A path, a login or a character that would break out of the file is refused before anything is written."""
    with pytest.raises(ConfigInvalid):
        Mirror.parse(url)


@pytest.mark.parametrize("url", [URL, "https://cache.corp.example"])
def test_docker_reads_documented_keys_only(url: str) -> None:
    """`registry-mirrors` holds the one URL; Docker applies it to Docker Hub alone."""
    text = client_files("docker", url, REGISTRIES)["/etc/docker/daemon.json"]
    assert json.loads(text) == {"registry-mirrors": [url]}


@pytest.mark.parametrize(("url", "own"), [(URL, {"http": True}), ("https://cache.corp.example", None)])
def test_buildkit_reads_documented_keys_only(url: str, own: dict[str, Any] | None) -> None:
    """Each registry has the mirror without a scheme; plain http stands in the mirror's own entry."""
    host = Mirror.parse(url).host
    text = client_files("buildkit", url, REGISTRIES)["/etc/buildkit/buildkitd.toml"]
    expected: dict[str, Any] = {registry: {"mirrors": [host]} for registry in REGISTRIES}
    assert tomllib.loads(text) == {"registry": expected if own is None else expected | {host: own}}


def test_k3s_reads_documented_keys_only() -> None:
    """One entry for every registry, the asterisk a string."""
    text = client_files("k3s", URL, REGISTRIES)["/etc/rancher/k3s/registries.yaml"]
    assert yaml.safe_load(text) == {"mirrors": {"*": {"endpoint": [URL]}}}


@pytest.mark.parametrize(("url", "insecure"), [(URL, True), ("https://cache.corp.example", None)])
def test_podman_reads_documented_keys_only(url: str, insecure: bool | None) -> None:
    """The registry stands in the mirror's path, and `insecure` only where http is meant."""
    [text] = clients.podman(Mirror.parse(url), REGISTRIES).values()
    mirrors = {entry["prefix"]: entry["mirror"] for entry in tomllib.loads(text)["registry"]}
    assert list(mirrors) == list(REGISTRIES)
    for registry, [mirror] in mirrors.items():
        assert mirror.pop("location") == f"{Mirror.parse(url).host}/{registry}"
        assert mirror == ({} if insecure is None else {"insecure": insecure})


def test_containerd_reads_documented_keys_only() -> None:
    """One `_default` entry, trusted to pull and to resolve, and no `server` in the registries' place."""
    [(name, text)] = clients.containerd(Mirror.parse(URL), REGISTRIES).items()
    assert name == "certs.d/_default/hosts.toml"
    assert tomllib.loads(text) == {"host": {URL: {"capabilities": ["pull", "resolve"], "dial_timeout": "1s"}}}


class Recorder:
    """A registry of one image under any name, that keeps the requests it was sent."""

    def __init__(self, image: Image) -> None:
        self.image = image
        self.requests: list[tuple[str, str, str | None]] = []
        self._held = {str(blob.digest): blob for blob in (*image.all_manifests(), *image.all_blobs())}
        self.url = ""

    async def answer(self, request: web.Request) -> web.Response:
        self.requests.append((request.method, request.path, request.query.get("ns")))
        if request.path == "/v2/":
            return web.Response(body=b"{}", content_type="application/json")
        held = self._held.get(request.path.rpartition("/")[2], self.image.manifest)
        headers = {"Docker-Content-Digest": str(held.digest), "Content-Type": held.media_type}
        if request.method == "HEAD":
            return web.Response(headers=headers | {"Content-Length": str(held.size)})
        return web.Response(body=held.data, headers=headers)


@pytest.fixture
async def recorder() -> AsyncIterator[Recorder]:
    """A recorder on a free loopback port."""
    held = Recorder(manifest())
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", held.answer)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    _, port = runner.addresses[0]
    held.url = f"http://127.0.0.1:{port}"
    yield held
    await runner.cleanup()


@pytest.fixture
def home() -> Iterator[Path]:
    """A folder with a short name: a socket's path may have 107 bytes, and podman's runroot 50."""
    with tempfile.TemporaryDirectory(prefix="cn-") as folder:
        yield Path(folder)


@pytest.fixture
async def node(home: Path) -> AsyncIterator[Containerd]:
    """A containerd of the test's own."""
    containerd = Containerd(home / "c")
    await containerd.start()
    yield containerd
    await containerd.stop()


def write(client: str, url: str, folder: Path) -> None:
    """The client's files under `folder` in place of the client's own."""
    for name, text in CLIENTS[client](Mirror.parse(url), REGISTRIES).items():
        path = folder / name
        path.parent.mkdir(parents=True)
        path.write_text(text)


@pytest.mark.real
@pytest.mark.parametrize("registry", ["docker.io", "quay.io", "registry.example:5000"])
async def test_containerd_sends_every_registry_to_the_mirror(
    registry: str, recorder: Recorder, node: Containerd, tmp_path: Path
) -> None:
    """The real client takes the one `_default` file and asks the mirror for any registry, naming it in `ns`."""
    write("containerd", recorder.url, tmp_path)
    pulled = await node.pull(f"{registry}/library/busy:1", hosts_dir=tmp_path / "certs.d")
    pulled.check()
    assert ("HEAD", "/v2/library/busy/manifests/1", registry) in recorder.requests
    assert {namespace for _, _, namespace in recorder.requests} == {registry}
    await node.holds(recorder.image)


@pytest.mark.real
@pytest.mark.parametrize("registry", REGISTRIES)
async def test_skopeo_sends_each_registry_to_the_mirror(registry: str, recorder: Recorder, tmp_path: Path) -> None:
    """The real client takes the file and asks the mirror for each registry it names, by the path."""
    write("podman", recorder.url, tmp_path)
    drop_in = tmp_path / "registries.conf.d" / "050-cistern.conf"
    reference, copy = f"docker://{registry}/library/busy:1", tmp_path / "copy"
    (await skopeo("copy", reference, f"dir:{copy}", registries=drop_in)).check()
    assert ("GET", f"/v2/{registry}/library/busy/manifests/1", None) in recorder.requests
    skopeo_holds(copy, recorder.image)


@pytest.mark.real
async def test_podman_takes_the_file_and_pulls_by_it(recorder: Recorder, home: Path, tmp_path: Path) -> None:
    """`podman info` shows the mirrors of the file, and `podman pull` asks them."""
    podman = Podman(home)
    podman.mirrors({})
    write("podman", recorder.url, tmp_path)
    (tmp_path / "registries.conf.d" / "050-cistern.conf").replace(podman.home / "registries.conf")
    info = json.loads((await podman.podman("info", "--format", "json")).check().output)
    shown = {registry: info["registries"][registry]["Mirrors"] for registry in REGISTRIES}
    host = Mirror.parse(recorder.url).host
    assert {registry: [mirror["Location"] for mirror in found] for registry, found in shown.items()} == {
        registry: [f"{host}/{registry}"] for registry in REGISTRIES
    }
    (await podman.pull("docker.io/library/busy:1")).check()
    assert ("GET", "/v2/docker.io/library/busy/manifests/1", None) in recorder.requests
    assert await podman.images() == {"docker.io/library/busy:1": str(recorder.image.digest)}
