"""The stages of progressive training as data (section 3.4 of the LMIndexer paper).

A recipe says how much of what; `plan` unrolls it into the list of stages that the runner walks: a warm-up of the
reconstructor, then for every position training without a codebook, k-means, training with the codebook, assignment.
"""

import dataclasses
import enum
import re

from lmindexer_jax.errors import UserError
from lmindexer_jax.models.quantiser import Estimator, QuantiserConfig
from lmindexer_jax.models.reconstructor import ReconstructorKind
from lmindexer_jax.training.optim import OptimConfig, Rules


class StageKind(enum.StrEnum):
    """Each training kind is one compiled step."""

    WARM_UP = "warm-up"  # the reconstructor alone, from the continuous vector
    CONTINUOUS = "continuous"  # language model and reconstructor, no codebook
    CLUSTER = "cluster"  # k-means centres become the codebook
    QUANTISED = "quantised"  # language model, codebook and reconstructor
    TOGETHER = "together"  # the same with the codebooks of all positions
    ASSIGN = "assign"  # a code for every document

    @property
    def trains(self) -> bool:
        """Whether the stage takes optimiser steps."""
        return self not in (StageKind.CLUSTER, StageKind.ASSIGN)


class Order(enum.StrEnum):
    """In which order positions are learned."""

    PROGRESSIVE = "progressive"  # one after the other, earlier codes fixed (published)
    TOGETHER = "together"  # all in one stage (ablation)


class SecondQuery(enum.StrEnum):
    """What asks beside the prefix codes when position t >= 2 is reconstructed with its codebook."""

    QUANTISED = "quantised"
    CONTINUOUS = "continuous"  # published; it leaks around the bottleneck


class CodebookStart(enum.StrEnum):
    """Where a codebook stands before it is trained."""

    KMEANS = "kmeans"  # the centres of the document vectors (published)
    RANDOM = "random"  # as the model was initialised (ablation)


class ContrastSimilarity(enum.StrEnum):
    """How the contrastive loss compares document vectors."""

    INNER = "inner"  # published
    COSINE = "cosine"


@dataclasses.dataclass
class Rates:
    """Learning rates as factors of the stage's rate; 0 freezes."""

    language_model: float = 0.0  # encoder and token embedding
    decoder: float = 0.3  # decoder, start vector, output map
    reconstructor: float = 1.0
    codebook: float = 0.1  # of the position in training
    earlier_codebooks: float = 0.0


@dataclasses.dataclass
class ContrastConfig:
    """The contrastive loss; weight 0 leaves it out."""

    weight: float = 0.0
    similarity: ContrastSimilarity = ContrastSimilarity.COSINE
    temperature: float = 0.1
    neighbours: int = 4  # negatives of the same prefix per document, positions >= 2


@dataclasses.dataclass
class PositionConfig:
    """How one position is learned."""

    continuous_epochs: float = 1.0
    quantised_epochs: float = 2.0
    codebook_start: CodebookStart = CodebookStart.KMEANS
    rounds: int = 1  # times that k-means and training with the codebook follow each other
    cluster_last: bool = False  # one more k-means before assignment
    batch_size: int = 128
    continuous_rate: float = 1e-3
    quantised_rate: float = 1e-3
    hidden: float = 0.5  # share of the other tokens that a slot does not see
    token_dropout: float = 0.1  # share of tokens hidden from the document vector
    cluster_restarts: int = 1
    rates: Rates = dataclasses.field(default_factory=Rates)
    quantiser: QuantiserConfig = dataclasses.field(default_factory=QuantiserConfig)
    contrast: ContrastConfig = dataclasses.field(default_factory=ContrastConfig)
    commitment: float = 1.0  # weight of the cross-entropy that keeps earlier codes
    reconstruction: float = 1.0


