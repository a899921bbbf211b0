#!/usr/bin/env bash
# fetch-wheels.sh NAME: unpacks the wheels that NAME.txt pins into tools/NAME, unless they are there. Exit code 69 means
# that they could not be fetched.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
pins=$1.txt dest=tools/$1

if cmp -s "$pins" "$dest/pins.txt"; then exit; fi
# The file with the pins is written last, and the folder renamed into place.
part=$dest.part
rm -rf "$part"
PIP_USER=0 PIP_ROOT_USER_ACTION=ignore python3 -m pip install -q --no-deps --only-binary=:all: --require-hashes \
	--disable-pip-version-check --retries 2 --target "$part" -r "$pins" >&2 || exit 69
cp "$pins" "$part/pins.txt"
rm -rf "$dest"
mv "$part" "$dest"
