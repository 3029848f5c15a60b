"""The ID table in the forms that other projects read: TIGER-style JSON, and a T5 whose vocabulary holds the codes."""

import dataclasses
import json
import pathlib
import string

import numpy as np
import tokenizers
from jaxtyping import Array, Float

from lmindexer_jax.errors import UserError
from lmindexer_jax.files import replacing
from lmindexer_jax.indexing.id_table import IdTable
from lmindexer_jax.models import pretrained
from lmindexer_jax.models.t5 import T5Config

Params = dict


def token(position: int, code: int) -> str:
    """The written form of one code: "<a_12>" at position 1, "<b_12>" at position 2, ...; the counter is the last."""
    return f"<{string.ascii_lowercase[position]}_{code}>"


def vocabulary(table: IdTable) -> list[str]:
    """Every code token, position by position; the counter's are as many as the largest group needs.

    Raises:
      UserError: more positions than letters.
    """
    sizes = [*table.manifest.codebook_sizes, int(table.counter.max(initial=0)) + 1]
    if len(sizes) > len(string.ascii_lowercase):
        raise UserError(f"export: {len(sizes) - 1} positions and a counter, but only {len(string.ascii_lowercase)} letters")
    return [token(position, code) for position, size in enumerate(sizes) for code in range(size)]


def to_json(table: IdTable, path: pathlib.Path) -> None:
    """Write {"document id": ["<a_12>", "<b_7>", "<c_3>", "<d_0>"], ...}, the counter last, as TIGER-style projects read it."""
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        file.write("{")
        for row, (name, codes) in enumerate(zip(table.ids, table.full_ids.tolist(), strict=True)):
            tokens = [token(position, code) for position, code in enumerate(codes)]
            file.write(",\n" if row else "\n")
            file.write(f"{json.dumps(name.as_py(), ensure_ascii=False)}: {json.dumps(tokens)}")
        file.write("\n}\n")


def extend_t5(
    config: T5Config,
    params: Params,
    codebooks: list[Float[Array, "K D"]],
    tokenizer: tokenizers.Tokenizer,
    *,
    table: IdTable,
    directory: pathlib.Path,
) -> None:
    """Write a Hugging Face T5 directory whose vocabulary holds the codes of a table.

    The embedding becomes [old words; unused rows up to the old size; codebook rows; counter rows]. Codebook rows are
    scaled to the mean length of word embeddings, the counter's rows start small and at random. An untied head is
    extended by the same rows.

    Args:
      config: of the model.
      params: of `T5`: shared, encoder, decoder (and lm_head where untied).
      codebooks: rows of every position.
      tokenizer: of the model; it is not changed.
      table: whose codes become tokens.
      directory: to write.
    """
    names = vocabulary(table)
    embedding = np.asarray(params["shared"]["embedding"], np.float32)
    length = np.linalg.norm(embedding, axis=1).mean()
    books = [np.asarray(book, np.float32) for book in codebooks]
    rows = [book * (length / max(np.linalg.norm(book, axis=1).mean(), 1e-9)) for book in books]
    counters = len(names) - sum(len(book) for book in books)
    noise = np.random.default_rng(0).normal(size=(counters, embedding.shape[1]))
    rows.append((0.1 * length / np.sqrt(embedding.shape[1]) * noise).astype(np.float32))
    added = np.concatenate(rows)

    words = tokenizer.get_vocab_size(with_added_tokens=True)
    if words > len(embedding):
        raise UserError(f"export: the tokenizer has {words} tokens, the model {len(embedding)} rows; they do not belong together")
    extended = tokenizers.Tokenizer.from_str(tokenizer.to_str())
    # Rows that no token names must be named before the codes, or the codes would take their numbers.
    extended.add_tokens([f"<unused_{number}>" for number in range(words, len(embedding))])
    extended.add_tokens([tokenizers.AddedToken(name, normalized=False) for name in names])
    new = dict(params) | {"shared": {"embedding": np.concatenate([embedding, added])}}
    if "lm_head" in params:
        new["lm_head"] = {"embedding": np.concatenate([np.asarray(params["lm_head"]["embedding"]), added])}
    pretrained.save(directory, dataclasses.replace(config, vocab_size=len(embedding) + len(added)), params=new)
    with replacing(directory / "tokenizer.json") as path:
        path.write_text(extended.to_str(), encoding="utf-8")
