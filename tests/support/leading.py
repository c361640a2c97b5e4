"""Upstreams that lead elsewhere: the ways they say it, and a bystander whom nobody may be led to."""

from tests.support.images import Image
from tests.support.site import Site
from tests.support.wire import Answer, Recorded, reply

APP = "team/app"
ROADS = ["manifest", "blob", "tags", "referrers"]


class Bystander(Site):
    """A host that nobody may be led to: it only records who came."""

    async def answer(self, request: Recorded) -> Answer:
        return reply(200, b"{}", "application/json")


def target(road: str, image: Image) -> str:
    layer = image.layers[0].digest
    return {
        "manifest": f"{APP}/manifests/1",
        "blob": f"{APP}/blobs/{layer}",
        "tags": f"{APP}/tags/list",
        "referrers": f"{APP}/referrers/{image.digest}",
    }[road]


REALMS = {
    "another domain": 'Bearer realm="http://{port}/token",service="x"',
    "plain http": 'Bearer realm="http://registry.example.com:{number}/token",service="x"',
    "userinfo": 'Bearer realm="https://registry.example.com@{port}/token",service="x"',
    "IP literal": 'Bearer realm="https://{port}/token",service="x"',
    "look-alike": 'Bearer realm="https://registry.example.com.evil.test:{number}/token",service="x"',
    "metadata": 'Bearer realm="https://169.254.169.254/token",service="x"',
    "backslash": 'Bearer realm="https://registry.example.com\\\\@{port}/token",service="x"',
}


ELSEWHERE = {
    "metadata": "http://169.254.169.254/latest/meta-data",
    "metadata over TLS": "https://169.254.169.254/latest",
    "IPv6 metadata": "https://[fd00:ec2::254]/x",
    "NAT64 of metadata": "https://[64:ff9b::a9fe:a9fe]/x",
    "plain http": "http://cdn.example.com:{port}/x",
    "another scheme": "file:///etc/passwd",
}


PRIVATE = {
    "loopback": "https://127.0.0.1:{port}/x",
    "house": "https://10.0.0.1/x",
    "CGNAT": "https://100.64.0.1/x",
    "mapped loopback": "https://[::ffff:127.0.0.1]:{port}/x",
    "a name of the house": "https://inside.example.com:{port}/x",
}
