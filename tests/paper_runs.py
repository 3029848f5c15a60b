"""The paper's runs at full size without their arrays: models as shapes, and batches of documents that are all alike."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from test_configs import HOME, load

from lmindexer_jax.config import Config
from lmindexer_jax.indexing.inputs import Inputs
from lmindexer_jax.indexing.recipe import Stage, plan
from lmindexer_jax.models import presets
from lmindexer_jax.models.indexer import Indexer, IndexerFunctions

NAMES = sorted(path.stem for path in (HOME / "paper").glob("*.py"))


def config_of(name: str) -> Config:
    """A config of configs/paper, at full size."""
    return load(HOME / "paper" / f"{name}.py", "")


@functools.cache
def model(sizes: tuple[int, ...]) -> tuple[IndexerFunctions, dict]:
    """The indexer of the paper with so many codes, and the shapes of its parameters."""
    config = next(config for config in map(config_of, NAMES) if config.indexer.codebook_sizes == sizes)
    preset = presets.PRESETS[config.language_model.name]
    functions = IndexerFunctions(Indexer(config.indexer, preset, words=preset.vocab_size, dtype=jnp.bfloat16))
    return functions, jax.eval_shape(functions.init, jax.random.key(0))


def training_stages(config: Config, *, documents: int = 1024) -> list[Stage]:
    """The stages that take optimiser steps."""
    positions, kind = len(config.indexer.codebook_sizes), config.indexer.reconstructor.kind
    return [s for s in plan(config.recipe, positions=positions, documents=documents, reconstructor=kind) if s.kind.trains]


class Store:
    """Documents that fill the whole length."""

    def __init__(self, config: Config, documents: int = 256):
        self.max_length = config.language_model.max_length
        self.lengths = np.full(documents, self.max_length, np.int32)

    def __len__(self) -> int:
        return len(self.lengths)

    def batch(self, indices: np.ndarray, *, length: int) -> tuple[np.ndarray, np.ndarray]:
        """Tokens and mask."""
        return np.full((len(indices), length), 7, np.int32), np.ones((len(indices), length), bool)


def batch_of(config: Config, stage: Stage) -> dict:
    """A batch as the runner draws it for a stage."""
    store, sizes = Store(config), config.indexer.codebook_sizes
    inputs = Inputs(store, (0, 1), np.zeros((len(store), len(sizes)), np.int32))
    neighbours = stage.settings.contrast.neighbours if stage.position and stage.settings.contrast.weight else 0
    fetch = inputs.training_fetch(position=stage.position, neighbours=neighbours)
    rows = np.arange(stage.settings.batch_size)
    return fetch(rows, rows, np.random.default_rng(0))
