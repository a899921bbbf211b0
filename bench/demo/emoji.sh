#!/usr/bin/env bash
# Fetches Noto Emoji, a package of npm's registry, into ~/.cache/ditrun, once, and prints the file.
set -euo pipefail
cd "$(dirname "$0")/../.."
. bench/demo/fetch.sh

data=$cache/emoji
package=emoji-datasource-google
version=16.0.0
file=$package-$version.tgz
checksum=fb5fd131b362aab7a55542d2a147a79708cce0a8b1c1bbacd470172708b5c438
registry=${npm_config_registry:-${NPM_CONFIG_REGISTRY:-https://registry.npmjs.org}}

intact() { # intact FOLDER: the package is there, and it is the right one
	[ -f "$1/$file" ] && [ "$(sha256sum <"$1/$file" | cut -d' ' -f1)" = "$checksum" ]
}

# npm goes first because it knows the registry, the proxy and the certificates of this machine.
from_npm() { # from_npm FOLDER
	command -v npm >/dev/null || return 1
	echo "fetching $package $version with npm"
	(cd "$1" && npm pack --silent "$package@$version" >/dev/null)
}

if ! intact "$data"; then
	exec 3>&1 >&2
	echo "fetching Noto Emoji (75 MB, (c) Google LLC, Apache-2.0) into $data"
	mkdir -p "$cache"
	new=$(mktemp -d "$data.XXXXXX")
	trap 'rm -rf "$new"' EXIT
	if ! from_npm "$new" && ! download "${registry%/}/$package/-/$file" "$new/$file"; then
		fail "could not fetch $file" "run again with a network" \
			"a mirror of npm's registry: npm config set registry URL, or NPM_CONFIG_REGISTRY=URL" \
			"put $file into $data"
	fi
	intact "$new" || fail "the fetched package does not have the pinned checksum"
	replace "$data" "$new"
	exec >&3
fi

echo "$data/$file"
