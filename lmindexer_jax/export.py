"""A learned run as a Hugging Face T5 whose vocabulary holds the codes, for any other tool to train on:

    python -m lmindexer_jax.export --workdir runs/mine -o runs/mine-t5

Its tokens of a document's ID, "<a_12>", "<b_7>" and so on, stand in the run's `ids.json`.
"""

import argparse
import pathlib
import sys

from lmindexer_jax.console import Console, Mode, run_main
from lmindexer_jax.errors import UserError
from lmindexer_jax.finished import open_finished
from lmindexer_jax.indexing.export import to_t5
from lmindexer_jax.indexing.two_stage import IndexerKind
from lmindexer_jax.models import presets
from lmindexer_jax.models.t5 import T5Config
from lmindexer_jax.prepare import language_model_config, open_tokenizer

PARTS = ("shared", "encoder", "decoder")  # of the T5; a head of its own is no part of an indexer


def export(workdir: pathlib.Path, directory: pathlib.Path) -> None:
    """Write the language model of a finished run, its tokenizer and its codes as one directory of transformers.

    The word rows of an output head of its own (T5 1.1) are those of the checkpoint that the run started from, or where it
    started from none, of the embedding.

    Raises:
      UserError: no finished run, or its model is no T5.
    """
    run = open_finished(workdir)
    settings = run.config.language_model
    preset = presets.resolve(settings.name, pretrained=settings.pretrained)
    if run.config.indexer_kind != IndexerKind.LEARNED or not isinstance(preset.config, T5Config):
        raise UserError(f"{workdir}: its IDs were not learned by a T5, and no other model reads codes in transformers; use ids.json")
    tokenizer = open_tokenizer(run.config, preset, None, workdir)
    config, learned = language_model_config(preset, tokenizer), run.learned()
    params = {part: learned[part] for part in PARTS}
    if not config.tie_word_embeddings:
        params["lm_head"] = presets.load(preset)["lm_head"] if preset.weights_dir else params["shared"]
    codebooks = [learned[f"codebook_{position}"] for position in range(len(run.config.indexer.codebook_sizes))]
    to_t5(directory, run.table, config=config, params=params, codebooks=codebooks, tokenizer=tokenizer)


def parse(arguments: list[str]) -> argparse.Namespace:
    """Flags; a wrong one ends the program with exit code 2."""
    parser = argparse.ArgumentParser(prog="lmindexer-export", description=__doc__.splitlines()[0])
    parser.add_argument("--workdir", required=True, type=pathlib.Path, help="of a finished run with a T5")
    parser.add_argument("-o", "--output", required=True, type=pathlib.Path, help="folder to write")
    parser.add_argument("--console", type=Mode, choices=list(Mode), default=Mode.AUTO)
    return parser.parse_args(arguments)


def main() -> None:
    """Parse, write."""
    flags = parse(sys.argv[1:])
    export(flags.workdir, flags.output)
    Console(flags.console).success(f"a T5 that knows the codes is in {flags.output}")


def run() -> None:
    """Entry point of the command `lmindexer-export`."""
    run_main(main)


if __name__ == "__main__":
    run()
