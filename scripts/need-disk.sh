#!/usr/bin/env bash
# Fails unless the disk of a directory has enough space, so that a full disk is reported in one
# clear line.
set -euo pipefail

needed=${1:?"usage: $0 MEGABYTES WHAT FOLDER"} what=$2 folder=$3

free=$(df --output=avail --block-size=1MB "$folder" | tail -n 1)
if [ "$free" -lt "$needed" ]; then
    echo "no room for $what: expected $needed MB free in $folder, found $((free)) MB; \`cargo clean\` makes some" >&2
    exit 1
fi
