#!/usr/bin/env bash
# Prepares .container-base, from which the compose test builds its images without any registry of
# images: a Debian with Python as a tar, and the wheels that go into the images. Needs root,
# mmdebstrap and pip; where it cannot be made, .container-base/unavailable says why, the test is
# skipped with that reason, and the next run tries again.
set -euo pipefail
cd "$(dirname "$0")/../.."
base=.container-base

unavailable() {
    echo "$1" >"$base/unavailable"
    echo "The compose test is skipped: $1" >&2
    exit 0
}

rm -f "$base/.ready"
mkdir -p "$base"
[ "$(id -u)" = 0 ] || unavailable "it needs root"
for tool in mmdebstrap dockerd docker unshare setpriv nsenter ip; do
    command -v "$tool" >/dev/null || unavailable "$tool is not installed"
done
docker compose version >/dev/null 2>&1 || command -v docker-compose >/dev/null ||
    unavailable "docker compose is not installed"

# What Debian's own slim images leave out is left out here, too.
make_debian() {
    local excluded=() folder
    for folder in doc man info locale; do
        excluded+=("--dpkgopt=path-exclude=/usr/share/$folder/*")
    done
    timeout 300 mmdebstrap --quiet --variant=minbase --include=python3 --dpkgopt=force-unsafe-io \
        "${excluded[@]}" bookworm "$base/partial.tar" >"$base/mmdebstrap.log" 2>&1 &&
        mv "$base/partial.tar" "$base/python.tar"
}
[ -f "$base/python.tar" ] || make_debian &
debian=$!

# The images' Python is Debian's 3.11; wheels for it are wanted whatever Python this is.
.venv/bin/python deploy/requirements.py cpu >"$base/requirements.txt"
# The versions that the other tests have run with.
.venv/bin/python -c 'import importlib.metadata as m
print(*sorted({f"{d.name}=={d.version}" for d in m.distributions() if "+" not in d.version}), sep="\n")' |
    grep -v -i -E '^(sangsang|pip|setuptools|wheel)==' >"$base/constraints.txt"
rm -rf "$base/wheels"
wheels=fetched
timeout 300 .venv/bin/python -m pip --quiet --disable-pip-version-check --retries 1 \
    download --dest "$base/wheels" --only-binary :all: --python-version 3.11 --implementation cp \
    --requirement "$base/requirements.txt" --constraint "$base/constraints.txt" pip 'setuptools>=77' wheel \
    >"$base/wheels.log" 2>&1 || wheels=missing
wait "$debian" || unavailable "mmdebstrap failed, see $base/mmdebstrap.log"
[ "$wheels" = fetched ] || unavailable "wheels cannot be had, see $base/wheels.log"

rm -f "$base/unavailable"
touch "$base/.ready"
