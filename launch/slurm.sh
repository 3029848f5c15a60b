#!/usr/bin/env bash
# Submits a run to SLURM: one process per GPU, started by srun (launch/slurm.sbatch).
#
#     launch/slurm.sh [options] -- --config configs/ours.py --workdir /shared/runs/mine [--config.mesh.fsdp=8 ...]
#
#     --nodes N          default 1
#     --gpus N           of each node (default 8)
#     --cpus N           for each process (default 8)
#     --time LIMIT       such as 24:00:00 (default); a run that is longer goes back into the queue, and on
#     --partition NAME
#     --account NAME
#     --name NAME        of the job (default lmindexer)
#     --log FILE         default lmindexer-%j.log, in this checkout
#     --retries N        times that a job goes back into the queue, whose time is up or that has crashed (default 10)
#     --dry-run          print the commands instead of running them
#     --help
#
# Checkout and workdir must lie where all nodes see them.

cd "$(dirname "$0")/.."
source launch/common.sh

nodes=1 gpus=8 cpus=8 time=24:00:00 partition="" account="" name=lmindexer log=lmindexer-%j.log retries=10
while (($#)); do
    case $1 in
    --nodes) nodes=$(value "$@"); shift 2 ;;
    --gpus) gpus=$(value "$@"); shift 2 ;;
    --cpus) cpus=$(value "$@"); shift 2 ;;
    --time) time=$(value "$@"); shift 2 ;;
    --partition) partition=$(value "$@"); shift 2 ;;
    --account) account=$(value "$@"); shift 2 ;;
    --name) name=$(value "$@"); shift 2 ;;
    --log) log=$(value "$@"); shift 2 ;;
    --retries) retries=$(value "$@"); shift 2 ;;
    --dry-run) dry_run=true; shift ;;
    --help) help ;;
    --) shift; break ;;
    *) fail "unknown argument '$1'; see --help" ;;
    esac
done
for pair in "--nodes $nodes" "--gpus $gpus" "--cpus $cpus" "--retries $retries"; do
    # shellcheck disable=SC2086 # two words
    whole $pair
done
if ((nodes < 1 || gpus < 1 || cpus < 1)); then fail "--nodes, --gpus and --cpus are at least 1"; fi
check_run "$@"

# No --gpus-per-task: it would show each process one GPU, as number 0, while JAX gives process i of a node its GPU i.
job=(sbatch --job-name "$name" --nodes "$nodes" --ntasks-per-node "$gpus" --gpus-per-node "$gpus" --cpus-per-task "$cpus")
job+=(--time "$time" --output "$log" --open-mode append --requeue --signal "B:USR1@120")
if [[ -n $partition ]]; then job+=(--partition "$partition"); fi
if [[ -n $account ]]; then job+=(--account "$account"); fi
job+=(launch/slurm.sbatch "$retries" "$@")
run "${job[@]}"
if $dry_run; then
    printf '# and in the job:\n'
    SLURM_CPUS_PER_TASK=$cpus bash launch/slurm.sbatch --dry-run "$@"
fi
