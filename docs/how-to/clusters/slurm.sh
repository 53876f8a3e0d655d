#!/bin/bash
#SBATCH --job-name=gpt2ft
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --time=24:00:00
# After a node has failed, or a job of higher priority took its place, Slurm starts it again.
#SBATCH --requeue
#SBATCH --open-mode=append
# Two minutes before the time is up, this script gets SIGTERM.
#SBATCH --signal=B:TERM@120

head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
# One torchrun on each node; it starts a process for each GPU. A process that dies ends the others,
# and torchrun starts all of them again, up to three times.
srun torchrun \
    --nnodes "$SLURM_NNODES" --nproc-per-node "$SLURM_GPUS_PER_NODE" --max-restarts 3 \
    --rdzv-backend c10d --rdzv-id "$SLURM_JOB_ID" --rdzv-endpoint "$head:29400" \
    -m gpt2ft train --train_file /shared/my.txt --output_dir /shared/my-model \
    --micro_batches_per_step 32 --resume auto &
step=$!

# srun hands the signal on, so that the run saves a checkpoint; then the job goes back to the queue.
trap 'time_is_up=yes; kill -TERM "$step"' TERM
wait "$step"
status=$?
if [ -n "$time_is_up" ]; then
    wait "$step"
    scontrol requeue "$SLURM_JOB_ID"
    exit 0
fi
exit "$status"
