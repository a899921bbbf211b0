#!/usr/bin/env bash
# debian.sh FOLDER PACKAGE...: unpacks packages of this Debian or Ubuntu system into FOLDER, without installing them and
# without root. If the machine has no package lists, it fetches its own. When it fails, FOLDER/apt.log has apt's output.
set -euo pipefail
folder=$1
shift
command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null || exit 1
mkdir -p "$folder/apt/lists/partial" "$folder/apt/archives/partial"
folder=$(cd "$folder" && pwd)
own=(-o "Dir::State::Lists=$folder/apt/lists" -o "Dir::Cache=$folder/apt")
(
	cd "$folder/apt"
	apt-get -q download "$@" || { apt-get -q "${own[@]}" update && apt-get -q "${own[@]}" download "$@"; }
	for deb in *.deb; do dpkg-deb -x "$deb" ..; done
) >"$folder/apt.log" 2>&1 || exit 1
rm -rf "$folder/apt" "$folder/apt.log"
