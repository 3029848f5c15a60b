"""Text to token ids: a pretrained tokenizer, or one trained on the corpus."""

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import tokenizers
from jaxtyping import Int

from lmindexer_jax.data.corpus import Corpus
from lmindexer_jax.errors import UserError

TRAINING_CHUNK = 1024  # texts handed to the trainer at a time


class Tokenizer:
    """A `tokenizers.Tokenizer` with its special ids named and its padding and truncation switched off."""

    def __init__(self, inner: tokenizers.Tokenizer):
        """Find the special ids by the names that BERT and T5 give them."""
        inner.no_padding()
        inner.no_truncation()
        self._inner = inner
        self._json = inner.to_str()
        self.vocab_size = inner.get_vocab_size(with_added_tokens=True)
        self.pad_id = self._first("[PAD]", "<pad>")
        self.eos_id = self._first("[SEP]", "</s>")
        added = inner.get_added_tokens_decoder()
        unknown = {inner.token_to_id(name) for name in ("[UNK]", "<unk>")}
        # The unknown token stands for text, so it is no special one here.
        self.special_ids = tuple(sorted(i for i, token in added.items() if token.special and i not in unknown))
        self.hash = hashlib.sha256(self._json.encode()).hexdigest()

    def _first(self, *names: str) -> int:
        for name in names:
            if (number := self._inner.token_to_id(name)) is not None:
                return number
        raise UserError(f"the tokenizer has none of the tokens {', '.join(names)}; BERT's or T5's tokenizers do")

    def encode(self, texts: list[str], *, max_length: int) -> list[Int[np.ndarray, " L"]]:
        """Ids of each text, cut to `max_length` with the special tokens kept: the last id is always `eos_id`."""
        self._inner.enable_truncation(max_length)
        encodings = self._inner.encode_batch(texts)
        self._inner.no_truncation()
        return [np.asarray(encoding.ids, np.int32) for encoding in encodings]

    def decode(self, ids: Int[np.ndarray, " L"]) -> str:
        """Text of ids, special tokens left out."""
        return self._inner.decode([int(i) for i in ids], skip_special_tokens=True)

    def token(self, number: int) -> str:
        """The written form of one id."""
        return self._inner.id_to_token(number) or ""

    def save(self, directory: Path) -> None:
        """Write `tokenizer.json`."""
        directory.mkdir(parents=True, exist_ok=True)
        temporary = directory / "tmp-tokenizer.json"
        temporary.write_text(self._json, encoding="utf-8")
        os.replace(temporary, directory / "tokenizer.json")


def load_tokenizer(directory: Path) -> Tokenizer:
    """Read a Hugging Face tokenizer: `tokenizer.json`, or `spiece.model` by way of transformers.

    Raises:
      UserError: neither file is there, or it cannot be read.
    """
    directory = Path(directory)
    if (directory / "tokenizer.json").exists():
        try:
            return Tokenizer(tokenizers.Tokenizer.from_file(str(directory / "tokenizer.json")))
        except ValueError as error:
            raise UserError(f"{directory / 'tokenizer.json'}: not a tokenizer ({error})") from None
    if (directory / "spiece.model").exists():
        from transformers import T5TokenizerFast

        return Tokenizer(T5TokenizerFast(vocab_file=str(directory / "spiece.model")).backend_tokenizer)
    raise UserError(f"{directory}: no tokenizer.json and no spiece.model; put the model's tokenizer there")


def train_tokenizer(corpus: Corpus, *, vocab_size: int) -> Tokenizer:
    """Train a lower-casing byte-level BPE on a corpus: ids pad 0, eos 1, unk 2; deterministic."""
    inner = tokenizers.Tokenizer(tokenizers.models.BPE(unk_token="<unk>"))
    inner.normalizer = tokenizers.normalizers.Sequence(
        [tokenizers.normalizers.NFKC(), tokenizers.normalizers.Lowercase()]
    )
    inner.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=True)
    inner.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=["<pad>", "</s>", "<unk>"],
        initial_alphabet=sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )

    def texts() -> Iterator[list[str]]:
        for first in range(0, len(corpus), TRAINING_CHUNK):
            yield corpus.texts(range(first, min(first + TRAINING_CHUNK, len(corpus))))

    inner.train_from_iterator(texts(), trainer, length=len(corpus))
    inner.post_processor = tokenizers.processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return Tokenizer(inner)
