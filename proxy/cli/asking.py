"""The commands that ask a running server: `explain`, `images`, `usage`, `status`, `refresh`, `evict`, `verify`."""

import time
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Final

import typer

from proxy.cli import tables
from proxy.cli.failures import FAILED, WRONG_USE, CommandFailed, printable
from proxy.cli.options import Admin, AsJson, ConfigFile
from proxy.cli.server import Server
from proxy.errors import ClientFault

Reference = Annotated[str, typer.Argument(help="docker.io/library/nginx:1.27, nginx, HOST:PORT/NAME@DIGEST …")]
MaybeReference = Annotated[
    str | None, typer.Argument(help="A repository, or one of its tags or digests; none: every image.")
]
VERIFY_WITHIN_S: Final = 7 * 86_400.0  # it goes at the disk's pace; Ctrl-C ends the waiting, not the check
LARGEST: Final = 10  # images that `usage` names
DISK: Final = (  # what `usage` tells of the disk, and the key that holds it
    ("of the disk", "used_bytes"),
    ("promised to transfers", "reserved_bytes"),
    ("unfinished", "parts_bytes"),
    ("limit", "limit_bytes"),
    ("disk free", "free_bytes"),
    ("of which is kept free", "keep_free_bytes"),
)
SHORT: Final = 12  # hexadecimal digits of a digest in a table: enough to tell it apart; --json has all


def enter(app: typer.Typer) -> None:
    """Give the commands to the app."""
    for command in (explain, images, usage, status, refresh, evict, verify):
        app.command()(command)


def explain(reference: Reference, as_json: AsJson = False, admin: Admin = None, config: ConfigFile = None) -> int:
    """What a pull would do and what is here; if it would fail, why, and what to do about it. Exit code 1 then."""
    named = _checked(reference)
    told = Server.find(admin, config).get("/api/v1/explain", {"reference": named})
    if as_json:
        tables.show_json(told)
    else:
        for line in told["text"]:
            typer.echo("".join(letter if letter.isprintable() else " " for letter in line))
    return 0 if told["works"] else FAILED


def images(
    reference: MaybeReference = None, as_json: AsJson = False, admin: Admin = None, config: ConfigFile = None
) -> None:
    """Which images are here, how complete, how big, when last used."""
    query = {} if reference is None else {"reference": _checked(reference)}
    found = _listed(Server.find(admin, config).get("/api/v1/images", query), "images")
    if as_json:
        tables.show_json(found)
        return
    now = time.time()
    headings = ("IMAGE", "TAGS", "DIGEST", "PLATFORMS", "HERE", "OWN", "SHARED", "USED")
    tables.show(headings, [_image_row(image, now) for image in found], fold=(0, 1, 3))


def _image_row(image: Mapping[str, Any], now: float) -> tuple[str, ...]:
    platforms = [item["platform"] or _short(item["digest"]) for item in image["platforms"] if item["here"]]
    return (
        image["repository"],
        ", ".join(image["tags"]) or "-",
        _short(image["digest"]),
        ", ".join(platform.removeprefix("linux/") for platform in platforms) or "-",
        _completeness(image),
        tables.size(image["own_bytes"]),
        tables.size(image["shared_bytes"]),
        tables.age(image["last_used"], now),
    )


def _short(digest: str) -> str:
    return digest.partition(":")[2][:SHORT]


def _completeness(image: Mapping[str, Any]) -> str:
    if image["complete"]:
        return "whole"
    if not image["manifest_here"]:
        return "tag only"
    if image["platforms"] and not any(item["here"] for item in image["platforms"]):
        return "index only"
    return f"{image['blobs_present']} of {image['blobs_total']} blobs"


def usage(as_json: AsJson = False, admin: Admin = None, config: ConfigFile = None) -> None:
    """How much is kept, by upstream, rule and image."""
    told = Server.find(admin, config).get("/api/v1/usage")
    if as_json:
        tables.show_json(told)
        return
    rows = [("kept", tables.size(told["bytes"]), str(told["blobs"]))]
    rows += [("of which no image uses", tables.size(told["unused_bytes"]), str(told["unused_blobs"]))]
    rows += [(name, tables.size(told[key]), "-") for name, key in DISK]
    tables.show(("", "BYTES", "BLOBS"), rows)
    typer.echo(_outlook(told))
    typer.echo()
    upstreams = [(share["name"], tables.size(share["bytes"]), str(share["blobs"])) for share in told["upstreams"]]
    tables.show(("UPSTREAM", "BYTES", "BLOBS"), upstreams)
    typer.echo()
    rules = [
        (share["name"], tables.size(share["bytes"]), str(share["blobs"]), tables.size(share["limit_bytes"]))
        for share in told["rules"]
    ]
    tables.show(("RULE", "BYTES", "BLOBS", "LIMIT"), rules)
    typer.echo()
    largest = [
        (image["reference"], tables.size(image["own_bytes"]), tables.size(image["shared_bytes"]))
        for image in told["images"][:LARGEST]
    ]
    tables.show(("LARGEST IMAGE", "OWN", "SHARED"), largest)


