"""Small whole runs for tests: a made corpus with topics, settings of every kind of stage, a console that kills."""

import json
import pathlib

import numpy as np

from lmindexer_jax.config import Config, Precision
from lmindexer_jax.console import Console, Mode
from lmindexer_jax.indexing.recipe import ContrastConfig, PositionConfig, Rates, RecipeConfig
from lmindexer_jax.indexing.two_stage import IndexerKind
from lmindexer_jax.models.indexer import IndexerConfig
from lmindexer_jax.models.quantiser import Choice, Estimator, QuantiserConfig, Similarity
from lmindexer_jax.models.reconstructor import Head, ReconstructorConfig, ReconstructorKind

TOPICS, SUBTOPICS, WORDS = 4, 3, 6


def write_corpus(path: pathlib.Path, *, documents: int = 120, seed: int = 0) -> pathlib.Path:
    """Documents of a few words from their topic and subtopic, labelled by both."""
    rng = np.random.default_rng(seed)
    lines = []
    for number in range(documents):
        topic, sub = int(rng.integers(TOPICS)), int(rng.integers(SUBTOPICS))
        words = [f"t{topic}w{rng.integers(WORDS)}" for _ in range(5)] + [f"s{topic}{sub}w{rng.integers(WORDS)}" for _ in range(4)]
        rng.shuffle(words)
        path_of = [f"topic {topic}", f"sub {topic}.{sub}"]
        lines.append(json.dumps({"id": f"d{seed}-{number}", "text": " ".join(words[: int(rng.integers(6, 10))]), "path": path_of}))
    path.write_text("\n".join(lines) + "\n")
    return path


def write_task(folder: pathlib.Path, corpus: pathlib.Path, *, test: int = 10) -> pathlib.Path:
    """A retrieval task over `write_corpus`' documents in BEIR's layout: each document's first words ask for it. The last
    documents' queries are the test, and every other one of these documents is asked for in training, too."""
    (folder / "qrels").mkdir(parents=True)
    rows = [json.loads(line) for line in corpus.read_text().splitlines()]
    texts = {"train": [" ".join(row["text"].split()[:4]) for row in rows], "test": [" ".join(row["text"].split()[-4:]) for row in rows]}
    asked = {"train": [*range(len(rows) - test), *range(len(rows) - test, len(rows), 2)], "test": range(len(rows) - test, len(rows))}
    lines = [json.dumps({"_id": f"{split}-{place}", "text": texts[split][place]}) for split in asked for place in asked[split]]
    (folder / "queries.jsonl").write_text("\n".join(lines) + "\n")
    for split, places in asked.items():
        judged = [f"{split}-{place}\t{rows[place]['id']}\t1" for place in places]
        (folder / "qrels" / f"{split}.tsv").write_text("\n".join(["query-id\tcorpus-id\tscore", *judged]) + "\n")
    return folder


def write_topics(
    path: pathlib.Path, *, documents: int, topics: int, words: int, length: int, noise: int = 0, pool: int = 0, seed: int = 0
) -> pathlib.Path:
    """Documents of `length` words from their topic's own `words`, among `noise` words from a pool that all topics share.

    A word is one token and looks like no other of its topic: what belongs together can only be learned. Of the noise,
    nothing can be learned at all.
    """
    rng = np.random.default_rng(seed)
    letters = [chr(ord("a") + i) for i in range(26)]
    names = rng.permutation([a + b + c for a in letters for b in letters for c in letters])
    lines = []
    for number in range(documents):
        topic = int(rng.integers(topics))
        chosen = [names[topic * words + rng.integers(words)] for _ in range(length)]
        chosen += [names[topics * words + rng.integers(pool)] for _ in range(noise)]
        rng.shuffle(chosen)
        lines.append(json.dumps({"id": f"d{number}", "text": " ".join(chosen), "path": [f"topic {topic}"]}))
    path.write_text("\n".join(lines) + "\n")
    return path


