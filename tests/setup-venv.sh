#!/bin/bash
# Makes .venv exactly as requirements.lock says, with hashes, and puts this checkout in it as `cistern`.
# Safe to run again at any time: what is there already is kept.
set -euo pipefail
cd "$(dirname "$0")/.."

fail() {
    echo "setup: $*" >&2
    exit 1
}

# The lock file is made for 3.11, so that comes first; `python3` may be newer, and a pyenv shim may be dead.
python=
for candidate in python3.11 python3; do
    if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
        python=$candidate
        break
    fi
done
[ -n "$python" ] || fail "needs Python 3.11 or newer; on Debian: apt-get install python3"

if ! .venv/bin/python -m pip --version >/dev/null 2>&1; then
    if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
        # Debian keeps ensurepip in a package of its own.
        [ "$(id -u)" = 0 ] || fail "$python has no venv; run as root: apt-get install python3-venv"
        tests/install-debian.sh python3-venv
    fi
    rm -rf .venv
    "$python" -m venv .venv
fi

pip=(.venv/bin/python -m pip --disable-pip-version-check --quiet)
"${pip[@]}" install --require-hashes -r requirements.lock
# The build backend and what an editable install needs came with the lock file: nothing is fetched unhashed here.
"${pip[@]}" install --no-deps --no-build-isolation --no-index -e .
