#!/bin/bash
# More peers for the benchmarks: Varnish and Squid from Debian's packages (needs root), Distribution 3 and zot built from
# their Go modules into benchmarks/out/bin where a Go toolchain is. What cannot be had is said, and left out.
set -uo pipefail
cd "$(dirname "$0")/.."
export PATH="$PATH:/usr/sbin:/sbin:/usr/local/go/bin"
bin=$PWD/benchmarks/out/bin
mkdir -p "$bin"

missing=()
command -v varnishd >/dev/null || missing+=(varnish)
command -v squid >/dev/null || missing+=(squid)
if [ ${#missing[@]} -gt 0 ]; then
    tests/install-debian.sh "${missing[@]}" || echo "not installed: ${missing[*]}" >&2
fi

# build NAME MODULE-PATH [FLAGS...]: at most half an hour, beside other work
build() {
    local name=$1 module=$2
    shift 2
    [ ! -x "$bin/$name" ] || return 0
    echo "building $name from $module" >&2
    GOBIN=$bin nice timeout 1800 go install "$@" "$module@latest" >&2 || echo "$name could not be built" >&2
}
if command -v go >/dev/null; then
    build registry github.com/distribution/distribution/v3/cmd/registry
    build zot zotregistry.dev/zot/v2/cmd/zot -tags sync
else
    echo "no Go toolchain: Distribution 3 and zot are left out" >&2
fi
for name in varnishd squid; do command -v "$name" >/dev/null && echo "$name: $(command -v "$name")"; done
for name in registry zot; do [ -x "$bin/$name" ] && echo "$name: $bin/$name"; done
exit 0
