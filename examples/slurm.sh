#!/usr/bin/env bash
# Several nodes under SLURM: sbatch examples/slurm.sh. One torchrun a node. A node that fails or is preempted puts the job back
# into the queue, and --resume continues from the newest whole checkpoint; give --set save_every= what you can afford to lose.
# --cpus-per-task is all cores of a node: without it SLURM gives its eight processes and their data workers a single one.
#SBATCH --job-name=owl
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --requeue
#SBATCH --open-mode=append
set -euo pipefail

head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
srun --cpus-per-task="$SLURM_CPUS_PER_TASK" torchrun \
    --nnodes="$SLURM_NNODES" --nproc-per-node=8 --max-restarts=3 \
    --rdzv-id="$SLURM_JOB_ID" --rdzv-backend=c10d --rdzv-endpoint="$head:29500" \
    -m mplug_owl_cli train paper.pretrain --set save_every=500 \
    --data "webdataset:/data/laion/{00000..41407}.tar" --out runs/pretrain --resume
