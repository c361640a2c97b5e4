"""The server's own program: `python -m proxy ORDER`, which is what `cistern serve` becomes.

The command line's library brings another one to read flags with, and both would stay in memory for as long as the
server runs: 12 MB of 67 (`python -m benchmarks --quick --few --only memory`).
"""

import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from proxy.exits import lines_of, tell
from proxy.processes.run import run
from proxy.reload import Source


def main(order: Mapping[str, Any]) -> int:
    """Serve what was ordered: `config`, a path or None; `flags`, as `Source` has them; `log_format`. The exit code."""
    flags = {flag: (key, text) for flag, (key, text) in order["flags"].items()}
    path = None if order["config"] is None else Path(order["config"])
    try:
        return run(Source(path, os.environ, flags), log_format=order["log_format"], failed=tell)
    except KeyboardInterrupt:
        return 1
    except Exception as error:  # the one place: what ends the server becomes words
        code, lines = lines_of(error)
        sys.stderr.write("".join(f"{line}\n" for line in lines))
        return code


if __name__ == "__main__":
    sys.exit(main(json.loads(sys.argv[1])))
