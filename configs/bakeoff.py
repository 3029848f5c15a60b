"""The learned indexers beside the two-stage ones and a control, at equal K, T, language model and text.

    python -m lmindexer_jax.bakeoff --config configs/bakeoff.py --workdir runs/bakeoff
    python -m lmindexer_jax.bakeoff --config configs/bakeoff.py:own --config.corpus.path=my.jsonl --workdir runs/mine

The first is on python_docs (K = 64, T = 3), the second on your own corpus (K = 256); `:tiny` shrinks the first to a look at
the whole way. Any field of any cell can be set, `--config.cells.ours.indexer.lexical_weight=0`; more or fewer seeds by
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
from lmindexer_jax.recipes import few_epochs, ours, published, two_stage

SIZES = {"": (64, 64, 64), "own": (256, 256, 256), "tiny": (16, 16, 16)}


def get_config(variant: str = "") -> BakeoffConfig:
    """`own` leaves the corpus to be given; `tiny` shrinks documents and models."""
    if variant not in SIZES:
        raise UserError(f"configs/bakeoff.py:{variant}: variants are own and tiny")
    tiny = "tiny" if variant == "tiny" else ""
    cells = {"ours": ours(tiny), "published": few_epochs(published(tiny))}
    cells |= {kind: two_stage(f"{kind}-{tiny}") for kind in ("residual", "hierarchical", "product", "rqvae")}
    cells |= {"words": two_stage(f"residual-{tiny}"), "random": two_stage(f"random-{tiny}")}
    cells["words"].two_stage.vectors.source = VectorSource.WORDS
    config = BakeoffConfig(cells=cells)
    for cell in cells.values():
        cell.indexer.codebook_sizes = SIZES[variant]
        if variant == "":
            cell.language_model.max_length = 96
    if variant != "own":
        config.corpus.name = "python_docs"
    if tiny:
        config.corpus.max_documents, config.replicates = 400, 100
    return config
