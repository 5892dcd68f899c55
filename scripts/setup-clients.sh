#!/bin/sh
# Installs the Python packages of docs/clients.md, as tests/clients/requirements.txt pins them, into
# the user's cache, and prints their directory. Does nothing if they are installed.
set -eu

requirements="$(cd "$(dirname "$0")/.." && pwd)/tests/clients/requirements.txt"

fail() {
    echo "setup-clients: $*" >&2
    exit 1
}

if [ -n "${CLASSIFYD_CACHE:-}" ]; then
    cache=$CLASSIFYD_CACHE
elif [ -n "${XDG_CACHE_HOME:-}" ]; then
    cache=$XDG_CACHE_HOME/classifyd
else
    [ -n "${HOME:-}" ] || fail "HOME is not set: set CLASSIFYD_CACHE to a directory that can be written"
    cache=$HOME/.cache/classifyd
fi
command -v python3 >/dev/null || fail "python3 with pip is needed, and was not found"
# Other versions, and wheels for another Python, get another directory.
version=$(python3 -c 'import sys; print("%d.%d" % sys.version_info[:2])')
target=$cache/clients-python$version-$(cksum <"$requirements" | cut -d ' ' -f 1)

if [ ! -d "$target" ]; then
    python3 -m pip --version >/dev/null 2>&1 || fail "python3 with pip is needed, and was not found"
    mkdir -p "$cache" || fail "cannot create $cache: set CLASSIFYD_CACHE to a directory that can be written"
    work=$(mktemp -d "$cache/clients.XXXXXX")
    trap 'rm -rf "$work"' EXIT
    PIP_ROOT_USER_ACTION=ignore python3 -m pip install --quiet --disable-pip-version-check --no-deps --requirement "$requirements" \
        --target "$work/packages" >&2 || fail "pip could not install what $requirements lists"
    # Renames the directory when it is complete, so its existence is proof. Another run may have
    # been faster.
    mv -T "$work/packages" "$target" 2>/dev/null || [ -d "$target" ] || fail "cannot move the packages to $target"
fi
printf '%s\n' "$target"
