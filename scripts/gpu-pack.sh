#!/bin/sh
# Packs what scripts/gpu_check.py needs into pieces of a given size, for a machine with a GPU and
# without a network:
#
#     scripts/gpu-pack.sh pack [OPTION...] PIECES
#     scripts/gpu-pack.sh unpack PIECES TARGET            on the other machine, with the copy of this script beside the pieces
#
# `pack` includes the programs classifyd and raw, ONNX Runtime in .onnxruntime-gpu/, the models and the scripts. Options:
#
#     --size MB          maximum size of a piece in millions of bytes; default: 60
#     --programs DIR     directory of the programs; default: target/release
#     --trainer          include the trainer
#     --data DIR         include the files of CIFAR-10, for training
#     --libraries        include NVIDIA's libraries in .onnxruntime-gpu/nvidia. A machine with PyTorch does not need them:
#                        scripts/setup_gpu.py --offline finds those of PyTorch
set -eu

fail() {
    echo "gpu-pack: $*" >&2
    exit 1
}

usage() {
    sed -n '2,/^set /s/^# \{0,1\}//p' "$0" >&2
    exit 2
}

pack() {
    size=60
    trainer=
    data=
    libraries=
    programs=
    while [ $# -gt 1 ]; do
        case $1 in
        --size)
            size=$2
            shift
            ;;
        --programs)
            programs=$2
            shift
            ;;
        --data)
            data=$2
            shift
            ;;
        --trainer) trainer=yes ;;
        --libraries) libraries=yes ;;
        *) usage ;;
        esac
        shift
    done
    [ $# = 1 ] || usage
    case $1 in
    -*) usage ;;
    esac
    case $size in
    *[!0-9]* | '' | 0) fail "--size: expected megabytes, found $size" ;;
    esac
    mkdir -p "$1"
    pieces=$(cd "$1" && pwd)
    [ -z "$(ls -A "$pieces")" ] || fail "$pieces: expected an empty directory"
    [ -z "$programs" ] || programs=$(cd "$programs" && pwd)
    [ -z "$data" ] || data=$(cd "$data" && pwd)
    self=$(cd "$(dirname "$0")" && pwd)/$(basename "$0")
    cd "$(dirname "$self")/.."

    programs=${programs:-target/release}
    set -- classifyd raw
    [ -z "$trainer" ] || set -- "$@" trainer
    for program; do
        [ -f "$programs/$program" ] || fail "expected $programs/$program, found none: cargo build --release -p classifyd -p benches (or trainer)"
    done
    work=$(mktemp -d "$pieces/pack.XXXXXX")
    trap 'rm -rf "$work"' EXIT
    root=$work/classifyd-gpu
    mkdir -p "$root/target/release" "$root/benches" "$root/docs" "$root/.onnxruntime-gpu"
    for program; do
        # Debug symbols are most of a program's size.
        strip -o "$root/target/release/$program" "$programs/$program"
    done
    [ -d .onnxruntime-gpu ] || fail "expected ONNX Runtime in .onnxruntime-gpu/, found none: scripts/setup_gpu.py puts it there"
    cp .onnxruntime-gpu/libonnxruntime* .onnxruntime-gpu/LICENSE .onnxruntime-gpu/ThirdPartyNotices.txt "$root/.onnxruntime-gpu/"
    # Follows links, because their targets are missing on the other machine.
    [ -z "$libraries" ] || cp -RL .onnxruntime-gpu/nvidia "$root/.onnxruntime-gpu/"
    [ -d benches/models/resnet18 ] || fail "expected benches/models/resnet18, found none: benches/make_models.py makes it"
    cp -R benches/models benches/inputs "$root/benches/"
    cp -R models scripts "$root/"
    cp docs/performance-gpu.md "$root/docs/"
    rm -rf "$root/scripts/__pycache__"
    [ -z "$data" ] || cp -R "$data" "$root/data"

    tar -C "$work" -cf - classifyd-gpu | gzip | split -b "${size}000000" -d -a 3 - "$pieces/piece."
    (cd "$pieces" && sha256sum piece.* >SHA256SUMS)
    cp "$self" "$pieces/gpu-pack.sh"
    rm -rf "$work"
    ls -l "$pieces"
}

unpack() {
    [ $# = 2 ] || usage
    [ -f "$1/SHA256SUMS" ] || fail "$1: expected SHA256SUMS in it, found none"
    # Checks every piece, so that a missing one is reported.
    (cd "$1" && sha256sum --check --quiet SHA256SUMS) || fail "$1: a piece is missing or damaged (the message is above)"
    mkdir -p "$2"
    cat "$1"/piece.* | tar -C "$2" -xzf -
    echo "$2/classifyd-gpu"
}

case ${1:-} in
pack)
    shift
    pack "$@"
    ;;
unpack)
    shift
    unpack "$@"
    ;;
*) usage ;;
esac
