"""`cistern serve` takes over another file or certificate while it streams, and while it drains."""

import asyncio
import json
import os
import signal
import ssl
from pathlib import Path

import pytest

from tests.support.cistern import CisternProcess
from tests.support.images import Blob
from tests.support.registry import Registry
from tests.support.served import asked, config, draining, streaming, told
from tests.support.tls import Authority


async def test_sighup_and_a_changed_file_reload(served: CisternProcess, registry: Registry, layer: Blob) -> None:
    """A signal at once, a file by itself; a bad one is told line by line, and the server goes on."""
    manifest = "/v2/hub.test/team/app/manifests/1"
    async with served:
        pulling, gate = await streaming(served, registry, layer)
        served.configure(config(registry, rules=[{"name": "no", "upstream": "hub.test/*", "deny": True}]))
        served.reload()
        await served.logged(lambda line: line["event"] == "config taken over")
        denied = await asked(served.registry_url, manifest)
        assert (denied.status, json.loads(await denied.rest())["errors"][0]["code"]) == (403, "DENIED")
        served.configure("upstreams: {hub.test: {}}\nregsitry: {}\nrules: 7\n")
        problem = await served.logged(lambda line: line["event"] == "config refused, the old one stays")
        assert problem["problem"] == f"{served.config_path}:2: regsitry: unknown key, did you mean registry?"
        health = await asked(served.admin_url, "/health")
        assert len(json.loads(await health.rest())["config"]["problems"]) == 2
        assert "2: regsitry: unknown key" in (await served.command("status")).check().output
        gate.open()
        assert await pulling.rest() == layer.data
        served.configure(config(registry))
        served.reload()
        await served.logged(lambda line: line["event"] == "config taken over" and line["rules"] == 0)
        allowed = await asked(served.registry_url, manifest)
        assert (allowed.status, len(await allowed.rest()) > 0) == (200, True)


async def test_a_renewed_certificate_is_shown_without_a_restart(
    short_tmp: Path, registry: Registry, ca: Authority
) -> None:
    """Replaced as cert-manager does, and seen by itself; half of the pair in between changes nothing and is told."""
    (short_tmp / "new").mkdir()
    chain, key = ca.files(short_tmp, "localhost")
    other = Authority(short_tmp)
    tls = {"certificate": str(chain), "key": str(key)}
    served = CisternProcess(short_tmp / "cistern", config(registry, registry={"tls": tls}))

    async def shown(trusted: Authority) -> None:
        """Shake hands; raises SSLCertVerificationError if another authority's certificate is shown."""
        port = int(served.registry_url.rpartition(":")[2])
        _, writer = await asyncio.open_connection(
            "127.0.0.1", port, ssl=trusted.client(), server_hostname="localhost"
        )  # fmt: skip
        writer.transport.abort()

    async with served:
        await shown(ca)
        new_chain, new_key = other.files(short_tmp / "new", "localhost")
        os.replace(new_chain, chain)
        problem = await told(served, "config refused, the old one stays")
        assert problem["problem"].startswith(f"registry.tls: {chain} and {key} do not serve")
        await shown(ca)
        os.replace(new_key, key)
        await told(served, "config taken over")
        await shown(other)
        with pytest.raises(ssl.SSLCertVerificationError):
            await shown(ca)


async def test_a_reload_while_it_drains_disturbs_nobody(
    served: CisternProcess, registry: Registry, layer: Blob
) -> None:
    """SIGHUP, good or bad, neither ends the process nor its streams."""
    async with served:
        pulling, gate = await streaming(served, registry, layer)
        await draining(served, signal.SIGTERM)
        for text, said in ((config(registry), "config taken over"), ("nonsense", "config refused, the old one stays")):
            served.configure(text)
            served.reload()
            await told(served, said)
        gate.open()
        assert await pulling.rest() == layer.data
        assert await served.ended() == 0
