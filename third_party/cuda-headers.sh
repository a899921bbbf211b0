#!/usr/bin/env bash
# cuda-headers.sh: prints a folder with the headers of the CUDA runtime: that of the nvcc which nvcc.sh finds, else that
# of the pinned wheels, which are fetched (2.4 MB, once) into third_party/tools. Exit code 69 means that there is none.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

if nvcc=$("$here/nvcc.sh" 2>/dev/null) && include=$(dirname "$nvcc")/../include && [ -f "$include/cuda_runtime_api.h" ]
then
	realpath "$include"
	exit
fi
"$here/fetch-wheels.sh" cuda-headers
echo "$here/tools/cuda-headers/nvidia/cu13/include"
