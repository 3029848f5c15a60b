"""What each kind of training stage minimises: model functions and losses joined (METHOD: sections 3.2-3.4 of the paper).

    warm-up      reconstruction from the continuous vector, no hints held back
    continuous   reconstruction from the continuous vector + contrast (+ commitment at positions >= 2)
    quantised    reconstruction from the code vector + contrast (+ commitment) + the quantiser's own losses
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from lmindexer_jax.indexing.recipe import ContrastSimilarity, RecipeConfig, SecondQuery, Stage, StageKind
from lmindexer_jax.models.indexer import IndexerFunctions, codebook, drop_tokens
from lmindexer_jax.models.quantiser import (
    Choice,
    CodebookUpdate,
    Estimator,
    Quantised,
    RunningMean,
    push,
    quantise,
    similarities,
    start_running_mean,
    unit,
    update_running_mean,
)
from lmindexer_jax.models.reconstructor import ReconstructorKind, hint_mask
from lmindexer_jax.training import losses

Params = dict
Batch = dict[str, Array]


class Outcome(NamedTuple):
    """What a step learns beside the loss."""

    metrics: dict[str, Float[Array, ""]]
    memory: dict[str, Array]
    replaced: Params  # parameters that a rule other than the gradient moves (EMA codebook)


def start_memory(params: Params, stage: Stage) -> dict[str, Array]:
    """What a stage carries from step to step beside parameters and moments: the balance queue, the EMA sums."""
    memory = {}
    if stage.kind == StageKind.QUANTISED:
        quantiser, rows = stage.settings.quantiser, codebook(params, stage.position)
        memory["counts"] = jnp.zeros(rows.shape[0])
        if quantiser.choice == Choice.BALANCED:
            memory["queue"] = jnp.zeros((quantiser.queue_batches * stage.settings.batch_size, rows.shape[1]))
        if quantiser.update == CodebookUpdate.EMA:
            memory |= start_running_mean(rows)._asdict()
    return memory


def make_objective(functions: IndexerFunctions, stage: Stage, recipe: RecipeConfig):
    """The objective `(params, memory, batch, key) -> (loss, Outcome)` of a training stage.

    A batch holds `tokens`, `words`, `mask`, `labelled` (B, L), `codes` (B, P), `present` (B,) and, where the language model is
    frozen, `encoded` (B, L, D); `centres` (B, P+1, D) where the pooled vector is used; `neighbours` (a batch of B*C
    documents) and `neighbour_present` (B, C) where same-prefix negatives are.
    """
    settings, position = stage.settings, stage.position
    warm_up, quantised = stage.kind == StageKind.WARM_UP, stage.kind == StageKind.QUANTISED
    contrast = settings.contrast if settings.contrast.weight > 0 and not warm_up else None

    def objective(params: Params, memory: dict, batch: Batch, key: PRNGKeyArray) -> tuple[Array, Outcome]:
        keys = dict(zip(("encoder", "tokens", "decoder", "quantiser", "hints", "reconstructor"), jax.random.split(key, 6)))
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
                commitment_loss(params, outputs[:size], batch, settings=settings)
            )
        metrics = {}
        replaced = {}
        if quantised:
            terms["quantisation"] = losses.mean((chosen.commitment, batch["present"]))
            memory = dict(memory)
            # Over about the last epoch: a batch alone is too small to judge a codebook.
            memory["counts"] = memory["counts"] * (1 - min(1.0, stage.epochs / stage.steps)) + code_counts(chosen)
            metrics = code_metrics(memory["counts"])
            if "queue" in memory:
                memory["queue"] = push(memory["queue"], vector)
            if "total" in memory:
                mean = RunningMean(memory["count"], memory["total"])
                mean, rows = update_running_mean(
                    mean, vector, chosen.code, decay=settings.quantiser.ema_decay
                )
                memory |= mean._asdict()
                replaced = {f"codebook_{position}": rows}
        loss = sum(terms.values())
        metrics |= terms | {"loss": loss, "vector_norm": jnp.mean(jnp.linalg.norm(vector, axis=-1))}
        return loss, Outcome(metrics, memory, replaced)

    return objective


def views(batch: Batch, *, count: int) -> Batch:
    """Rows to encode in one pass: the batch, its second dropout view, its neighbours."""
    names = [name for name in ("encoded", "tokens", "mask", "codes", "centres") if name in batch]
    rows = {name: [batch[name]] * count for name in names}
    if count == 2 and "neighbours" in batch:
        for name in names:
            rows[name].append(batch["neighbours"][name])
    return {name: jnp.concatenate(parts) if len(parts) > 1 else parts[0] for name, parts in rows.items()}


def document_vectors(
    functions: IndexerFunctions, params: Params, rows: Batch, *, keys: dict[str, PRNGKeyArray], token_dropout: float
) -> Float[Array, "R P+1 D"]:
    """h_1..h_{P+1} of each row, with dropout."""
    mask = rows["mask"]
    if token_dropout > 0:
        mask = drop_tokens(keys["tokens"], mask, rate=token_dropout)
    encoded = rows.get("encoded")
    if encoded is None:
        encoded = functions.encode(params, rows["tokens"], mask, key=keys["encoder"])
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
    words, labelled = batch["words"], batch["labelled"]
    bag = functions.module.config.reconstructor.kind == ReconstructorKind.BAG
    if chosen is not None and stage.settings.quantiser.estimator == Estimator.MARGINAL:
        logits = functions.reconstruct(params, codebook(params, stage.position)[:, None], key=keys["reconstructor"])
        choice = jax.nn.log_softmax(chosen.scores, axis=-1)
        return losses.mean(losses.marginal_reconstruction(logits, choice, words, labelled))
    code_vectors = jnp.stack([*prefix, vector if chosen is None else chosen.vector], axis=1)
    if bag:
        logits = functions.reconstruct(params, code_vectors, key=keys["reconstructor"])
        return losses.mean(losses.bag_reconstruction(logits, words, labelled))
    queries = code_vectors
    if stage.position > 0 and recipe.second_query == SecondQuery.CONTINUOUS:
        queries = jnp.stack([*prefix, vector], axis=1)
    hidden = 0.0 if stage.kind == StageKind.WARM_UP else stage.settings.hidden
    hints = hint_mask(keys["hints"], labelled, codes=queries.shape[1], hidden=hidden)
    weights = losses.shares(labelled.astype(jnp.float32))
    read = {"codes": code_vectors, "tokens": batch["tokens"], "hints": hints, "words": words, "weights": weights}
    return functions.surprise(params, queries, **read, key=keys["reconstructor"])


def contrast_loss(outputs: Float[Array, "R P+1 D"], batch: Batch, *, config) -> losses.Terms:
    """In-batch contrast at position 1, same-prefix contrast after it, between two dropout views."""
    vectors = outputs[:, -1]
    if config.similarity == ContrastSimilarity.COSINE:
        vectors = unit(vectors)
    size = batch["tokens"].shape[0]
    first, second = vectors[:size], vectors[size : 2 * size]
    if "neighbours" not in batch:
        return losses.in_batch_contrast(first, second, batch["present"], temperature=config.temperature)
    negatives = vectors[2 * size :].reshape(size, -1, vectors.shape[-1])
    return losses.prefix_contrast(
        first, second, negatives, batch["neighbour_present"], temperature=config.temperature
    )


def commitment_loss(params: Params, outputs: Float[Array, "B P+1 D"], batch: Batch, *, settings) -> losses.Terms:
    """Cross-entropy of the codes already assigned, at every earlier slot."""
    quantiser = settings.quantiser
    scores = [
        similarities(outputs[:, p], codebook(params, p), similarity=quantiser.similarity) / quantiser.temperature
        for p in range(batch["codes"].shape[1])
    ]
    return losses.commitment(scores, batch["codes"], batch["present"])


def code_counts(chosen: Quantised) -> Float[Array, " K"]:
    """Documents of the batch per nearest code: what assignment would choose, also where training balances."""
    nearest = jnp.argmax(chosen.scores, axis=-1)
    return jnp.bincount(nearest, length=chosen.scores.shape[1]).astype(jnp.float32)


def code_metrics(counts: Float[Array, " K"]) -> dict[str, Float[Array, ""]]:
    """Perplexity and used share of a codebook from counts per code."""
    shares = counts / counts.sum()
    entropy = -jnp.sum(shares * jnp.log(jnp.maximum(shares, 1e-12)))
    return {"perplexity": jnp.exp(entropy), "usage": jnp.mean(counts > 0)}
