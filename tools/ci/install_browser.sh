#!/usr/bin/env bash
# Chromium and its driver, which tests/site opens the site with; nothing happens where both are there.
set -euo pipefail

have() { command -v "$1" >/dev/null; }

if { have chromium || have chromium-browser || have google-chrome; } && have chromedriver; then
    exit 0
fi
if [ "$(id -u)" != 0 ] || ! have apt-get; then
    echo "tests/site needs Chromium and chromedriver: sudo apt-get install chromium chromium-driver" >&2
    exit 1
fi
export DEBIAN_FRONTEND=noninteractive
install() { apt-get install --yes --quiet --no-install-recommends chromium chromium-driver; }
# lists may be missing or name files that are gone
install || { apt-get update --quiet && install; }
