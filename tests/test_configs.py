"""Every shipped config loads, can be planned, and is refused when it makes no sense."""

import pathlib

import pytest

from lmindexer_jax.cells import cells_of, settings
from lmindexer_jax.config import BakeoffConfig, Config, defaults, refuse_change
from lmindexer_jax.errors import UserError
from lmindexer_jax.flags import load
from lmindexer_jax.indexing.recipe import StageKind, plan
from lmindexer_jax.indexing.two_stage import IndexerKind
from lmindexer_jax.indexing.vectors import VectorSource
from lmindexer_jax.models.quantiser import Estimator
from lmindexer_jax.prepare import check
from lmindexer_jax.recipes import few_epochs, published, shrink

HOME = pathlib.Path(__file__).parents[1] / "configs"
CONFIGS = sorted(path for path in HOME.rglob("*.py") if path.parent.name != "recommend")  # those have a test of their own


@pytest.mark.parametrize("variant", ["", "tiny"])
@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_a_config_can_be_planned(path, variant):
    whole = load(path, variant)
    cells = [settings(whole, name, 0) for name in whole.cells] if isinstance(whole, BakeoffConfig) else [whole]
    for config in cells:
        plannable(config)


@pytest.mark.parametrize("name", ["losses:no_commitment", "sizes:t5", "sizes:k1024-tiny", "hints:h0", "noise:truncated-tiny"])
def test_variants_of_ablations_differ_from_each_other(name):
    stem, variant = name.split(":")
    path = HOME / "ablations" / f"{stem}.py"
    plannable(load(path, variant))
    assert load(path, variant) != load(path, "tiny" if variant.endswith("tiny") else "")
    with pytest.raises(UserError, match="config variant 'none'"):
        load(path, "none")


def plannable(config):
    check(config)
    positions = len(config.indexer.codebook_sizes)
    stages = plan(config.recipe, positions=positions, documents=1000, reconstructor=config.indexer.reconstructor.kind)
    assert [stage.position for stage in stages if stage.kind == StageKind.ASSIGN] == list(range(positions))
    assert all(stage.steps > 0 for stage in stages if stage.kind.trains)
    assert len({stage.name for stage in stages}) == len(stages)


@pytest.mark.parametrize("shorten", [few_epochs, shrink])
def test_what_a_recipe_leaves_out_stays_out_when_it_is_shortened(shorten):
    config = published()
    config.recipe.warm_up_epochs = config.recipe.first.continuous_epochs = config.recipe.later.quantised_epochs = 0.0
    recipe = shorten(config).recipe
    assert recipe.warm_up_epochs == recipe.first.continuous_epochs == recipe.later.quantised_epochs == 0
    assert 0 < recipe.first.quantised_epochs <= 2 and recipe.later.continuous_epochs == 1


def test_cells_of_the_bakeoff_differ_in_the_indexer_alone(tmp_path):
    path = next(path for path in CONFIGS if path.stem == "bakeoff")
    for variant in ("", "own", "tiny", "beauty-a", "icd10cm"):
        cells = cells_of(load(path, variant), tmp_path)
        same = {(cell.config.indexer.codebook_sizes, str(cell.config.language_model), str(cell.config.corpus)) for cell in cells}
        assert len(same) == 1 and len({cell.workdir for cell in cells}) == len(cells) == 16
        kinds = {cell.config.indexer_kind for cell in cells}
        assert kinds == {kind for kind in IndexerKind if kind != IndexerKind.ATOMIC}
    with pytest.raises(UserError, match="beauty-b, own"):
        load(path, "small")


@pytest.mark.parametrize("kind", [kind for kind in IndexerKind if kind != IndexerKind.LEARNED])
def test_every_rival_has_its_variant_and_its_tiny_one(kind):
    path = next(path for path in CONFIGS if path.stem == "two_stage")
    whole, tiny = load(path, str(kind)), load(path, f"{kind}-tiny")
    for config in (whole, tiny):
        check(config)
        assert config.indexer_kind == kind
    assert whole.indexer == Config().indexer, "the same books as the learned indexer's"
    assert max(tiny.indexer.codebook_sizes) < 256 and tiny.corpus.max_documents > 0
    for wrong in ("learned", "kmeans", "residual-rqvae"):
        with pytest.raises(UserError, match="hierarchical"):
            load(path, wrong)


def test_the_published_order_of_stages():
    config = load(next(path for path in CONFIGS if path.stem == "published"), "")
    stages = plan(config.recipe, positions=2, documents=1000, reconstructor=config.indexer.reconstructor.kind)
    kinds = [(stage.position, stage.kind) for stage in stages]
    each = [StageKind.CONTINUOUS, StageKind.CLUSTER, StageKind.QUANTISED, StageKind.ASSIGN]
    assert kinds == [(0, StageKind.WARM_UP), *((0, kind) for kind in each), *((1, kind) for kind in each)]


def test_settings_that_make_no_sense_are_refused():
    config = Config()
    config.indexer.codebook_sizes = (1,)
    with pytest.raises(UserError, match="codebook_sizes"):
        check(config)
    config = Config(indexer_kind=IndexerKind.RESIDUAL)
    config.two_stage.vectors.source = VectorSource.FILE
    with pytest.raises(UserError, match="two_stage.vectors"):
        check(config)
    config = Config()
    config.recipe.later.quantiser.estimator = Estimator.MARGINAL
    with pytest.raises(UserError, match="marginal"):
        plan(config.recipe, positions=2, documents=10, reconstructor=config.indexer.reconstructor.kind)


def test_random_codebooks_leave_kmeans_out():
    config = load(next(path for path in CONFIGS if path.stem == "no_kmeans"), "")
    stages = plan(config.recipe, positions=2, documents=10, reconstructor=config.indexer.reconstructor.kind)
    assert StageKind.CLUSTER not in {stage.kind for stage in stages}
    config.recipe.later.rounds = 2
    with pytest.raises(UserError, match="recipe.later.codebook_start"):
        plan(config.recipe, positions=2, documents=10, reconstructor=config.indexer.reconstructor.kind)


def test_a_setting_younger_than_a_run_has_its_default_there():
    """What was added to the settings since does not part a user from his run; to ask for it does."""
    known = defaults(IndexerKind.LEARNED)
    old = {name: value for name, value in known.items() if name != "indexer.product"}
    refuse_change(old, known, defaults=known, workdir="w")
    with pytest.raises(UserError, match="w holds a run with indexer.product=False, now it is True"):
        refuse_change(old, known | {"indexer.product": True}, defaults=known, workdir="w")
    with pytest.raises(UserError, match="seed=1, now it is 0"):
        refuse_change(old | {"seed": 1}, known, defaults=known, workdir="w")
