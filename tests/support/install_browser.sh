#!/usr/bin/env bash
# Install Chromium, which the tests in tests/browser drive, with the fonts of the words and signs on the pages. Does
# nothing when they are there already.
set -euo pipefail

packages="chromium fonts-dejavu-core fonts-noto-color-emoji"
if command -v chromium >/dev/null && fc-list 2>/dev/null | grep -qi emoji; then
    exit 0
fi
if ! command -v apt-get >/dev/null; then
    echo "Install Chromium with this system's package manager, so that \`chromium\` is on the PATH, and a font with emoji." >&2
    exit 1
fi
if [ "$(id -u)" -ne 0 ]; then
    echo "Run once as root: apt-get update && apt-get install $packages" >&2
    exit 1
fi
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
apt-get install -qq --no-install-recommends $packages
