#!/usr/bin/env bash
# Finds libtorch, or fetches it, and prints the absolute path of its torch folder (the one with lib/
# and include/) on standard output. Everything else goes to standard error.
#
# Order of search:
#   1. LIBTORCH=PATH, a torch folder of version 2.9, 2.10 or 2.11; LIBTORCH=python, the torch that
#      python3 has installed. LIBTORCH=cpu and LIBTORCH=cuda skip the search for a GPU driver.
#   2. third_party/libtorch, if the pins below are the ones it was fetched with.
#   3. The pinned wheels, fetched with pip into third_party/libtorch: libtorch-cuda.txt where an
#      NVIDIA driver is present, else libtorch-cpu.txt.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
dest=$here/libtorch
work=$here/.libtorch.part

say() { printf '%s\n' "libtorch: $*" >&2; }

fail() { # fail MESSAGE [WAY OUT]...
	say "error: $1"
	shift
	local way
	for way in "$@"; do printf '  - %s\n' "$way" >&2; done
	exit 1
}

own_copy="LIBTORCH=/path/to/torch  a torch folder you have (with lib/ and include/), 2.9 to 2.11"
own_python="LIBTORCH=python          the torch 2.9 to 2.11 that python3 has installed"

# check TORCH_FOLDER: it has headers and libraries of a version the shim compiles with.
check() {
	local f v major minor
	local include=$1/include/torch
	for f in lib/libtorch_cpu.so lib/libc10.so include/ATen/ATen.h; do
		[ -e "$1/$f" ] || fail "LIBTORCH=$LIBTORCH: no $f in $1" \
			"point LIBTORCH at the torch folder itself (in a Python installation: site-packages/torch)" \
			"$own_python" "unset LIBTORCH to have the pinned version fetched"
	done
	# The numbers are in the first from 2.10 on, in the second before.
	v=$(cat "$include/headeronly/version.h" "$include/csrc/api/include/torch/version.h" 2>/dev/null |
		sed -n 's/^#define TORCH_VERSION_\(MAJOR\|MINOR\) \([0-9]*\)$/\2/p' | xargs) || true
	major=${v% *} minor=${v#* }
	if [ -z "$v" ] || [ "$major" -lt 2 ] || { [ "$major" -eq 2 ] && [ "$minor" -lt 9 ]; }; then
		[ -n "$v" ] && v="version $major.$minor" || v="an unknown version (no number in torch/version.h)"
		fail "LIBTORCH=$LIBTORCH: $1 holds $v, want 2.9, 2.10 or 2.11" \
			"install one of these, or unset LIBTORCH to have the pinned version fetched"
	fi
	if [ "$major" -gt 2 ] || [ "$minor" -gt 11 ]; then
		say "warning: $1 holds version $major.$minor, which was not tried: the shim builds with 2.9, 2.10 and 2.11"
	fi
}

driver() { [ -e /proc/driver/nvidia/version ] || command -v nvidia-smi >/dev/null; }

want=
case ${LIBTORCH:-} in
'') if driver; then want=cuda; else want=cpu; fi ;;
cpu | cuda) want=$LIBTORCH ;;
python)
	# From another folder: here, Python would take this tree's torch/ for a package.
	torch=$(cd / && python3 -c '
import importlib.util as u, os
print(os.path.dirname(u.find_spec("torch").origin))' 2>/dev/null) ||
		fail "LIBTORCH=python: $(command -v python3 || echo python3) has no torch installed" \
			"python3 -m pip install 'torch==2.11.0'" "$own_copy" \
			"unset LIBTORCH to have the pinned version fetched"
	;;
*)
	[ -d "$LIBTORCH" ] || fail "LIBTORCH=$LIBTORCH: no such folder" "$own_copy" "$own_python" \
		"unset LIBTORCH to have the pinned version fetched"
	torch=$(cd "$LIBTORCH" && pwd)
	;;
esac
if [ -z "$want" ]; then
	check "$torch"
	say "using $torch"
	echo "$torch"
	exit
fi

# The stamp is written last, into the folder that is renamed into place: what carries it is whole.
# A CUDA set serves a CPU machine as well.
stamp() { echo "$1 $(cat "$here/libtorch-cpu.txt" "$here/libtorch-cuda.txt" | sha256sum | cut -c1-64)"; }
fetched() {
	local found
	found=$(cat "$dest/STAMP" 2>/dev/null) || return 1
	[ "$found" = "$(stamp "$want")" ] || [ "$found" = "$(stamp cuda)" ]
}
if fetched; then
	echo "$dest/torch"
	exit
