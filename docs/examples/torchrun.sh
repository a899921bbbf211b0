#!/bin/sh
# Run this on each of NODES machines, with the same HOST. torchrun starts a process for each GPU, and starts all of them
# again when one fails. For one machine leave NODES and HOST as they are. The folders must be the same on all machines.
NODES=${NODES:-1}
HOST=${HOST:-localhost:29400} # the address of one of the machines, where all of them meet
exec torchrun --nnodes="$NODES" --nproc-per-node="${GPUS:-8}" --max-restarts=10 \
    --rdzv-backend=c10d --rdzv-endpoint="$HOST" --rdzv-id="${RUN:-dit}" --no-python \
    ditrun train --data latents --model DiT-XL/2 --resume auto
