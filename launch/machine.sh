#!/usr/bin/env bash
# Runs lmindexer_jax.main on this machine: a GPU machine, one worker of a TPU slice, or a CPU.
#
#     launch/machine.sh [options] -- --config configs/ours.py --workdir runs/mine [--config.seed=1 ...]
#     launch/machine.sh [options] -- finetune --workdir runs/mine
#     launch/machine.sh [options] -- recommend --config configs/recommend/generative.py --workdir runs/rec ...
#
# The other launchers take the same behind --.
#
#     --platform NAME    gpu, tpu or cpu; found out by default
#     --retries N        start again up to N times after a crash (default 0); wrong settings are not tried again
#     --status FILE      write the exit code there when all is over; of several processes a 2, wrong settings, stays
#     --dry-run          print what would be set and run
#     --help
#
# Relative paths are the checkout's. The same command goes on where a killed run stopped. The other launchers call this one on every machine.

cd "$(dirname "$0")/.."
source launch/common.sh

platform="" retries=0 status=""
while (($#)); do
    case $1 in
    --platform) platform=$(value "$@"); shift 2 ;;
    --retries) retries=$(value "$@"); shift 2 ;;
    --status) status=$(value "$@"); shift 2 ;;
    --dry-run) dry_run=true; shift ;;
    --help) help ;;
    --) shift; break ;;
    *) fail "unknown argument '$1'; see --help" ;;
    esac
done
whole --retries "$retries"
check_run "$@"
if [[ -z $platform ]]; then
    platform=cpu
    if [[ -e /dev/nvidiactl ]]; then platform=gpu; fi
    if [[ -e /dev/accel0 || -e /dev/vfio/0 ]]; then platform=tpu; fi
fi
case $platform in gpu | tpu | cpu) ;; *) fail "--platform is gpu, tpu or cpu, not '$platform'" ;; esac

export LMINDEXER_PLATFORM=$platform
source launch/environment.sh
program=$(program_of "$@")
if [[ ${1:-} == "$program" ]]; then shift; fi
main=(python -m "lmindexer_jax.$program" "$@")
if $dry_run; then
    for name in JAX_DEFAULT_MATMUL_PRECISION LIBTPU_INIT_ARGS XLA_FLAGS XLA_PYTHON_CLIENT_MEM_FRACTION LMINDEXER_CACHE; do
        if [[ -n ${!name:-} ]]; then quote export "$name=${!name}"; fi
    done
    quote "${main[@]}"
    exit 0
fi

code=0
for ((attempt = 0; attempt <= retries; attempt++)); do
    if ((attempt)); then
        say "exit code $code; starting again, $attempt of $retries, in 10 s"
        sleep 10
    fi
    code=0
    "${main[@]}" || code=$?
    # 0 is success, 2 wrong settings, 130 and 143 somebody's wish.
    case $code in 0 | 2 | 130 | 143) break ;; esac
done
if [[ -n $status && $(cat "$status" 2>/dev/null) != 2 ]]; then printf '%s\n' "$code" >"$status"; fi
exit "$code"
