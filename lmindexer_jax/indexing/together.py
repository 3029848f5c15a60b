"""All positions at once: what progressive training is compared with.

One stage trains every codebook. Each slot of the decoder reads the rows that the slots before it have just chosen, and the
text is rebuilt from all rows together. Since codes change from step to step there is no earlier code to commit to and
no group that shares a prefix: contrast is in the batch at every position.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from lmindexer_jax.indexing.recipe import RecipeConfig, SecondQuery, Stage
from lmindexer_jax.indexing.terms import (
    Batch,
    Outcome,
    Params,
    in_batch,
    read,
    rebuilt,
    remember,
    start_book,
    stream_keys,
    views,
)
from lmindexer_jax.models.indexer import IndexerFunctions, codebook
from lmindexer_jax.models.quantiser import Quantised, quantise
from lmindexer_jax.training import losses


def start_memory(params: Params, stage: Stage, recipe: RecipeConfig) -> dict[str, dict[str, Array]]:
    """The memory of every codebook, by its name."""
    return {
        f"codebook_{p}": start_book(codebook(params, p), recipe.of(p).quantiser, batch_size=stage.settings.batch_size)
        for p in range(stage.position + 1)
    }


def make_objective(functions: IndexerFunctions, stage: Stage, recipe: RecipeConfig):
    """The objective `(params, memory, batch, key) -> (loss, Outcome)` of the stage; codes in the batch are not read."""
    settings, positions = stage.settings, range(stage.position + 1)
    contrast = settings.contrast if settings.contrast.weight > 0 else None

    def objective(params: Params, memory: dict, batch: Batch, key: PRNGKeyArray) -> tuple[Array, Outcome]:
        keys = stream_keys(key)
        size = batch["tokens"].shape[0]
        vectors, chosen = choose(functions, params, memory, batch, keys=keys, stage=stage, recipe=recipe)
        code_vectors = jnp.stack([each.vector[:size] for each in chosen], axis=1)
        queries = code_vectors
        if recipe.second_query == SecondQuery.CONTINUOUS:
            queries = jnp.concatenate([code_vectors[:, :1], vectors[:size, 1:]], axis=1)
        terms = {"reconstruction": settings.reconstruction * rebuilt(functions, params, batch, queries, code_vectors, keys=keys, stage=stage)}
        if contrast:
            pairs = [in_batch(vectors[:, p], batch, config=contrast) for p in positions]
            terms["contrast"] = contrast.weight * sum(losses.mean(pair) for pair in pairs) / len(pairs)
        terms["quantisation"] = sum(losses.mean((each.commitment[:size], batch["present"])) for each in chosen)
        metrics, kept, replaced = {}, {}, {}
        for p in positions:
            name, quantiser = f"codebook_{p}", recipe.of(p).quantiser
            own = jax.tree.map(lambda x: x[:size], chosen[p])
            kept[name], rows, seen = remember(memory[name], own, vectors[:size, p], quantiser=quantiser, stage=stage)
            metrics |= {f"{measure}_{p + 1}": value for measure, value in seen.items()}
            replaced |= {} if rows is None else {name: rows}
        loss = sum(terms.values())
        metrics |= terms | {"loss": loss, "vector_norm": jnp.mean(jnp.linalg.norm(vectors[:size], axis=-1))}
        return loss, Outcome(metrics, kept, replaced)

    return objective


def choose(
    functions: IndexerFunctions,
    params: Params,
    memory: dict,
    batch: Batch,
    *,
    keys: dict[str, PRNGKeyArray],
    stage: Stage,
    recipe: RecipeConfig,
) -> tuple[Float[Array, "R P D"], list[Quantised]]:
    """Vectors and codes of every position, each after the codes just chosen before it, for both views of the batch."""
    everyone = views({name: batch[name] for name in batch if name != "codes"}, count=2 if stage.settings.contrast.weight > 0 else 1)
    encoded, mask = read(functions, params, everyone, keys=keys, token_dropout=stage.settings.token_dropout)
    tokens = everyone["tokens"]
    codes = jnp.zeros((tokens.shape[0], 0), jnp.int32)
    vectors, chosen = [], []
    for p in range(stage.position + 1):
        vectors.append(functions.vectors(params, encoded, tokens, mask, codes=codes, key=keys["decoder"])[:, -1])
        key = jax.random.fold_in(keys["quantiser"], p)
        queue = memory[f"codebook_{p}"].get("queue")
        chosen.append(quantise(vectors[-1], codebook(params, p), config=recipe.of(p).quantiser, key=key, queue=queue))
        codes = jnp.concatenate([codes, chosen[-1].code[:, None]], axis=1)
    return jnp.stack(vectors, axis=1), chosen
