#!/usr/bin/env bash
# Debian's Prometheus, for the test of the dashboard's queries; its service is not started. Needs root.
set -euo pipefail
if command -v prometheus >/dev/null; then exit 0; fi
as_root=()
if [ "$(id -u)" != 0 ]; then as_root=(sudo); fi
"${as_root[@]}" apt-get update -q
"${as_root[@]}" env DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 apt-get install -q -y --no-install-recommends prometheus
