"""What `explain` says of each class of failure, beside what a client really gets: the same failure, in words."""

import errno
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from proxy.errors import ANSWERS, Failure
from proxy.explain import Explanation, Verdict
from proxy.failures import POLICIES
from tests.support import script
from tests.support.clock import Clock
from tests.support.images import blob, manifest
from tests.support.kept import Kept, kept
from tests.support.proxy import UPSTREAM, config_text, running
from tests.support.realm import Bearer, Realm
from tests.support.registry import Registry
from tests.support.tls import Names
from tests.support.wire import Fault

APP = f"{UPSTREAM}/team/app"
PASSWORD = "OPS_TEST_PASSWORD"
SET = f"credentials: {{team: {{username: me, password: {{env: {PASSWORD}}}}}}}\n"
LAYER = blob(500_000)
LOGIN = {"credentials": "team", "allow_insecure_credentials": True}
EVERY = ("GET", "HEAD")


def answering(fault: Fault) -> Callable[[Registry], object]:
    """The registry answers everything so."""
    return lambda registry: registry.script("*", fault, methods=EVERY)


def cut_manifests(registry: Registry) -> None:
    """HEAD is not known, and every body breaks off: a short one of a manifest, too."""
    registry.script("*", script.error(405), methods=("HEAD",))
    registry.script("*", script.cut(10))


@dataclass(frozen=True, slots=True)
class Case:
    """How a failure comes about, and words that its explanation must have."""

    said: str
    happens: Callable[[Registry], object] = lambda _registry: None
    url: Callable[[Registry], str] = lambda registry: registry.url
    keys: dict[str, Any] = field(default_factory=dict)
    extra: str = ""
    names: Callable[[], Names] = Names


class Short(Names):
    """A resolver with no file descriptor left to ask with."""

    async def resolve(self, host: str) -> list[str]:
        raise OSError(errno.EMFILE, "Too many open files")


CASES: dict[Failure, Case] = {
    Failure.DNS: Case("name servers", url=lambda _registry: "http://nowhere.test:5000"),
    Failure.CONNECT: Case("is it up", url=lambda _registry: "http://127.0.0.1:9"),
    Failure.TLS: Case("upstreams.origin.test.tls.ca", url=lambda registry: registry.url.replace("http:", "https:")),
    Failure.TIMEOUT: Case(
        "upstreams.origin.test.timeouts",
        lambda registry: registry.hold_headers("*"),
        keys={"timeouts": {"headers": "50ms"}},
    ),
    Failure.SERVER_ERROR: Case("the registry itself fails", answering(script.error(500))),
    Failure.CUT: Case("ends its answers early", lambda registry: cut_manifests(registry)),
    Failure.LEFT_ALONE: Case(
        "tried again by itself", answering(script.error(500)), keys={"breaker": {"failures": 1, "reset_after": "60s"}}
    ),
    Failure.BUSY: Case(
        "blobs of origin.test are under way in all of them",
        lambda registry: registry.hold(LAYER.digest, after_bytes=10),
        keys={"max_connections": 1, "timeouts": {"headers": "50ms"}},
    ),
    Failure.DESCRIPTORS: Case(
        "nothing is wrong with the upstream", url=lambda _registry: "http://short.test", names=Short
    ),
    Failure.THROTTLED: Case("it may be asked again in", answering(script.throttle("30"))),
    Failure.DENIED: Case("upstreams.origin.test.credentials", answering(script.error(403, "DENIED"))),
    Failure.CREDENTIAL_REFUSED: Case("whether they have expired", keys=LOGIN, extra=SET),
    Failure.CREDENTIAL_UNAVAILABLE: Case("credentials.team.password", keys=LOGIN, extra=SET),
    Failure.NOT_FOUND: Case("check the name and the tag", lambda registry: registry.untag("team/app", "1")),
    Failure.BAD_CONTENT: Case("no login page", answering(script.html())),
}


def test_every_class_is_tried() -> None:
    """A new class of failure gets its case here; a slow answer is one to a tag that is held."""
    assert {*CASES, Failure.SLOW} == set(Failure)


