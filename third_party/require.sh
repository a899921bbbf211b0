#!/usr/bin/env bash
# require.sh NAME...: names in one message all programs that are missing, and how to get them.
set -u
bad=0
need() { # need NAME FOUND? HOW TO GET IT
	[ "$2" = yes ] && return
	[ "$bad" = 1 ] || echo "ditrun: error: the build needs programs that were not found in PATH:" >&2
	bad=1
	printf '  - %s: %s\n' "$1" "$3" >&2
}
have() { if command -v "$1" >/dev/null 2>&1; then echo yes; else echo no; fi; }

for name in "$@"; do
	case $name in
	go)
		need "go 1.26 or newer" "$(have go)" \
			"https://go.dev/dl (older releases fetch the right one by themselves from 1.21 on)"
		;;
	cmake)
		need "cmake 3.18 or newer" "$(have cmake)" \
			"sudo apt-get install cmake   (or: python3 -m pip install --user cmake)"
		;;
	c++)
		need "a C++17 compiler (${CXX:-g++})" "$(have "${CXX:-g++}")" \
			"sudo apt-get install g++   (or: set CC and CXX to yours)"
		;;
	make) need "make" "$(have make)" "sudo apt-get install make" ;;
	esac
done
exit $bad
