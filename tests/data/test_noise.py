"""Noise: as much as was asked for, the same for a document in any company, and never an empty text."""

import json

import pytest
from hypothesis import given, settings, strategies as st

from lmindexer_jax.data.corpus import open_corpus
from lmindexer_jax.data.documents import CorpusConfig
from lmindexer_jax.data.noise import NoiseConfig, damaged
from lmindexer_jax.errors import UserError

WORDS = [f"word{number:04}" for number in range(2000)]
TEXT = " ".join(WORDS)


def test_without_noise_a_text_is_left_as_it_is():
    assert damaged("two  blanks\nand a line", NoiseConfig(), id="a") == "two  blanks\nand a line"


def test_the_end_is_cut_off():
    assert damaged(TEXT, NoiseConfig(truncated=0.75), id="a").split() == WORDS[:500]


def test_as_many_words_are_left_out_as_were_asked_for():
    kept = damaged(TEXT, NoiseConfig(dropped=0.3), id="a").split()
    assert 1300 < len(kept) < 1500 and kept == [word for word in WORDS if word in set(kept)], "in order"


def test_as_many_characters_are_hit_as_were_asked_for():
    found = damaged(TEXT, NoiseConfig(characters=0.05), id="a").split()
    same = sum(a == b for a, b in zip(found, WORDS, strict=True))
    assert 0.60 < same / len(WORDS) < 0.73, "0.95 ** 8 = 0.66 of the words have no slip"


@given(text=st.text(min_size=1).filter(str.strip), share=st.floats(0, 1), seed=st.integers(0, 9))
@settings(max_examples=100, deadline=None)
def test_no_text_becomes_empty_and_the_same_is_hit_again(text, share, seed):
    config = NoiseConfig(truncated=share, dropped=share, characters=share, seed=seed)
    once = damaged(text.strip(), config, id="a")
    assert once.strip() and once == damaged(text.strip(), config, id="a")


def test_what_is_hit_depends_on_seed_and_document():
    found = {damaged(TEXT, NoiseConfig(dropped=0.5, seed=seed), id=name) for seed in (0, 1) for name in "ab"}
    assert len(found) == 4


def test_a_corpus_is_read_with_its_noise(tmp_path):
    path = tmp_path / "c.jsonl"
    path.write_text("\n".join(json.dumps({"id": str(n), "text": TEXT, "path": ["a"]}) for n in range(3)))
    clean = CorpusConfig(path=str(path), cache_dir=str(tmp_path))
    noisy = CorpusConfig(path=str(path), cache_dir=str(tmp_path), noise=NoiseConfig(dropped=0.5))
    assert open_corpus(clean).text(0) == TEXT and open_corpus(noisy).path(2) == ("a",)
    assert open_corpus(noisy).text(1) == damaged(TEXT, noisy.noise, id="1") != open_corpus(noisy).text(2)


@pytest.mark.parametrize("name", ["truncated", "dropped", "characters"])
def test_shares_that_are_none_are_refused(tmp_path, name):
    with pytest.raises(UserError, match=f"corpus.noise.{name}"):
        open_corpus(CorpusConfig(path=str(tmp_path / "c.jsonl"), noise=NoiseConfig(**{name: 1.5})))