@pytest.mark.parametrize("failure", CASES)
async def test_a_failure_is_explained_as_a_client_meets_it(
    cache_dir: Path, registry: Registry, monkeypatch: pytest.MonkeyPatch, failure: Failure
) -> None:
    """The class, what to do, and the status of a pull: all three tell of the same thing."""
    case = CASES[failure]
    registry.add("team/app", "1", manifest(LAYER))
    monkeypatch.delenv(PASSWORD, raising=False)
    async with Realm() as realm:
        if failure is Failure.CREDENTIAL_REFUSED:
            monkeypatch.setenv(PASSWORD, "wrong")
            realm.users, realm.private, registry.authority = {"me": "right"}, {"team/app"}, Bearer(realm)
        elif failure is Failure.CREDENTIAL_UNAVAILABLE:
            registry.authority = Bearer(realm)
        case.happens(registry)
        text = config_text(cache_dir, case.url(registry), case.extra, proxy="none", **case.keys)
        async with running(text, resolver=case.names()) as proxy:
            rooms = Kept.over(proxy)
            busy = await proxy.start_pull(LAYER) if failure is Failure.BUSY else None
            if busy is not None:
                await busy.read(1)
            if failure is Failure.LEFT_ALONE:
                assert (await proxy.ask("team/app/manifests/1")).status == 503
            found = await rooms.explain.explain(f"{APP}:1")
            status = (await proxy.ask("team/app/manifests/1")).status
            if busy is not None:
                await busy.leave()
    assert found.verdict is Verdict.FAILS
    assert found.problem is not None
    assert found.problem.failure == failure.value
    assert case.said in found.problem.advice
    assert status == expected(failure)
    assert_said_once(found)


def assert_said_once(found: Explanation) -> None:
    """Why it fails stands in the text once, and so does each half of it."""
    assert found.problem is not None
    lines = found.as_text()
    for words in (found.problem.why, found.problem.why.rpartition(": ")[2]):
        assert sum(words in line for line in lines) == 1, lines


async def test_an_answer_that_is_slow_is_foretold(cache_dir: Path, registry: Registry, clock: Clock) -> None:
    """A held tag is asked for no longer than a pull would ask: what comes later than `check_within` finds it served."""
    image = registry.add("team/app", "1", manifest(blob(500)))
    extra = "hydrate: {image: none}\ntags: {check_within: 50ms}\n"
    async with kept(cache_dir, registry, clock, extra) as rooms:
        await rooms.pull(image)
        clock.advance(3600)
        gate = registry.hold_headers("1")
        found = await rooms.explain.explain(f"{APP}:1")
        reply = await rooms.proxy.ask("team/app/manifests/1")
        gate.open()
    assert (found.verdict, found.works, found.problem and found.problem.failure) == (Verdict.STALE, True, "slow")
    assert (reply.status, "no answer within 0.05 s" in reply.headers["Warning"]) == (200, True)
    assert_said_once(found)


async def test_blobs_that_break_off_are_told(cache_dir: Path, registry: Registry) -> None:
    """The manifest is there and all looks well: that the last body broke off is said, until one comes whole."""
    layer = blob(200_000)
    image = registry.add("team/app", "1", manifest(layer))
    path = f"team/app/blobs/{layer.digest}"
    registry.script(layer.digest, script.error(500))
    registry.script(layer.digest, script.cut(100_000), times=1)
    async with kept(cache_dir, registry) as rooms:
        await rooms.proxy.ask("team/app/manifests/1")
        with pytest.raises(ConnectionError):
            await rooms.proxy.ask(path)
        broken = await rooms.explain.explain(f"{APP}:1")
        registry.heal()
        await rooms.pull(image)
        mended = await rooms.explain.explain(f"{APP}:1")
    assert (broken.works, mended.works) == (True, True)
    assert sum("its answer was cut short" in line for line in broken.as_text()) == 1
    assert not any("cut short" in line for line in mended.as_text())


def expected(failure: Failure) -> int:
    """The status of the table; of two it depends on who asks: a mirror is told 503, and an anonymous asker 404."""
    depends = {Failure.THROTTLED: 503, Failure.DENIED: 404}
    kind = POLICIES[failure].error
    return depends.get(failure) or next(ANSWERS[parent][0] for parent in kind.__mro__ if parent in ANSWERS)
