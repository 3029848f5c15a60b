"""The ID table for other programs: JSON as TIGER-style projects read it, and a T5 that can read and write the IDs.

Every code is a token named by its position and number: "<a_12>" is code 12 of the first position, "<b_7>" code 7 of the
second, and after the learned positions comes the counter, so that no two documents have the same tokens.
"""

import dataclasses
import json
import pathlib
from collections.abc import Sequence

import numpy as np
import tokenizers
from jaxtyping import Array, Float

from lmindexer_jax.data.tokenizer import Tokenizer
from lmindexer_jax.errors import UserError
from lmindexer_jax.files import replacing
from lmindexer_jax.indexing.id_table import IdTable
from lmindexer_jax.models import pretrained
from lmindexer_jax.models.t5 import T5Config


def token(position: int, code: int) -> str:
    """The token of a code; positions count from 0 and are lettered a, b, ..., z, aa, ab, ..."""
    letters = ""
    while position >= 0:
        position, letter = divmod(position, 26)
        position, letters = position - 1, chr(ord("a") + letter) + letters
    return f"<{letters}_{code}>"


def vocabulary(table: IdTable) -> list[str]:
    """All code tokens: each position's in the order of its codebook rows, then as many counters as the table uses."""
    sizes = (*table.manifest.codebook_sizes, _counters(table))
    return [token(position, code) for position, size in enumerate(sizes) for code in range(size)]


def to_json(table: IdTable, path: str | pathlib.Path) -> None:
    """Write {"document id": ["<a_12>", "<b_7>", "<c_3>", "<d_0>"], ...}, the index file of TIGER, LC-Rec and LETTER.

    The counter is always there, also where it is 0: these projects expect IDs of one length.
    """
    names = [
        np.array([json.dumps(token(position, code)) for code in range(size)])
        for position, size in enumerate((*table.manifest.codebook_sizes, _counters(table)))
    ]
    columns = [names[position][codes] for position, codes in enumerate(table.full_ids.T)]
    with replacing(pathlib.Path(path)) as temporary, temporary.open("w", encoding="utf-8") as file:
        file.write("{")
        before = "\n"
        for document, *tokens in zip(table.ids, *columns, strict=True):
            file.write(f"{before}  {json.dumps(document.as_py(), ensure_ascii=False)}: [{', '.join(tokens)}]")
            before = ",\n"
        file.write("\n}\n")


def to_t5(
    directory: str | pathlib.Path,
    table: IdTable,
    *,
    config: T5Config,
    params: dict,
    codebooks: Sequence[Float[Array, "K D"]],
    tokenizer: Tokenizer,
) -> None:
    """Write a Hugging Face T5 directory whose vocabulary holds the codes.

    The embedding of a code is its codebook row: what the indexer's decoder read when it had assigned that code. Every code
    token is one piece of the written tokenizer, and its id is its row in the written embedding.

    Args:
      config, params: the T5 as `lmindexer_jax.models.pretrained` loads it.
      codebooks: one per position of the table.
      tokenizer: of that T5.

    Raises:
      UserError: the codebooks are not those of the table, or not as wide as the model.
    """
    shapes = [np.shape(book) for book in codebooks]
    wanted = [(size, config.d_model) for size in table.manifest.codebook_sizes]
    if shapes != wanted:
        raise UserError(f"export: codebooks of shapes {shapes}, but the ID table and a T5 of this width need {wanted}")
    if tokenizer.vocab_size > config.vocab_size:
        raise UserError(f"export: a tokenizer of {tokenizer.vocab_size} ids, but the T5 embeds {config.vocab_size}")
    rows = np.concatenate([np.asarray(book, np.float32) for book in codebooks])
    # Counters mean nothing yet: they start like codes drawn at random, the same ones each time.
    noise = np.random.default_rng(0).standard_normal((_counters(table), config.d_model), np.float32)
    rows = np.concatenate([rows, rows.mean(axis=0) + rows.std(axis=0) * noise])
    extended, params = extend_t5(config, params, rows=rows, first=tokenizer.vocab_size)
    pretrained.save(pathlib.Path(directory), extended, params=params)
    with_tokens(tokenizer, vocabulary(table)).save(pathlib.Path(directory))


def extend_t5(
    config: T5Config, params: dict, *, rows: Float[np.ndarray, "M D"], first: int
) -> tuple[T5Config, dict]:
    """A T5 whose embedding (and head, where it is not tied) holds `rows` from id `first` on, and ends with them.

    T5 checkpoints pad their embedding beyond the tokenizer's last id. New tokens take the ids right behind that one, so
    unused padding rows are replaced first.
    """

    def extended(embedding) -> Float[np.ndarray, "V D"]:
        return np.concatenate([np.asarray(embedding, np.float32)[:first], rows])

    tables = ("shared",) if config.tie_word_embeddings else ("shared", "lm_head")
    params = params | {name: {"embedding": extended(params[name]["embedding"])} for name in tables}
    return dataclasses.replace(config, vocab_size=first + len(rows)), params


def with_tokens(tokenizer: Tokenizer, tokens: Sequence[str]) -> Tokenizer:
    """A copy of the tokenizer that knows each of the tokens as one piece; their ids follow its last id in order.

    Raises:
      UserError: it knows one of them already.
    """
    backend = tokenizers.Tokenizer.from_str(tokenizer.backend.to_str())
    known = next((name for name in tokens if backend.token_to_id(name) is not None), None)
    if known:
        raise UserError(f"export: the tokenizer already has the token {known}; start from one without codes")
    backend.add_tokens([tokenizers.AddedToken(name, normalized=False) for name in tokens])
    return Tokenizer(backend)


def _counters(table: IdTable) -> int:
    return int(table.counter.max(initial=0)) + 1
