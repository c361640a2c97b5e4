"""The one door out: which addresses are dialled, on which road, and that nothing slips past."""

import socket
from collections.abc import Callable

import pytest

from proxy.errors import DialRefused, UpstreamFault, UpstreamUnavailable
from proxy.rules import Source
from proxy.tasks import Tasks
from proxy.upstream import addresses
from proxy.upstream.dialler import (
    AddressRefused,
    CheckedResolver,
    Names,
    Policy,
    SystemResolver,
    checked_socket,
    configured,
)
from tests.unit.upstream_peers import (
    PRIVATE,
    PUBLIC,
    Asked,
    Hand,
    Peer,
    Reply,
    Resolver,
    clients,
    config,
    digest_of,
    source,
)

BLOB = b"blob" * 100
METADATA = "169.254.169.254"
INSIDE = (
    METADATA,
    "127.0.0.1",
    "10.0.0.1",
    "100.100.100.200",
    "192.0.0.192",
    "192.168.1.1",
    "[::1]",
    "[fd00:ec2::254]",
    "[::ffff:127.0.0.1]",
    "[64:ff9b::a9fe:a9fe]",
    "[2002:a9fe:a9fe::]",
    "[fec0::1]",
    "0.0.0.0",
)


def lead_to(url: Callable[[], str]) -> Callable[[Asked], Reply]:
    """A registry that redirects everything."""
    return lambda _asked: Reply(307, [("Location", url())])


async def test_configured_hosts_may_have_any_address_but_metadata() -> None:
    """Refused addresses are left out of the answer; with nothing left the name is not dialled."""
    policy = Policy(configured, strict=False)
    found = [addresses.parse(text) for text in ("fe80::1", "10.0.0.1", METADATA, "1.1.1.1")]
    known = [address for address in found if address is not None]
    assert [str(address) for address in policy.choose("r.test", known)] == ["10.0.0.1", "1.1.1.1"]
    with pytest.raises(AddressRefused):
        policy.choose("r.test", [known[0], known[2]])


async def test_a_strict_policy_refuses_a_mixed_answer() -> None:
    """One private address among public ones refuses the whole name; the resolver hands out what was checked."""
    policy = Policy(lambda address: addresses.kind(address) is addresses.Kind.PUBLIC, strict=True)
    table = Resolver(cdn_test=["1.1.1.1", "10.0.0.1"], good_test=["1.1.1.1", "2606:4700::1111"])
    async with Tasks() as tasks:
        resolver = CheckedResolver(Names(table, tasks), policy)
        with pytest.raises(AddressRefused):
            await resolver.resolve("cdn.test", 443)
        good = await resolver.resolve("good.test.", 443)
    assert [(entry["host"], entry["port"]) for entry in good] == [("1.1.1.1", 443), ("2606:4700::1111", 443)]


def test_no_socket_is_made_for_a_refused_address() -> None:
    """The last gate sees the very address of the very socket, literal or resolved."""
    make = checked_socket(Policy(configured, strict=False))
    for text in (METADATA, "fe80::1", "no-address"):
        with pytest.raises(AddressRefused):
            make((socket.AF_INET, socket.SOCK_STREAM, 0, "", (text, 80)))
    with make((socket.AF_INET, socket.SOCK_STREAM, 0, "", ("127.0.0.1", 80))) as made:
        assert made.family is socket.AF_INET


async def test_names_are_kept_for_a_while_found_or_not() -> None:
    """A changed address is seen after half a minute, a new name after five seconds; nothing is asked twice before."""
    hand, table = Hand(), Resolver(r_test=["127.0.0.1"])
    async with Tasks() as tasks:
        names = Names(table, tasks, monotonic=hand)
        for _ in range(2):
            assert [str(one) for one in await names.resolve("r.test")] == ["127.0.0.1"]
            with pytest.raises(OSError, match="name"):
                await names.resolve("new.test")
        assert table.asked == ["r.test", "new.test"]
        table.names = {"r.test": ["127.0.0.2"], "new.test": ["127.0.0.3"], "empty.test": []}
        hand.now += 6
        assert [str(one) for one in await names.resolve("new.test")] == ["127.0.0.3"]
        hand.now += 25
        assert [str(one) for one in await names.resolve("r.test")] == ["127.0.0.2"]
        with pytest.raises(OSError, match="no address"):
            await names.resolve("empty.test")


