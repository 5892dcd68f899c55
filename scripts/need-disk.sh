#!/usr/bin/env bash
# Fails unless the disk of a directory has enough space, so that a full disk is reported in one
# clear line.
set -euo pipefail

needed=${1:?"usage: $0 MEGABYTES WHAT DIRECTORY"} what=$2 directory=$3

free=$(df --output=avail --block-size=1MB "$directory" | tail -n 1)
if [ "$free" -lt "$needed" ]; then
    echo "not enough disk space for $what: expected $needed MB free in $directory, found $((free)) MB; \`cargo clean\` frees some" >&2
    exit 1
fi
