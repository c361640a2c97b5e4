"""Warm blobs by redirect: what is left to the host that is asked, and what the data path takes, per gigabyte.

nginx with the documented configuration (config/nginx-data.conf) stands at the data address of the Cistern that answers
307: beside another one that sends everything itself, and nginx with a plain file.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import urlsplit

from benchmarks import peers
from benchmarks.bench import MIB, Bench, ClientFailed
from benchmarks.figures import CISTERN, Row, summary
from benchmarks.manifests import requests_per_cpu_s
from benchmarks.peers import Subject, plain_file
from benchmarks.process import free_port, started
from benchmarks.upstream import OCI_MANIFEST

BLOB = 64 * MIB
CONNECTIONS = 16
ASKED, DATA = "Cistern, 307", "nginx, data"
CONFIG = Path(__file__).parent.parent / "config" / "nginx-data.conf"
TLS = ("        ssl_certificate ", "        ssl_certificate_key ", "        ssl_protocols ")


def measure(bench: Bench) -> list[Row]:
    """CPU milliseconds per gigabyte of each part, and 307 answers per CPU second."""
    bench.say("warm blobs by redirect")
    home = bench.home / "redirect"
    home.mkdir()
    home.chmod(0o755)
    with ExitStack() as stack:
        port, socket = free_port(), home / "data.sock"
        redirect = {"url": f"http://127.0.0.1:{port}", "clients": ["127.0.0.0/8"]}
        blobs = {"blobs": {"listen": f"unix:{socket}", "redirect": redirect}}
        direct = stack.enter_context(peers.cistern(home / "direct", bench.upstream, bench.cistern_command))
        asked = stack.enter_context(
            peers.cistern(home / "asked", bench.upstream, bench.cistern_command, settings=blobs)
        )
        data = stack.enter_context(_nginx(home / "nginx", port, socket, home / "asked" / "cache"))
        server = stack.enter_context(peers.nginx(home / "plain", bench.upstream))
        plain = plain_file(server, "blob", BLOB)
        image = bench.upstream.image([BLOB])
        digest = image["blobs"][1]
        for subject in (direct, asked):  # nobody has named it yet: sent directly, whatever is configured
            bench.pull(subject, digest)
        asked.get(asked.manifest(image["tag"]), accept=OCI_MANIFEST)
        return _rows(bench, direct, asked, data, plain, digest)


def _rows(bench: Bench, direct: Subject, asked: Subject, data: Subject, plain: Subject, digest: str) -> list[Row]:
    spent: dict[str, list[float]] = {}
    answers: list[float] = []
    for _ in range(bench.rounds):
        for subject, path in ((direct, direct.blob(digest)), (plain, "/blob")):
            spent.setdefault(subject.name, []).append(1e12 / _bytes_per_cpu_s(bench, subject, path))
        answers.append(requests_per_cpu_s(asked, asked.blob(digest)))
        before = asked.cpu_seconds()
        received, moved = bench.loop(
            data, _address(asked, digest), connections=CONNECTIONS, seconds=bench.pick(12, 5) / 10
        )
        said = asked.cpu_seconds() - before  # nginx asks once a blob
        spent.setdefault(ASKED, []).append(1e12 * (said / received + 1 / answers[-1] / BLOB))
        spent.setdefault(DATA, []).append(1e12 * moved / received)
    cells = {name: summary(taken, min) for name, taken in spent.items()}
    name = "warm blob of 64 MiB, the host that is asked: by redirect / directly"
    return [
        Row("redirect", name, "cpu-ms/GB", cells, cells[ASKED].value / cells[CISTERN].value, samples=spent),
        Row("redirect", "307 answers", "req/cpu-s", {CISTERN: summary(answers, max)}, max(answers)),
    ]


def _bytes_per_cpu_s(bench: Bench, subject: Subject, path: str) -> float:
    received, spent = bench.loop(subject, path, connections=CONNECTIONS, seconds=bench.pick(12, 5) / 10)
    return received / spent


def _address(subject: Subject, digest: str) -> str:
    """Path and query of the signed address. ClientFailed: it was not redirected."""
    connection = HTTPConnection(subject.host, subject.port, timeout=30)
    try:
        connection.request("GET", subject.blob(digest))
        answer = connection.getresponse()
        if answer.status != 307:
            raise ClientFailed(f"{subject.name} answers {answer.status}, not 307")
        found = urlsplit(answer.headers["Location"])
        return f"{found.path}?{found.query}"
    finally:
        connection.close()


@contextmanager
def _nginx(home: Path, port: int, socket: Path, cache: Path) -> Iterator[Subject]:
    """nginx at the data address, as documented but for TLS, one worker, and where things are."""
    home.mkdir()
    home.chmod(0o755)
    user = "user root;" if Path("/proc/self").stat().st_uid == 0 else ""
    lines = [line for line in CONFIG.read_text().splitlines() if not line.startswith(TLS)]
    config = "\n".join(lines)
    temporary = " ".join(
        f"{kind}_temp_path {home}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    for documented, here in (
        ("user cistern;", f"daemon off; pid {home}/nginx.pid; {user}"),
        ("worker_processes auto;", "worker_processes 1;"),
        ("http {", f"http {{ access_log off; keepalive_requests 10000000; {temporary}"),
        ("unix:/run/cistern/data.sock;", f"unix:{socket};"),
        ("listen 443 ssl;", f"listen 127.0.0.1:{port};"),
        ("/var/lib/cistern/blobs/", f"{cache}/blobs/"),
    ):
        config = config.replace(documented, here)
    (home / "nginx.conf").write_text(config)
    words = ["nginx", "-p", str(home), "-c", str(home / "nginx.conf"), "-e", str(home / "error.log")]
    with started(words, home, "nginx") as (process, log):
        subject = Subject(DATA, process, port, log=log)
        peers.answering(subject)
        yield subject
