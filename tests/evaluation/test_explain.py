"""Words that set a prefix apart from its siblings."""

import numpy as np

from lmindexer_jax.evaluation.explain import distinguishing_words
from lmindexer_jax.evaluation.id_quality import prefix_ids
from lmindexer_jax.evaluation.text_space import text_space

TEXTS = [
    "Red lipstick for the lips, beauty",
    "Pink lipstick for lips: beauty!",
    "Shampoo for dry hair, beauty",
    "Shampoo for oily hair. Beauty",
    "Oily hair conditioner beauty",
]
CODES = np.array([[0, 0], [0, 1], [1, 0], [1, 0], [1, 1]])


def told(texts, codes, **settings):
    space = text_space(texts)
    depths = distinguishing_words(space, prefix_ids(codes), **settings)
    return [[[space.vocabulary[word] for word in prefix] for prefix in depth] for depth in depths]


def test_words_of_each_prefix():
    first, second = told(TEXTS, CODES, most=2)
    assert [set(prefix) for prefix in first] == [{"lipstick", "lips"}, {"hair", "shampoo"}]
    # Inside 1 all have hair; shampoo sets 1-0 apart. Single documents speak for themselves.
    assert second[0] == second[1] == second[3] == [] and second[2][0] == "shampoo"


def test_a_word_that_all_siblings_share_comes_after_those_that_differ():
    ((lips, hair), _) = told(TEXTS, CODES)
    # Every document of both has it, as often as lipstick or hair.
    assert lips[-1] == "beauty" and hair.index("beauty") > max(hair.index(word) for word in ("hair", "shampoo", "oily"))


def test_function_words_and_numbers_are_left_out():
    assert text_space(["the 12 of and 3x a", "for 99"]).vocabulary == []


def test_scores_are_class_based_tf_idf():
    texts = ["aa bb", "aa cc", "aa dd dd", "bb dd"]
    ((left, right),) = told(texts, np.array([[0], [0], [1], [1]]))
    average = 8 / 2

    def score(count, total, among):
        return count / total * np.log1p(average / among)

    expected = {"aa": score(2, 4, 3), "bb": score(1, 4, 2), "cc": score(1, 4, 1)}
    assert left == sorted(expected, key=expected.get, reverse=True)
    assert right[0] == "dd"


def test_the_average_is_that_of_the_siblings():
    # zz beats aa where the average is under 3 words (here 2), and loses by the average of the long texts beside.
    texts = [" ".join(f"w{i}{j}" for j in "abcdefghijklmnop") for i in "xy"] + ["aa zz", "aa", "aa"]
    _, second = told(texts, np.array([[0, 0], [0, 1], [1, 0], [1, 0], [1, 1]]))
    assert second[2] == ["zz", "aa"]


def test_order_of_documents_does_not_matter():
    order = np.random.default_rng(0).permutation(len(TEXTS))
    original = told(TEXTS, CODES)
    shuffled = told([TEXTS[i] for i in order], CODES[order])
    assert [[set(p) for p in d] for d in original] == [[set(p) for p in d] for d in shuffled]


def test_no_words_at_all():
    assert told(["", "1 2"], np.array([[0], [0]])) == [[[]]]
