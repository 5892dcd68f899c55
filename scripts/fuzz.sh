#!/usr/bin/env bash
# usage: scripts/fuzz.sh SECONDS JOBS [TARGET...]
# Fuzzes each target for SECONDS, JOBS of them in parallel. Inputs that break something go to
# fuzz/artifacts/; CONTRIBUTING.md says what to do with them.
set -euo pipefail
cd "$(dirname "$0")/.."

seconds=$1
jobs=$2
shift 2
targets=("$@")
[ $# -gt 0 ] || targets=(image json multipart text directory)

# libFuzzer uses the instrumentation of the stable compiler's own pass. A --target keeps the flags
# from build scripts and macros.
triple=$(rustc -vV | sed -n 's/^host: //p')
export RUSTFLAGS="--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
-Cllvm-args=-sanitizer-coverage-trace-compares -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
-Cllvm-args=-sanitizer-coverage-pc-table"
# Uses the dependency versions of the server.
cp Cargo.lock fuzz/Cargo.lock
CARGO_INCREMENTAL=0 cargo build --quiet --release --manifest-path fuzz/Cargo.toml --target-dir target/fuzz --target "$triple" --bins

mkdir -p fuzz/artifacts
fuzz() {
    local name=$1 found=target/fuzz/found/$1 log=target/fuzz/$1.log limit=16384
    [ "$name" = image ] && limit=65536
    mkdir -p "$found"
    if "target/fuzz/$triple/release/$name" "$found" "fuzz/corpus/$name" -max_total_time="$seconds" -max_len=$limit \
        -timeout=30 -rss_limit_mb=2048 -artifact_prefix="fuzz/artifacts/$name-" -print_final_stats=1 >"$log" 2>&1; then
        local runs coverage inputs
        runs=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")
        coverage=$(grep -o 'cov: [0-9]*' "$log" | tail -n 1)
        inputs=$(grep -o 'corp: [0-9]*' "$log" | tail -n 1)
        echo "$name: $runs inputs in $seconds s, nothing found ($coverage, $inputs)"
    else
        tail -n 60 "$log"
        echo "$name: expected nothing, found the input named above; all of the output is in $log"
        return 1
    fi
}
export -f fuzz
export triple seconds
printf '%s\n' "${targets[@]}" | xargs -P "$jobs" -I{} bash -c 'fuzz {}'
