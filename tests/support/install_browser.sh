#!/usr/bin/env bash
# Install Chromium, which the tests in tests/browser drive. Does nothing when it is there already.
set -euo pipefail

if command -v chromium >/dev/null; then
    exit 0
fi
if ! command -v apt-get >/dev/null; then
    echo "Install Chromium with this system's package manager, so that \`chromium\` is on the PATH." >&2
    exit 1
fi
if [ "$(id -u)" -ne 0 ]; then
    echo "Run once as root: apt-get update && apt-get install chromium fonts-dejavu-core" >&2
    exit 1
fi
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
apt-get install -qq --no-install-recommends chromium fonts-dejavu-core
