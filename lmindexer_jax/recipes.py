"""The recipes that configs start from: the project's own, the published one, and the two-stage rivals.

Where `ours` differs from `published` and why:

- the encoder is frozen and its states are kept on disk: an epoch costs a small decoder and nothing else;
- a document's vector starts as the encoder's pooled embedding, from position 2 on less its prefix' mean, so a later
  code cannot repeat an earlier one;
- the reconstructor sees codes alone: what it learns to say, the codes must hold;
- word vectors stand beside the contextual mean, which alone forgets on templated or listed text which words there were;
- position 1 minimises the expected loss over all codes, so no straight-through estimate is needed;
- codes of positions >= 2 are chosen in training by Sinkhorn over the batch and a queue, or they collapse;
- vectors are compared by cosine, and k-means clusters by what assigns.
"""

from lmindexer_jax.config import Config
from lmindexer_jax.errors import UserError
from lmindexer_jax.indexing.recipe import (
    ContrastConfig,
    ContrastSimilarity,
    PositionConfig,
    Rates,
    RecipeConfig,
    SecondQuery,
)
from lmindexer_jax.indexing.two_stage import IndexerKind
from lmindexer_jax.models.indexer import IndexerConfig
from lmindexer_jax.models.quantiser import Choice, Estimator, QuantiserConfig, Similarity
from lmindexer_jax.models.reconstructor import Head, ReconstructorConfig, ReconstructorKind

PUBLISHED_EPOCHS = 30.0
BEAUTY_TEXTS = {  # template, and the tokens that hold nearly every item whole
    "a": ("{title} {brand}", 34),
    "b": ("title: {title}, brand: {brand}, category: {path}", 50),
}


def ours(variant: str = "") -> Config:
    """The project's recipe for any corpus; "tiny" shrinks it to a look at the whole way."""
    first = PositionConfig(
        continuous_epochs=2,
        quantised_epochs=8,
        rates=Rates(decoder=1.0, codebook=1.0),
        quantiser=QuantiserConfig(estimator=Estimator.MARGINAL, temperature=0.07, commitment=0.0, codebook=0.0),
    )
    later = PositionConfig(
        continuous_epochs=1,
        quantised_epochs=2,
        rates=Rates(decoder=0.3, codebook=0.1),
        quantiser=QuantiserConfig(choice=Choice.BALANCED, temperature=0.05, commitment=0.25, codebook=1.0),
        commitment=0.1,
    )
    config = Config(
        indexer=IndexerConfig(lexical_weight=6.0),
        recipe=RecipeConfig(first=first, later=later, distinct_last=True),
    )
    return shrink(config) if variant == "tiny" else config


def published(variant: str = "") -> Config:
    """The published recipe, every deviation taken back; "tiny" shrinks it."""
    everything = Rates(language_model=1.0, decoder=1.0, reconstructor=1.0, codebook=1.0, earlier_codebooks=1.0)
    quantiser = QuantiserConfig(estimator=Estimator.SOFT, similarity=Similarity.INNER, commitment=0.0, codebook=0.0)

    def position(batch_size: int, quantised_rate: float, hidden: float) -> PositionConfig:
        return PositionConfig(
            continuous_epochs=PUBLISHED_EPOCHS,
            quantised_epochs=PUBLISHED_EPOCHS,
            batch_size=batch_size,
            quantised_rate=quantised_rate,
            hidden=hidden,
            token_dropout=0.0,
            rates=everything,
            quantiser=quantiser,
            contrast=ContrastConfig(weight=1.0, similarity=ContrastSimilarity.INNER, temperature=1.0, neighbours=4),
        )

    config = Config(
        indexer=IndexerConfig(
            codebook_sizes=(512, 512),
            pooled_weight=0.0,
            reconstructor=ReconstructorConfig(kind=ReconstructorKind.HINTED, head=Head.TIED),
        ),
        recipe=RecipeConfig(
            warm_up_epochs=PUBLISHED_EPOCHS,
            first=position(128, 2e-3, 0.5),
            later=position(32, 1e-3, 0.7),
            second_query=SecondQuery.CONTINUOUS,
        ),
    )
    return shrink(config) if variant == "tiny" else config


