#!/usr/bin/env bash
# Installs what tests need beside .venv, for a machine of CI: Docker and Prometheus for the compose
# test, Chromium for the page of a trace. As root, where Debian's packages can be had. Never fails:
# what is missing then is the reason why a test is skipped.
set -euo pipefail
log=${1:?where to log}

has_all() {
    command -v dockerd && command -v docker && command -v mmdebstrap && command -v prometheus &&
        command -v chromium &&
        { docker compose version || command -v docker-compose; }
} &>/dev/null

has_all && exit 0
[ "$(id -u)" = 0 ] && command -v apt-get >/dev/null || exit 0

# The test has daemons of its own: those of the packages must not start.
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
    trap 'rm -f "$policy"' EXIT
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod +x "$policy"
fi

export DEBIAN_FRONTEND=noninteractive
get() {
    # Bounded, because without a network apt waits long.
    timeout 180 apt-get -qq -o Acquire::Retries=1 -o Acquire::http::Timeout=20 \
        -o DPkg::Lock::Timeout=60 "$@" >>"$log" 2>&1
}
install() {
    get install --yes --no-install-recommends "$@" ||
        { get update && get install --yes --no-install-recommends "$@"; } ||
        echo "$* cannot be installed, see $log" >&2
}
# Apart, so that none is missed because of the other.
install docker.io docker-compose mmdebstrap prometheus
install chromium
