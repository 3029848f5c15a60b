# What JAX and XLA are told on each platform: the one place that says it. Sourced by every launch script with
# LMINDEXER_PLATFORM=tpu, gpu or cpu, before Python starts, because XLA reads its flags once, when it is loaded.
# Whatever is set already stays; of flags that are given twice the caller's count.
# shellcheck shell=bash

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
if [[ -d $root/.venv/bin ]]; then PATH=$root/.venv/bin:$PATH; fi
unset root

# Logs appear as they are written.
export PYTHONUNBUFFERED=${PYTHONUNBUFFERED:-1}

# A float32 matmul means float32. By default a TPU rounds its operands to bfloat16 and an NVIDIA GPU to TF32, which moves
# codes of documents that lie between two centres. Models compute in bfloat16 by their own choice
# (--config.precision), which this does not touch.
export JAX_DEFAULT_MATMUL_PRECISION=${JAX_DEFAULT_MATMUL_PRECISION:-float32}

# A share that all machines see keeps corpora, tokens and compiled functions: a preempted run compiles nothing again.
share=${LMINDEXER_SHARE:-/mnt/lmindexer}
if [[ -d $share ]]; then export LMINDEXER_CACHE=${LMINDEXER_CACHE:-$share/cache}; fi
unset share

case ${LMINDEXER_PLATFORM:?tpu, gpu or cpu} in
tpu)
    # Gathers of split parameters and sums of gradients run beside the matmuls. libtpu 0.0.50 and 0.0.52 know these flags;
    # another version that does not says so and ends, and then the line goes.
    flags="--xla_enable_async_all_gather=true"
    flags+=" --xla_tpu_enable_async_collective_fusion=true"
    flags+=" --xla_tpu_enable_async_collective_fusion_fuse_all_gather=true"
    flags+=" --xla_tpu_overlap_compute_collective_tc=true"
    flags+=" --xla_tpu_enable_data_parallel_all_reduce_opt=true"
    export LIBTPU_INIT_ARGS="$flags${LIBTPU_INIT_ARGS:+ $LIBTPU_INIT_ARGS}"
    ;;
gpu)
    # The same on a GPU; and most of its memory is taken at the start, so that it is not torn to pieces.
    flags="--xla_gpu_enable_latency_hiding_scheduler=true"
    export XLA_FLAGS="$flags${XLA_FLAGS:+ $XLA_FLAGS}"
    export XLA_PYTHON_CLIENT_MEM_FRACTION=${XLA_PYTHON_CLIENT_MEM_FRACTION:-0.92}
    ;;
cpu) ;;
*)
    printf 'LMINDEXER_PLATFORM=%s: tpu, gpu or cpu\n' "$LMINDEXER_PLATFORM" >&2
    exit 2
    ;;
esac
unset flags