async def test_the_systems_resolver() -> None:
    """localhost has a loopback address; what is no host name is an OSError like any other failure."""
    resolver = SystemResolver()
    try:
        assert set(await resolver.resolve("localhost")) <= {"127.0.0.1", "::1"}
        with pytest.raises(OSError, match="no host name"):
            await resolver.resolve("x" * 70 + ".test")
    finally:
        resolver.close()


async def test_ten_thousand_names_leave_a_bounded_cache() -> None:
    """A flood of names does not stay in memory."""
    table = Resolver(**{f"n{number}_test": ["127.0.0.1"] for number in range(3000)})
    async with Tasks() as tasks:
        names = Names(table, tasks)
        for number in range(3000):
            await names.resolve(f"n{number}.test")
        assert len(names) <= 2048


@pytest.mark.parametrize("host", INSIDE)
async def test_a_public_registry_leads_to_no_address_of_the_house(host: str) -> None:
    """A redirect to loopback, private, metadata and translated addresses makes no connection (V28, V29)."""
    async with Peer(lambda _asked: Reply(body=BLOB)) as inside:
        async with Peer(lead_to(lambda: f"http://{host}:{inside.port}/x")) as registry:
            settings = config(registry.url("registry.test"))
            async with clients(settings, resolver=Resolver(registry_test=PUBLIC)) as upstreams:
                for ask in (upstreams.get_manifest(source(), "1"), upstreams.head_blob(source(), digest_of(BLOB))):
                    with pytest.raises(DialRefused):
                        await ask
        assert inside.connections == 0


@pytest.mark.parametrize(
    "found",
    [("127.0.0.1",), ("1.1.1.1", "127.0.0.1"), ("127.0.0.1", "1.1.1.1"), (METADATA,), ("::ffff:7f00:1",)],
)
async def test_a_name_that_leads_inside_is_refused(found: tuple[str, ...]) -> None:
    """Not only literals: the resolved addresses count, mixed sets too (V30)."""
    table = Resolver(registry_test=PUBLIC, cdn_test=found)
    async with Peer(lambda _asked: Reply(body=BLOB)) as inside:
        async with (
            Peer(lead_to(lambda: inside.url("cdn.test"))) as registry,
            clients(config(registry.url("registry.test")), resolver=table) as upstreams,
        ):
            with pytest.raises(DialRefused):
                await upstreams.get_manifest(source(), "1")
        assert inside.connections == 0


async def test_a_name_that_changes_between_check_and_dial_gains_nothing() -> None:
    """One look-up serves both: the resolver's second, private answer is never asked for (rebinding)."""
    table = Resolver(registry_test=PUBLIC)
    answers = iter([["2001:4860:4860::8888", "127.0.0.1"], ["127.0.0.1"]])

    class Rebinding:
        async def resolve(self, host: str) -> list[str]:
            return next(answers) if host == "cdn.test" else list(await table.resolve(host))

    async with Peer(lambda _asked: Reply(body=BLOB)) as inside:
        async with (
            Peer(lead_to(lambda: inside.url("cdn.test"))) as registry,
            clients(config(registry.url("registry.test")), resolver=Rebinding()) as upstreams,
        ):
            for _ in range(2):
                with pytest.raises(DialRefused):
                    await upstreams.get_manifest(source(), "1")
        assert inside.connections == 0


@pytest.mark.parametrize(
    ("registry_addresses", "trusted"),
    [(PRIVATE, []), (PUBLIC, ["cdn.test"]), (PUBLIC, ["127.0.0.0/8"])],
    ids=["a registry of the house", "a trusted host", "a trusted network"],
)
async def test_redirects_inside_where_they_belong(registry_addresses: tuple[str, ...], trusted: list[str]) -> None:
    """A private registry may use private storage; a public one what the configuration names."""
    table = Resolver(registry_test=registry_addresses, cdn_test=["127.0.0.1"])
    async with (
        Peer(lambda _asked: Reply(body=BLOB)) as storage,
        Peer(lead_to(lambda: storage.url("cdn.test"))) as registry,
    ):
        settings = config(registry.url("registry.test"), trusted_redirects=trusted)
        async with clients(settings, resolver=table) as upstreams:
            assert (await upstreams.get_manifest(source(), "1")).body == BLOB


