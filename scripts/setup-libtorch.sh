#!/bin/sh
# Fetches the CPU part of libtorch for the `trainer` crate and prints the directory for LIBTORCH on stdout:
#
#     LIBTORCH=$(scripts/setup-libtorch.sh) cargo build --release -p trainer
#
# With the argument `gpu`, it prints a libtorch with CUDA: that of an installed PyTorch, if $PYTHON
# (python3) has the same version for CUDA 13, else the complete wheel with NVIDIA's libraries (2.4
# GB to download, 3.8 GB on disk).
#
# libtorch comes from the Python wheel `torch`, whose pinned SHA-256 checksums pip verifies. It goes
# into a cache outside the clone, which all clones share: $CLASSIFYD_CACHE, else
# $XDG_CACHE_HOME/classifyd, else ~/.cache/classifyd. About 530 MB to download, 500 MB on disk. Does
# nothing if it is installed.
set -eu

torch=2.11.0
cudart=13.0.96
cupti=13.0.85

fail() {
    printf 'setup-libtorch: %s\n' "$*" >&2
    exit 1
}

kind=${1:-cpu}
python=${PYTHON:-python3}
[ "$(uname -s)" = Linux ] || fail "only Linux is supported, this is $(uname -s)"
arch=$(uname -m)
case $arch in
x86_64)
    torch_sha=7aa2f9bbc6d4595ba72138026b2074be1233186150e9292865e04b7a63b8c67a
    cudart_sha=7f82250d7782aa23b6cfe765ecc7db554bd3c2870c43f3d1821f1d18aebf0548
    cupti_sha=4eb01c08e859bf924d222250d2e8f8b8ff6d3db4721288cf35d14252a4d933c8
    ;;
aarch64)
    torch_sha=d91aac77f24082809d2c5a93f52a5f085032740a1ebc9252a7b052ef5a4fddc6
    cudart_sha=ef9bcbe90493a2b9d810e43d249adb3d02e98dd30200d86607d8d02687c43f55
    cupti_sha=796bd679890ee55fb14a94629b698b6db54bcfd833d391d5e94017dd9d7d3151
    ;;
*) fail "libtorch $torch comes for x86_64 and aarch64, this machine is $arch" ;;
esac
case $kind-$arch in
cpu-* | gpu-x86_64) ;;
gpu-*) fail "gpu: expected a machine of x86_64, found $arch" ;;
*) fail "expected cpu or gpu, found $kind" ;;
esac

