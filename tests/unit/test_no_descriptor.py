"""No file descriptor is left: told as what it is, to the client and in the log, and held against nobody else."""

import errno
import resource
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from proxy.errors import Failure, UpstreamUnavailable, answer, refused
from proxy.upstream.client import Clients
from proxy.upstream.dialler import SystemResolver
from tests.unit.upstream_peers import Peer, Reply, Resolver, clients, config, source
from tests.unit.upstream_tokens import MANIFEST, Registry, token


@contextmanager
def none_left() -> Iterator[None]:
    """No descriptor can be opened."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


class Short(Resolver):
    """Names from a table; while `is_short`, one of them cannot be looked up."""

    is_short: Callable[[str], bool] = staticmethod(lambda _host: False)

    async def resolve(self, host: str) -> Sequence[str]:
        if self.is_short(host):
            raise OSError(errno.EMFILE, "Too many open files")
        return await super().resolve(host)


async def assert_told(upstreams: Clients, credentials: str | None = None) -> None:
    with pytest.raises(UpstreamUnavailable, match=r"out of file descriptors") as told:
        await upstreams.get_manifest(source(credentials=credentials), "1")
    assert (told.value.failure, told.value.retry_after_s) == (Failure.DESCRIPTORS, 1.0)
    assert answer(told.value) == (503, "UNAVAILABLE")


async def test_a_dial_that_finds_none_is_no_fault_of_the_upstream() -> None:
    """The breaker does not count it, and the next request goes out at once."""
    async with (
        Peer(lambda _asked: Reply(body=MANIFEST)) as registry,
        clients(config(registry.url(), breaker={"failures": 1})) as upstreams,
    ):
        for _ in range(3):
            with none_left():
                await assert_told(upstreams)
        assert not upstreams.endpoints("registry.test")[0].breaker.is_open
        assert (await upstreams.get_manifest(source(), "1")).body == MANIFEST


async def test_the_system_s_resolver_tells_it() -> None:
    """As the error that it is, and not as a name that leads nowhere."""
    resolver = SystemResolver()
    try:
        await resolver.resolve("localhost")  # its thread is there
        with none_left(), pytest.raises(OSError, match="open files") as told:
            await resolver.resolve("localhost")
        assert told.value.errno == errno.EMFILE
    finally:
        resolver.close()


async def test_a_name_that_could_not_be_looked_up_is_looked_up_again() -> None:
    """Nobody said that it has no address: it is not remembered so, and the breaker does not count it."""
    table = Short(r_test=["127.0.0.1"])
    async with (
        Peer(lambda _asked: Reply(body=MANIFEST)) as registry,
        clients(config(registry.url("r.test"), breaker={"failures": 1}), resolver=table) as upstreams,
    ):
        table.is_short = lambda _host: True
        for _ in range(3):
            await assert_told(upstreams)
        table.is_short = lambda _host: False
        assert (await upstreams.get_manifest(source(), "1")).body == MANIFEST


async def test_a_realm_that_could_not_be_asked_is_asked_again_at_once(password: Path) -> None:
    """It has not failed: its gate stays open, and the credential is not in doubt."""
    table = Short(realm_test=["127.0.0.1"])
    async with (
        Peer(lambda _asked: token("good")) as realm,
        Registry(realm, "good") as registry,
        clients(
            config(registry.url(), credentials={"hub": password}, trusted_realms=["realm.test"]), resolver=table
        ) as upstreams,
    ):
        registry.realm = f"{realm.url('realm.test')}/token"
        table.is_short = lambda host: host == "realm.test"
        for _ in range(3):
            await assert_told(upstreams, "hub")
        table.is_short = lambda _host: False
        assert (await upstreams.get_manifest(source(credentials="hub"), "1")).body == MANIFEST
        assert len(realm.asked) == 1


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (errno.EMFILE, "this member is out of file descriptors: oh"),
        (errno.ENFILE, "this member is out of file descriptors: oh"),
        (errno.EIO, "the cache's disk refuses: oh"),
        (errno.ENOSPC, "the cache's disk refuses: oh"),
    ],
)
def test_a_file_that_cannot_be_opened_for_want_of_one_is_no_fault_of_the_disk(number: int, said: str) -> None:
    """Both are 503 with Retry-After, in other words."""
    error = refused(OSError(number, "oh"))
    assert (str(error), answer(error)[0]) == (said, 503)
    assert error.retry_after_s is not None
