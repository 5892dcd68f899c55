#!/bin/sh
# Sends every test image or review of the shipped classifiers over HTTP, and compares the labels
# with those of `trainer evaluate`. Needs LIBTORCH and ORT_DYLIB_PATH; `make test` sets them.
# PROFILE=release uses release builds.
# usage: test-accuracy-over-http.sh [MODEL...]
set -eu
cd "$(dirname "$0")/.."
[ $# -gt 0 ] || set -- digits fashion images sentiment

case ${PROFILE:-debug} in
debug) release='' ;;
release) release=--release ;;
*)
    echo "PROFILE: expected debug or release, found $PROFILE" >&2
    exit 2
    ;;
esac
target="${CARGO_TARGET_DIR:-target}/${PROFILE:-debug}"
cargo build --quiet $release
cargo build --quiet $release -p trainer

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
for model; do
    case $model in
    digits) set=mnist ;;
    fashion) set=fashion-mnist ;;
    images) set=cifar10 ;;
    sentiment) set=imdb ;;
    *)
        echo "$model: expected digits, fashion, images or sentiment" >&2
        exit 2
        ;;
    esac
    "$target/trainer" fetch "$set"
    "$target/trainer" evaluate "models/$model/1" --set "$set" --url "http://$address"
done
