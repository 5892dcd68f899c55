#!/usr/bin/env bash
# Fails unless a folder's disk has room, so that a full one is told in one line and not by whatever writes last.
set -euo pipefail

needed=${1:?"usage: $0 MEGABYTES WHAT FOLDER"} what=$2 folder=$3

free=$(df --output=avail --block-size=1MB "$folder" | tail -n 1)
if [ "$free" -lt "$needed" ]; then
    echo "no room for $what: expected $needed MB free in $folder, found $((free)) MB; \`cargo clean\` makes some" >&2
    exit 1
fi
