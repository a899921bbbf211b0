#!/usr/bin/env bash
# check.sh: installs to a folder, builds a Go program of another module against a copy of this tree that is like one in
# the module cache (read-only, without anything that was built), and runs it from another folder. It shows that a
# program finds libditshim.so by the ditrun in PATH, by ~/.local, beside itself and by DITRUN_LIB, and what it says
# otherwise; and that the installed command needs nothing of the clone.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
root=$PWD
work=$root/build/install-check # always the same, so that a second run builds little
fail() {
	echo "bench/install/check.sh: $*" >&2
	exit 1
}

mkdir -p "$work"
chmod -R u+w "$work"
rm -rf "$work"
mkdir -p "$work/module" "$work/program/own" "$work/elsewhere" "$work/home" "$work/pictures"/{a,b}
third_party/install.sh "$work/prefix"

git ls-files -co --exclude-standard -z | xargs -0 tar -cf - --ignore-failed-read -- 2>/dev/null |
	tar -xf - -C "$work/module"
chmod -R a-w "$work/module"
cp bench/install/program.go.txt "$work/program/main.go"
# The program of docs/library.md, the only one there.
awk '/^```go/ { inside = 1; next } /^```/ { inside = 0 } inside' docs/library.md >"$work/program/own/main.go"
cp docs/images/demo-samples.png "$work/pictures/a/"
cp docs/images/demo-samples-cfg-1.png "$work/pictures/b/"
module=$(go list -m)
sed "s|^module .*|module example.com/program|" go.mod >"$work/program/go.mod"
cp go.sum "$work/program/"
cd "$work/program"
go mod edit -require="$module@v0.0.0" -replace="$module=$work/module"
PKG_CONFIG_PATH=$work/prefix/lib/pkgconfig go build -mod=mod -tags installed -o "$work/elsewhere/" . ./own
cd "$work/elsewhere"

# finds WHAT PATH VARIABLE...: the program, in this environment, opens the shim of this path.
finds() {
	local what=$1 want=$2 out
	shift 2
	out=$(env -u DITRUN_LIB "HOME=$work/home" PATH=/usr/bin:/bin "$@" ./program) ||
		fail "$what: the program failed: $out"
	[ "$out" = "$want"$'\n'"picture 16x16" ] || fail "$what: printed $out, want $want and the size of a picture"
	echo "check: found by $what"
}
shim=$work/prefix/lib/libditshim.so
finds "the ditrun in PATH" "$shim" "PATH=$work/prefix/bin:/usr/bin:/bin"
finds "DITRUN_LIB, a folder" "$shim" "DITRUN_LIB=$work/prefix/lib"
finds "DITRUN_LIB, a file" "$shim" "DITRUN_LIB=$shim"
mkdir "$work/home/.local"
ln -s "$work/prefix/lib" "$work/home/.local/lib"
finds "HOME/.local" "$work/home/.local/lib/libditshim.so"
rm "$work/home/.local/lib"
ln -s "$work/prefix/lib/ditrun" ditrun # where the shim finds libtorch
cp "$shim" .
finds "the program's folder" "$work/elsewhere/libditshim.so"
rm libditshim.so ditrun

if [ ! -e /usr/local/lib/libditshim.so ]; then
	why=$(env -u DITRUN_LIB "HOME=$work/home" PATH=/usr/bin:/bin ./program 2>&1) &&
		fail "the program found a shim: $why"
	case $why in
	*"libditshim.so not found: looked in $work/elsewhere, "*"/.local/lib, /usr/local/lib: "*"set DITRUN_LIB"*) ;;
	*) fail "a program without a shim says: $why" ;;
	esac
	echo "check: nowhere: $why"
fi

DITRUN_LIB=$work/prefix/lib ./own "$work/pictures" "$work/module/vae/testdata/tiny" DiT-24x2x2/2 "$work/out" ||
	fail "the program of docs/library.md failed"
[ "$(head -c 8 "$work/out/samples.png" | od -An -tx1 | tr -d ' ')" = 89504e470d0a1a0a ] ||
	fail "the program of docs/library.md drew no PNG"
echo "check: the program of docs/library.md draws samples"

# The command, moved with its prefix, loads the libtorch that came along.
mv "$work/prefix" "$work/moved"
said=$("$work/moved/bin/ditrun" doctor --no-test) || fail "doctor: $said"
if [ "$(cat "$root/build/libtorch")" = "$root/third_party/libtorch/torch" ]; then
	case $said in
	*"$work/moved/lib/ditrun/torch/lib"*) ;;
	*) fail "doctor shows another libtorch: $said" ;;
	esac
fi
echo "check: the installed command runs in a prefix that was moved"
chmod -R u+w "$work"
rm -rf "$work"
