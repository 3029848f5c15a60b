"""One run from settings to IDs: prepare, show the plan, walk the stages, conclude."""

import pathlib

import jax.numpy as jnp

from lmindexer_jax.conclude import Ended, conclude, labels_of
from lmindexer_jax.config import Config
from lmindexer_jax.console import Console
from lmindexer_jax.data.cache import keep_compiled
from lmindexer_jax.evaluation.observer import make_observer
from lmindexer_jax.indexing import two_stage
from lmindexer_jax.indexing.assigners import Assigners
from lmindexer_jax.indexing.estimate import estimate, matmul_rate
from lmindexer_jax.indexing.runner import Run, walk
from lmindexer_jax.indexing.two_stage import IndexerKind
from lmindexer_jax.prepare import Prepared, prepare, prepare_two_stage
from lmindexer_jax.training import hosts
from lmindexer_jax.training.sharding import make_mesh, place


def execute(config: Config, workdir: pathlib.Path, *, console: Console) -> None:
    """Do what `main` was asked for, or go on with it.

    Raises:
      UserError: anything the user can mend.
    """
    keep_compiled(config.corpus.cache_dir)
    index = learned if config.indexer_kind == IndexerKind.LEARNED else clustered
    ended = index(config, workdir, console=console)
    if hosts.first():
        with hosts.alone():
            conclude(config, ended, console=console)
    hosts.barrier()


def learned(config: Config, workdir: pathlib.Path, *, console: Console) -> Ended:
    """The method itself: the language model learns the codes."""
    prepared = prepare(config, workdir, console=console)
    run = run_of(config, workdir, prepared, console=console)
    corpus, sizes = prepared.corpus, tuple(config.indexer.codebook_sizes)
    del prepared  # the parameters before the first step would be held to the end
    planned = estimate(run)
    console.plan(f"{len(corpus):,} documents, {len(sizes)} positions", planned)
    walk(run)
    assigners = Assigners(workdir / "assigners")
    last = assigners.learned_codes(len(sizes) - 1)
    model = assigners.model_hash(len(sizes))
    return Ended(workdir, corpus, run.inputs, sizes, last, model, run.stages, planned, run.spent)


def run_of(config: Config, workdir: pathlib.Path, prepared: Prepared, *, console: Console) -> Run:
    """What is walked stage by stage, on the devices."""
    labels = labels_of(prepared.corpus)
    observe = make_observer(prepared.functions, prepared.inputs, labels=labels, seed=config.seed, console=console)
    mesh = make_mesh(config.mesh)
    return Run(
        workdir=workdir,
        functions=prepared.functions,
        recipe=config.recipe,
        stages=prepared.stages,
        inputs=prepared.inputs,
        params=place(prepared.params, mesh),
        mesh=mesh,
        seed=config.seed,
        console=console,
        observe=observe,
        checkpoint_seconds=config.checkpoint_seconds,
        fingerprint=prepared.fingerprint,
        profile=config.profile,
    )


def clustered(config: Config, workdir: pathlib.Path, *, console: Console) -> Ended:
    """A two-stage rival: vectors, then codes for them."""
    corpus, inputs, run = prepare_two_stage(config, workdir, console=console)
    stages = two_stage.plan(run.kind, run.sizes, run.config.training, documents=len(corpus))
    planned = two_stage.estimate(run, stages, rate=matmul_rate(jnp.dtype(run.dtype)))
    console.plan(f"{len(corpus):,} documents, {run.kind} codes, {len(run.sizes)} positions", planned)
    inputs.codes[:] = two_stage.learn(run)
    model = two_stage.model_hash(workdir)
    return Ended(workdir, corpus, inputs, run.sizes, inputs.codes[:, -1], model, stages, planned, run.spent)
