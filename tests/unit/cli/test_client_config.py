"""`client-config`: files for clients, printed or written, and over nothing."""

from pathlib import Path

import pytest

from proxy.cli.client_config import Client
from proxy.clients import CLIENTS, Mirror
from proxy.config import WELL_KNOWN
from tests.support.commands import Cistern


def test_the_clients_are_those_that_files_are_made_for() -> None:
    """The argument knows exactly the clients of `proxy.clients`."""
    assert [client.value for client in Client] == list(CLIENTS)


@pytest.mark.parametrize("client", CLIENTS)
def test_client_config_prints_the_file_and_nothing_else(cistern: Cistern, client: str) -> None:
    """Redirected to a file it is the file; its name goes beside it."""
    ran = cistern("client-config", client)
    [(name, text)] = CLIENTS[client](Mirror.parse("http://127.0.0.1:5090"), list(WELL_KNOWN)).items()
    assert (ran.code, ran.out) == (0, text)
    assert ran.err.endswith(f"/{name}\n")


def test_client_config_writes_files(cistern: Cistern, tmp_path: Path) -> None:
    """Whole, readable by the client's user; a second run finds them as they are."""
    for _ in range(2):
        ran = cistern("client-config", "containerd", "--url", "https://cache:1", "--write", "--into", tmp_path / "etc")
        assert (ran.code, ran.out) == (0, "")
    written = tmp_path / "etc" / "certs.d" / "_default" / "hosts.toml"
    assert '[host."https://cache:1"]' in written.read_text()
    assert written.stat().st_mode & 0o777 == 0o644
    assert [path.name for path in written.parent.iterdir()] == ["hosts.toml"]


@pytest.mark.parametrize(
    ("client", "into", "file"),
    [
        ("containerd", "certs.d", "certs.d/_default/hosts.toml"),
        ("containerd", "certs.d/_default", "certs.d/_default/hosts.toml"),
        ("containerd", "etc", "etc/certs.d/_default/hosts.toml"),
        ("podman", "registries.conf.d", "registries.conf.d/050-cistern.conf"),
        ("docker", "daemon.json", "daemon.json/daemon.json"),
    ],
)
def test_client_config_makes_no_folder_within_itself(
    cistern: Cistern, tmp_path: Path, client: str, into: str, file: str
) -> None:
    """Whoever names the folder that clients look into, and not the one above it, means that folder."""
    assert cistern("client-config", client, "--write", "--into", tmp_path / into).code == 0
    written = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert written - {"given.yaml"} == {file}


def test_client_config_writes_over_nothing(cistern: Cistern, tmp_path: Path) -> None:
    """Somebody else's file stays as it is, and is named."""
    held = tmp_path / "daemon.json"
    held.write_text('{"debug": true}')
    ran = cistern("client-config", "docker", "--write", "--into", tmp_path)
    assert ran.code == 1
    assert f"{held} is there already" in ran.err
    assert held.read_text() == '{"debug": true}'


def test_a_folder_that_cannot_be_written_is_told(cistern: Cistern, tmp_path: Path) -> None:
    """The path and the system's word for it."""
    (tmp_path / "file").write_text("")
    ran = cistern("client-config", "docker", "--write", "--into", tmp_path / "file")
    assert ran.code == 1
    assert "Not a directory" in ran.err


@pytest.mark.parametrize("listen", ["0.0.0.0:5090", "'[::]:5090'", "127.0.0.1:0", "unix:/run/cistern.sock"])
def test_an_address_that_no_client_can_use_needs_a_url(cistern: Cistern, tmp_path: Path, listen: str) -> None:
    """Where clients reach it is not guessed."""
    config = tmp_path / "open.yaml"
    config.write_text(f"registry: {{listen: {listen}}}\n")
    ran = cistern("client-config", "docker", "--config", config)
    assert (ran.code, ran.out) == (2, "")
    assert "--url is needed" in ran.err
    assert cistern("client-config", "docker", "--config", config, "--url", "http://cache:5090").code == 0
