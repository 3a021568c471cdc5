#!/usr/bin/env bash
# Install what tests/support/ceph.py starts. Does nothing when all of it is there already.
set -euo pipefail

commands=(ceph ceph-authtool ceph-mon ceph-osd monmaptool radosgw radosgw-admin setpriv)
packages=(radosgw ceph-osd ceph-mon ceph-common util-linux)

missing=()
for command in "${commands[@]}"; do
    command -v "$command" >/dev/null || missing+=("$command")
done
if [ ${#missing[@]} -eq 0 ]; then
    exit 0
fi

echo "The S3 tests need Ceph's gateway; not found: ${missing[*]}" >&2
if ! command -v apt-get >/dev/null; then
    echo "Install Ceph's radosgw, ceph-osd, ceph-mon and command-line tools with this system's package manager." >&2
    exit 1
fi
if [ "$(id -u)" -ne 0 ]; then
    echo "Run once as root: apt-get update && apt-get install ${packages[*]}" >&2
    exit 1
fi
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
apt-get install -qq --no-install-recommends "${packages[@]}"
