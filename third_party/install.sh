#!/usr/bin/env bash
# install.sh PREFIX [remove]: `make install` and `make uninstall`. Builds, then installs to $DESTDIR$PREFIX
#   bin/ditrun
#   lib/libditshim.so, lib/libditcuda.so
#   lib/ditrun/torch, lib/ditrun/nvidia   the libtorch of the build, if that was fetched: the clone may be deleted
#   lib/ditrun/codecs, lib/pkgconfig/ditrun.pc   what Go programs of other modules are linked with (docs/binding.md)
#   share/doc/ditrun                      licences
# Everything is found relative to bin and lib, so the prefix may be moved as a whole.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

say() { printf '%s\n' "install: $*"; }
fail() { # fail MESSAGE WAY OUT
	printf '%s\n' "ditrun: error: install: $1" "ditrun: hint: $2" >&2
	exit 1
}

prefix=${1:?usage: install.sh PREFIX [remove]}
case $prefix in
"~" | "~/"*) prefix=$HOME${prefix#"~"} ;; # which not every shell expands behind PREFIX=
esac
case $prefix in
/*) ;;
*) prefix=$PWD/$prefix ;;
esac
to=${DESTDIR:-}$prefix

if [ "${2:-}" = remove ]; then
	rm -rf "$to/bin/ditrun" "$to/lib/libditshim.so" "$to/lib/libditcuda.so" "$to/lib/ditrun" \
		"$to/lib/pkgconfig/ditrun.pc" "$to/share/doc/ditrun"
	say "removed from $to"
	exit
fi

# The libtorch of the last build is kept, unless LIBTORCH names another now.
if [ -z "${LIBTORCH:-}" ] && [ -f build/libtorch ] && [ "$(cat build/libtorch)" != "$PWD/third_party/libtorch/torch" ]
then
	LIBTORCH=$(cat build/libtorch)
	export LIBTORCH
fi
# In the tree of somebody else, as under sudo, nothing is built: its owner could not replace the files.
if [ "$(id -u)" = "$(stat -c %u .)" ]; then
	"${MAKE:-make}" build
elif [ ! -x bin/ditrun ] || [ ! -f build/lib/libditshim.so ] || [ ! -f build/libtorch ]; then
	fail "bin/ditrun or build/lib/libditshim.so is not there, and $PWD belongs to $(stat -c %U .)" \
		"run \`make build\` as $(stat -c %U .) first"
fi
torch=$(cat build/libtorch)
[ -f "$torch/lib/libtorch_cpu.so" ] || fail "the libtorch of the build is gone from $torch" "run \`make build\` again"

mkdir -p "$to/bin" "$to/lib/pkgconfig" "$to/lib/ditrun" "$to/share/doc/ditrun" 2>/dev/null && [ -w "$to/bin" ] &&
	[ -w "$to/lib/ditrun" ] || fail "cannot write to $to" \
	"\`sudo make install\`, or a folder of your own: \`make install PREFIX=\$HOME/.local\`"

# place FROM TO: puts the folder FROM into the place of TO.
linked=0 copied=0
place() {
	local size here
	size=$(du -sk --dereference-args "$1" | cut -f1)
	rm -rf "$2" "$2.part"
	here=$(stat -c %u "$1/.")
	# Hard links where the files stay the user's own, who could change them in the clone; else copies, which cost no
	# space either on a file system that shares blocks.
	if [ "$here" = "$(id -u)" ] && cp -aTl "$1/." "$2.part" 2>/dev/null; then
		linked=$((linked + size))
	else
		rm -rf "$2.part"
		local free
		free=$(df -Pk "${2%/*}" | awk 'NR == 2 { print $4 }')
		[ "$free" -gt "$size" ] || fail "$((free / 1024)) MB free under $to, want $((size / 1024)) MB for $1" \
			"make room, or choose another PREFIX"
		cp -rT --preserve=mode,timestamps,links --reflink=auto "$1/." "$2.part"
		copied=$((copied + size))
	fi
	mv -T "$2.part" "$2"
}

if [ "$torch" = "$PWD/third_party/libtorch/torch" ]; then
	mkdir -p "$to/lib/ditrun/torch"
	place "$torch/lib" "$to/lib/ditrun/torch/lib"
	place third_party/libtorch/nvidia "$to/lib/ditrun/nvidia"
	cp -r third_party/libtorch/*.dist-info "$to/share/doc/ditrun/"
	said=
	[ $copied = 0 ] || said="$((copied / 1024)) MB copied"
	[ $linked = 0 ] || said="${said:+$said, }$((linked / 1024)) MB shared with the clone by hard links"
	say "libtorch is in $to/lib/ditrun ($said)"
else
	rm -rf "$to/lib/ditrun/torch" "$to/lib/ditrun/nvidia" # of an earlier version
	say "libtorch is not copied: the program uses $torch, which was named by LIBTORCH; keep it there"
fi
install -m 644 LICENSE third_party/README.md "$to/share/doc/ditrun/"
install -m 755 build/lib/libditshim.so "$to/lib/"
rm -f "$to/lib/libditcuda.so" # of an earlier version
[ ! -f build/lib/libditcuda.so ] || install -m 755 build/lib/libditcuda.so "$to/lib/"
rm -rf "$to/lib/ditrun/codecs"
cp -r third_party/codecs "$to/lib/ditrun/codecs"
chmod -R a+rX "$to/lib/ditrun/codecs"
cat >"$to/lib/pkgconfig/ditrun.pc" <<'PC'
prefix=${pcfiledir}/../..
codecs=${prefix}/lib/ditrun/codecs

Name: ditrun
Description: what Go programs that import github.com/ditrun/ditrun are linked with
PC
cat >>"$to/lib/pkgconfig/ditrun.pc" <<PC
Version: $(bin/ditrun version | awk '$1 == "ditrun" { print $2 }')
PC
cat >>"$to/lib/pkgconfig/ditrun.pc" <<'PC'
Cflags: -I${codecs}/include
Libs: -L${codecs}/lib -ljpeg -lwebpdemux -lwebp -lz -lm
PC
chmod 644 "$to/lib/pkgconfig/ditrun.pc"
install -m 755 bin/ditrun "$to/bin/" # last, since it finds the rest

say "ditrun is in $to/bin; this clone may be deleted"
case :$PATH: in
*:"$prefix/bin":*) ;;
*) say "$prefix/bin is not in PATH: export PATH=$prefix/bin:\$PATH" ;;
esac
say "Go programs of other modules: PKG_CONFIG_PATH=$prefix/lib/pkgconfig go build -tags installed"
