#!/bin/bash
# One run on several nodes: sbatch [options of sbatch] slurm.sh INPUT OUTPUT [options of ladm score]
#SBATCH --job-name=ladm --output=%x-%j.log --open-mode=append
#SBATCH --nodes=4 --ntasks-per-node=1 --gpus-per-node=8 --cpus-per-task=64
#SBATCH --time=24:00:00 --requeue --signal=B:USR1@120

# compute nodes download nothing: take this out where INPUT is on the Hub
export HF_HUB_OFFLINE=1

# Slurm requeues a job that is preempted or loses a node, but not one that meets its time limit
again() {
    scancel --signal=TERM "$SLURM_JOB_ID"
    wait
    scontrol requeue "$SLURM_JOB_ID"
}
trap again USR1

head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
port=$((10000 + SLURM_JOB_ID % 20000))
srun --cpus-per-task "$SLURM_CPUS_PER_TASK" torchrun \
    --nnodes "$SLURM_NNODES" --nproc_per_node "${SLURM_GPUS_ON_NODE:-1}" \
    --rdzv_id "$SLURM_JOB_ID" --rdzv_backend c10d --rdzv_endpoint "$head:$port" \
    -m ladm_hf score "$@" &
wait $!