@dataclasses.dataclass
class RecipeConfig:
    """The whole of progressive training."""

    warm_up_epochs: float = 0.0
    warm_up_rate: float = 1e-3
    first: PositionConfig = dataclasses.field(default_factory=PositionConfig)
    later: PositionConfig = dataclasses.field(default_factory=PositionConfig)
    order: Order = Order.PROGRESSIVE
    second_query: SecondQuery = SecondQuery.QUANTISED
    shrinkage: float = 3.0  # documents' worth of the parent's mean in a prefix's mean
    distinct_last: bool = False  # minimum-cost assignment of the last position within each prefix
    optim: OptimConfig = dataclasses.field(default_factory=OptimConfig)

    def of(self, position: int) -> PositionConfig:
        """How a position, counted from 0, is learned."""
        return self.first if position == 0 else self.later


@dataclasses.dataclass(frozen=True)
class Stage:
    """One stage of the plan. Positions count from 0 here and from 1 in names."""

    name: str
    kind: StageKind
    position: int  # in work; the last one, where several are
    several: bool = False  # whether all positions up to it are in work
    steps: int = 0
    epochs: float = 0.0
    settings: PositionConfig | None = None
    optim: OptimConfig | None = None
    rates: Rates | None = None
    frozen: bool = False  # whether no stage of the plan moves the encoder: its states are then the same all along

    def rules(self, *, paths: tuple[str, ...]) -> Rules:
        """Learning-rate factors for the parameters at `paths`: every parameter has a rule, every rule a parameter."""
        rates, book = self.rates, f"codebook_{self.position}"
        rules = [
            (rf"{book}", rates.codebook),
            *((f"codebook_{p}", rates.codebook if self.several else rates.earlier_codebooks) for p in range(self.position)),
            (r"codebook_\d+", 0.0),
            (r"reconstructor/.*", rates.reconstructor),
            (r"decoder/.*", rates.decoder),
            (r"start", rates.decoder),
            (r"output", rates.decoder),
            (r"encoder/.*", rates.language_model),
            (r"shared/.*", rates.language_model),
        ]
        return needed(tuple(rules), paths=paths)


def needed(rules: Rules, *, paths: tuple[str, ...]) -> Rules:
    """The rules that are the first match of at least one path: parts that a model lacks need no rule."""


    first = {next((i for i, (pattern, _) in enumerate(rules) if re.fullmatch(pattern, path)), None) for path in paths}
    return tuple(rule for i, rule in enumerate(rules) if i in first)


def plan(recipe: RecipeConfig, *, positions: int, documents: int, reconstructor: ReconstructorKind) -> list[Stage]:
    """Unroll a recipe into stages.

    Args:
      recipe: what to do.
      positions: T, the number of learned codes.
      documents: N, which turns epochs into steps.
      reconstructor: some estimators need the bag-of-words kind.

    Raises:
      UserError: settings that cannot work together.
    """
    check(recipe, reconstructor)
    stages = unrolled(recipe, positions=positions, documents=documents)
    frozen = all(stage.rates.language_model == 0 for stage in stages if stage.kind.trains)
    return [dataclasses.replace(stage, frozen=frozen) for stage in stages]