if [ "$kind" = gpu ]; then
    # Finds PyTorch without importing it, which would take seconds.
    installed=$("$python" -c '
import importlib.util
found = importlib.util.find_spec("torch")
print(found.submodule_search_locations[0] if found else "")' 2>/dev/null) || installed=
    if [ -n "$installed" ] && [ -f "$installed/lib/libtorch_cuda.so" ] && [ -d "$installed/include" ]; then
        if grep -q "^__version__ = '$torch+cu13" "$installed/version.py"; then
            printf '%s\n' "$installed"
            exit 0
        fi
        echo "setup-libtorch: $installed is another version than $torch for CUDA 13: not taken" >&2
    fi
fi

if [ -n "${CLASSIFYD_CACHE:-}" ]; then
    cache=$CLASSIFYD_CACHE
elif [ -n "${XDG_CACHE_HOME:-}" ]; then
    cache=$XDG_CACHE_HOME/classifyd
else
    [ -n "${HOME:-}" ] || fail "HOME is not set: set CLASSIFYD_CACHE to a directory with 1.2 GB free"
    cache=$HOME/.cache/classifyd
fi
mkdir -p "$cache" || fail "cannot create $cache: set CLASSIFYD_CACHE to a directory that can be written"
cache=$(cd "$cache" && pwd)
target=$cache/libtorch-$torch-$kind
# In the wheel, this directory is beside NVIDIA's, where its parts look for them.
[ "$kind" = cpu ] && libtorch=$target || libtorch=$target/torch

# The target is renamed when it is complete, so its existence is proof.
if [ -d "$target" ]; then
    printf '%s\n' "$libtorch"
    exit 0
fi

command -v python3 >/dev/null || fail "python3 is missing: install Python 3.8 or later"
python3 -m pip --version >/dev/null 2>&1 || fail "python3 has no pip: install it (Debian: apt-get install python3-pip)"
requirements="$(cd "$(dirname "$0")" && pwd)/cuda-requirements.txt"

work=$(mktemp -d "$cache/libtorch.XXXXXX")
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

if [ "$kind" = gpu ]; then
    echo "torch==$torch --hash=sha256:$torch_sha" | cat - "$requirements" >"$work/requirements.txt"
    echo "setup-libtorch: fetching libtorch $torch with CUDA (about 2.4 GB) into $cache" >&2
    platforms=$(python3 -c 'print(*(f"--platform manylinux_2_{minor}_x86_64" for minor in range(28, 4, -1)), "--platform manylinux2014_x86_64")')
    # shellcheck disable=SC2086 # a list of words
    TMPDIR=$work python3 -m pip install --quiet --disable-pip-version-check --no-cache-dir --no-deps --only-binary=:all: \
        --python-version 3.11 --implementation cp --abi cp311 $platforms --no-compile \
        --require-hashes --requirement "$work/requirements.txt" --target "$work/packages" >&2 ||
        fail "pip could not fetch torch $torch and NVIDIA's libraries (its message is above)"
    [ -f "$work/packages/torch/lib/libtorch_cuda.so" ] || fail "not in the wheels: libtorch_cuda.so"
    mv -T "$work/packages" "$target" 2>/dev/null || [ -d "$target" ] || fail "cannot move the unpacked files to $target"
    printf '%s\n' "$libtorch"
    exit 0
fi

cat >"$work/requirements.txt" <<REQUIREMENTS
torch==$torch --hash=sha256:$torch_sha
nvidia-cuda-runtime==$cudart --hash=sha256:$cudart_sha
nvidia-cuda-cupti==$cupti --hash=sha256:$cupti_sha
REQUIREMENTS

echo "setup-libtorch: fetching libtorch $torch for $arch (about 530 MB) into $cache" >&2
# This wheel's libtorch_cpu links two small CUDA libraries even if no GPU is used.
TMPDIR=$work python3 -m pip download --disable-pip-version-check --no-cache-dir --no-deps --only-binary=:all: \
    --python-version 3.11 --implementation cp --abi cp311 \
    --platform "manylinux_2_28_$arch" --platform "manylinux_2_25_$arch" \
    --platform "manylinux_2_17_$arch" --platform "manylinux2014_$arch" \
    --require-hashes --requirement "$work/requirements.txt" --dest "$work/wheels" >&2 ||
    fail "pip could not fetch torch $torch, nvidia-cuda-runtime $cudart and nvidia-cuda-cupti $cupti (its message is above)"

echo "setup-libtorch: unpacking" >&2
python3 - "$work/wheels" "$work/libtorch" <<'PYTHON' >&2 || fail "could not unpack the wheels"
import pathlib
import shutil
import sys
import zipfile

wheels, out = map(pathlib.Path, sys.argv[1:])
lib = out / "lib"
lib.mkdir(parents=True)
# Leaves out what only CUDA and Python need: torch-sys would link libtorch_cuda if it found it.
skipped = ("libtorch_cuda", "libtorch_python", "libtorch_nvshmem", "libtorch_global_deps", "libtorch.so",
           "libc10_cuda", "libcaffe2_nvrtc", "libshm")
cuda = ("libcudart.so.13", "libcupti.so.13")


def copy(archive, member, destination):
    destination.parent.mkdir(parents=True, exist_ok=True)
    with archive.open(member) as source, open(destination, "wb") as sink:
        shutil.copyfileobj(source, sink, 1 << 20)


for wheel in sorted(wheels.glob("*.whl")):
    with zipfile.ZipFile(wheel) as archive:
        for member in archive.infolist():
            path = pathlib.PurePosixPath(member.filename)
            if member.is_dir():
                continue
            if path.parts[:2] == ("torch", "include"):
                copy(archive, member, out.joinpath(*path.parts[1:]))
            elif path.parts[:2] == ("torch", "lib") and len(path.parts) == 3 and not path.name.startswith(skipped):
                copy(archive, member, lib / path.name)
            elif path.name in cuda:
                copy(archive, member, lib / path.name)

wanted = ["libtorch_cpu.so", "libc10.so", "libgomp.so.1", *cuda]
missing = [name for name in wanted if not (lib / name).is_file()]
if missing:
    sys.exit(f"setup-libtorch: not in the wheels: {', '.join(missing)}")
# torch-sys also links `-ltorch` and `-lgomp`. The wheel's libtorch.so is an empty library that
# depends on the CUDA part.
(lib / "libtorch.so").symlink_to("libtorch_cpu.so")
(lib / "libgomp.so").symlink_to("libgomp.so.1")
PYTHON
printf '%s\n' "$torch" >"$work/libtorch/build-version"

# Another run may have been faster; its result is the same.
mv -T "$work/libtorch" "$target" 2>/dev/null || [ -d "$target" ] || fail "cannot move the unpacked files to $target"
printf '%s\n' "$libtorch"
