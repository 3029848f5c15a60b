"""One run from settings to IDs: prepare, show the plan, walk the stages, conclude."""

import pathlib

import jax

from lmindexer_jax.conclude import conclude, labels_of
from lmindexer_jax.config import Config
from lmindexer_jax.console import Console
from lmindexer_jax.evaluation.observer import make_observer
from lmindexer_jax.indexing.estimate import estimate
from lmindexer_jax.indexing.runner import Run, walk
from lmindexer_jax.data.cache import cache_root
from lmindexer_jax.prepare import prepare
from lmindexer_jax.training.sharding import make_mesh


def execute(config: Config, workdir: pathlib.Path, *, console: Console) -> None:
    """Do what `main` was asked for, or go on with it.

    Raises:
      UserError: anything the user can mend.
    """
    if jax.config.jax_compilation_cache_dir is None:
        jax.config.update("jax_compilation_cache_dir", str(cache_root(config.corpus.cache_dir) / "compiled"))
    prepared = prepare(config, workdir, console=console)
    observe = make_observer(
        prepared.functions, prepared.inputs, labels=labels_of(prepared.corpus), seed=config.seed, console=console
    )
    run = Run(
        workdir=workdir,
        functions=prepared.functions,
        recipe=config.recipe,
        stages=prepared.stages,
        inputs=prepared.inputs,
        params=prepared.params,
        mesh=make_mesh(config.mesh),
        seed=config.seed,
        console=console,
        observe=observe,
        checkpoint_seconds=config.checkpoint_seconds,
        fingerprint=prepared.fingerprint,
    )
    planned = estimate(run)
    console.plan(f"{len(prepared.corpus):,} documents, {len(config.indexer.codebook_sizes)} positions", planned)
    walk(run)
    conclude(config, prepared, run, planned=planned, console=console)