@pytest.mark.parametrize("host", [METADATA, "[fd00:ec2::254]", "meta.test"])
async def test_metadata_is_never_dialled_not_even_by_configuration(host: str) -> None:
    """As an endpoint, and as a redirect that the configuration trusts."""
    table = Resolver(registry_test=PRIVATE, meta_test=[METADATA])
    async with clients(config(f"http://{host}:1"), resolver=table) as upstreams:
        with pytest.raises(DialRefused):
            await upstreams.get_manifest(source(), "1")
    async with Peer(lead_to(lambda: f"http://{host}:1/")) as registry:
        settings = config(registry.url("registry.test"), trusted_redirects=["0.0.0.0/0", "::/0", "meta.test"])
        async with clients(settings, resolver=table) as upstreams:
            with pytest.raises(DialRefused):
                await upstreams.get_manifest(source(), "1")


async def test_realms_and_links_go_through_the_same_door() -> None:
    """A realm on the registry's own domain that resolves to an address of the house is not asked; nor is a Link."""
    table = Resolver(r_example_test=PUBLIC, auth_example_test=PRIVATE)
    async with Peer(lambda _asked: Reply(body=b'{"token":"t"}')) as inside:

        def serve(asked: Asked) -> Reply:
            if asked.target.endswith("/tags/list"):
                return Reply(
                    headers=[("Link", f'<{inside.url()}/v2/library/nginx/tags/list?last=x>; rel="next"')], body=b"{}"
                )
            return Reply(401, [("WWW-Authenticate", f'Bearer realm="{inside.url("auth.example.test")}/t"')])

        async with (
            Peer(serve) as registry,
            clients(config(registry.url("r.example.test")), resolver=table) as upstreams,
        ):
            with pytest.raises(DialRefused):
                await upstreams.get_manifest(source(), "1")
            with pytest.raises(DialRefused):
                await upstreams.tags(source(), {})
        assert inside.connections == 0


async def test_a_name_without_an_address_is_an_outage() -> None:
    """NXDOMAIN opens the breaker like any unreachable upstream, and says so."""
    async with clients(config("http://gone.test:1", breaker={"failures": 2})) as upstreams:
        for _ in range(3):
            with pytest.raises(UpstreamUnavailable):
                await upstreams.get_manifest(source(), "1")
        assert upstreams.endpoints("registry.test")[0].breaker.is_open


async def test_an_unknown_upstream_is_dialled_nowhere() -> None:
    """A name is a key of the configuration, never an address (V32)."""
    table = Resolver()
    async with clients(config("http://registry.test:1"), resolver=table) as upstreams:
        for name in (METADATA, "user@host", "a\r\nb", "evil.test"):
            with pytest.raises(UpstreamFault):
                await upstreams.get_manifest(Source(name, "x"), "1")
    assert table.asked == []


@pytest.mark.parametrize("is_allowed", [True, False])
async def test_a_connect_proxy_is_asked_for_allowed_names_only(is_allowed: bool) -> None:
    """The configured endpoint goes through whatever its name; a redirect through it needs a public-looking name, and
    the proxy's password reaches the proxy alone.
    """
    target = "http://cdn.example.com/x" if is_allowed else "http://intranet/x"

    def forward(asked: Asked) -> Reply:
        if "cdn.example.com" in asked.target:
            return Reply(body=BLOB)
        return Reply(307, [("Location", target)])

    async with Peer(forward) as proxy:
        environ = {"HTTP_PROXY": f"http://me:pw@127.0.0.1:{proxy.port}"}
        async with clients(config("http://registry:5000", proxy="env"), environ=environ) as upstreams:
            if is_allowed:
                assert (await upstreams.get_manifest(source(), "1")).body == BLOB
            else:
                with pytest.raises(DialRefused):
                    await upstreams.get_manifest(source(), "1")
        assert [asked.target for asked in proxy.asked][:1] == ["http://registry:5000/v2/library/nginx/manifests/1"]
        assert len(proxy.asked) == 1 + is_allowed
        assert all(asked.headers["Proxy-Authorization"] == "Basic bWU6cHc=" for asked in proxy.asked)
