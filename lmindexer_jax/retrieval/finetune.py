"""Training a retriever: from a text to the ID of its document.

The loss is the cross-entropy of the ID's codes, at every position among the codes that may follow: -log p(document).
Where documents are compared with the query's gist as well, that of the right one among those of the batch joins it; the
documents' vectors stay what the run's encoder made of them, and the query's side learns to meet them.
"""

import dataclasses
import hashlib
import json
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from lmindexer_jax.console import Console
from lmindexer_jax.data.pipeline import length_buckets, training_batches
from lmindexer_jax.data.tokens import TokenStore
from lmindexer_jax.indexing.encode import Encoded, padded
from lmindexer_jax.indexing.terms import Outcome
from lmindexer_jax.indexing.recipe import needed
from lmindexer_jax.models.layers import mask_bias
from lmindexer_jax.models.retriever import Params, RetrieverFunctions
from lmindexer_jax.retrieval.children import children_masks
from lmindexer_jax.retrieval.trie import END, Trie
from lmindexer_jax.training.fit import Fit, fit
from lmindexer_jax.training.optim import OptimConfig, Rules, paths
from lmindexer_jax.training.sharding import own_rows

TURN = 0.3  # learning rate of what turns the gist, as a factor
TEMPERATURE = 0.05  # of the cosines of gists and documents in training


@dataclasses.dataclass
class FinetuneConfig:
    """How a retriever is trained."""

    epochs: float = 3.0  # over the pairs
    batch_size: int = 64
    max_length: int = 32  # tokens of a query that are read, in training and in search alike
    pseudo_queries: int = 5  # for each document
    language_model: float = 0.1  # learning rate of the encoder as a factor; 0 freezes it
    optim: OptimConfig = dataclasses.field(default_factory=OptimConfig)

    @property
    def frozen(self) -> bool:
        """Whether the encoder stays as it is."""
        return self.language_model == 0


def rules(params: Params, config: FinetuneConfig) -> Rules:
    """Decoder and codebooks move at the full rate, the encoder and its embeddings at a factor of it, and so does what
    turns the gist, a matrix that starts as the identity."""
    wanted = ((r"(encoder|shared)/.*", config.language_model), (r"turn", TURN), (r".*", 1.0))
    return needed(wanted, paths=tuple(paths(params)))


def make_objective(functions: RetrieverFunctions, *, frozen: bool = False):
    """`(params, memory, batch, key) -> (loss, Outcome)` over the batches of `Examples`; `memory` holds the trie. A frozen
    encoder reads without dropout, whether its states are kept or not."""

    def objective(params: Params, memory: dict, batch: dict, key: PRNGKeyArray) -> tuple[Array, Outcome]:
        encoder, decoder = jax.random.split(key)
        if "states" in batch:
            read = functions.read(params, batch["states"], batch["mask"], batch["pooled"])
        else:
            read = functions.encode(params, batch["tokens"], batch["mask"], key=None if frozen else encoder)
        logits = functions.logits(params, read, codes=batch["codes"], key=decoder)
        losses = {"ids": jnp.mean(-log_probs(logits, memory["trie"], batch["codes"]))}
        if "vectors" in batch:
            chances = in_batch(read.gist, batch["vectors"], batch["rows"])
            losses["vectors"] = jnp.mean(-chances)
        loss = sum(losses.values())
        return loss, Outcome({"loss": loss, **losses}, memory, {})

    return objective


def in_batch(
    gists: Float[Array, "B D"], vectors: Float[Array, "B D"], rows: Int[Array, " B"], *, temperature: float = TEMPERATURE
) -> Float[Array, " B"]:
    """log p of each query's document among those of the batch, by their cosines; a document is no rival of itself."""
    cosines = gists @ vectors.T / temperature
    rivals = (rows[:, None] != rows[None]) | jnp.eye(len(rows), dtype=bool)
    return jnp.diagonal(jax.nn.log_softmax(cosines + mask_bias(rivals), axis=-1))


def log_probs(logits: tuple[Array, ...], trie: Trie, codes: Int[Array, "B T"]) -> Array:
    """log p(ID) among the IDs of the trie, from teacher-forced logits: (B,)."""
    total = 0.0
    for position, (scores, mask) in enumerate(zip(logits, children_masks(trie, codes), strict=True)):
        column = codes[:, position]
        target = jnp.where(column == END, trie.sizes[position] - 1, column)
        chances = jax.nn.log_softmax(scores + mask_bias(mask), axis=-1)
        total += jnp.take_along_axis(chances, target[:, None], axis=1)[:, 0]
    return total


