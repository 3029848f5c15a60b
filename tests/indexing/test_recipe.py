"""Plans: what cannot work is refused before anything is trained."""

import pytest
import runs

from lmindexer_jax.console import Console, Mode
from lmindexer_jax.errors import UserError
from lmindexer_jax.indexing.recipe import CodebookStart, Order, plan, refuse_few
from lmindexer_jax.models.reconstructor import ReconstructorKind
from lmindexer_jax.prepare import prepare
from lmindexer_jax.recipes import published


def test_more_codes_than_documents_are_refused_before_the_first_step(tmp_path):
    config = runs.ours(runs.write_corpus(tmp_path / "corpus.jsonl", documents=20), tmp_path / "cache")
    config.indexer.codebook_sizes = (6, 21, 4)
    with pytest.raises(UserError, match="21 codes at position 2 for 20 documents.*set at most 20") as error:
        prepare(config, tmp_path, console=Console(Mode.QUIET))
    assert "\n" not in str(error.value) and not (tmp_path / "run.json").exists()


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
