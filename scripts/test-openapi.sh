#!/bin/sh
# Has Schemathesis send requests that the OpenAPI document allows and others that it does not. The
# server's responses, including errors, must match the document. BINARY names the server; the same
# seed sends the same requests.
set -eu

cd "$(dirname "$0")/.."
binary=${BINARY:-target/debug/classifyd}
venv=tests/openapi/.venv
[ -x "$binary" ] || { echo "test-openapi: expected the server at $binary, found none: cargo build, or set BINARY" >&2; exit 1; }

if ! cmp -s tests/openapi/requirements.txt "$venv/requirements.txt"; then
    python3 -m venv "$venv"
    "$venv/bin/pip" install --quiet --disable-pip-version-check -r tests/openapi/requirements.txt
    cp tests/openapi/requirements.txt "$venv/requirements.txt"
fi

work=$(mktemp -d)
"$binary" serve --config classifyd.toml --listen 127.0.0.1:0 --log-format json 2>"$work/log" &
server=$!
trap 'kill $server 2>/dev/null; wait $server 2>/dev/null || true; rm -rf "$work"' EXIT

address=
for _ in $(seq 120); do
    address=$(sed -n 's/.*"ready".*"address":"\([^"]*\)".*/\1/p; s/.*"address":"\([^"]*\)".*"ready".*/\1/p' "$work/log" | head -n 1)
    [ -n "$address" ] && break
    kill -0 $server 2>/dev/null || break
    sleep 0.5
done
[ -n "$address" ] || { echo "test-openapi: the server did not become ready:" >&2; cat "$work/log" >&2; exit 1; }

SCHEMATHESIS_HOOKS=tests.openapi.hooks PYTHONPATH=. PYTHONDONTWRITEBYTECODE=1 \
    "$venv/bin/schemathesis" --config-file tests/openapi/schemathesis.toml run "http://$address/openapi.json" "$@"
