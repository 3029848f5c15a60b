"""Plans: what cannot work is refused before anything is trained."""

import pytest
import runs

from lmindexer_jax.console import Console, Mode
from lmindexer_jax.errors import UserError
from lmindexer_jax.indexing.recipe import CodebookStart, Order, plan, refuse_few
from lmindexer_jax.indexing.runner import Run, walk
from lmindexer_jax.models.reconstructor import ReconstructorKind
from lmindexer_jax.prepare import prepare
from lmindexer_jax.recipes import published
from lmindexer_jax.training.sharding import MeshConfig, make_mesh, place

QUIET = Console(Mode.QUIET)


def test_more_codes_than_documents_are_refused_before_the_first_step(tmp_path):
    config = runs.ours(runs.write_corpus(tmp_path / "corpus.jsonl", documents=20), tmp_path / "cache")
    config.indexer.codebook_sizes = (6, 21, 4)
    ready = prepare(config, tmp_path, console=QUIET)
    mesh = make_mesh(MeshConfig())
    parts = (ready.functions, config.recipe, ready.stages, ready.inputs, place(ready.params, mesh), mesh, 0, QUIET)
    with pytest.raises(UserError, match="21 codes at position 2 for 20 documents.*set at most 20") as error:
        walk(Run(tmp_path, *parts, lambda moment: {}, 60.0, ""))
    assert "\n" not in str(error.value)
    assert not (tmp_path / "metrics.jsonl").exists() and not (tmp_path / "checkpoints").exists()


@pytest.mark.parametrize("order", list(Order))
def test_only_where_k_means_makes_their_start(order):
    recipe = published().recipe
    recipe.order = order
    asked = {"positions": 2, "documents": 20, "reconstructor": ReconstructorKind.HINTED}
    for sizes in ((21, 20), (20, 21)):
        with pytest.raises(UserError, match="21 codes"):
            refuse_few(plan(recipe, **asked), sizes=sizes, documents=20)
    refuse_few(plan(recipe, **asked), sizes=(20, 20), documents=20)
    recipe.first.codebook_start = recipe.later.codebook_start = CodebookStart.RANDOM
    refuse_few(plan(recipe, **asked), sizes=(512, 512), documents=20)
