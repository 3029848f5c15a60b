"""What each kind of training stage minimises: model functions and losses joined (METHOD: sections 3.2-3.4 of the paper).

    warm-up      reconstruction from the continuous vector, no hints held back
    continuous   reconstruction from the continuous vector + contrast (+ commitment at positions >= 2)
    quantised    reconstruction from the code vector + contrast (+ commitment) + the quantiser's own losses
    together     as quantised, for every position at once (`together.py`)
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from lmindexer_jax.indexing import together
from lmindexer_jax.indexing.recipe import PositionConfig, RecipeConfig, SecondQuery, Stage, StageKind
from lmindexer_jax.indexing.terms import (
    Batch,
    Outcome,
    Params,
    compared,
    in_batch,
    read,
    rebuilt,
    remember,
    start_book,
    stream_keys,
    views,
    with_states,
)
from lmindexer_jax.models.indexer import IndexerFunctions, codebook
from lmindexer_jax.models.quantiser import Estimator, Quantised, quantise, similarities
from lmindexer_jax.training import losses


def start_memory(params: Params, stage: Stage, recipe: RecipeConfig) -> dict[str, Array]:
    """What a stage carries from step to step beside parameters and moments."""
    if stage.kind == StageKind.TOGETHER:
        return together.start_memory(params, stage, recipe)
    if stage.kind != StageKind.QUANTISED:
        return {}
    return start_book(codebook(params, stage.position), stage.settings.quantiser, batch_size=stage.settings.batch_size)


def make_objective(functions: IndexerFunctions, stage: Stage, recipe: RecipeConfig):
    """The objective `(params, memory, batch, key) -> (loss, Outcome)` of a training stage.

    A batch holds `tokens`, `words`, `mask`, `labelled` (B, L), `codes` (B, P), `present` (B,) and, where the states of a
    frozen encoder are kept, `encoded` (B, L, D); `centres` (B, P+1, D) where the pooled vector is used; `neighbours` (a batch
    of B*C documents) and `neighbour_present` (B, C) where same-prefix negatives are.
    """
    make = together.make_objective if stage.kind == StageKind.TOGETHER else of_one_position
    minimised = make(functions, stage, recipe)

    def objective(params: Params, memory: dict, batch: Batch, key: PRNGKeyArray) -> tuple[Array, Outcome]:
        return minimised(params, memory, with_states(functions, params, batch) if stage.frozen else batch, key)

    return objective


def of_one_position(functions: IndexerFunctions, stage: Stage, recipe: RecipeConfig):
    """The same of a stage that trains one position."""
    settings, position = stage.settings, stage.position
    warm_up, quantised = stage.kind == StageKind.WARM_UP, stage.kind == StageKind.QUANTISED
    contrast = settings.contrast if settings.contrast.weight > 0 and not warm_up else None

    def objective(params: Params, memory: dict, batch: Batch, key: PRNGKeyArray) -> tuple[Array, Outcome]:
        keys = stream_keys(key)
        size = batch["tokens"].shape[0]
        everyone = views(batch, count=2 if contrast else 1)
        outputs = document_vectors(functions, params, everyone, keys=keys, token_dropout=settings.token_dropout)
        vector = outputs[:size, -1]

        chosen = None
        if quantised:
            rows = codebook(params, position)
            chosen = quantise(
                vector, rows, config=settings.quantiser, key=keys["quantiser"], queue=memory.get("queue")
            )
        terms = {
            "reconstruction": settings.reconstruction
            * reconstruction_loss(functions, params, batch, vector, chosen, keys=keys, stage=stage, recipe=recipe)
        }
        if contrast:
            terms["contrast"] = contrast.weight * losses.mean(contrast_loss(outputs, batch, config=contrast))
        if position > 0 and settings.commitment > 0 and not warm_up:
            terms["commitment"] = settings.commitment * losses.mean(
                commitment_loss(params, outputs[:size], batch, settings=settings, recipe=recipe)
            )
        metrics = {}
        replaced = {}
        if quantised:
            terms["quantisation"] = losses.mean((chosen.commitment, batch["present"]))
            memory, moved, metrics = remember(memory, chosen, vector, quantiser=settings.quantiser, stage=stage)
            replaced = {} if moved is None else {f"codebook_{position}": moved}
        loss = sum(terms.values())
        metrics |= terms | {"loss": loss, "vector_norm": jnp.mean(jnp.linalg.norm(vector, axis=-1))}
        return loss, Outcome(metrics, memory, replaced)

    return objective


def document_vectors(
    functions: IndexerFunctions, params: Params, rows: Batch, *, keys: dict[str, PRNGKeyArray], token_dropout: float
) -> Float[Array, "R P+1 D"]:
    """h_1..h_{P+1} of each row, with dropout."""
    encoded, mask = read(functions, params, rows, keys=keys, token_dropout=token_dropout)
    return functions.vectors(
        params, encoded, rows["tokens"], mask, codes=rows["codes"], centres=rows.get("centres"), key=keys["decoder"]
    )


def prefix_vectors(params: Params, codes: Array) -> list[Float[Array, "B D"]]:
    """Codebook rows of the codes already assigned."""
    return [codebook(params, p)[codes[:, p]] for p in range(codes.shape[1])]


def reconstruction_loss(
    functions: IndexerFunctions,
    params: Params,
    batch: Batch,
    vector: Float[Array, "B D"],
    chosen: Quantised | None,
    *,
    keys: dict[str, PRNGKeyArray],
    stage: Stage,
    recipe: RecipeConfig,
) -> Float[Array, ""]:
    """Mean cross-entropy of the labelled tokens given the codes (and hints)."""
    prefix = prefix_vectors(params, batch["codes"])
    if chosen is not None and stage.settings.quantiser.estimator == Estimator.MARGINAL:
        logits = functions.reconstruct(params, codebook(params, stage.position)[:, None], key=keys["reconstructor"])
        choice = jax.nn.log_softmax(chosen.scores, axis=-1)
        return losses.mean(losses.marginal_reconstruction(logits, choice, batch["words"], batch["labelled"]))
    codes = jnp.stack([*prefix, vector if chosen is None else chosen.vector], axis=1)
    queries = codes
    if stage.position > 0 and recipe.second_query == SecondQuery.CONTINUOUS:
        queries = jnp.stack([*prefix, vector], axis=1)
    return rebuilt(functions, params, batch, queries, codes, keys=keys, stage=stage)


def contrast_loss(outputs: Float[Array, "R P+1 D"], batch: Batch, *, config) -> losses.Terms:
    """In-batch contrast at position 1, same-prefix contrast after it, between two dropout views."""
    vectors, size = outputs[:, -1], batch["tokens"].shape[0]
    if "neighbours" not in batch:
        return in_batch(vectors, batch, config=config)
    vectors = compared(vectors, config)
    negatives = vectors[2 * size :].reshape(size, -1, vectors.shape[-1])
    first, second = vectors[:size], vectors[size : 2 * size]
    return losses.prefix_contrast(first, second, negatives, batch["neighbour_present"], temperature=config.temperature)


def commitment_loss(
    params: Params, outputs: Float[Array, "B P+1 D"], batch: Batch, *, settings: PositionConfig, recipe: RecipeConfig
) -> losses.Terms:
    """Cross-entropy of the codes already assigned, at every earlier slot by the similarity that assigned them."""
    # The temperature is that of the position in training: so the recipes that are measured in docs/ were learned.
    scores = [
        similarities(outputs[:, p], codebook(params, p), similarity=recipe.of(p).quantiser.similarity)
        / settings.quantiser.temperature
        for p in range(batch["codes"].shape[1])
    ]
    return losses.commitment(scores, batch["codes"], batch["present"])
