#!/usr/bin/env bash
# Runs what make gpu-check packs on this machine's CPU, away from the source tree, so that a file that is missing in the
# pack is found without a GPU.
#
#   check.sh [quick|all]
set -euo pipefail
cd "$(dirname "$0")/../.."
root=$PWD
PACK_ONLY=1 bench/gpu/pack.sh
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
tar -C "$work" -xJf build/gpu-check.tar.xz
libtorch=${LIBTORCH:-$(cat "$root/build/libtorch")}
export LIMIT=36000 TESTS_LIMIT=36000 TEST_TIMEOUT=3600 ROAD_LIMIT=3600
DEVICE=cpu TESTS=${1:-quick} LIBTORCH=$libtorch "$work/gpu-check/run.sh"
