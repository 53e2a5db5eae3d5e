#!/usr/bin/env bash
# Train on a SLURM cluster. Run this from the root of the repository, in the environment with dino_d2:
#
#     sbatch --nodes 2 tools/slurm_train.sh --config-file configs/dino/dino_r50_4scale_12ep.py
#
# Submitting the same command again continues from the last checkpoint.
#SBATCH --job-name=dino_d2
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=48
#SBATCH --time=24:00:00
#SBATCH --signal=TERM@120
#SBATCH --open-mode=append
# There is one task per node, and torchrun starts one process per GPU. Two minutes before the time limit, SLURM sends
# SIGTERM, at which the run saves a checkpoint and stops.
set -euo pipefail

first_node=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
port=$((20000 + SLURM_JOB_ID % 20000)) # jobs that share a node must not share a port

srun --kill-on-bad-exit=1 python -m torch.distributed.run \
    --nnodes "$SLURM_JOB_NUM_NODES" \
    --nproc-per-node "$SLURM_GPUS_ON_NODE" \
    --rdzv-backend c10d \
    --rdzv-id "$SLURM_JOB_ID" \
    --rdzv-endpoint "$first_node:$port" \
    train_net.py --resume "$@"
