"""The commands in this process and in one of their own, and what they are asked about."""

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest

from proxy.cli import main

ROOT: Final = Path(__file__).parents[2]
DIGEST: Final = "sha256:" + "1f" * 32


@dataclass(frozen=True, slots=True)
class Ran:
    """How a command ended in this process."""

    code: int
    out: str
    err: str


class Cistern:
    """`cistern` in this process, with an environment of the test's own."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def __call__(self, *arguments: str | Path) -> Ran:
        code = main([str(argument) for argument in arguments])
        captured = self._capsys.readouterr()
        return Ran(code, captured.out, captured.err)


def in_a_process(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """`cistern` as a process of its own, with no variable of Cistern's but `variables`."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("CISTERN_")}
    return subprocess.run(
        [sys.executable, "-m", "proxy.cli", *arguments],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=kept | variables,
        timeout=60,
        check=False,
    )


IMAGE: Final[dict[str, Any]] = {
    "reference": "docker.io/library/nginx:1.27",
    "repository": "docker.io/library/nginx",
    "tags": ["1.27", "latest"],
    "digest": DIGEST,
    "platforms": [{"platform": "linux/amd64", "digest": DIGEST, "here": True}],
    "complete": True,
    "manifest_here": True,
    "blobs_present": 7,
    "blobs_total": 7,
    "own_bytes": 3 << 20,
    "shared_bytes": 512,
    "last_used": None,
}
