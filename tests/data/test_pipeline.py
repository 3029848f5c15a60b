"""Batches: every document once per epoch, the same for any number of processes, each padded by its own length."""

import grain
import numpy as np
import pytest

from lmindexer_jax.data.pipeline import WINDOW, inference_batches, length_buckets, steps_per_epoch, training_batches


def drawn(**kwargs):
    data = training_batches(lambda indices, rows, rng: {"i": indices[rows], "r": rng.random((8, 2))[rows]}, **kwargs)
    return [data[i] for i in range(len(data))]


def test_an_epoch_sees_every_document_once():
    batches = drawn(documents=96, batch_size=8, seed=3, steps=24)
    first = np.concatenate([b["i"] for b in batches[:12]])
    second = np.concatenate([b["i"] for b in batches[12:]])
    assert sorted(first) == sorted(second) == list(range(96))
    assert first.tolist() != second.tolist()


def test_batches_of_like_length_hold_what_would_have_been_drawn():
    lengths = np.random.default_rng(0).integers(1, 100, 1000)
    how = dict(documents=1000, batch_size=8, seed=5, steps=2 * WINDOW)
    plain, sorted_ = ([each["i"] for each in drawn(**how, lengths=given)] for given in (None, lengths))
    for first in (0, WINDOW):
        one, other = (np.concatenate(batches[first : first + WINDOW]) for batches in (plain, sorted_))
        assert sorted(one) == sorted(other)
    spread = [np.mean([np.ptp(lengths[batch]) for batch in batches]) for batches in (plain, sorted_)]
    assert spread[1] < spread[0] / 5
    means = [lengths[batch].mean() for batch in sorted_[:WINDOW]]
    assert abs(np.corrcoef(means, np.arange(WINDOW))[0, 1]) < 0.5, "in random order"
    data = training_batches(lambda indices, rows, rng: {"i": indices}, **how, lengths=lengths)
    np.testing.assert_array_equal(data[WINDOW + 3]["i"], sorted_[WINDOW + 3], err_msg="a step knows nothing of those before")


@pytest.mark.parametrize(("documents", "steps"), [(125, 16), (125, 47), (125, 7), (600, 160), (5, 9)])
def test_batches_of_like_length_leave_no_document_out_of_an_epoch(documents, steps):
    lengths = np.random.default_rng(0).integers(1, 100, documents)
    how = dict(documents=documents, batch_size=8, seed=5, steps=steps)
    plain, dealt = ([each["i"] for each in drawn(**how, lengths=given)] for given in (None, lengths))
    whole = {epoch * documents // 8 for epoch in range(1, steps * 8 // documents + 1)}  # batches within the first epochs
    for end in {*whole, steps} - {0}:
        assert sorted(np.concatenate(dealt[:end])) == sorted(np.concatenate(plain[:end]))
    assert [len(set(batch)) for batch in dealt] == [len(set(batch)) for batch in plain], "a document twice in a batch"
    data = training_batches(lambda indices, rows, rng: {"i": indices}, **how, lengths=lengths)
    np.testing.assert_array_equal(data[steps - 1]["i"], dealt[-1], err_msg="a step knows nothing of those before")


def test_processes_share_the_batch_of_one_process():
    """Documents, and what is drawn for each of them."""
    whole = drawn(documents=30, batch_size=8, seed=1, steps=7)
    rows = np.array([0, 1, 4, 5]), np.array([2, 3, 6, 7])
    parts = [drawn(documents=30, batch_size=8, seed=1, steps=7, rows=mine) for mine in rows]
    for one, *others in zip(whole, *parts):
        for mine, other in zip(rows, others):
            np.testing.assert_array_equal(one["i"][mine], other["i"])
            np.testing.assert_array_equal(one["r"][mine], other["r"])


def test_an_iterator_resumes_where_it_stood():
    data = training_batches(lambda i, _, rng: {"i": i, "r": rng.random(3)}, documents=50, batch_size=4, seed=0, steps=12)
    options = grain.ReadOptions(num_threads=2, prefetch_buffer_size=4)
    iterator = iter(data.to_iter_dataset(options))
    for _ in range(5):
        next(iterator)
    state = iterator.get_state()
    rest = list(iterator)
    again = iter(data.to_iter_dataset(options))
    again.set_state(state)
    for one, other in zip(rest, again, strict=True):
        np.testing.assert_array_equal(one["i"], other["i"])
        np.testing.assert_array_equal(one["r"], other["r"])


def test_inference_sees_every_document_once_at_its_own_length():
    lengths = np.random.default_rng(0).integers(1, 65, 333)
    buckets = length_buckets(64)
    seen = []
    for indices, mask, length in inference_batches(lengths, batch_size=16, buckets=buckets):
        assert len(indices) == 16
        shortest = max([0] + [b for b in buckets if b < length])
        assert (lengths[indices] <= length).all() and (lengths[indices] > shortest).all()
        seen += indices[mask].tolist()
    assert sorted(seen) == list(range(333))


def test_inference_resumes():
    lengths = np.arange(1, 50)
    whole = list(inference_batches(lengths, batch_size=4, buckets=(16, 32, 64)))
    rest = list(inference_batches(lengths, batch_size=4, buckets=(16, 32, 64), start=5))
    assert [b[0].tolist() for b in whole[5:]] == [b[0].tolist() for b in rest]


def test_steps_per_epoch_and_buckets():
    assert steps_per_epoch(100, 32) == 4
    assert length_buckets(128) == (16, 24, 32, 48, 64, 88, 128)
    assert length_buckets(5) == (8,)
