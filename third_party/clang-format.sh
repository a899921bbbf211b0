#!/usr/bin/env bash
# Runs clang-format 14, which formats this tree (other versions differ): the installed one, or the pinned wheel, fetched
# once into third_party/tools. Exit code 69 means that neither is available.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
tool=$here/tools/clang-format/clang_format/data/bin/clang-format
if clang-format --version 2>/dev/null | grep -q 'version 14\.'; then
	tool=clang-format
elif [ ! -x "$tool" ]; then
	rm -rf "$here/tools/clang-format"
	PIP_USER=0 PIP_ROOT_USER_ACTION=ignore python3 -m pip install -q --no-deps --only-binary=:all: \
		--disable-pip-version-check --require-hashes --target "$here/tools/clang-format" \
		-r "$here/clang-format.txt" >&2 || exit 69
fi
exec "$tool" "$@"
