#!/bin/sh
# Installs the ONNX Runtime library from its PyPI wheel into .onnxruntime/ of the repository. With
# the argument `gpu`, installs the one for CUDA 13 with its provider libraries into
# .onnxruntime-gpu/. Does nothing if it is installed.
# usage: setup-onnxruntime.sh [cpu|gpu [WHEEL]]; WHEEL is the wheel's file, for machines without a
# network
set -eu

version=1.31.1
library="libonnxruntime.so.$version"
root="$(cd "$(dirname "$0")/.." && pwd)"

fail() {
    echo "setup-onnxruntime: $*" >&2
    exit 1
}

machine=$(uname -m)
wheel=${2:-}
case "${1:-cpu}" in
    cpu)
        package=onnxruntime
        directory="$root/.onnxruntime"
        libraries="$library"
        case "$(uname -s)-$machine" in
            Linux-x86_64) sha256=5752bd508126ae7c49894d3b9d2e83f0c3d487319246d04c444b393308d7ad7f ;;
            Linux-aarch64) sha256=da05378364c44d4407e463982d2bf8d5e4cfea873283757e48beeb41df97b7f3 ;;
            *) fail "expected Linux on x86_64 or aarch64, found $(uname -s) on $machine" ;;
        esac
        ;;
    gpu)
        package=onnxruntime-gpu
        directory="$root/.onnxruntime-gpu"
        # ONNX Runtime loads its providers from its own directory.
        libraries="libonnxruntime_providers_shared.so libonnxruntime_providers_cuda.so libonnxruntime_providers_tensorrt.so $library"
        case "$(uname -s)-$machine" in
            Linux-x86_64) sha256=e26c475fe361b2015f45b4b824bd13f0bb20204e59b62814e6f0acd5f3d491a6 ;;
            *) fail "gpu: expected Linux on x86_64, found $(uname -s) on $machine" ;;
        esac
        ;;
    *) fail "expected cpu or gpu, found $1" ;;
esac

[ -f "$directory/$library" ] && exit 0
if [ -n "$wheel" ]; then
    [ -f "$wheel" ] || fail "$wheel: expected the wheel of $package $version, found no file"
else
    python3 -m pip --version >/dev/null 2>&1 || fail "python3 with pip is needed to fetch ONNX Runtime, and was not found"
fi

mkdir -p "$directory"
work=$(mktemp -d "$directory/fetch.XXXXXX")
trap 'rm -rf "$work"' EXIT

if [ -n "$wheel" ]; then
    cp "$wheel" "$work/"
else
    echo "fetching $package $version for $machine" >&2
    # Names the wheel completely, so that every Python fetches the same file.
    python3 -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: \
        --python-version 3.11 --implementation cp --abi cp311 --platform "manylinux_2_28_$machine" \
        --dest "$work" "$package==$version" || fail "pip could not download $package $version"
fi

# shellcheck disable=SC2086 # a list of words
python3 - "$work" "$sha256" $libraries <<'PYTHON' || fail "the wheel is not the one that is expected"
import hashlib, pathlib, sys, zipfile

work, expected, libraries = pathlib.Path(sys.argv[1]), sys.argv[2], sys.argv[3:]
[wheel] = work.glob("*.whl")
found = hashlib.sha256(wheel.read_bytes()).hexdigest()
if found != expected:
    sys.exit(f"{wheel.name}: expected sha256 {expected}, found {found}")
with zipfile.ZipFile(wheel) as archive:
    files = [f"onnxruntime/capi/{library}" for library in libraries]
    for name in (*files, "onnxruntime/LICENSE", "onnxruntime/ThirdPartyNotices.txt"):
        (work / pathlib.PurePosixPath(name).name).write_bytes(archive.read(name))
PYTHON

mv "$work/LICENSE" "$work/ThirdPartyNotices.txt" "$directory/"
# Moves the library last: its existence is proof that everything is there.
for name in $libraries; do
    mv "$work/$name" "$directory/$name"
done
