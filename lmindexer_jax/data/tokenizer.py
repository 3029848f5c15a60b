"""Tokenizers: text to token ids and back; read from a directory or the Hugging Face hub, or trained on the corpus."""

import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import tokenizers
from jaxtyping import Int
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

from lmindexer_jax.data.corpus import Corpus
from lmindexer_jax.errors import UserError
from lmindexer_jax.files import replacing

_PAD = ("<pad>", "[PAD]")
_EOS = ("</s>", "[SEP]")
_FILES = ("tokenizer.json", "spiece.model")
_SPECIAL = ["<pad>", "</s>", "<unk>"]  # their ids in a trained tokenizer are 0, 1, 2, as in T5
_EXTRA_IDS = 100  # sentinel tokens that T5 keeps behind the pieces of its SentencePiece model


class Tokenizer:
    """A `tokenizers.Tokenizer` with what the models need to know about it.

    Attributes:
        backend: the wrapped tokenizer; its own padding and truncation are switched off.
        pad_id: of the padding token.
        eos_id: of the token that ends every document, `</s>` (T5) or `[SEP]` (BERT).
        vocab_size: number of ids, V; at least one more than the largest id.
        special_ids: ids that carry no text: padding, ends, unknown, mask, sentinels.
        hash: of the whole definition.
    """

    def __init__(self, backend: tokenizers.Tokenizer):
        backend.no_padding()
        backend.no_truncation()
        if not isinstance(backend.model, models.Unigram):  # to which the names of special tokens are pieces of text anyway
            backend.encode_special_tokens = True  # "</s>" in a document is text like any other, and ends nothing
        self.backend = backend
        self.pad_id = _find(backend, _PAD)
        self.eos_id = _find(backend, _EOS)
        vocabulary = backend.get_vocab(with_added_tokens=True)
        self.vocab_size = max(vocabulary.values()) + 1
        added = {index for index, token in backend.get_added_tokens_decoder().items() if token.special}
        unknown = {vocabulary[name] for name in ("<unk>", "[UNK]") if name in vocabulary}
        self.special_ids = tuple(sorted(added | unknown | {self.pad_id, self.eos_id}))
        self.hash = hashlib.blake2b(backend.to_str().encode(), digest_size=16).hexdigest()

    def encode(self, texts: Sequence[str], max_length: int) -> list[Int[np.ndarray, " L"]]:
        """Token ids (int32) of each text, with the tokenizer's special tokens, cut to `max_length`; the last is `eos_id`.

        Raises:
            UserError: `max_length` leaves no room for a token of text.
        """
        specials = self.backend.num_special_tokens_to_add(is_pair=False)
        if max_length <= specials:
            raise UserError(f"{max_length} tokens hold no text beside {specials} special ones; raise the token limit")
        rows = []
        for encoding in self.backend.encode_batch_fast(list(texts)):
            ids = encoding.ids
            if len(ids) > max_length or not ids or ids[-1] != self.eos_id:
                ids = [*ids[: max_length - 1], self.eos_id]
            rows.append(np.asarray(ids, np.int32))
        return rows

    def decode(self, ids: Iterable[int]) -> str:
        """The text of token ids, special tokens left out."""
        text = self.backend.decode([int(index) for index in ids], skip_special_tokens=True)
        return text.removeprefix(" ")  # which a byte-level tokenizer puts before the first word

    def save(self, directory: Path) -> None:
        """Writes tokenizer.json, and the tokenizer_config.json by which transformers opens it."""
        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        names = {"pad_token": self.backend.id_to_token(self.pad_id), "eos_token": self.backend.id_to_token(self.eos_id)}
        config = {"tokenizer_class": "PreTrainedTokenizerFast", **names}
        with replacing(directory / "tokenizer_config.json") as path:
            path.write_text(json.dumps(config, indent=1))
        with replacing(directory / "tokenizer.json") as path:  # last: where it stands, the tokenizer is complete
            path.write_text(self.backend.to_str(pretty=True), encoding="utf-8")


