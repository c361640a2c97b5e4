"""Commands that ask a server: its answers as tables for people and as JSON for scripts, and an exit code that tells."""

import json
import re
import time
from typing import Any, Final

import pytest

from tests.support.commands import DIGEST, IMAGE, Cistern
from tests.support.desk import CannedDesk


def test_images_are_a_table(cistern: Cistern, desk: CannedDesk) -> None:
    """One row an image, aligned, and not wrapped where nobody looks at it."""
    partly = IMAGE | {"tags": [], "complete": False, "blobs_present": 3, "last_used": time.time() - 7300}
    long = IMAGE | {"repository": "registry.example/" + "a" * 200, "complete": False, "manifest_here": False}
    desk.answer("/api/v1/images", {"images": [IMAGE, partly, long]})
    ran = cistern("images")
    assert (ran.code, ran.err) == (0, "")
    headings, first, second, third = ran.out.splitlines()
    assert headings.split() == ["IMAGE", "TAGS", "DIGEST", "PLATFORMS", "HERE", "OWN", "SHARED", "USED"]
    assert re.split(r" {2,}", first) == [
        "docker.io/library/nginx",
        "1.27, latest",
        DIGEST[7:19],
        "amd64",
        "whole",
        "3.0 MiB",
        "512 B",
        "-",
    ]
    assert "3 of 7 blobs" in second
    assert "2h ago" in second
    assert "a" * 200 in third
    assert "tag only" in third


def test_an_index_alone_is_told(cistern: Cistern, desk: CannedDesk) -> None:
    """No platform of it was pulled."""
    platforms = [{"platform": "linux/amd64", "digest": DIGEST, "here": False}]
    desk.answer("/api/v1/images", {"images": [IMAGE | {"complete": False, "platforms": platforms}]})
    assert "index only" in cistern("images").out


def test_a_reference_is_asked_for(cistern: Cistern, desk: CannedDesk) -> None:
    """It goes along as it was written, encoded."""
    desk.answer("/api/v1/images", {"images": []})
    ran = cistern("images", "host:5000/x@" + DIGEST)
    assert ran.code == 0
    assert desk.asked[0].target == f"/api/v1/images?reference=host%3A5000%2Fx%40{DIGEST.replace(':', '%3A')}"


