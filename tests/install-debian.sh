#!/bin/bash
# The real clients and registries that the tests and benchmarks use, from Debian's packages.
#   tests/install-debian.sh                 all of them
#   tests/install-debian.sh PACKAGE...      just these
# Says nothing and returns at once when all are there. Needs root to install; else says what is missing and fails.
# Their services are not started: the tests start their own, on free ports, in folders of their own.
set -euo pipefail
export DEBIAN_FRONTEND=noninteractive PATH="$PATH:/usr/sbin:/sbin"

# package:command, the command being what the tests run
parts=(
    docker-registry:docker-registry
    skopeo:skopeo
    containerd:containerd
    runc:runc
    podman:podman
    buildah:buildah
    nginx:nginx
    haproxy:haproxy
    apache2-utils:htpasswd
    strace:strace
    wrk:wrk
    debootstrap:debootstrap
    openssl:openssl
    iproute2:ip
)

missing=()
if [ $# -gt 0 ]; then
    missing=("$@")
else
    for part in "${parts[@]}"; do
        command -v "${part#*:}" >/dev/null || missing+=("${part%:*}")
    done
fi
[ ${#missing[@]} -gt 0 ] || exit 0

if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
    echo "missing: ${missing[*]}" >&2
    echo "run as root: apt-get install ${missing[*]}" >&2
    exit 1
fi

# invoke-rc.d asks this file before it starts a service that a package brings: 101 is "no".
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
    trap 'rm -f "$policy"' EXIT
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod 755 "$policy"
fi

update() {
    # One source of several that does not answer is no reason to stop: the install below tells.
    apt-get update -qq || echo "apt-get update had errors; going on" >&2
}
install() {
    apt-get install -y -qq --no-install-recommends "${missing[@]}"
}

echo "installing ${missing[*]}" >&2
if ! compgen -G '/var/lib/apt/lists/*_Packages*' >/dev/null; then
    update
    install >&2
else
    # Package lists that are there may be too old for what the mirror still has.
    install >&2 || { update && install >&2; }
fi
