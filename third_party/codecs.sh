#!/usr/bin/env bash
# codecs.sh: provides third_party/codecs/{include,lib} with the headers and static libraries of
# libjpeg-turbo, libwebp and zlib that package data/picture/codec links, and prints the version of the first.
#
# It takes them from the system if they are there (CODECS=/prefix names another folder), else from the packages of a
# Debian or Ubuntu system, unpacked here without root.
set -euo pipefail
cd "$(dirname "$0")"
out=codecs
libs=(libjpeg.a libwebp.a libwebpdemux.a libz.a)
optional=(libsharpyuv.a) # libwebp from 1.3 on needs it
headers=(jpeglib.h jconfig.h jmorecfg.h jerror.h webp/decode.h webp/demux.h webp/mux_types.h webp/types.h
	zlib.h zconf.h)

fail() {
	printf 'ditrun: error: %s\n' "$*" >&2
	cat >&2 <<-'HINT'
		ditrun: hint: one of these provides what is missing:
		  sudo apt-get install libjpeg62-turbo-dev libwebp-dev zlib1g-dev     (Debian)
		  sudo apt-get install libjpeg-turbo8-dev libwebp-dev zlib1g-dev      (Ubuntu)
		  sudo dnf install libjpeg-turbo-static libjpeg-turbo-devel libwebp-static libwebp-devel \
		    zlib-ng-compat-static zlib-ng-compat-devel                        (Fedora)
		  CODECS=/prefix make build     with /prefix/include and /prefix/lib of libjpeg-turbo 2.1, libwebp 1.2
		                                and zlib 1.2, or newer
	HINT
	exit 1
}

# collect ROOT: copies the headers and libraries below ROOT into a new folder; returns 1 if one is missing.
collect() {
	local root=$1 arch name from tmp
	arch=$("${CC:-cc}" -print-multiarch 2>/dev/null || true)
	tmp=$(mktemp -d ./.codecs.XXXXXX)
	chmod 755 "$tmp" # another user may install it
	mkdir -p "$tmp/include/webp" "$tmp/lib"
	for name in "${headers[@]}"; do
		from=
		for dir in "$root/include${arch:+/$arch}" "$root/include"; do
			[ -f "$dir/$name" ] && from=$dir/$name && break
		done
		[ -n "$from" ] || { missing=$name; rm -rf "$tmp"; return 1; }
		cp "$from" "$tmp/include/$name"
	done
	for name in "${libs[@]}" "${optional[@]}"; do
		from=
		for dir in "$root/lib${arch:+/$arch}" "$root/lib64" "$root/lib"; do
			[ -f "$dir/$name" ] && from=$dir/$name && break
		done
		if [ -z "$from" ]; then
			case " ${optional[*]} " in *" $name "*) continue ;; esac
			missing=$name; rm -rf "$tmp"; return 1
		fi
		cp "$from" "$tmp/lib/$name"
	done
	rm -rf "$out"
	mv "$tmp" "$out"
}

# unpack: fetches and unpacks the distribution's packages, without installing them.
unpack() {
	local tmp ok=
	tmp=$(mktemp -d)
	for packages in "libjpeg62-turbo-dev libwebp-dev zlib1g-dev" \
		"libjpeg-turbo8-dev libwebp-dev libsharpyuv-dev zlib1g-dev" \
		"libjpeg62-turbo-dev libwebp-dev libsharpyuv-dev zlib1g-dev"; do
		# shellcheck disable=SC2086
		if ./debian.sh "$tmp" $packages && collect "$tmp/usr"; then ok=1 && break; fi
	done
	rm -rf "$tmp"
	[ -n "$ok" ]
}

complete() {
	local name
	for name in "${headers[@]}"; do [ -f "$out/include/$name" ] || return 1; done
	for name in "${libs[@]}"; do [ -f "$out/lib/$name" ] || return 1; done
}

missing=
rm -rf ./.codecs.??????
if [ -n "${CODECS:-}" ]; then
	collect "$CODECS" || fail "CODECS=$CODECS: no $missing"
elif ! complete; then
	collect /usr || collect /usr/local || unpack || fail "not found: $missing"
fi
version=$(sed -n 's/^#define LIBJPEG_TURBO_VERSION  *//p' "$out/include/jconfig.h")
[ -n "$version" ] || fail "third_party/$out: this libjpeg is not libjpeg-turbo"
echo "libjpeg-turbo $version"