def _outlook(told: Mapping[str, Any]) -> str:
    """How fast it grows, and when it will be full."""
    growth, days = told["growth_per_day_bytes"], told["days_to_full"]
    if growth is None:
        return "growth: not known yet"
    if days is None:
        return f"growth: {'-' if growth < 0 else ''}{tables.size(abs(growth))} a day"
    return f"growth: {tables.size(growth)} a day, full in {days:.1f} days"


def status(as_json: AsJson = False, admin: Admin = None, config: ConfigFile = None) -> int:
    """The server's health, part by part. Exit code 1 if it is failing."""
    told = Server.find(admin, config).get("/health", also=(503,))
    if as_json:
        tables.show_json(told)
    else:
        tables.show(
            ("PART", "STATUS", "ABOUT"), [("server", str(told.get("status")), ""), *_parts("", told)], fold=(0, 2)
        )
    return FAILED if told.get("status") == "failing" else 0


def _parts(name: str, told: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Every part below, however deep: what has a status of its own is one."""
    for key, value in told.items():
        if not isinstance(value, dict):
            continue
        path = f"{name} {key}".strip()
        if "status" in value:
            facts = [f"{fact}={shown}" for fact, shown in value.items() if _is_fact(fact, shown)]
            why = [value["why"]] if value.get("why") else []
            why += value.get("problems", [])
            yield path, str(value["status"]), "; ".join([*why, *facts])
        yield from _parts(path, value)


def _is_fact(name: str, value: Any) -> bool:
    return name not in ("status", "why") and value is not None and not isinstance(value, dict | list)


def refresh(reference: Reference, as_json: AsJson = False, admin: Admin = None, config: ConfigFile = None) -> None:
    """Check a tag upstream now."""
    named = _checked(reference, tag_only=True)
    told = Server.find(admin, config).post("/api/v1/refresh", {"reference": named})
    if as_json:
        tables.show_json(told)
        return
    typer.echo(printable(f"{named} is {told.get('digest')}: {_news(told)}"))


def _news(told: Mapping[str, Any]) -> str:
    if "moved" in told:
        return "moved" if told["moved"] else "unchanged"
    return "checked"


def evict(reference: Reference, as_json: AsJson = False, admin: Admin = None, config: ConfigFile = None) -> None:
    """Drop an image: its tag, and the content that no other image uses."""
    named = _checked(reference)
    told = Server.find(admin, config).post("/api/v1/evict", {"reference": named})
    if as_json:
        tables.show_json(told)
        return
    gone = f"{told['manifests']} manifests and {told['blobs']} blobs, {tables.size(told['bytes'])}"
    if not told["manifests"]:
        gone = "another tag or image still uses its content" if told["tags"] else "nothing of it was stored"
    typer.echo(printable(f"evicted {named}: {gone}"))


def verify(
    repair: Annotated[bool, typer.Option("--repair", help="Fetch again what is bad.")] = False,
    as_json: AsJson = False,
    admin: Admin = None,
    config: ConfigFile = None,
) -> int:
    """Hash everything that is stored. Bad content is set aside; exit code 1 if any is not mended."""
    server = Server.find(admin, config)
    told = server.post("/api/v1/verify", {"repair": repair}, within_s=VERIFY_WITHIN_S)
    bad = _listed(told, "bad")
    if as_json:
        tables.show_json(told)
    else:
        for found in bad:
            end = "fetched again" if found["mended"] else found.get("why_not") or "set aside"
            typer.echo(printable(f"{found['digest']} {found['found']}: {end}"))
        typer.echo(f"{told['blobs']} blobs, {tables.size(told['bytes'])}, {told['seconds']:.1f} s: {len(bad)} bad")
    return 0 if told["clean"] else FAILED


def _checked(reference: str, *, tag_only: bool = False) -> str:
    """A reference that can be one, as it was written; wrong use otherwise."""
    from proxy.reference import parse

    try:
        named = parse(reference)
    except ClientFault as cause:
        raise CommandFailed(str(cause), WRONG_USE) from cause
    if tag_only and not isinstance(named.target, str):
        raise CommandFailed("a digest never changes: name a tag", WRONG_USE)
    return reference.strip()


def _listed(told: Any, key: str) -> list[Any]:
    """The list itself, or the one under `key`."""
    found = told.get(key) if isinstance(told, dict) else told
    if not isinstance(found, list):
        raise CommandFailed(f"the server's answer holds no {key}: is it of another version?")
    return found
