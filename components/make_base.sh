#!/usr/bin/env bash
# Make a base image where no image registry can be reached: Debian bookworm, whose Python is 3.11.
#
#     components/make_base.sh [NAME]                     NAME: hounsfield/base:bookworm
#     make images BASE=hounsfield/base:bookworm
#
# Needs debootstrap, root, podman or docker, and a Debian mirror (MIRROR, else debootstrap's own choice). What it
# downloads is kept in CACHE, so that a second time needs no network.
set -euo pipefail
name=${1:-hounsfield/base:bookworm}
cache=${CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/hounsfield/debs}
engine=${ENGINE:-$(command -v podman || command -v docker || true)}
[ -n "$engine" ] || { echo "no container engine is here: apt-get install podman buildah runc, or set ENGINE" >&2; exit 1; }

root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
mkdir -p "$cache"
debootstrap --variant=minbase --include=python3,python3-venv,ca-certificates --cache-dir="$cache" \
    bookworm "$root/tree" ${MIRROR:+"$MIRROR"} >"$root/log" || { tail "$root/log" >&2; exit 1; }
cd "$root/tree"
rm -rf var/cache/apt/* var/lib/apt/lists/* var/log/* usr/share/doc/* usr/share/man/* usr/share/locale/* dev/*
tar --numeric-owner --create . | "$engine" import --change 'CMD ["/bin/bash"]' - "$name" >/dev/null
"$engine" images --format "$name {{.Size}}" "$name" | head -n 1
