#!/usr/bin/env bash
# Checks what is in deploy/, the Dockerfile, docker-compose.yml and the shell scripts, without an engine and without a cluster.
set -euo pipefail
cd "$(dirname "$0")/.."

venv=target/check-deploy
if ! cmp --silent deploy/requirements.txt "$venv/requirements.txt"; then
    rm -rf "$venv"
    python3 -m venv "$venv"
    # KServe's package is used for its types of the resources alone, so nothing that it needs to run is fetched.
    "$venv/bin/pip" install --quiet --disable-pip-version-check --requirement <(grep -v '^kserve' deploy/requirements.txt)
    "$venv/bin/pip" install --quiet --disable-pip-version-check --no-deps --requirement <(grep '^kserve' deploy/requirements.txt)
    cp deploy/requirements.txt "$venv/requirements.txt"
fi

echo "Dockerfile"
"$venv/bin/hadolint" --failure-threshold style Dockerfile

echo "shell scripts"
"$venv/bin/shellcheck" .ci/run benches/peers/run.sh deploy/container/make-root.sh scripts/*.sh

echo "docker-compose.yml"
"$venv/bin/check-jsonschema" --builtin-schema vendor.compose-spec docker-compose.yml

"$venv/bin/python" scripts/check_deploy.py

if command -v systemd-analyze >/dev/null; then
    echo "systemd unit"
    unit=$(mktemp -d)
    trap 'rm -rf "$unit"' EXIT
    # The server need not be installed for that.
    sed 's#/usr/bin/classifyd#/bin/true#' deploy/systemd/classifyd.service >"$unit/classifyd.service"
    verify() {
        said=$(systemd-analyze verify --man=no "$1" 2>&1) || { echo "$said"; exit 1; }
        # A key that it does not know is only a remark to it.
        if grep --fixed-strings "$unit" <<<"$said"; then exit 1; fi
    }
    verify "$unit/classifyd.service"
    mkdir -p "$unit/gpu/classifyd.service.d"
    cp "$unit/classifyd.service" "$unit/gpu/"
    cp deploy/systemd/gpu.conf "$unit/gpu/classifyd.service.d/"
    verify "$unit/gpu/classifyd.service"
    # Times ten: an exposure of more than 1.5 fails.
    systemd-analyze security --offline=true --threshold=15 --no-pager "$unit/classifyd.service" | tail -n 1
else
    echo "systemd unit: NOT CHECKED, systemd-analyze was not found"
fi
