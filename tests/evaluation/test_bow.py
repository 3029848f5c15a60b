"""The bag-of-words gain on made corpora whose information is known, and against a plain computation."""

import collections

import numpy as np
import pytest

from lmindexer_jax.evaluation.bow import bags, bow_gain, random_gain

PAD, END = 0, 1
TOPICS, WORDS, LENGTH, DOCUMENTS = 8, 20, 15, 1200


def corpus(seed=0):
    """Documents of one topic each; a topic has words of its own, so a topic saves log(TOPICS) nats a token."""
    rng = np.random.default_rng(seed)
    topic = rng.integers(0, TOPICS, DOCUMENTS)
    tokens = 2 + topic[:, None] * WORDS + rng.integers(0, WORDS, (DOCUMENTS, LENGTH))
    rows = np.concatenate([tokens, np.full((DOCUMENTS, 1), END)], 1)
    return topic, rows.reshape(-1), np.arange(DOCUMENTS + 1) * (LENGTH + 1)


TOPIC, FLAT, OFFSETS = corpus()
BAGS = bags(FLAT, OFFSETS, unlabelled=(PAD, END))


def slow_gain(codes, halves, strength):
    """The same definition, a token at a time."""
    tally = [collections.Counter() for _ in range(codes.shape[1])]
    totals = [collections.Counter() for _ in range(codes.shape[1])]
    words = collections.Counter({word: 1 for word in range(halves.words)})
    for document, word in zip(halves.document[halves.fit], halves.word[halves.fit]):
        words[word] += 1
        for t in range(codes.shape[1]):
            prefix = tuple(codes[document, : t + 1])
            tally[t][prefix, word] += 1
            totals[t][prefix] += 1
    gains = []
    for document, word in zip(halves.document[~halves.fit], halves.word[~halves.fit]):
        unigram = p = words[word] / words.total()
        row = []
        for t in range(codes.shape[1]):
            prefix = tuple(codes[document, : t + 1])
            p = (tally[t][prefix, word] + strength * p) / (totals[t][prefix] + strength)
            row.append(np.log(p / unigram))
        gains.append(row)
    return np.mean(gains, 0)


def test_gain_equals_the_definition():
    codes = np.random.default_rng(1).integers(0, 4, (DOCUMENTS, 3))
    codes[:, 0] = TOPIC
    np.testing.assert_allclose(bow_gain(codes, BAGS), slow_gain(codes, BAGS, 300.0), rtol=1e-10)
    np.testing.assert_allclose(bow_gain(codes, BAGS, strength=7), slow_gain(codes, BAGS, 7.0), rtol=1e-10)


def test_true_topics_save_what_they_can():
    (gain,) = bow_gain(TOPIC[:, None], BAGS, strength=1)
    assert gain == pytest.approx(np.log(TOPICS), abs=0.05)
    (smoothed,) = bow_gain(TOPIC[:, None], BAGS)
    assert 1.0 < smoothed < gain


def test_meaningless_codes_gain_nothing():
    assert np.all(random_gain(TOPIC[:, None], BAGS) <= 0)
    assert np.all(bow_gain(np.random.default_rng(2).integers(0, 8, (DOCUMENTS, 1)), BAGS) <= 0)
    assert bow_gain(np.zeros((DOCUMENTS, 1), np.int32), BAGS) == pytest.approx(0, abs=1e-3)


def test_codes_that_single_documents_out_gain_without_meaning_and_the_control_shows_it():
    fine = np.random.default_rng(2).integers(0, 64, (DOCUMENTS, 2))
    assert bow_gain(fine, BAGS)[1] > 0.05
    np.testing.assert_allclose(random_gain(fine, BAGS), bow_gain(fine, BAGS), atol=0.02)


def test_a_second_code_counts_for_what_it_adds():
    half = TOPIC // 2
    path, repeated = np.stack([half, TOPIC % 2], 1), np.stack([half, half], 1)
    first, second = bow_gain(path, BAGS)
    assert second - first > 0.4
    again = bow_gain(repeated, BAGS)
    assert again[0] == first and again[1] - again[0] < second - first


def test_names_of_codes_do_not_matter():
    names = np.random.default_rng(3).permutation(TOPICS)
    np.testing.assert_array_equal(bow_gain(TOPIC[:, None], BAGS), bow_gain(names[TOPIC][:, None], BAGS))


def test_split_is_by_seed_and_leaves_special_tokens_out():
    assert len(BAGS.word) == DOCUMENTS * LENGTH and BAGS.words == TOPICS * WORDS
    assert abs(BAGS.fit.mean() - 0.5) < 0.02
    again = bags(FLAT, OFFSETS, unlabelled=(PAD, END))
    np.testing.assert_array_equal(again.fit, BAGS.fit)
    assert (bags(FLAT, OFFSETS, unlabelled=(PAD, END), seed=1).fit != BAGS.fit).any()


def test_other_splits_agree():
    gains = [bow_gain(TOPIC[:, None], bags(FLAT, OFFSETS, unlabelled=(PAD, END), seed=s))[0] for s in range(4)]
    assert np.std(gains) < 0.01


def test_empty_documents_are_harmless():
    flat, offsets = np.array([5, 5, 6]), np.array([0, 0, 3, 3])
    assert np.isfinite(bow_gain(np.zeros((3, 1), np.int32), bags(flat, offsets, unlabelled=()))).all()
    nothing = bags(np.zeros(0, np.int32), np.zeros(3, np.int64), unlabelled=())
    assert bow_gain(np.zeros((2, 1), np.int32), nothing) == 0
