"""From the command to the server: the same process, with another program in it."""

import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import proxy


def become(order: Mapping[str, Any]) -> int:
    """Run `python -m proxy ORDER` in this process: its number, streams, directory and environment stay; does not
    return.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    ours = str(Path(proxy.__file__).parents[1])
    path = os.pathsep.join(filter(None, (ours, os.environ.get("PYTHONPATH"))))
    # -P: what lies in the directory that it is started in is none of its modules.
    os.execve(  # noqa: S606 - our own interpreter and our own words, no shell
        sys.executable,
        [sys.executable, "-P", "-m", "proxy", json.dumps(order)],
        {**os.environ, "PYTHONPATH": path},
    )
