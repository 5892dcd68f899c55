#!/bin/sh
# Puts the ONNX Runtime library, out of its PyPI wheel, into .onnxruntime/ of the repository. Does nothing when it is there.
set -eu

version=1.31.1
library="libonnxruntime.so.$version"
folder="$(cd "$(dirname "$0")/.." && pwd)/.onnxruntime"

fail() {
    echo "setup-onnxruntime: $*" >&2
    exit 1
}

machine=$(uname -m)
case "$(uname -s)-$machine" in
    Linux-x86_64) sha256=5752bd508126ae7c49894d3b9d2e83f0c3d487319246d04c444b393308d7ad7f ;;
    Linux-aarch64) sha256=da05378364c44d4407e463982d2bf8d5e4cfea873283757e48beeb41df97b7f3 ;;
    *) fail "expected Linux on x86_64 or aarch64, found $(uname -s) on $machine" ;;
esac

[ -f "$folder/$library" ] && exit 0
python3 -m pip --version >/dev/null 2>&1 || fail "python3 with pip is needed to fetch ONNX Runtime, and was not found"

mkdir -p "$folder"
work=$(mktemp -d "$folder/fetch.XXXXXX")
trap 'rm -rf "$work"' EXIT

echo "fetching ONNX Runtime $version for $machine" >&2
# The wheel is named in full, so that any Python fetches the same file.
python3 -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: \
    --python-version 3.11 --implementation cp --abi cp311 --platform "manylinux_2_28_$machine" \
    --dest "$work" "onnxruntime==$version" || fail "pip could not download onnxruntime $version"

python3 - "$work" "$sha256" "$library" <<'PYTHON' || fail "the wheel is not the one that is expected"
import hashlib, pathlib, sys, zipfile

work, expected, library = pathlib.Path(sys.argv[1]), sys.argv[2], sys.argv[3]
[wheel] = work.glob("*.whl")
found = hashlib.sha256(wheel.read_bytes()).hexdigest()
if found != expected:
    sys.exit(f"{wheel.name}: expected sha256 {expected}, found {found}")
with zipfile.ZipFile(wheel) as archive:
    for name in (f"onnxruntime/capi/{library}", "onnxruntime/LICENSE", "onnxruntime/ThirdPartyNotices.txt"):
        (work / pathlib.PurePosixPath(name).name).write_bytes(archive.read(name))
PYTHON

mv "$work/LICENSE" "$work/ThirdPartyNotices.txt" "$folder/"
# Last, and in one step: the library's presence means that all is there.
mv "$work/$library" "$folder/$library"
