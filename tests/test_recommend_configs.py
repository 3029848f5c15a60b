"""Every shipped config of the recommender loads through the command's own flags and can be run."""

import functools
import pathlib
import sys

import pytest

from lmindexer_jax.errors import UserError
from lmindexer_jax.flags import Flags, load
from lmindexer_jax.next_item import Method, RecommendConfig, check

# ml_collections loads a config by a deprecated method of the import system.
pytestmark = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")
CONFIGS = pathlib.Path(__file__).parents[1] / "configs" / "recommend"


@pytest.fixture
def given(monkeypatch):
    """Parse a command line. Flags are parsed once in a process; here several times, and ml_collections reads sys.argv."""

    def parse_all(*arguments):
        monkeypatch.setattr(sys, "argv", ["recommend", *map(str, arguments)])
        return Flags(RecommendConfig, example="").parse(sys.argv)

    return parse_all


@pytest.mark.parametrize("name", ["generative.py", "generative.py:dense", "flattened.py", "flattened.py:text", "text.py", "text.py:own", "sasrec.py", "sasrec.py:text", "popularity.py"])
def test_a_config_is_complete_but_for_the_data(given, name):
    data = "--config.ids=i", "--config.interactions=u"
    config, workdir = given("--workdir=w", f"--config={CONFIGS / name}", *data, "--config.training.optim.b2=0.9")
    check(config)
    assert workdir == pathlib.Path("w")
    assert config.method == name.split(".")[0]
    assert config.training.optim.b2 == 0.9
    if config.method == Method.SASREC:
        assert config.model.read_text == name.endswith("text") and not config.model.read_codes


@pytest.mark.parametrize("name", ["generative", "flattened", "text", "sasrec"])
def test_another_variant_is_refused(name):
    with pytest.raises(UserError, match=f"{name}.py:x: the one variant is"):
        load(CONFIGS / f"{name}.py", "x")


def test_all_files_are_tested():
    assert {path.stem for path in CONFIGS.glob("*.py")} == set(Method)


@pytest.mark.parametrize(
    ("flag", "match"),
    [
        ("--config.model.widht=3", "widht"),
        ("--config.seed=x", "seed"),
        ("generative", "unknown argument"),
    ],
)
def test_a_wrong_flag_is_one_line(given, flag, match):
    with pytest.raises(UserError, match=match):
        given("--workdir=w", f"--config={CONFIGS / 'generative.py'}", flag)


@pytest.mark.parametrize(
    ("field", "value", "least"),
    [
        ("model.length", 0, 1),
        ("training.epochs", 0, 1),
        ("training.batch_size", 0, 1),
        ("training.validate_every", 0, 1),
        ("training.negatives", -1, 0),
        ("beams", 0, 1),
    ],
)
def test_counts_without_a_meaning_are_refused(field, value, least):
    config = RecommendConfig(ids="i", interactions="u")
    *above, name = field.split(".")
    part = functools.reduce(getattr, above, config)
    setattr(part, name, least)
    check(config)
    setattr(part, name, value)
    with pytest.raises(UserError, match=f"^{field}={value}: give at least {least}$"):
        check(config)


def test_a_missing_flag_is_named(given):
    with pytest.raises(UserError, match="--workdir"):
        given(f"--config={CONFIGS / 'generative.py'}")
