#!/bin/bash
#SBATCH --job-name=dit
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=12
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
# Two minutes before the end the processes get SIGTERM: they save and stop.
#SBATCH --signal=TERM@120
# Not tried on a cluster yet. The folders must be the same on all machines.
export OMP_NUM_THREADS=$SLURM_CPUS_PER_TASK
srun --kill-on-bad-exit=1 ditrun train --data latents --model DiT-XL/2 --resume auto