@pytest.mark.parametrize(
    ("command", "path", "document"),
    [
        (("images",), "/api/v1/images", {"images": [IMAGE]}),
        (("usage",), "/api/v1/usage", {"bytes": 1}),
        (("status",), "/health", {"status": "ok"}),
        (("explain", "nginx"), "/api/v1/explain", {"text": ["x"], "works": True}),
        (("refresh", "nginx"), "/api/v1/refresh", {"digest": DIGEST}),
        (("evict", "nginx"), "/api/v1/evict", {"blobs": 1}),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_json_is_for_scripts(
    cistern: Cistern, desk: CannedDesk, command: tuple[str, ...], path: str, document: Any
) -> None:
    """With --json the server's own facts come out, and nothing else."""
    desk.answer(path, document)
    ran = cistern(*command, "--json")
    assert ran.code == 0
    assert json.loads(ran.out) == document.get("images", document)


@pytest.mark.parametrize(
    ("growth", "days", "told"),
    [
        (None, None, "growth: not known yet"),
        (1.5 * (1 << 30), 29.3, "growth: 1.5 GiB a day, full in 29.3 days"),
        (-2048.0, None, "growth: -2.0 KiB a day"),
    ],
    ids=["young", "growing", "shrinking"],
)
def test_usage_is_tables(
    cistern: Cistern, desk: CannedDesk, growth: float | None, days: float | None, told: str
) -> None:
    """What is kept in all and on the disk, how it grows, by upstream and rule, and the largest images."""
    share = {"name": "docker.io", "bytes": 5 << 30, "blobs": 12}
    desk.answer(
        "/api/v1/usage",
        {
            "bytes": 5 << 30,
            "blobs": 12,
            "unused_bytes": 0,
            "unused_blobs": 0,
            "used_bytes": 6 << 30,
            "reserved_bytes": 1 << 20,
            "parts_bytes": 1536,
            "limit_bytes": 50 << 30,
            "free_bytes": 2 << 40,
            "keep_free_bytes": 1 << 40,
            "growth_per_day_bytes": growth,
            "days_to_full": days,
            "upstreams": [share],
            "rules": [share | {"limit_bytes": 10 << 30}],
            "images": [{"reference": f"docker.io/x:{n}", "own_bytes": 10, "shared_bytes": 0} for n in range(30)],
        },
    )
    ran = cistern("usage")
    assert ran.code == 0
    rows = [re.split(r" {2,}", line.strip()) for line in ran.out.splitlines()]
    assert ["kept", "5.0 GiB", "12"] in rows
    assert ["unfinished", "1.5 KiB", "-"] in rows
    assert ["of the disk", "6.0 GiB", "-"] in rows
    assert ["disk free", "2.0 TiB", "-"] in rows
    assert [told] in rows
    assert ["docker.io", "5.0 GiB", "12"] in rows
    assert ["docker.io", "5.0 GiB", "12", "10.0 GiB"] in rows
    assert sum(row[0].startswith("docker.io/x:") for row in rows) == 10


def test_status_shows_every_part(cistern: Cistern, desk: CannedDesk) -> None:
    """However deep it stands, with why it is not well."""
    desk.answer(
        "/health",
        {
            "status": "degraded",
            "storage": {"status": "ok", "free_bytes": 10},
            "upstreams": {
                "docker.io": {
                    "status": "degraded",
                    "endpoints": {"https://registry-1.docker.io": {"status": "degraded", "why": "it failed too often"}},
                }
            },
        },
    )
    ran = cistern("status")
    assert ran.code == 0
    rows = [re.split(r" {2,}", line) for line in ran.out.splitlines()]
    assert ["server", "degraded"] in rows
    assert ["storage", "ok", "free_bytes=10"] in rows
    assert ["upstreams docker.io endpoints https://registry-1.docker.io", "degraded", "it failed too often"] in rows


@pytest.mark.parametrize("http_status", [200, 503])
def test_a_failing_server_has_a_failing_status(cistern: Cistern, desk: CannedDesk, http_status: int) -> None:
    """Exit code 1, so that a script need not read."""
    desk.answer("/health", {"status": "failing"}, http_status)
    ran = cistern("status")
    assert (ran.code, ran.err) == (1, "")
    assert "failing" in ran.out


@pytest.mark.parametrize("as_json", [(), ("--json",)])
@pytest.mark.parametrize(("works", "code"), [(True, 0), (False, 1)])
def test_explain_ends_as_the_pull_would(
    cistern: Cistern, desk: CannedDesk, works: bool, code: int, as_json: tuple[str, ...]
) -> None:
    """Exit code 1 when the pull would fail, for scripts; what it says is the same."""
    desk.answer("/api/v1/explain", {"text": ["nginx:latest"], "works": works})
    ran = cistern("explain", "nginx", *as_json)
    assert (ran.code, "nginx:latest" in ran.out) == (code, True)


def test_explain_prints_its_lines(cistern: Cistern, desk: CannedDesk) -> None:
    """As the server wrote them, but nothing that moves a cursor."""
    desk.answer("/api/v1/explain", {"text": ["nginx:latest", "  rule          docker.io\x1b[2J"], "works": True})
    ran = cistern("explain", "nginx")
    assert (ran.code, ran.out) == (0, "nginx:latest\n  rule          docker.io [2J\n")
    assert desk.asked[0].target == "/api/v1/explain?reference=nginx"


@pytest.mark.parametrize(
    ("told", "words"),
    [({"moved": True}, "moved"), ({"moved": False}, "unchanged"), ({}, "checked")],
)
def test_refresh_says_what_the_tag_is_now(cistern: Cistern, desk: CannedDesk, told: dict[str, Any], words: str) -> None:
    """Its digest, and whether it moved."""
    desk.answer("/api/v1/refresh", {"digest": DIGEST, **told})
    ran = cistern("refresh", "nginx:1")
    assert (ran.code, ran.out) == (0, f"nginx:1 is {DIGEST}: {words}\n")
    assert (desk.asked[0].method, desk.asked[0].body) == ("POST", b'{"reference": "nginx:1"}')


@pytest.mark.parametrize(
    ("told", "words"),
    [
        ({"tags": 1, "manifests": 2, "blobs": 3, "bytes": 4096}, "2 manifests and 3 blobs, 4.0 KiB"),
        ({"tags": 1, "manifests": 0, "blobs": 0, "bytes": 0}, "still uses its content"),
        ({"tags": 0, "manifests": 0, "blobs": 0, "bytes": 0}, "nothing of it was stored"),
    ],
)
def test_evict_says_what_went(cistern: Cistern, desk: CannedDesk, told: dict[str, int], words: str) -> None:
    """Counts and bytes, or why nothing went."""
    desk.answer("/api/v1/evict", told)
    ran = cistern("evict", "nginx:1")
    assert ran.code == 0
    assert words in ran.out


CLEAN: Final = {"blobs": 7, "bytes": 4096, "seconds": 0.5, "clean": True, "bad": []}


@pytest.mark.parametrize(
    ("told", "code", "words"),
    [
        (CLEAN, 0, "7 blobs, 4.0 KiB, 0.5 s: 0 bad"),
        (CLEAN | {"bad": [{"digest": DIGEST, "found": "bad", "mended": True}]}, 0, f"{DIGEST} bad: fetched again"),
        (
            CLEAN | {"clean": False, "bad": [{"digest": DIGEST, "found": "bad", "mended": False, "why_not": "lost"}]},
            1,
            f"{DIGEST} bad: lost",
        ),
        (CLEAN | {"clean": False, "bad": [{"digest": DIGEST, "found": "bad", "mended": False}]}, 1, "set aside"),
    ],
    ids=["clean", "mended", "not mended", "no repair"],
)
def test_verify_says_what_was_bad(
    cistern: Cistern, desk: CannedDesk, told: dict[str, Any], code: int, words: str
) -> None:
    """Each bad blob and what became of it; exit code 1 as long as any is not mended."""
    desk.answer("/api/v1/verify", told)
    ran = cistern("verify", "--repair")
    assert (ran.code, desk.asked[0].body) == (code, b'{"repair": true}')
    assert words in ran.out
    assert cistern("verify", "--json").code == code
    assert desk.asked[1].body == b'{"repair": false}'
