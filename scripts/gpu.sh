#!/usr/bin/env bash
# Try everything that needs a GPU, in nine minutes at most, from a bare machine with Python 3.12 and torch for CUDA.
#   make wheels && bash scripts/gpu.sh               # OUT=folder for details, WHEELS=folder, PYTHON=python3
#   bash scripts/gpu.sh --device cpu --tiny          # try the script itself, without a GPU; --only ce: these parts
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
PYTHON=${PYTHON:-python3} WHEELS=${WHEELS:-.wheels} OUT=${OUT:-gpu-results} SECONDS_IN_ALL=${SECONDS_IN_ALL:-530}
site=$(mktemp -d)
trap 'rm -rf "$site"' EXIT
timeout 120 "$PYTHON" scripts/gpu/install.py "$WHEELS" "$site" || echo 'not all wheels could be installed; going on'
# It comes first, but holds only what is missing, or there in a version that does not do.
export PYTHONPATH="$site${PYTHONPATH:+:$PYTHONPATH}"
# It ends in time by itself; this is for a hang of its own.
timeout --foreground --kill-after=10 --signal=TERM "$((SECONDS_IN_ALL + 5 - SECONDS))" \
    "$PYTHON" -u scripts/gpu/main.py --seconds "$((SECONDS_IN_ALL - 5 - SECONDS))" --out "$OUT" "$@"
