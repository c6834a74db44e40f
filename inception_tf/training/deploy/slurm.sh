#!/bin/bash
# Save this on the disk that holds --data and --out and that all machines see, and there: sbatch slurm.sh
# When a worker or a machine is lost, all begin again where the state was saved; so does another sbatch.
#SBATCH --job-name=inception-tf
#SBATCH --nodes=$machines
#SBATCH --ntasks-per-node=1
#SBATCH --output=%x-%j.log
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --signal=TERM@120
# For GPUs, with one task for each: SBATCH --gpus-per-node=1
for _ in 1 2 3 4 5; do
  # The workers notice themselves that one is lost; Slurm's signal would be taken for the wish to stop.
  srun --kill-on-bad-exit=0 $command && exit
  code=$$?
  case $$code in 2 | 130) break ;; esac # wrong use; told to stop, with the state saved
done
exit "$$code"
