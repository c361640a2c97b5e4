"""A certificate for the loopback, made by openssl: what the TLS rows serve with."""

import subprocess
from dataclasses import dataclass
from pathlib import Path

from benchmarks.process import CannotStart


@dataclass(frozen=True, slots=True)
class Certificate:
    chain: Path
    key: Path


def make(folder: Path) -> Certificate:
    """A key and a certificate of its own, P-256 as most servers have it. CannotStart: openssl does not."""
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o755)
    made = Certificate(folder / "tls.crt", folder / "tls.key")
    words = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    words += ["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    words += ["-subj", "/CN=localhost", "-days", "2", "-keyout", str(made.key), "-out", str(made.chain)]
    ended = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    if ended.returncode != 0:
        raise CannotStart(f"openssl makes no certificate: {ended.stderr[-300:]}")
    return made