def unrolled(recipe: RecipeConfig, *, positions: int, documents: int) -> list[Stage]:
    """The stages, each by itself."""
    stages: list[Stage] = []

    def train(kind: StageKind, position: int, *, epochs: float, suffix: str = "") -> None:
        if epochs <= 0:
            return
        several = kind == StageKind.TOGETHER
        settings = recipe.first if several else recipe.of(position)
        rate = {StageKind.WARM_UP: recipe.warm_up_rate, StageKind.CONTINUOUS: settings.continuous_rate}.get(
            kind, settings.quantised_rate
        )
        rates = settings.rates
        if kind == StageKind.WARM_UP:
            rates = Rates(language_model=0.0, decoder=0.0, reconstructor=1.0, codebook=0.0)
        if kind == StageKind.CONTINUOUS:
            rates = dataclasses.replace(rates, codebook=0.0)
        stages.append(
            Stage(
                name=str(kind) if several or kind == StageKind.WARM_UP else f"position-{position + 1}/{kind}{suffix}",
                kind=kind,
                position=position,
                several=several,
                steps=max(1, round(epochs * documents / settings.batch_size)),
                epochs=epochs,
                settings=settings,
                optim=dataclasses.replace(recipe.optim, learning_rate=rate),
                rates=rates,
            )
        )

    def assign(position: int, settings: PositionConfig) -> None:
        stages.append(Stage(f"position-{position + 1}/assign", StageKind.ASSIGN, position, settings=settings))

    train(StageKind.WARM_UP, 0, epochs=recipe.warm_up_epochs)
    if recipe.order == Order.TOGETHER:
        last = positions - 1
        train(StageKind.CONTINUOUS, 0, epochs=recipe.first.continuous_epochs)
        if recipe.first.codebook_start == CodebookStart.KMEANS:
            stages.append(Stage("cluster", StageKind.CLUSTER, last, several=True, settings=recipe.first))
        train(StageKind.TOGETHER, last, epochs=sum(recipe.of(position).quantised_epochs for position in range(positions)))
        for position in range(positions):
            # Texts were rebuilt from all codes together; how they are from fewer says nothing.
            judged = {} if position == last else {"reconstruction": 0.0}
            assign(position, dataclasses.replace(recipe.of(position), **judged))
        return stages
    for position in range(positions):
        settings = recipe.of(position)
        train(StageKind.CONTINUOUS, position, epochs=settings.continuous_epochs)
        for number in range(1, settings.rounds + 1):
            suffix = f"-{number}" if settings.rounds > 1 else ""
            if settings.codebook_start == CodebookStart.KMEANS:
                stages.append(Stage(f"position-{position + 1}/cluster{suffix}", StageKind.CLUSTER, position, settings=settings))
            train(StageKind.QUANTISED, position, epochs=settings.quantised_epochs, suffix=suffix)
        if settings.cluster_last:
            stages.append(Stage(f"position-{position + 1}/cluster-last", StageKind.CLUSTER, position, settings=settings))
        assign(position, settings)
    return stages


def refuse_few(stages: list[Stage], *, sizes: tuple[int, ...], documents: int) -> None:
    """Refuse in one line a corpus with fewer documents than k-means has to find centres, before anything is trained."""
    for stage in stages:
        for position in range(0 if stage.several else stage.position, stage.position + 1):
            if stage.kind == StageKind.CLUSTER and sizes[position] > documents:
                raise UserError(
                    f"indexer.codebook_sizes: {sizes[position]:,} codes at position {position + 1} for {documents:,} documents,"
                    f" of which k-means makes their start; set at most {documents:,}"
                )


def check(recipe: RecipeConfig, reconstructor: ReconstructorKind) -> None:
    """Refuse settings that cannot work together, in one line each."""
    if recipe.later.quantiser.estimator == Estimator.MARGINAL:
        raise UserError("recipe.later.quantiser.estimator: 'marginal' sums over codes at position 1 alone; use another")
    if recipe.first.quantiser.estimator == Estimator.MARGINAL and reconstructor != ReconstructorKind.BAG:
        raise UserError("recipe.first.quantiser.estimator: 'marginal' needs indexer.reconstructor.kind='bag'")
    if recipe.order == Order.TOGETHER and recipe.first.quantiser.estimator == Estimator.MARGINAL:
        raise UserError("recipe.order='together' has no estimator 'marginal', which sums over the codes of one position")
    if recipe.order == Order.TOGETHER and (recipe.first.rounds > 1 or recipe.first.cluster_last):
        raise UserError("recipe.order='together' clusters once, before it trains: set recipe.first.rounds=1 and cluster_last=False")
    for name, position in (("first", recipe.first), ("later", recipe.later)):
        if not 0 <= position.hidden <= 1:
            raise UserError(f"recipe.{name}.hidden is a share between 0 and 1, not {position.hidden}")
        if position.rounds < 0 or position.batch_size < 1:
            raise UserError(f"recipe.{name}: rounds must be >= 0 and batch_size >= 1")
        if position.codebook_start == CodebookStart.RANDOM and (position.rounds > 1 or position.cluster_last):
            raise UserError(f"recipe.{name}.codebook_start='random' leaves k-means out: set rounds=1 and cluster_last=False")
