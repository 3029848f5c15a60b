"""One JAX for every test: one device as on a laptop, exact matmuls, no silent broadcasting, a warm compile cache.

Tests of several devices run in a process of their own, with the environment variable JAX_NUM_CPU_DEVICES set
(see training/test_sharding.py): collectives among many simulated devices on few cores would slow all the others.
"""

import pathlib

import jax
import pytest

CACHE = pathlib.Path(__file__).parents[1] / ".cache" / "jax"

jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_default_matmul_precision", "float32")
jax.config.update("jax_compilation_cache_dir", str(CACHE))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)

MAPS = pathlib.Path("/proc/self/maps")


@pytest.fixture(autouse=True, scope="module")
def few_compiled_functions():
    """XLA maps some memory for every compiled function, and crashes where Linux gives it no more (65,530 mappings): a worker that
    has compiled for very many tests forgets what it has (jax issue 27201)."""
    yield
    if MAPS.exists() and MAPS.read_bytes().count(b"\n") > 20_000:
        jax.clear_caches()