@dataclasses.dataclass(frozen=True)
class Examples:
    """P pairs of a text and a document: the `mask` (B, L) of a batch and the `codes` (B, T).

    Attributes:
      store: the texts' `tokens` (B, L).
      rows: the document of each.
      ids: its whole ID, by document; -1 behind the end of a shorter one.
      encoded: of the texts, where the encoder is frozen: `states` (B, L, D) and `pooled` (B, D) take the tokens' place.
      vectors: of the documents, unit length, where gists are compared with them: `vectors` (B, D) and `rows` (B,).
      by_length: whether a batch has texts of like length, and is padded to one of a few lengths L; else to the longest of all.
    """

    store: TokenStore
    rows: Int[np.ndarray, " P"]
    ids: Int[np.ndarray, "N T"]
    encoded: Encoded | None = None
    vectors: Float[np.ndarray, "N D"] | None = None
    by_length: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "buckets", length_buckets(int(self.store.lengths.max())))
        object.__setattr__(self, "offsets", np.r_[0, np.cumsum(self.store.lengths, dtype=np.int64)])

    def __len__(self) -> int:
        """Pairs."""
        return len(self.store)

    def fetch(
        self, indices: Int[np.ndarray, " B"], rows: Int[np.ndarray, " b"], _: np.random.Generator
    ) -> dict[str, np.ndarray]:
        """The arrays of some rows of a batch."""
        longest = self.store.lengths[indices].max() if self.by_length else self.buckets[-1]
        length = self.buckets[np.searchsorted(self.buckets, longest)]
        indices = indices[rows]
        documents = self.rows[indices]
        tokens, mask = self.store.batch(indices, length=length)
        batch = {"mask": mask, "codes": self.ids[documents]}
        if self.encoded is None:
            batch["tokens"] = tokens
        else:
            batch["states"] = padded(self.encoded.states, self.offsets, indices, mask)
            batch["pooled"] = self.encoded.pooled[indices]
        if self.vectors is not None:
            batch |= {"vectors": np.asarray(self.vectors[documents], np.float32), "rows": documents.astype(np.int32)}
        return batch

    def digest(self) -> str:
        """Hash of texts, documents and IDs, of which the rest is made."""
        found = hashlib.sha256(self.store.hash.encode())
        for array in (self.rows, self.ids):
            found.update(np.ascontiguousarray(array))
        return found.hexdigest()


def fingerprint(examples: Examples, *, config: FinetuneConfig, seed: int, identity: str) -> str:
    """What binds the checkpoints of `finetune`."""
    settings = json.dumps([dataclasses.asdict(config), examples.digest(), seed, identity], sort_keys=True)
    return hashlib.sha256(settings.encode()).hexdigest()[:16]


def finetune(
    functions: RetrieverFunctions,
    params: Params,
    trie: Trie,
    examples: Examples,
    *,
    config: FinetuneConfig,
    directory: pathlib.Path,
    mesh: Any,
    seed: int,
    console: Console,
    checkpoint_seconds: float,
    profile: int = 0,
    identity: str,
) -> Params:
    """Train, or go on from the newest checkpoint in `directory`, which also gets the journal.

    Args:
      params: where training starts; their memory may be taken over.
      identity: whatever else determines the result; see `fingerprint`.
      profile: steps whose trace is kept in `profile`.

    Returns:
      the trained parameters.

    Raises:
      UserError: see `fit`.
    """
    steps = max(1, round(config.epochs * len(examples) / config.batch_size))
    order_key, train_key = jax.random.split(jax.random.fold_in(jax.random.key(seed), 0x52))
    data = training_batches(
        examples.fetch,
        documents=len(examples),
        batch_size=config.batch_size,
        seed=int(jax.random.randint(order_key, (), 0, 2**31 - 1)),
        steps=steps,
        rows=own_rows(config.batch_size, mesh),
        lengths=examples.store.lengths if examples.by_length else None,
    )
    run = Fit(
        directory=directory,
        name="finetune",
        objective=make_objective(functions, frozen=config.frozen),
        memory={"trie": trie},
        optim=config.optim,
        rules=rules(params, config),
        steps=steps,
        batches=lambda begin: (data[number] for number in range(begin, steps)),
        key=train_key,
        mesh=mesh,
        fingerprint=fingerprint(examples, config=config, seed=seed, identity=identity),
        checkpoint_seconds=checkpoint_seconds,
        profile=profile,
        console=console,
    )
    return fit(run, params)
