"""Debian's nginx before a registry, with what operators put there: TLS, a redirect for blobs, a limit on requests. And
as the data address, with the documented configuration.
"""

import asyncio
import socket
from pathlib import Path
from typing import Self

from tests.support.process import Server

CONFIG = """\
daemon off; master_process off; worker_processes 1; pid {home}/nginx.pid; error_log stderr info;
events {{ worker_connections 256; }}
http {{
  access_log {home}/access.log; client_body_temp_path {home}/body; proxy_temp_path {home}/proxy;
  fastcgi_temp_path {home}/fastcgi; uwsgi_temp_path {home}/uwsgi; scgi_temp_path {home}/scgi;
  limit_req_zone $server_name zone=all:1m rate=1r/m; limit_req_status 429;
  server {{
    listen 127.0.0.1:{port} ssl; server_name front; ssl_certificate {chain}; ssl_certificate_key {key};
    location / {{ {limit} proxy_pass {origin}; proxy_set_header Host $http_host; }}
    location ~ ^/v2/(.+)/blobs/(.+)$ {{ {limit} {blobs} }}
    location /data/ {{ rewrite ^/data/(.*)$ /v2/$1 break; proxy_pass {origin}; }}
  }}
}}
"""


DOCUMENTED = Path(__file__).parents[2] / "config" / "nginx-data.conf"
# What differs for a test: nobody's user, a port of its own, and files in its home.
PATHS = "access_log {home}/access.log; " + " ".join(
    f"{name}_temp_path {{home}}/{name};" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
)


class _Running:
    """An nginx with its configuration in `home`, serving on `port` of the loopback."""

    def __init__(self, home: Path, port: int, config: str) -> None:
        self.home = home
        self.port = port
        home.mkdir(parents=True, exist_ok=True)
        (home / "nginx.conf").write_text(config)
        self._server: Server | None = None

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    def statuses(self) -> list[int]:
        """The status of every request it has answered."""
        lines = (self.home / "access.log").read_text().splitlines()
        return [int(line.split('" ')[1].split()[0]) for line in lines]

    async def __aenter__(self) -> Self:
        self._server = Server(["nginx", "-p", self.home, "-c", self.home / "nginx.conf", "-e", "stderr"])
        # It listens before it turns to its events.
        await asyncio.to_thread(self._server.ready, lambda line: "event method" in line)
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._server is not None:
            await asyncio.to_thread(self._server.stop)


def free_port() -> int:
    """A port of the loopback that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Nginx(_Running):
    """nginx over TLS at `url`, in front of `origin`. `burst`: so many requests are answered, then 429; None: all."""

    def __init__(
        self, home: Path, origin: str, certificate: tuple[Path, Path], *, burst: int | None, redirects: bool
    ) -> None:
        port, (chain, key) = free_port(), certificate
        limit = "" if burst is None else f"limit_req zone=all burst={burst} nodelay;"
        blobs = f"return 307 https://127.0.0.1:{port}/data/$1/blobs/$2;" if redirects else f"proxy_pass {origin};"
        super().__init__(
            home,
            port,
            CONFIG.format(home=home, port=port, chain=chain, key=key, origin=origin, limit=limit, blobs=blobs),
        )


class DataNginx(_Running):
    """config/nginx-data.conf over the socket and the cache directory of a Cistern, with this certificate."""

    def __init__(self, home: Path, cache_dir: Path, control: Path, certificate: tuple[Path, Path]) -> None:
        port, (chain, key) = free_port(), certificate
        config = DOCUMENTED.read_text()
        for documented, here in (
            ("user cistern;", f"daemon off; master_process off; pid {home}/nginx.pid; error_log stderr info;"),
            ("http {\n", "http {\n" + PATHS.format(home=home) + "\n"),
            ("unix:/run/cistern/data.sock;", f"unix:{control};"),
            ("listen 443 ssl;", f"listen 127.0.0.1:{port} ssl;"),
            ("/etc/cistern/data.crt", str(chain)),
            ("/etc/cistern/data.key", str(key)),
            ("/var/lib/cistern/blobs/", f"{cache_dir}/blobs/"),
        ):
            assert documented in config, documented
            config = config.replace(documented, here)
        super().__init__(home, port, config)
