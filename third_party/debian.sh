#!/usr/bin/env bash
# debian.sh FOLDER PACKAGE...: unpacks packages of the Debian or Ubuntu system this runs on into FOLDER,
# without installing them and without root; with package lists of its own where the machine's are
# empty. What apt said is in FOLDER/apt.log when it fails.
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
