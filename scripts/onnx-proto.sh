#!/bin/sh
# Generates onnx-graph/src/proto.rs from onnx-graph/generate/onnx.proto.
#
#     scripts/onnx-proto.sh           write the file
#     scripts/onnx-proto.sh --check   fail if the file differs from what would be written
set -eu
cd "$(dirname "$0")/.."
target=onnx-graph/src/proto.rs
generated=$(mktemp)
trap 'rm -f "$generated"' EXIT
CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-target}/onnx-proto \
    cargo run --quiet --locked --manifest-path onnx-graph/generate/Cargo.toml >"$generated"
if [ "${1-}" = --check ]; then
    diff -u "$target" "$generated"
else
    cp "$generated" "$target"
fi
