"""The learned indexers beside the two-stage ones and a control, at equal K, T, language model and text.

    python -m lmindexer_jax.bakeoff --config configs/bakeoff.py --workdir runs/bakeoff
    python -m lmindexer_jax.bakeoff --config configs/bakeoff.py:own --config.corpus.path=my.jsonl --workdir runs/mine

The first is on python_docs (K = 64, T = 3), the second on your own corpus (K = 256); `:tiny` shrinks the first to a look at
the whole way. `:beauty-a` and `:beauty-b` are Amazon Beauty with the texts of configs/beauty.py, and take the same two files,
`--config.corpus.path=items.jsonl --config.interactions=sequences.tsv`; `:icd10cm` is the corpus of a true tree. Any field of any cell can be set, `--config.cells.ours.indexer.lexical_weight=0`; more or fewer seeds by
`--config.seeds="(0,1,2)"`.

    ours           the project's recipe
    published      the published losses, estimator and order of stages, on a frozen encoder and in few epochs
    residual, hierarchical, product    k-means of the mean of the encoder's states
    rqvae          TIGER's autoencoder of the same
    words          residual k-means of averaged word vectors
    random         control: a hash of the document's id
"""

from lmindexer_jax.config import BakeoffConfig
from lmindexer_jax.errors import UserError
from lmindexer_jax.indexing.vectors import VectorSource
from lmindexer_jax.recipes import beauty, few_epochs, ours, published, two_stage

CORPORA = {"": "python_docs", "tiny": "python_docs", "icd10cm": "icd10cm"}
LENGTHS = {"": 96, "icd10cm": 32}
BEAUTY = {"beauty-a": "a", "beauty-b": "b"}
VARIANTS = (*CORPORA, *BEAUTY, "own")


def get_config(variant: str = "") -> BakeoffConfig:
    """The eight cells on the corpus that the variant names."""
    if variant not in VARIANTS:
        raise UserError(f"configs/bakeoff.py:{variant}: variants are {', '.join(VARIANTS[1:])}")
    tiny = "tiny" if variant == "tiny" else ""
    cells = {"ours": ours(tiny), "published": few_epochs(published(tiny))}
    cells |= {kind: two_stage(f"{kind}-{tiny}") for kind in ("residual", "hierarchical", "product", "rqvae")}
    cells |= {"words": two_stage(f"residual-{tiny}"), "random": two_stage(f"random-{tiny}")}
    cells["words"].two_stage.vectors.source = VectorSource.WORDS
    config = BakeoffConfig(cells=cells)
    for cell in cells.values():
        cell.indexer.codebook_sizes = (64 if variant == "" else 16 if tiny else 256,) * 3
        if variant in LENGTHS:
            cell.language_model.max_length = LENGTHS[variant]
        if variant in BEAUTY:
            config.corpus = beauty(cell, BEAUTY[variant]).corpus
    if variant in CORPORA:
        config.corpus.name = CORPORA[variant]
    if tiny:
        config.corpus.max_documents, config.replicates = 400, 100
    return config
