#!/usr/bin/env bash
# Checks deploy/, the Dockerfile, docker-compose.yml and the shell scripts, without a container
# engine or a cluster.
set -euo pipefail
cd "$(dirname "$0")/.."

# The oldest version with all the features that the manifests use, and the newest one that the
# validator supports.
export KUBERNETES="1.30 1.37"

tools=target/check-deploy
wanted=$(cat deploy/requirements.txt && echo "$KUBERNETES")
if [ "$wanted" != "$(cat "$tools/wanted" 2>/dev/null)" ]; then
    rm -rf "$tools"
    python3 -m venv --without-pip "$tools"
    mkdir "$tools/tmp"
    scripts/need-disk.sh 700 "the validators of check-deploy (200 MB when they are installed)" "$tools"
    TMPDIR="$PWD/$tools/tmp" python3 -m pip --python "$tools/bin/python" install \
        --quiet --disable-pip-version-check --root-user-action ignore --no-cache-dir --no-compile --no-deps \
        --requirement deploy/requirements.txt
    rm -r "$tools/tmp"
    # Removes more than half of what the wheels contain: two more copies of Helm's library, and
    # schemas of other versions.
    packages=$(echo "$tools"/lib/python*/site-packages)
    rm "$packages"/helm_python/lib/libhelm_c.so{,.0}
    for schemas in "$packages"/kubernetes_validate/kubernetes-json-schema/*; do
        version=$(basename "$schemas" | sed -n 's/^v\(.*\)\.0-local-strict$/\1/p')
        [[ -n "$version" && " $KUBERNETES " = *" $version "* ]] || rm -r "$schemas"
    done
    echo "$wanted" >"$tools/wanted"
fi

echo "Dockerfile"
"$tools/bin/hadolint" --failure-threshold style Dockerfile

echo "shell scripts"
"$tools/bin/shellcheck" .ci/run benches/peers/run.sh deploy/container/make-root.sh scripts/*.sh

echo "docker-compose.yml"
"$tools/bin/check-jsonschema" --builtin-schema vendor.compose-spec docker-compose.yml

"$tools/bin/python" scripts/check_deploy.py

if command -v systemd-analyze >/dev/null; then
    echo "systemd unit"
    unit=$(mktemp -d)
    trap 'rm -rf "$unit"' EXIT
    # The check must work without an installed server.
    sed 's#/usr/bin/classifyd#/bin/true#' deploy/systemd/classifyd.service >"$unit/classifyd.service"
    verify() {
        said=$(systemd-analyze verify --man=no "$1" 2>&1) || { echo "$said"; exit 1; }
        # systemd-analyze only warns about an unknown key.
        if grep --fixed-strings "$unit" <<<"$said"; then exit 1; fi
    }
    verify "$unit/classifyd.service"
    mkdir -p "$unit/gpu/classifyd.service.d"
    cp "$unit/classifyd.service" "$unit/gpu/"
    cp deploy/systemd/gpu.conf "$unit/gpu/classifyd.service.d/"
    verify "$unit/gpu/classifyd.service"
    # In tenths: an exposure above 1.5 fails.
    systemd-analyze security --offline=true --threshold=15 --no-pager "$unit/classifyd.service" | tail -n 1
else
    echo "systemd unit: NOT CHECKED, systemd-analyze was not found"
fi
