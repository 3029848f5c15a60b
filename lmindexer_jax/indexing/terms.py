"""What the objectives have in common: what is drawn, what is read, what is compared, and what a codebook remembers."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from lmindexer_jax.indexing.recipe import ContrastConfig, ContrastSimilarity, Stage, StageKind
from lmindexer_jax.models.indexer import IndexerFunctions, drop_tokens
from lmindexer_jax.models.quantiser import (
    Choice,
    CodebookUpdate,
    Quantised,
    QuantiserConfig,
    RunningMean,
    best,
    push,
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


def stream_keys(key: PRNGKeyArray) -> dict[str, PRNGKeyArray]:
    """A key for each thing in a step that is drawn."""
    names = ("encoder", "tokens", "decoder", "quantiser", "hints", "reconstructor")
    return dict(zip(names, jax.random.split(key, len(names))))


def with_states(functions: IndexerFunctions, params: Params, batch: Batch) -> Batch:
    """The batch with a frozen encoder's states: kept ones, or made as kept ones are.

    They know all tokens, no dropout, and half precision, so that what is learned does not depend on whether they are kept.
    """
    if "encoded" in batch:
        return batch
    batch = batch | {"encoded": functions.encode(params, batch["tokens"], batch["mask"]).astype(jnp.float16)}
    if "neighbours" in batch:
        batch["neighbours"] = with_states(functions, params, batch["neighbours"])
    return batch


def views(batch: Batch, *, count: int) -> Batch:
    """Rows to encode in one pass: the batch, its second dropout view, its neighbours."""
    names = [name for name in ("encoded", "tokens", "mask", "codes", "centres") if name in batch]
    rows = {name: [batch[name]] * count for name in names}
    if count == 2 and "neighbours" in batch:
        for name in names:
            rows[name].append(batch["neighbours"][name])
    return {name: jnp.concatenate(parts) if len(parts) > 1 else parts[0] for name, parts in rows.items()}


def read(
    functions: IndexerFunctions, params: Params, rows: Batch, *, keys: dict[str, PRNGKeyArray], token_dropout: float
) -> tuple[Float[Array, "R L D"], Bool[Array, "R L"]]:
    """The encoder's states of each row, those of a frozen one where there are, and which tokens the decoder may look at."""
    mask = rows["mask"]
    if token_dropout > 0:
        mask = drop_tokens(keys["tokens"], mask, rate=token_dropout)
    encoded = rows.get("encoded")
    if encoded is None:
        encoded = functions.encode(params, rows["tokens"], mask, key=keys["encoder"])
    return encoded, mask


def rebuilt(
    functions: IndexerFunctions,
    params: Params,
    batch: Batch,
    queries: Float[Array, "B P D"],
    codes: Float[Array, "B P D"],
    *,
    keys: dict[str, PRNGKeyArray],
    stage: Stage,
) -> Float[Array, ""]:
    """Mean cross-entropy of the labelled tokens given what asks and the codes' vectors; a bag of words has no queries."""
    words, labelled = batch["words"], batch["labelled"]
    if functions.module.config.reconstructor.kind == ReconstructorKind.BAG:
        logits = functions.reconstruct(params, codes, key=keys["reconstructor"])
        return losses.mean(losses.bag_reconstruction(logits, words, labelled))
    hidden = 0.0 if stage.kind == StageKind.WARM_UP else stage.settings.hidden
    hints = hint_mask(keys["hints"], labelled, codes=queries.shape[1], hidden=hidden)
    weights = losses.shares(labelled.astype(jnp.float32))
    given = {"codes": codes, "tokens": batch["tokens"], "hints": hints, "words": words, "weights": weights}
    return functions.surprise(params, queries, **given, key=keys["reconstructor"])


def in_batch(vectors: Float[Array, "R D"], batch: Batch, *, config: ContrastConfig) -> losses.Terms:
    """Contrast of two views, the first rows and the next, within the batch."""
    vectors, size = compared(vectors, config), batch["tokens"].shape[0]
    first, second = vectors[:size], vectors[size : 2 * size]
    return losses.in_batch_contrast(first, second, batch["present"], temperature=config.temperature)


def compared(vectors: Float[Array, "R D"], config: ContrastConfig) -> Float[Array, "R D"]:
    """The vectors as the contrast compares them."""
    return unit(vectors) if config.similarity == ContrastSimilarity.COSINE else vectors


def start_book(rows: Float[Array, "K D"], quantiser: QuantiserConfig, *, batch_size: int) -> dict[str, Array]:
    """What a codebook in training remembers: how often each code was used, the balance queue, the EMA sums."""
    memory = {"counts": jnp.zeros(rows.shape[0])}
    if quantiser.choice == Choice.BALANCED:
        memory["queue"] = jnp.zeros((quantiser.queue_batches * batch_size, rows.shape[1]))
    if quantiser.update == CodebookUpdate.EMA:
        memory |= start_running_mean(rows)._asdict()
    return memory


def remember(
    memory: dict[str, Array], chosen: Quantised, vector: Float[Array, "B D"], *, quantiser: QuantiserConfig, stage: Stage
) -> tuple[dict[str, Array], Float[Array, "K D"] | None, dict[str, Float[Array, ""]]]:
    """A codebook's memory after a batch, its new rows where not the gradient moves them, and how evenly it is used."""
    memory, rows = dict(memory), None
    # Over about the last epoch: a batch alone is too small to judge a codebook.
    memory["counts"] = memory["counts"] * (1 - min(1.0, stage.epochs / stage.steps)) + code_counts(chosen)
    if "queue" in memory:
        memory["queue"] = push(memory["queue"], vector)
    if "total" in memory:
        mean = RunningMean(memory["count"], memory["total"])
        mean, rows = update_running_mean(mean, vector, chosen.code, decay=quantiser.ema_decay)
        memory |= mean._asdict()
    return memory, rows, code_metrics(memory["counts"])


def code_counts(chosen: Quantised) -> Float[Array, " K"]:
    """Documents of the batch per nearest code: what assignment would choose, also where training balances."""
    return jnp.bincount(best(chosen.scores)[0], length=chosen.scores.shape[1]).astype(jnp.float32)


def code_metrics(counts: Float[Array, " K"]) -> dict[str, Float[Array, ""]]:
    """Perplexity and used share of a codebook from counts per code."""
    shares = counts / counts.sum()
    entropy = -jnp.sum(shares * jnp.log(jnp.maximum(shares, 1e-12)))
    return {"perplexity": jnp.exp(entropy), "usage": jnp.mean(counts > 0)}
