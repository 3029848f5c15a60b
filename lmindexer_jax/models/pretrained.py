"""Hugging Face directories (config.json + model.safetensors) <-> our config and parameter tree, both ways.

One table per family pairs the names; `{i}` counts layers. A `kernel` is the transpose of its `weight`, because PyTorch
stores (out, in); everything else is the same array. Pickled weights (pytorch_model.bin) are refused: reading them runs
code.
"""

import dataclasses
import hashlib
import json
import pathlib
import typing

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy

from lmindexer_jax.errors import UserError
from lmindexer_jax.models.bert import BertConfig, BertEncoder
from lmindexer_jax.models.layers import FeedForwardKind
from lmindexer_jax.models.t5 import T5, T5Config

Config = T5Config | BertConfig
Params = dict

T5_RULES = (
    ("shared.weight", "shared/embedding"),
    ("encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight", "encoder/relative_bias/embedding"),
    ("encoder.block.{i}.layer.0.layer_norm.weight", "encoder/layer_{i}/attention_norm/scale"),
    ("encoder.block.{i}.layer.0.SelfAttention.q.weight", "encoder/layer_{i}/attention/query/kernel"),
    ("encoder.block.{i}.layer.0.SelfAttention.k.weight", "encoder/layer_{i}/attention/key/kernel"),
    ("encoder.block.{i}.layer.0.SelfAttention.v.weight", "encoder/layer_{i}/attention/value/kernel"),
    ("encoder.block.{i}.layer.0.SelfAttention.o.weight", "encoder/layer_{i}/attention/output/kernel"),
    ("encoder.block.{i}.layer.1.layer_norm.weight", "encoder/layer_{i}/feed_forward_norm/scale"),
    ("encoder.block.{i}.layer.1.DenseReluDense.wi.weight", "encoder/layer_{i}/feed_forward/up/kernel"),
    ("encoder.block.{i}.layer.1.DenseReluDense.wi_0.weight", "encoder/layer_{i}/feed_forward/gate/kernel"),
    ("encoder.block.{i}.layer.1.DenseReluDense.wi_1.weight", "encoder/layer_{i}/feed_forward/up/kernel"),
    ("encoder.block.{i}.layer.1.DenseReluDense.wo.weight", "encoder/layer_{i}/feed_forward/down/kernel"),
    ("encoder.final_layer_norm.weight", "encoder/final_norm/scale"),
    ("decoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight", "decoder/relative_bias/embedding"),
    ("decoder.block.{i}.layer.0.layer_norm.weight", "decoder/layer_{i}/self_attention_norm/scale"),
    ("decoder.block.{i}.layer.0.SelfAttention.q.weight", "decoder/layer_{i}/self_attention/query/kernel"),
    ("decoder.block.{i}.layer.0.SelfAttention.k.weight", "decoder/layer_{i}/self_attention/key/kernel"),
    ("decoder.block.{i}.layer.0.SelfAttention.v.weight", "decoder/layer_{i}/self_attention/value/kernel"),
    ("decoder.block.{i}.layer.0.SelfAttention.o.weight", "decoder/layer_{i}/self_attention/output/kernel"),
    ("decoder.block.{i}.layer.1.layer_norm.weight", "decoder/layer_{i}/cross_attention_norm/scale"),
    ("decoder.block.{i}.layer.1.EncDecAttention.q.weight", "decoder/layer_{i}/cross_attention/query/kernel"),
    ("decoder.block.{i}.layer.1.EncDecAttention.k.weight", "decoder/layer_{i}/cross_attention/key/kernel"),
    ("decoder.block.{i}.layer.1.EncDecAttention.v.weight", "decoder/layer_{i}/cross_attention/value/kernel"),
    ("decoder.block.{i}.layer.1.EncDecAttention.o.weight", "decoder/layer_{i}/cross_attention/output/kernel"),
    ("decoder.block.{i}.layer.2.layer_norm.weight", "decoder/layer_{i}/feed_forward_norm/scale"),
    ("decoder.block.{i}.layer.2.DenseReluDense.wi.weight", "decoder/layer_{i}/feed_forward/up/kernel"),
    ("decoder.block.{i}.layer.2.DenseReluDense.wi_0.weight", "decoder/layer_{i}/feed_forward/gate/kernel"),
    ("decoder.block.{i}.layer.2.DenseReluDense.wi_1.weight", "decoder/layer_{i}/feed_forward/up/kernel"),
    ("decoder.block.{i}.layer.2.DenseReluDense.wo.weight", "decoder/layer_{i}/feed_forward/down/kernel"),
    ("decoder.final_layer_norm.weight", "decoder/final_norm/scale"),
    ("lm_head.weight", "lm_head/embedding"),
)
BERT_RULES = (
    ("embeddings.word_embeddings.weight", "embeddings/word/embedding"),
    ("embeddings.position_embeddings.weight", "embeddings/position/embedding"),
    ("embeddings.token_type_embeddings.weight", "embeddings/token_type/embedding"),
    ("embeddings.LayerNorm.weight", "embeddings/norm/scale"),
    ("embeddings.LayerNorm.bias", "embeddings/norm/bias"),
    ("encoder.layer.{i}.attention.self.query.weight", "layer_{i}/attention/query/kernel"),
    ("encoder.layer.{i}.attention.self.query.bias", "layer_{i}/attention/query/bias"),
    ("encoder.layer.{i}.attention.self.key.weight", "layer_{i}/attention/key/kernel"),
    ("encoder.layer.{i}.attention.self.key.bias", "layer_{i}/attention/key/bias"),
    ("encoder.layer.{i}.attention.self.value.weight", "layer_{i}/attention/value/kernel"),
    ("encoder.layer.{i}.attention.self.value.bias", "layer_{i}/attention/value/bias"),
    ("encoder.layer.{i}.attention.output.dense.weight", "layer_{i}/attention/output/kernel"),
    ("encoder.layer.{i}.attention.output.dense.bias", "layer_{i}/attention/output/bias"),
    ("encoder.layer.{i}.attention.output.LayerNorm.weight", "layer_{i}/attention_norm/scale"),
    ("encoder.layer.{i}.attention.output.LayerNorm.bias", "layer_{i}/attention_norm/bias"),
    ("encoder.layer.{i}.intermediate.dense.weight", "layer_{i}/feed_forward/up/kernel"),
    ("encoder.layer.{i}.intermediate.dense.bias", "layer_{i}/feed_forward/up/bias"),
    ("encoder.layer.{i}.output.dense.weight", "layer_{i}/feed_forward/down/kernel"),
    ("encoder.layer.{i}.output.dense.bias", "layer_{i}/feed_forward/down/bias"),
    ("encoder.layer.{i}.output.LayerNorm.weight", "layer_{i}/feed_forward_norm/scale"),
    ("encoder.layer.{i}.output.LayerNorm.bias", "layer_{i}/feed_forward_norm/bias"),
)

