#!/bin/sh
# All 25,000 IMDb test reviews, sent over HTTP, get the labels that `trainer evaluate` gets from the files.
# Needs LIBTORCH and ORT_DYLIB_PATH; `make test` sets them.
set -eu
cd "$(dirname "$0")/.."

cargo build --quiet --release
cargo build --quiet --release -p trainer
target="${CARGO_TARGET_DIR:-target}/release"
"$target/trainer" fetch imdb

log=$(mktemp)
"$target/classifyd" serve --listen 127.0.0.1:0 --log-format json 2>"$log" &
server=$!
trap 'kill "$server" 2>/dev/null || true; rm -f "$log"' EXIT

tries=0
until grep -q '"message":"ready"' "$log"; do
    tries=$((tries + 1))
    if [ "$tries" -gt 300 ] || ! kill -0 "$server" 2>/dev/null; then
        echo "the server did not become ready:" >&2
        cat "$log" >&2
        exit 1
    fi
    sleep 0.1
done
address=$(sed -n 's/.*"message":"ready".*"address":"\([^"]*\)".*/\1/p' "$log")
"$target/trainer" evaluate models/sentiment/1 --url "http://$address"
