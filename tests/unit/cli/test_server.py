"""Which server a command asks, with which right, and what is said when it cannot."""

from pathlib import Path
from typing import Any

import pytest

from tests.support.commands import Cistern
from tests.support.desk import CannedDesk, canned_desk
from tests.support.leaks import Canaries


def test_the_token_goes_over_a_url_only(
    cistern: Cistern, desk: CannedDesk, monkeypatch: pytest.MonkeyPatch, canaries: Canaries
) -> None:
    """A bearer token for what changes state; the control socket needs none, and reading needs none."""
    token = canaries.secret("token")
    monkeypatch.setenv("CISTERN_ADMIN_TOKEN", token)
    with canned_desk() as remote:
        for one in (desk, remote):
            one.answer("/api/v1/evict", {"tags": 1, "manifests": 1, "blobs": 1, "bytes": 1})
            one.answer("/health", {"status": "ok"})
        ran = [cistern(*words, "--admin", remote.where) for words in (("evict", "x"), ("status",))]
        ran += [cistern("evict", "x")]
    assert [item.code for item in ran] == [0, 0, 0]
    assert [item.headers.get("Authorization") for item in remote.asked] == [f"Bearer {token}", None]
    assert [item.headers.get("Authorization") for item in desk.asked] == [None]
    canaries.assert_absent(*(item.out + item.err for item in ran))


def test_a_token_that_is_no_header_is_not_sent(
    cistern: Cistern, monkeypatch: pytest.MonkeyPatch, canaries: Canaries
) -> None:
    """It is refused without being repeated."""
    monkeypatch.setenv("CISTERN_ADMIN_TOKEN", canaries.secret("token") + "\r\nX-Evil: 1")
    with canned_desk() as remote:
        ran = cistern("evict", "x", "--admin", remote.where)
    assert (ran.code, remote.asked) == (2, [])
    canaries.assert_absent(ran.err)


def test_the_variable_names_the_server(cistern: Cistern, monkeypatch: pytest.MonkeyPatch) -> None:
    """CISTERN_ADMIN is as good as --admin, and no config is read for it."""
    with canned_desk() as remote:
        remote.answer("/health", {"status": "ok"})
        monkeypatch.setenv("CISTERN_ADMIN", remote.where)
        monkeypatch.setenv("CISTERN_CONFIG", "/nowhere.yaml")
        assert cistern("status").code == 0


@pytest.mark.parametrize(
    ("status", "document", "code", "words"),
    [
        (403, {"errors": [{"code": "denied", "message": "use the control socket"}]}, 1, "use the control socket"),
        (403, {}, 1, "CISTERN_ADMIN_TOKEN"),
        (404, {"errors": [{"code": "x", "message": "nginx:1 is not here"}]}, 1, "nginx:1 is not here"),
        (400, {"errors": [{"code": "x", "message": "not a tag"}]}, 2, "not a tag"),
        (503, {"error": "draining"}, 1, "draining"),
        (500, {}, 1, "answers 500"),
        (200, b"<html>", 1, "no JSON: is that the admin address"),
        (200, b"", 1, "no JSON"),
    ],
)
def test_the_servers_refusal_is_told_in_its_words(
    cistern: Cistern, desk: CannedDesk, status: int, document: Any, code: int, words: str
) -> None:
    """One line, and the exit code that fits."""
    desk.answer("/api/v1/evict", document, status)
    ran = cistern("evict", "nginx:1")
    assert (ran.code, ran.out) == (code, "")
    assert words in ran.err
    assert ran.err.count("\n") == 1


def test_a_server_of_another_version_is_told(cistern: Cistern, desk: CannedDesk) -> None:
    """An answer of another shape is no traceback."""
    desk.answer("/api/v1/images", {"pictures": []})
    ran = cistern("images")
    assert ran.code == 1
    assert "holds no images" in ran.err


def test_a_socket_that_nobody_listens_on_is_told(cistern: Cistern, short_tmp: Path) -> None:
    """A dead server leaves its socket: the same words as without one."""
    never = cistern("images")
    with canned_desk(short_tmp / "control.sock"):
        assert (short_tmp / "control.sock").is_socket()
    dead = cistern("images")
    assert never == dead
    assert dead.code == 1
    assert f"no server at unix:{short_tmp}/control.sock" in dead.err


def test_a_name_too_long_for_a_socket_is_told(cistern: Cistern) -> None:
    """The system's limit is explained, with the way around it."""
    ran = cistern("images", "--admin", f"unix:/{'x' * 200}")
    assert ran.code == 1
    assert "too long for a socket" in ran.err
