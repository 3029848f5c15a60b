"""Dense retrieval: documents whose embedding is nearest to the query's, by one frozen or fine-tuned encoder for both."""

import dataclasses
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from lmindexer_jax.console import Console
from lmindexer_jax.data.pipeline import inference_batches, length_buckets
from lmindexer_jax.data.tokenizer import Tokenizer, load_tokenizer
from lmindexer_jax.errors import UserError
from lmindexer_jax.indexing.encode import BATCH, make_encode
from lmindexer_jax.models import presets
from lmindexer_jax.models.bert import BertConfig, check_positions
from lmindexer_jax.models.indexer import Indexer, IndexerConfig, IndexerFunctions, Params
from lmindexer_jax.retrieval.topk import Ranked, inner_products, nothing

Encode = Callable[[Sequence[str]], Float[np.ndarray, "Q D"]]


@dataclasses.dataclass
class DenseConfig:
    """The encoder of both sides."""

    name: str = "minilm"  # a preset or Hugging Face directory with pretrained weights
    max_length: int = 256  # tokens of a document or query that are read


class Dense:
    """Exact search among N document embeddings by inner product, which is the cosine where they have unit length."""

    def __init__(self, vectors: Float[np.ndarray, "N D"], encode: Encode):
        """Takes the documents' embeddings and what makes the same of queries."""
        self.vectors = vectors
        self.encode = encode

    def search(self, queries: Sequence[str], *, k: int) -> Ranked:
        """The k documents nearest to each query."""
        return inner_products(self.encode(queries), self.vectors, k=k) if len(queries) else nothing(0, k)


def frozen_encoder(config: DenseConfig, *, console: Console) -> Encode:
    """Texts to the unit means of a pretrained encoder's states: sentence-transformers' embedding.

    Raises:
      UserError: the model cannot be had, has neither pretrained weights nor a tokenizer, or fewer positions than tokens are
        to be read.
    """
    preset = presets.resolve(config.name)
    if preset.weights_dir is None or preset.tokenizer_dir is None:
        raise UserError(f"{config.name}: dense retrieval needs pretrained weights and a tokenizer; name another model, as minilm")
    longest = length_buckets(config.max_length)[-1]
    check_positions(preset.config, longest, setting=f"{config.name}: max_length={config.max_length}")
    loaded = presets.load(preset)
    if isinstance(preset.config, BertConfig):
        loaded = {"encoder": loaded}
    # The indexer is one tree; what is not of the encoder is made as small as it gets and never used.
    functions = IndexerFunctions(Indexer(IndexerConfig(codebook_sizes=(2,)), preset.config, words=1, dtype=jnp.float32))
    params = functions.init(jax.random.key(0)) | {part: loaded[part] for part in ("shared", "encoder") if part in loaded}
    tokenizer = load_tokenizer(preset.tokenizer_dir)

    def encode(texts: Sequence[str]) -> Float[np.ndarray, "Q D"]:
        return embed(functions, params, tokenizer, texts, max_length=config.max_length, console=console)

    return encode


def embed(
    functions: IndexerFunctions,
    params: Params,
    tokenizer: Tokenizer,
    texts: Sequence[str],
    *,
    max_length: int,
    console: Console,
) -> Float[np.ndarray, "N D"]:
    """Unit means of the encoder's states; a text gets the same vector alone as in any company.

    Args:
      functions: of an indexer; its encoder alone is used.
      params: with the encoder's parameters.
      tokenizer: of the encoder.
      texts: N of them, at least one.
      max_length: tokens read of each.
      console: shows progress.
    """
    encode = make_encode(functions)
    tokens = tokenizer.encode(texts, max_length)
    lengths = np.asarray([len(row) for row in tokens], np.int32)
    buckets = length_buckets(max_length)
    batches = list(inference_batches(lengths, batch_size=BATCH, buckets=buckets))
    out = None
    with console.progress("embed", total=len(batches), unit="batches") as progress:
        for indices, real, length in batches:
            padded = np.full((len(indices), length), tokenizer.pad_id, np.int32)
            for row, index in enumerate(indices):
                padded[row, : lengths[index]] = tokens[index]
            mask = np.arange(length)[None, :] < lengths[indices, None]
            pooled = np.asarray(encode(params, padded, mask)[1])
            out = np.empty((len(texts), pooled.shape[1]), np.float32) if out is None else out
            out[indices[real]] = pooled[real]
            progress.advance(1)
    return out