def published(path: pathlib.Path, cache: pathlib.Path) -> Config:
    """The published parts in small: everything trains, hints, soft straight-through, contrast, commitment."""
    quantiser = QuantiserConfig(
        estimator=Estimator.SOFT, similarity=Similarity.INNER, commitment=0.0, codebook=0.0
    )
    position = PositionConfig(
        continuous_epochs=1,
        quantised_epochs=1,
        batch_size=16,
        rates=Rates(language_model=1.0, decoder=1.0, reconstructor=1.0, codebook=1.0, earlier_codebooks=1.0),
        quantiser=quantiser,
        contrast=ContrastConfig(weight=1.0, neighbours=2),
        token_dropout=0.0,
    )
    reconstructor = ReconstructorConfig(kind=ReconstructorKind.HINTED, head=Head.TIED)
    config = base(path, cache)
    config.indexer = IndexerConfig(codebook_sizes=(6, 4), pooled_weight=0.0, reconstructor=reconstructor)
    config.recipe = RecipeConfig(warm_up_epochs=1, first=position, later=position)
    return config


def looped(path: pathlib.Path, cache: pathlib.Path) -> Config:
    """The same with layers that are computed twice and looped over."""
    config = published(path, cache)
    config.language_model.remat = config.language_model.scan = True
    return config


def ours(path: pathlib.Path, cache: pathlib.Path) -> Config:
    """The project's own parts in small: frozen encoder, bag of words, expected loss, balanced codes, EMA."""
    config = base(path, cache)
    config.indexer = IndexerConfig(codebook_sizes=(6, 5, 4))
    config.recipe = RecipeConfig(
        first=PositionConfig(
            continuous_epochs=1,
            quantised_epochs=1,
            batch_size=16,
            rates=Rates(codebook=1.0),
            quantiser=QuantiserConfig(estimator=Estimator.MARGINAL, temperature=0.1, commitment=0.0, codebook=0.0),
        ),
        later=PositionConfig(
            continuous_epochs=1,
            quantised_epochs=1,
            batch_size=16,
            quantiser=QuantiserConfig(choice=Choice.BALANCED, queue_batches=3),
        ),
        distinct_last=True,
    )
    return config


def base(path: pathlib.Path, cache: pathlib.Path) -> Config:
    """What both have in common."""
    config = Config(precision=Precision.FLOAT32)
    config.corpus.path = str(path)
    config.corpus.cache_dir = str(cache)
    config.language_model.name = "tiny"
    config.language_model.vocabulary = 512
    config.language_model.max_length = 24
    return config


def two_stage(kind: IndexerKind, path: pathlib.Path, cache: pathlib.Path) -> Config:
    """A two-stage rival in small."""
    config = base(path, cache)
    config.indexer_kind = kind
    config.indexer.codebook_sizes = (6, 6, 6)
    config.two_stage.rqvae.hidden, config.two_stage.rqvae.latent = (16,), 8
    config.two_stage.training.epochs, config.two_stage.training.batch_size = 8, 32
    return config


class Killed(BaseException):
    """Stands in for a kill: nothing in the code may catch it."""


class Mortal(Console):
    """A console that kills the run at the n-th step of progress, of any stage or of the one named."""

    def __init__(self, lives: int, stage: str = ""):
        super().__init__(Mode.QUIET)
        self.lives, self.stage = lives, stage

    def progress(self, description, *args, **kwargs):
        manager = super().progress(description, *args, **kwargs)
        enter = manager.__enter__

        class Watched:
            def __enter__(_):
                inner = enter()
                advance = inner.advance

                class Progress:
                    def advance(_, *a, **k):
                        self.lives -= self.stage in ("", description)
                        if self.lives == 0:
                            raise Killed
                        advance(*a, **k)

                return Progress()

            def __exit__(_, *error):
                return manager.__exit__(*error)

        return Watched()