fi

case $want in
cpu) need=3 size="545 MB" what="CPU" ;;
cuda) need=12 size="2.5 GB" what="CUDA" ;;
esac
[ "$(uname -sm)" = "Linux x86_64" ] || fail "no pinned libtorch for $(uname -sm), only for Linux x86_64" \
	"$own_copy" "$own_python"
command -v python3 >/dev/null || fail "libtorch is fetched with pip, and python3 was not found in PATH" \
	"sudo apt-get install python3-pip" "$own_copy"
python3 -m pip --version >/dev/null 2>&1 || fail "libtorch is fetched with pip, and $(command -v python3) has no pip" \
	"sudo apt-get install python3-pip   (or: python3 -m ensurepip --user)" "$own_copy" "$own_python"
free=$(df -Pk "$here" | awk 'NR == 2 { print int($4 / 1048576) }')
[ "$free" -ge "$need" ] || fail "$free GB free under $here, want $need GB to fetch and unpack libtorch ($what)" \
	"free some space, or keep the tree on a larger disk" "$own_copy" "$own_python"

# One fetch at a time. The lock ends with the process however that ends, and what a killed fetch left
# is removed by the next.
exec 9>"$here/.libtorch.lock"
flock -n 9 || { say "waiting for another fetch" && flock 9; }
if fetched; then
	echo "$dest/torch"
	exit
fi
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM HUP
rm -rf "$work"
mkdir -p "$work/pip" "$work/tmp"

say "fetching the pinned libtorch ($what, $size) into $dest"
# The platforms are all those that the pinned wheels name: pip compares them letter by letter. The
# Python version is fixed, so that every user gets the same torch wheel; no Python of it is kept.
# TMPDIR lies beside the target because pip unpacks there first: on one file system that is a rename.
if ! TMPDIR=$work/tmp PIP_USER=0 PIP_REQUIRE_VIRTUALENV=0 PIP_ROOT_USER_ACTION=ignore python3 -m pip install \
	--target "$work/pip" --no-deps --no-compile --only-binary=:all: --require-hashes \
	--python-version 3.12 --implementation cp \
	--platform manylinux_2_28_x86_64 --platform manylinux_2_27_x86_64 \
	--platform manylinux_2_25_x86_64 --platform manylinux_2_18_x86_64 \
	--platform manylinux2014_x86_64 --platform manylinux2010_x86_64 --platform manylinux1_x86_64 \
	--disable-pip-version-check --no-warn-conflicts \
	-r "$here/libtorch-$want.txt" >&2; then
	fail "pip could not fetch the wheels named in third_party/libtorch-$want.txt (its message is above)" \
		"offline? run make build again with a network: what pip has already fetched is kept in its cache" \
		"a mirror: set PIP_INDEX_URL as your site says" "$own_copy" "$own_python"
fi

# Only what is linked, included or loaded is kept: of the CPU set, half the disk.
mkdir -p "$work/new/torch/lib" "$work/new/nvidia"
cd "$work/pip"
mv torch/include torch/share torch/version.py "$work/new/torch/"
mv ./*.dist-info "$work/new/" # the licences
if [ "$want" = cuda ]; then
	rm -rf torch/lib/libtorch_python.so torch/lib/libshm*
	mv torch/lib/* "$work/new/torch/lib/"
	mv nvidia/* "$work/new/nvidia/"
else
	mv torch/lib/libtorch_cpu.so torch/lib/libc10.so torch/lib/libgomp*.so* "$work/new/torch/lib/"
	mkdir -p "$work/new/nvidia/cu13/lib"
	mv nvidia/cu13/lib/libcudart.so.* nvidia/cu13/lib/libcupti.so.* "$work/new/nvidia/cu13/lib/"
fi
cd "$here"
stamp "$want" >"$work/new/STAMP"
sync -f "$work/new/STAMP" 2>/dev/null || sync

if [ -e "$dest" ]; then mv "$dest" "$work/old"; fi
mv "$work/new" "$dest"
say "libtorch is in $dest ($(du -sh "$dest" | cut -f1))"
echo "$dest/torch"
