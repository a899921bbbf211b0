# Sourced by the scripts that fetch pictures for the demos.
# shellcheck shell=bash

cache=${XDG_CACHE_HOME:-$HOME/.cache}/ditrun

fail() { # fail MESSAGE [REMEDY]...
	printf '%s: error: %s\n' "$(basename "$0" .sh)" "$1" >&2
	shift
	if [ $# -gt 0 ]; then printf '  - %s\n' "$@" >&2; fi
	exit 1
}

download() { # download URL FILE
	echo "fetching $1"
	if command -v curl >/dev/null; then
		curl -fsSL --retry 2 -o "$2" "$1"
	else
		wget -q -O "$2" "$1"
	fi
}

replace() { # replace FOLDER NEW: NEW, from mktemp -d, becomes FOLDER
	rm -rf "$1"
	chmod 755 "$2"
	mv "$2" "$1"
}