def paper(name: str, variant: str = "") -> Config:
    """The published recipe with T5-base on a corpus of the paper.

    Args:
      name: beauty, sports, toys, nq320k or msmarco.
      variant: "tiny" shrinks model and recipe, and takes a corpus that comes with the project.
    """
    config = published()
    first, later = config.recipe.first, config.recipe.later
    match name:
        case "beauty" | "sports" | "toys":
            corpus, sizes = f"amazon_reviews/{name}", (512, 512)
        case "nq320k":
            corpus, sizes = "nq320k/documents", (5120, 5120)
            config.recipe.warm_up_epochs = first.continuous_epochs = 10.0
            first.continuous_rate = first.quantised_rate = 5e-3
        case "msmarco":
            corpus, sizes = "msmarco/documents", (51200, 51200)
            config.corpus.max_documents = 1_000_000
            config.recipe.warm_up_epochs = first.continuous_epochs = first.quantised_epochs = 5.0
            later.continuous_epochs = later.quantised_epochs = 5.0
            first.quantised_rate = 1e-3
        case _:
            raise UserError(f"no corpus of the paper: {name!r}; beauty, sports, toys, nq320k and msmarco are")
    if variant == "tiny":
        config.corpus.name = "python_docs"
        return shrink(config)
    config.corpus.name, config.indexer.codebook_sizes, config.language_model.name = corpus, sizes, "t5-base"
    return config


def few_epochs(config: Config) -> Config:
    """The published recipe on a frozen encoder, for a CPU. What a recipe leaves out stays left out."""
    config.indexer.reconstructor.head = Head.OWN
    config.recipe.warm_up_epochs = min(1.0, config.recipe.warm_up_epochs)
    for position, epochs in ((config.recipe.first, 2.0), (config.recipe.later, 1.0)):
        position.rates.language_model = 0.0
        position.continuous_epochs = min(epochs, position.continuous_epochs)
        position.quantised_epochs = min(epochs, position.quantised_epochs)
    return config


def beauty(config: Config, text: str) -> Config:
    """The settings that Amazon Beauty asks for with text `a` or `b`, put into a config; K = 256, T = 3."""
    config.corpus.template, config.language_model.max_length = BEAUTY_TEXTS[text]
    config.corpus.id_field = "item_id"
    config.indexer.codebook_sizes = (256, 256, 256)
    return config


def two_stage(variant: str = "") -> Config:
    """A two-stage rival: a kind of `IndexerKind` ("residual" where none is named), with "-tiny" to shrink it."""
    words = [word for word in variant.split("-") if word]
    named = [word for word in words if word != "tiny"] or [IndexerKind.RESIDUAL]
    kinds = [kind for kind in IndexerKind if kind != IndexerKind.LEARNED]
    if len(named) > 1 or named[0] not in kinds:
        raise UserError(f"config variant {variant!r}: one of {', '.join(kinds)}, each also with -tiny, as in residual-tiny")
    config = Config(indexer_kind=IndexerKind(named[0]))
    return shrink(config) if "tiny" in words else config


def shrink(config: Config) -> Config:
    """A small model from scratch, few documents, one epoch a stage: minutes on any machine."""
    config.language_model.name = "tiny"
    config.language_model.vocabulary = 1024
    config.language_model.max_length = 32
    config.corpus.max_documents = 400
    config.indexer.codebook_sizes = (16,) * len(config.indexer.codebook_sizes)
    config.recipe.warm_up_epochs = min(1.0, config.recipe.warm_up_epochs)
    for position in (config.recipe.first, config.recipe.later):
        position.continuous_epochs = min(1.0, position.continuous_epochs)
        position.quantised_epochs = min(1.0, position.quantised_epochs)
        position.batch_size = 32
    config.two_stage.rqvae.hidden, config.two_stage.rqvae.latent = (48,), 16
    config.two_stage.training.epochs, config.two_stage.training.batch_size = 20, 64
    return config
