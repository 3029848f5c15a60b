"""What a recommender that reads items learns: -log p(next item), over IDs or over all items, and how it is trained."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from lmindexer_jax.indexing.terms import Outcome
from lmindexer_jax.models.layers import MASKED
from lmindexer_jax.models.recommender import Catalogue, Head, Histories, Params, RecommenderFunctions
from lmindexer_jax.training.losses import cross_entropy, mean
from lmindexer_jax.training.optim import OptimConfig


@dataclasses.dataclass
class TrainingConfig:
    """How a recommender is trained."""

    epochs: int = 30
    batch_size: int = 32  # rows of model.length items, filled with as many histories as they hold
    optim: OptimConfig = dataclasses.field(
        default_factory=lambda: OptimConfig(learning_rate=2e-3, b2=0.98, weight_decay=0.05, warmup_share=0.05)
    )
    negatives: int = 0  # items that the targets are compared with, by SASRec or a dense model, drawn for each batch; 0: all items
    validate_every: int = 10  # epochs between two looks at the validation items


def make_objective(functions: RecommenderFunctions, config: TrainingConfig) -> Callable:
    """-log p(next item) at every counted place, as an objective for `make_step`; `memory` holds the catalogue. A model that
    generates and compares learns both, at equal weight."""
    module = functions.module
    generates = module.head != Head.ITEMS
    compares = module.config.dense or not generates

    def objective(params: Params, memory: dict, batch: dict[str, Array], key: PRNGKeyArray) -> tuple[Array, Outcome]:
        catalogue = memory["catalogue"]
        body_key, head_key = jax.random.split(key)
        histories = Histories(batch["items"], batch["segment"])
        states = functions.states(params, histories, catalogue, key=body_key)
        states = states.reshape(-1, *states.shape[2:])
        targets, weight = batch["targets"].reshape(-1), batch["weight"].reshape(-1)
        loss, parts = 0.0, {}
        if generates:
            logs = functions.log_likelihood(params, states, targets, catalogue, key=head_key)
            parts |= {f"level_{k + 1}": mean((-logs[:, k], weight)) for k in range(logs.shape[1])}
            loss += mean((-logs.sum(-1), weight))
        if compares:
            first = states[:, 0] if states.ndim == 3 else states
            drawn_key = jax.random.fold_in(head_key, 1) if generates else head_key
            values = item_loss(functions, params, first, targets, catalogue, negatives=config.negatives, key=drawn_key)
            parts |= {"items": mean((values, weight))} if generates else {}
            loss += mean((values, weight))
        return loss, Outcome({"loss": loss, **parts}, memory, {})

    return objective


def item_loss(
    functions: RecommenderFunctions,
    params: Params,
    states: Float[Array, "M D"],
    targets: Array,
    catalogue: Catalogue,
    *,
    negatives: int,
    key: PRNGKeyArray,
) -> Float[Array, " M"]:
    """Cross-entropy of the targets among all items, or among themselves and uniform negatives shared by the batch."""
    queries = functions.queries(params, states)
    items = functions.module.items
    if negatives == 0 or negatives >= items:
        return cross_entropy(queries @ functions.item_vectors(params, jnp.arange(items), catalogue).T, targets)
    drawn = jax.random.randint(key, (negatives,), 0, items)
    others = queries @ functions.item_vectors(params, drawn, catalogue).T
    others = jnp.where(targets[:, None] == drawn[None, :], MASKED, others)
    own = jnp.sum(queries * functions.item_vectors(params, targets, catalogue), axis=-1, keepdims=True)
    logits = jnp.concatenate([own, others], axis=-1)
    return cross_entropy(logits, jnp.zeros_like(targets))
