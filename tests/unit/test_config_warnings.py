"""What a valid configuration is warned about, and what not."""

from pathlib import Path, PurePath

import pytest

from proxy.config import load, parse, warnings
from proxy.config.mounts import network_file_system
from tests.support.refused import CANARY


def test_what_deserves_a_word_gets_a_warning(tmp_path: Path) -> None:
    """Too large a cache, private content open to the network, missing files and secrets, and idle parts are told."""
    config = parse(
        f"""
registry: {{listen: 0.0.0.0:5090}}
cache: {{directory: {tmp_path}, max_size: 2TiB}}
implicit_rules: false
upstreams:
  docker.io: {{credentials: hub}}
  quay.io: {{tls: {{ca: {tmp_path}/ca.pem}}}}
credentials:
  hub: {{username: u, password: {{env: HUB_TOKEN}}}}
  idle: {{username: u, password: {{env: IDLE}}}}
rules: [{{name: r, repository: hub/*, upstream: docker.io/*}}]
"""
    )
    found = warnings(config, {"IDLE": "x"}, lambda _: 1024**4)
    assert [line.split(":")[0] for line in found] == [
        "cache.max_size",
        "registry.listen",
        "upstreams.quay.io.tls.ca",
        "credentials.hub.password",
        "credentials.idle",
        "upstreams.quay.io",
    ]
    assert "rule r" in found[1]


@pytest.mark.parametrize(
    ("mode", "who"), [(0o600, None), (0o400, None), (0o640, "its group"), (0o604, "everybody"), (0o644, "everybody")]
)
@pytest.mark.parametrize("key", ["credentials.hub.password.file", "registry.tls.key", "blobs.key.file"])
def test_a_secret_that_others_may_read_gets_a_warning(tmp_path: Path, key: str, mode: int, who: str | None) -> None:
    """Named with its key and mode, links followed; the secret itself is never told."""
    file, link = tmp_path / "secret", tmp_path / "link"
    file.write_text(CANARY)
    file.chmod(mode)
    link.symlink_to(file)
    sections = {
        "credentials.hub.password.file": f"""
upstreams: {{docker.io: {{credentials: hub}}}}
credentials: {{hub: {{username: u, password: {{file: {link}}}}}}}""",
        "blobs.key.file": f"blobs: {{key: {{file: {link}}}}}",
        "registry.tls.key": f"registry: {{tls: {{certificate: {file}, key: {link}}}}}",
    }
    found = warnings(parse(sections[key]), {}, lambda _: None)
    wanted = [] if who is None else [f"{key}: {link} may be read by {who} (mode {mode:04o}): chmod 600"]
    assert found == wanted


MOUNTS = """\
22 1 254:0 / / rw,relatime - ext4 /dev/vda rw
30 22 0:26 / /srv rw - tmpfs tmpfs rw
31 30 0:40 / /srv/nfs\\040share rw,noatime shared:1 - nfs4 server:/export rw
32 30 0:41 / /srv/s3 rw - fuse.s3fs bucket rw
33 30 0:42 / /srv/own rw - fuse.ntfs-3g /dev/sdb rw
34 31 254:1 / /srv/nfs\\040share/local rw - xfs /dev/sdc rw
35 22 0:43 / /twice rw - ext4 /dev/sdd rw
36 22 0:44 / /twice rw - cifs //server/share rw
a line of a later kernel
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/", None),
        ("/srv/cistern", None),
        ("/srv/nfs share", "nfs4"),
        ("/srv/nfs share/deep/er", "nfs4"),
        ("/srv/nfs share/local/x", None),
        ("/srv/nfs sharer", None),
        ("/srv/s3/x", "fuse.s3fs"),
        ("/srv/own/x", None),
        ("/twice/x", "cifs"),
    ],
)
def test_a_network_file_system_is_told_from_a_disk(path: str, kind: str | None) -> None:
    """The innermost and latest mount over the directory decides."""
    assert network_file_system(PurePath(path), MOUNTS) == kind
    assert network_file_system(PurePath(path), "") is None


def test_a_cache_on_a_network_file_system_is_warned_about(tmp_path: Path) -> None:
    """At start and in `check` one line says what kind it is, and what to do."""
    config = parse(f"cache: {{directory: {tmp_path}}}")
    mounts = f"1 1 0:1 / {tmp_path.parent} rw - nfs server:/x rw\n"
    [line] = warnings(config, {}, lambda _: None, lambda: mounts)
    assert line.startswith("cache.directory: ")
    assert "(nfs)" in line


def test_a_weak_data_address_gets_a_warning(tmp_path: Path) -> None:
    """Nobody here to answer, less encryption than at the registry address, no key to be had."""
    redirect = "redirect: {url: http://d, clients: [10.0.0.0/8]}"
    config = parse(
        f"""
registry: {{tls: {{certificate: {tmp_path}/c, key: {tmp_path}/k}}}}
blobs: {{{redirect}, key: {{env: DATA_KEY}}}}
"""
    )
    for name in "ck":
        (tmp_path / name).touch(mode=0o600)
    assert warnings(config, {}, lambda _: None) == [
        "blobs.redirect.url: nothing here answers at http://d: blobs.listen is not given",
        "blobs.redirect.url: http://d is not encrypted, and the registry address is",
        "blobs.key: environment variable DATA_KEY is not set or empty",
    ]
    assert warnings(parse(f"blobs: {{{redirect}, listen: 127.0.0.1:1}}"), {}, lambda _: None) == []


def test_a_plain_config_gets_no_warning(tmp_path: Path) -> None:
    """The built-in config, and private content for loopback only, need no word."""
    assert warnings(load(None, {}), {}) == []
    local = parse(
        "upstreams: {docker.io: {credentials: hub}}\ncredentials: {hub: {username: u, password: {env: HUB_TOKEN}}}"
    )
    assert warnings(local, {"HUB_TOKEN": "x"}, lambda _: None) == []
