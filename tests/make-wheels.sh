#!/bin/bash
# Makes the wheels an image is built from: Cistern's own, and what it needs to run, as requirements.lock has them, hashes
# checked. The image's build then needs no network.
#   tests/make-wheels.sh FOLDER
set -euo pipefail
target=$(realpath -m "${1:?FOLDER}")
cd "$(dirname "$0")/.."
python=.venv/bin/python
rm -rf "$target"
mkdir -p "$target"
needs=$(mktemp)
trap 'rm -f "$needs"' EXIT

# The lock file has the developers' tools too; the image has no use for them.
"$python" - >"$needs" <<'PYTHON'
import re
from importlib.metadata import requires
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

needed, waiting = set(), ["cistern"]
while waiting:
    for line in requires(waiting.pop()) or []:
        requirement = Requirement(line)
        name = canonicalize_name(requirement.name)
        if name not in needed and (requirement.marker is None or requirement.marker.evaluate({"extra": ""})):
            needed.add(name)
            waiting.append(name)
for block in re.split(r"\n(?=\w)", Path("requirements.lock").read_text()):
    if block.split("==")[0] in needed:
        print(block)
PYTHON

pip=("$python" -m pip --disable-pip-version-check --quiet)
"${pip[@]}" wheel --no-deps --no-build-isolation --no-index --wheel-dir "$target" .
"${pip[@]}" download --require-hashes --only-binary :all: --dest "$target" -r "$needs"