# Copies of the tied embedding, and a bias that early T5 checkpoints hold but no T5 reads.
T5_IGNORED = (
    "encoder.embed_tokens.weight",
    "decoder.embed_tokens.weight",
    "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight",
)
# What follows the encoder (pooler, pre-training heads), and a buffer that counts 0, 1, 2, ...
BERT_IGNORED = ("pooler.", "cls.", "embeddings.position_ids")


def sha256(path: pathlib.Path) -> str:
    """Hexadecimal SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_sha256(path: pathlib.Path, expected: str) -> None:
    """Raise UserError unless the file has this SHA-256."""
    found = sha256(path)
    if found != expected:
        raise UserError(
            f"{path}: its SHA-256 is {found}, not {expected}: the file is damaged or another; install it again"
        )


def read_config(directory: pathlib.Path) -> Config:
    """The config of a Hugging Face directory; UserError where it is missing, broken or of another architecture."""
    path = pathlib.Path(directory) / "config.json"
    if not path.is_file():
        raise UserError(f"{path}: no such file; a model directory holds config.json and model.safetensors")
    raw = _read_json(path)
    match raw.get("model_type"):
        case "t5" | "mt5":
            return _t5_config(raw, path)
        case "bert":
            return _bert_config(raw, path)
        case other:
            raise UserError(f"{path}: model_type is {other!r}; the readers know t5, mt5 and bert")


def load(directory: pathlib.Path) -> tuple[Config, Params]:
    """Read a Hugging Face directory.

    Returns:
      its config, and the parameters of `T5` or `BertEncoder` as nested dicts of float32 numpy arrays.

    Raises:
      UserError: a tensor is missing, has the wrong shape or is unknown, or the weights are pickled or damaged.
    """
    directory = pathlib.Path(directory)
    config = read_config(directory)
    tensors = {_canonical(name): value for name, value in _read_tensors(directory).items()}
    shapes = _shapes(config)
    flat = {}
    for name, path in _names(config).items():
        if name not in tensors:
            raise UserError(f"{directory}: no tensor {name!r}, which its config.json asks for")
        value = tensors.pop(name).astype(np.float32)
        value = np.ascontiguousarray(value.T) if path.endswith("/kernel") else value
        if value.shape != shapes[path]:
            found, wanted = (
                list(shape[::-1] if path.endswith("/kernel") else shape) for shape in (value.shape, shapes[path])
            )
            raise UserError(f"{directory}: tensor {name!r} has shape {found}, its config.json asks for {wanted}")
        flat[path] = value
    unknown = sorted(name for name in tensors if not name.startswith(_ignored(config)))
    if unknown:
        raise UserError(f"{directory}: {len(unknown)} tensors have no place in this model, the first is {unknown[0]!r}")
    return config, flax.traverse_util.unflatten_dict(flat, sep="/")


def save(directory: pathlib.Path, config: Config, *, params: Params) -> None:
    """Write config.json and model.safetensors that transformers loads; the directory is made if need be.

    Raises:
      ValueError: `params` are not the parameters of this config.
    """
    flat = flax.traverse_util.flatten_dict(params, sep="/")
    shapes = _shapes(config)
    found = {path: tuple(value.shape) for path, value in flat.items()}
    if found != shapes:
        wrong = sorted(path for path in found.keys() | shapes.keys() if found.get(path) != shapes.get(path))
        raise ValueError(
            f"not the parameters of this config: {wrong[0]} is {found.get(wrong[0])}, not {shapes.get(wrong[0])}"
        )
    tensors = {}
    for name, path in _names(config).items():
        value = np.asarray(flat[path], np.float32)
        tensors[name] = np.ascontiguousarray(value.T if path.endswith("/kernel") else value)
    directory = pathlib.Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    safetensors.numpy.save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    (directory / "config.json").write_text(json.dumps(_to_json(config), indent=2) + "\n", encoding="utf-8")


def _read_json(path: pathlib.Path) -> dict:
    """The object in a JSON file; UserError where it holds none."""
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path}: not valid JSON ({error})") from error
    if not isinstance(raw, dict):
        raise UserError(f"{path}: not a JSON object; download the model again")
    return raw


def _read_tensors(directory: pathlib.Path) -> dict[str, np.ndarray]:
    """Every tensor of model.safetensors, or of the shards that its index names."""
    index = directory / "model.safetensors.index.json"
    if index.is_file():
        files = sorted(set(_read_json(index).get("weight_map", {}).values()))
    elif (directory / "model.safetensors").is_file():
        files = ["model.safetensors"]
    elif list(directory.glob("pytorch_model*.bin")):
        raise UserError(
            f"{directory}: only pytorch_model.bin, a pickle, which can run code when read; "
            "save the model again with save_pretrained(..., safe_serialization=True)"
        )
    else:
        raise UserError(f"{directory}: no model.safetensors")
    tensors = {}
    for file in files:
        try:
            tensors |= safetensors.numpy.load_file(directory / file)
        except (safetensors.SafetensorError, FileNotFoundError) as error:
            raise UserError(f"{directory / file}: not a whole safetensors file ({error})") from error
    return tensors


def _canonical(name: str) -> str:
    """A tensor's name in today's form: heads put `bert.` before it; norms once had gamma and beta."""
    name = name.removeprefix("bert.")
    return name.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias")


def _names(config: Config) -> dict[str, str]:
    """Hugging Face name -> our path, of every parameter that a model of this config has."""
    shapes = _shapes(config)
    if isinstance(config, BertConfig):
        rules, unused, layers = BERT_RULES, (), config.num_hidden_layers
    else:
        rules, layers = T5_RULES, max(config.num_layers, config.num_decoder_layers)
        unused = (".wi.",) if config.feed_forward is FeedForwardKind.GATED_GELU else (".wi_0.", ".wi_1.")
    pairs = {name.format(i=i): path.format(i=i) for i in range(layers) for name, path in rules}
    return {name: path for name, path in pairs.items() if path in shapes and not any(part in name for part in unused)}


def _shapes(config: Config) -> dict[str, tuple[int, ...]]:
    """Our path -> shape, of every parameter that a model of this config has."""
    tokens, mask = jnp.zeros((1, 1), jnp.int32), jnp.ones((1, 1), bool)
    if isinstance(config, BertConfig):
        init, inputs = BertEncoder(config).init, (tokens, mask)
    else:
        init, inputs = T5(config).init, (tokens, mask, tokens)
    tree = jax.eval_shape(init, jax.random.key(0), *inputs)["params"]
    return {path: value.shape for path, value in flax.traverse_util.flatten_dict(tree, sep="/").items()}


def _ignored(config: Config) -> tuple[str, ...]:
    """Starts of the tensor names that a checkpoint may hold and this model does not read."""
    if isinstance(config, BertConfig):
        return BERT_IGNORED
    return (*T5_IGNORED, "lm_head.weight") if config.tie_word_embeddings else T5_IGNORED


def _fields(kind: type[Config], raw: dict, path: pathlib.Path) -> dict[str, int | float | bool]:
    """The entries of a config.json that are fields of `kind`, type-checked; null means the default."""
    chosen = {}
    for name, hint in typing.get_type_hints(kind).items():
        value = raw.get(name)
        if value is None:
            continue
        if type(value) is not hint and not (hint is float and type(value) is int):
            raise UserError(f"{path}: {name} is {value!r}, not {'an' if hint is int else 'a'} {hint.__name__}")
        chosen[name] = value
    return chosen


def _t5_config(raw: dict, path: pathlib.Path) -> T5Config:
    kind = raw.get("feed_forward_proj", "relu")
    if kind not in (FeedForwardKind.RELU, FeedForwardKind.GATED_GELU):
        raise UserError(f"{path}: feed_forward_proj is {kind!r}; the T5 reader knows relu and gated-gelu")
    fields = _fields(T5Config, {"num_decoder_layers": raw.get("num_layers")} | raw, path)
    # transformers 5 writes tie_word_embeddings true always and tells an untied head by this entry.
    fields["tie_word_embeddings"] = raw.get("scale_decoder_outputs", fields.get("tie_word_embeddings", True))
    return T5Config(**fields | {"feed_forward": FeedForwardKind(kind)})


def _bert_config(raw: dict, path: pathlib.Path) -> BertConfig:
    for name, known in {"hidden_act": "gelu", "position_embedding_type": "absolute"}.items():
        if raw.get(name, known) != known:
            raise UserError(f"{path}: {name} is {raw[name]!r}; the BERT reader knows {known}")
    return BertConfig(**_fields(BertConfig, raw, path))


def _to_json(config: Config) -> dict:
    """The content of config.json."""
    fields = dataclasses.asdict(config)
    if isinstance(config, BertConfig):
        return {"model_type": "bert", "architectures": ["BertModel"], "hidden_act": "gelu"} | fields
    kind = fields.pop("feed_forward")
    names = {
        "feed_forward_proj": str(kind),
        "scale_decoder_outputs": config.tie_word_embeddings,
        "is_encoder_decoder": True,
    }
    return {"model_type": "t5", "architectures": ["T5ForConditionalGeneration"]} | names | fields