def load_tokenizer(directory: str | Path) -> Tokenizer:
    """Reads the tokenizer of a model directory (tokenizer.json, else T5's spiece.model) or of a name on the hub.

    Raises:
        UserError: there is none, it cannot be read, or the hub cannot be reached.
    """
    folder = Path(directory).expanduser()
    if not folder.is_dir():
        folder = _from_hub(str(directory))
    for name, read in zip(_FILES, (_read_json, _read_sentencepiece), strict=True):
        if (folder / name).exists():
            return Tokenizer(read(folder / name))
    raise UserError(f"{folder}: no tokenizer there; it needs {' or '.join(_FILES)}")


def train_tokenizer(corpus: Corpus, *, vocab_size: int) -> Tokenizer:
    """Trains a byte-level BPE (Sennrich et al., 2016) on the corpus: no text is unknown to it.

    Text is lower-cased: a small corpus cannot afford two pieces for one word. The same corpus gives the same tokenizer. A
    corpus of few distinct words gives fewer than `vocab_size` pieces.

    Raises:
        UserError: `vocab_size` does not hold the 256 bytes and the special tokens.
    """
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    smallest = len(alphabet) + len(_SPECIAL)
    if vocab_size < smallest:
        raise UserError(f"a vocabulary of {vocab_size} cannot hold the {smallest} bytes and special tokens; raise vocab_size")
    backend = tokenizers.Tokenizer(models.BPE())
    backend.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=_SPECIAL, initial_alphabet=sorted(alphabet), show_progress=False
    )
    backend.train_from_iterator(corpus.batches(), trainer=trainer)
    backend.post_processor = _ending(backend)
    return Tokenizer(backend)


def _find(backend: tokenizers.Tokenizer, names: tuple[str, ...]) -> int:
    for name in names:
        index = backend.token_to_id(name)
        if index is not None:
            return index
    raise UserError(f"the tokenizer has none of the tokens {', '.join(names)}; use one of the T5 or BERT family")


def _ending(backend: tokenizers.Tokenizer) -> processors.TemplateProcessing:
    """Puts T5's `</s>` behind every text."""
    return processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", backend.token_to_id("</s>"))])


def _read_json(path: Path) -> tokenizers.Tokenizer:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path}: not a tokenizer file ({error})") from error
    if not isinstance(content, dict) or not {"model", "added_tokens"} <= content.keys():
        raise UserError(f"{path}: not a tokenizer file (no model and added_tokens)")
    return tokenizers.Tokenizer.from_str(json.dumps(content))


def _read_sentencepiece(path: Path) -> tokenizers.Tokenizer:
    """A T5 tokenizer (Raffel et al., 2020) from its SentencePiece model, by the schema that transformers carries."""
    from google.protobuf.message import DecodeError
    from transformers.convert_slow_tokenizer import import_protobuf

    model = import_protobuf().ModelProto()
    try:
        model.ParseFromString(path.read_bytes())
    except DecodeError as error:
        raise UserError(f"{path}: not a SentencePiece model ({error})") from error
    sentinels = [f"<extra_id_{number}>" for number in reversed(range(_EXTRA_IDS))]
    pieces = [(piece.piece, piece.score) for piece in model.pieces] + [(name, 0.0) for name in sentinels]
    backend = tokenizers.Tokenizer(models.Unigram(pieces, unk_id=model.trainer_spec.unk_id, byte_fallback=False))
    charsmap = model.normalizer_spec.precompiled_charsmap
    spaces = normalizers.Replace(tokenizers.Regex(" {2,}"), " ")
    backend.normalizer = normalizers.Sequence([*([normalizers.Precompiled(charsmap)] if charsmap else []), spaces])
    backend.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()])
    backend.decoder = decoders.Metaspace()
    backend.add_special_tokens([*_SPECIAL, *sentinels])
    backend.post_processor = _ending(backend)
    return backend


def _from_hub(name: str) -> Path:
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name):
        raise UserError(f"{name}: no such directory, and not a name on the Hugging Face hub")
    import huggingface_hub

    try:
        return Path(huggingface_hub.snapshot_download(name, allow_patterns=list(_FILES), etag_timeout=5))
    except (OSError, ValueError) as error:  # what the hub's client raises for no network, no such name, no access
        raise UserError(
            f"{name}: no such directory, and the Hugging Face hub gave no tokenizer ({str(error).splitlines()[0]}); check "
            "the name and the network, or give a local directory"
        ) from error
