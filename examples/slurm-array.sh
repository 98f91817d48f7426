#!/bin/bash
# Four tasks fill one folder; the number of tasks may change from run to run:
#   sbatch slurm-array.sh photos/ out/
#   resnest merge out/ -o all.csv        when all have ended; names what is missing
#SBATCH --job-name=resnest
#SBATCH --array=0-3
#SBATCH --cpus-per-task=1
#SBATCH --requeue
#SBATCH --output=resnest-%A_%a.log
set -eu
exec resnest predict "$1" -o "${2%/}/" --shard auto -j "${SLURM_CPUS_PER_TASK:-1}" "${@:3}"
