"""Settings of a run, and of a bake-off of several: composed here, defined beside what they configure."""

import dataclasses
import enum
import hashlib
import json

from lmindexer_jax.console import Mode
from lmindexer_jax.data.documents import CorpusConfig
from lmindexer_jax.errors import UserError
from lmindexer_jax.indexing.recipe import RecipeConfig
from lmindexer_jax.indexing.two_stage import IndexerKind, TwoStageConfig
from lmindexer_jax.models.indexer import IndexerConfig
from lmindexer_jax.models.stack import StackConfig
from lmindexer_jax.training.hosts import HostsConfig
from lmindexer_jax.training.sharding import MeshConfig


class Precision(enum.StrEnum):
    """Type of the matmuls; parameters, norms, softmax and losses are float32 always."""

    AUTO = "auto"  # bfloat16 where a measurement shows that this machine gains by it
    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"


@dataclasses.dataclass
class LanguageModelConfig:
    """The language model that reads the documents."""

    name: str = "minilm"  # a preset, a Hugging Face directory, or a hub name
    pretrained: bool = True  # False: random weights of the same size
    max_length: int = 128  # tokens of a document that are read, in training and in assignment alike
    cache_states: bool = True  # keep a frozen encoder's states on disk, 2 x width bytes a token; else make them at every use
    vocabulary: int = 8192  # of the tokenizer that is trained on the corpus where the preset brings none
    remat: bool = False  # in training keep what goes into each layer alone, and compute its insides again
    scan: bool = False  # compile one layer and loop over it

    @property
    def stack(self) -> StackConfig:
        """How the layers are run."""
        return StackConfig(self.remat, self.scan)


@dataclasses.dataclass
class Config:
    """One run. `python -m lmindexer_jax.main --config x.py --config.seed=1 --config.recipe.first.rounds=2`."""

    corpus: CorpusConfig = dataclasses.field(default_factory=CorpusConfig)
    indexer_kind: IndexerKind = IndexerKind.LEARNED
    language_model: LanguageModelConfig = dataclasses.field(default_factory=LanguageModelConfig)
    indexer: IndexerConfig = dataclasses.field(default_factory=IndexerConfig)
    recipe: RecipeConfig = dataclasses.field(default_factory=RecipeConfig)
    two_stage: TwoStageConfig = dataclasses.field(default_factory=TwoStageConfig)  # of every kind but "learned"
    mesh: MeshConfig = dataclasses.field(default_factory=MeshConfig)
    hosts: HostsConfig = dataclasses.field(default_factory=HostsConfig)
    precision: Precision = Precision.AUTO
    seed: int = 0
    baseline: bool = True  # residual k-means of embeddings and of word vectors at the same K, beside the learned codes
    interactions: str = ""  # user TAB document ids in time order, for the co-occurrence lift
    checkpoint_seconds: float = 60.0
    profile: int = 0  # steps of every training stage of the learned indexer whose trace is kept in profile/
    console: Mode = Mode.AUTO


@dataclasses.dataclass
class BakeoffConfig:
    """Several indexers on one corpus, each with several seeds, and how they are compared.

    `python -m lmindexer_jax.bakeoff --config x.py --config.seeds="(0,1,2)" --config.cells.ours.recipe.first.rounds=2`
    """

    corpus: CorpusConfig = dataclasses.field(default_factory=CorpusConfig)  # of all cells; what a cell says of it counts for noise alone
    cells: dict[str, Config] = dataclasses.field(default_factory=dict)  # indexers by name; their seed is taken from below
    seeds: tuple[int, ...] = (0, 1)
    against: str = ""  # the indexer that all others are compared with; "" is the first
    interactions: str = ""  # as in Config, of all cells
    replicates: int = 1000  # random halves of the documents that intervals and p-values are made of
    console: Mode = Mode.AUTO


# What may change between two calls on one workdir: it does not touch the result.
FREE = ("checkpoint_seconds", "profile", "language_model.cache_states", "console", "mesh", "hosts", "baseline", "interactions", "corpus.cache_dir")


def flatten(config: Config) -> dict[str, object]:
    """Settings by dotted name, as JSON holds them, without the free ones and those that this kind of indexer does not read."""

    def walk(prefix: str, value: object) -> dict[str, object]:
        if isinstance(value, dict):
            return {k: v for name, part in value.items() for k, v in walk(f"{prefix}{name}.", part).items()}
        return {prefix[:-1]: list(value) if isinstance(value, tuple) else value}

    flat = walk("", dataclasses.asdict(config))
    unread = "two_stage." if config.indexer_kind == IndexerKind.LEARNED else "recipe."
    return {name: value for name, value in flat.items() if not name.startswith((*FREE, unread))}


def defaults(kind: IndexerKind) -> dict[str, object]:
    """The settings of a run of this kind of which nothing was said."""
    return flatten(Config(indexer_kind=kind))


def fingerprint(settings: dict[str, object]) -> str:
    """Hash of what determines the result."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]


def refuse_change(old: dict[str, object], new: dict[str, object], *, defaults: dict[str, object], workdir: str) -> None:
    """One line that names what differs between a workdir's run and the one asked for.

    Args:
      defaults: of the settings; one that is younger than the run has this value in it.

    Raises:
      UserError: anything differs.
    """
    old, new = json.loads(json.dumps((defaults | old, new)))
    changed = [name for name in old.keys() | new.keys() if old.get(name) != new.get(name)]
    if changed:
        name = sorted(changed)[0]
        more = f" (and {len(changed) - 1} more)" if len(changed) > 1 else ""
        raise UserError(
            f"{workdir} holds a run with {name}={old.get(name)!r}, now it is {new.get(name)!r}{more}:"
            " give the old settings or another --workdir"
        )
