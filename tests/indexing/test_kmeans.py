"""k-means: quality beside scikit-learn, agreement with assignment, determinism, and its edges."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.cluster import KMeans as SklearnKMeans

from lmindexer_jax.errors import UserError
from lmindexer_jax.indexing import kmeans as module
from lmindexer_jax.indexing import seeding
from lmindexer_jax.indexing.kmeans import kmeans
from lmindexer_jax.indexing.nearest import assign_nearest, nearest
from lmindexer_jax.models.quantiser import Similarity


def mixture(rows: int, width: int, parts: int, seed: int = 0, spread: float = 0.6) -> np.ndarray:
    rng = np.random.default_rng(seed)
    middles = rng.normal(size=(parts, width))
    return (middles[rng.integers(parts, size=rows)] + spread * rng.normal(size=(rows, width))).astype(np.float32)


def unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def inertia_by_hand(vectors, centres, codes) -> float:
    vectors, centres = np.asarray(vectors, np.float64), np.asarray(centres, np.float64)
    return float(np.sum((vectors - centres[codes]) ** 2))


@pytest.mark.parametrize("batch", [0, 512])
def test_inertia_is_as_good_as_scikit_learns(batch):
    vectors = mixture(3000, 16, 40)
    ours = kmeans(vectors, 32, key=jax.random.key(0), similarity=Similarity.L2, batch=batch, restarts=2)
    theirs = SklearnKMeans(32, n_init=2, random_state=0).fit(vectors)
    assert ours.inertia <= 1.02 * theirs.inertia_
    np.testing.assert_allclose(ours.inertia, inertia_by_hand(vectors, ours.centres, ours.codes), rtol=1e-4)


def test_cosine_is_spherical():
    vectors = mixture(2000, 12, 20) * np.random.default_rng(1).uniform(0.1, 9.0, size=(2000, 1)).astype(np.float32)
    found = kmeans(vectors, 20, key=jax.random.key(0), tolerance=0.0)
    np.testing.assert_allclose(np.linalg.norm(found.centres, axis=1), 1.0, atol=1e-6)
    # the fixed point of spherical k-means: a centre is the direction of the sum of its unit vectors
    sums = np.stack([unit(vectors)[found.codes == code].sum(axis=0) for code in range(20)])
    np.testing.assert_allclose(found.centres, unit(sums), atol=1e-5)
    np.testing.assert_allclose(found.inertia, inertia_by_hand(unit(vectors), found.centres, found.codes), rtol=1e-4)


@pytest.mark.parametrize("similarity", [Similarity.COSINE, Similarity.L2])
@pytest.mark.parametrize("batch", [0, 256])
def test_codes_agree_with_assignment_and_key(similarity, batch):
    vectors = mixture(1500, 10, 12)
    first, again = (kmeans(vectors, 24, key=jax.random.key(3), similarity=similarity, batch=batch) for _ in range(2))
    other = kmeans(vectors, 24, key=jax.random.key(4), similarity=similarity, batch=batch)
    np.testing.assert_array_equal(first.codes, assign_nearest(vectors, first.centres, similarity))
    np.testing.assert_array_equal(first.centres, again.centres)
    assert first.codes.dtype == np.int32 and first.inertia == again.inertia
    assert not np.array_equal(first.centres, other.centres)


@pytest.mark.parametrize("similarity", [Similarity.COSINE, Similarity.L2])
def test_assignment_is_the_nearest_whatever_the_company(similarity):
    vectors, centres = mixture(700, 8, 5), mixture(40, 8, 40, seed=1) * 3.0
    codes = assign_nearest(vectors, centres, similarity)
    if similarity is Similarity.COSINE:
        scores = unit(vectors) @ unit(centres).T
    else:
        scores = -np.sum((vectors[:, None] - centres[None]) ** 2, axis=-1)
    np.testing.assert_array_equal(codes, np.argmax(scores, axis=1))
    assert len(assign_nearest(vectors[:0], centres, similarity)) == 0
    for row in (0, 17, 699):
        assert assign_nearest(vectors[row : row + 1], centres, similarity)[0] == codes[row]
    order = np.random.default_rng(0).permutation(700)
    np.testing.assert_array_equal(assign_nearest(vectors[order], centres, similarity), codes[order])


def test_far_from_the_origin_distances_stay_exact():
    vectors = mixture(600, 6, 6)
    near = kmeans(vectors, 6, key=jax.random.key(0), similarity=Similarity.L2)
    far = kmeans(vectors + 1000.0, 6, key=jax.random.key(0), similarity=Similarity.L2)
    np.testing.assert_allclose(far.inertia, near.inertia, rtol=1e-3)


def test_weight_zero_is_padding_and_weights_are_repetitions():
    vectors = mixture(400, 6, 8)
    padded = np.concatenate([vectors, np.full((100, 6), 50.0, np.float32)])
    weights = np.concatenate([np.ones(400), np.zeros(100)])
    found = kmeans(padded, 8, key=jax.random.key(0), similarity=Similarity.L2, weights=weights)
    assert len(found.codes) == 500
    assert np.max(np.abs(found.centres)) < 10.0
    np.testing.assert_allclose(found.inertia, inertia_by_hand(vectors, found.centres, found.codes[:400]), rtol=1e-4)

    counts = np.random.default_rng(0).integers(1, 5, 400)
    heavy = kmeans(vectors, 1, key=jax.random.key(0), similarity=Similarity.L2, weights=counts)
    np.testing.assert_allclose(heavy.centres[0], np.repeat(vectors, counts, axis=0).mean(axis=0), atol=1e-5)


@pytest.mark.parametrize("batch", [0, 128])
def test_empty_clusters_are_refilled(batch, monkeypatch):
    vectors = mixture(1000, 8, 16, spread=0.05)
    # every centre begins at the same place: without repair 15 of the 16 stay empty for ever
    monkeypatch.setattr(module, "starting_centres", lambda vectors, weights, k, **_: np.tile(vectors[:1], (k, 1)))
    found = kmeans(vectors, 16, key=jax.random.key(0), similarity=Similarity.L2, batch=batch)
    assert np.all(np.bincount(found.codes, minlength=16) > 0)


def test_fewer_distinct_points_than_centres():
    vectors = np.repeat(mixture(5, 4, 5), 20, axis=0)
    found = kmeans(vectors, 12, key=jax.random.key(0))
    assert len(np.unique(found.codes)) == 5
    assert found.inertia < 1e-5
    np.testing.assert_array_equal(found.codes, assign_nearest(vectors, found.centres))


def test_every_point_its_own_centre():
    vectors = mixture(30, 5, 30)
    found = kmeans(vectors, 30, key=jax.random.key(1), similarity=Similarity.L2)
    assert sorted(found.codes) == list(range(30))


def test_many_centres_start_in_rounds(monkeypatch):
    vectors = mixture(4000, 8, 60)
    greedy = kmeans(vectors, 200, key=jax.random.key(0), similarity=Similarity.L2)
    monkeypatch.setattr(seeding, "GREEDY_LIMIT", 0)
    rounds = kmeans(vectors, 200, key=jax.random.key(0), similarity=Similarity.L2)
    assert rounds.inertia <= 1.03 * greedy.inertia
    random = vectors[np.random.default_rng(0).permutation(4000)[:200]]
    start = seeding.starting_centres(
        vectors, np.ones(4000, np.float32), 200, key=jax.random.key(0), similarity=Similarity.L2
    )
    assert len(np.unique(np.asarray(start), axis=0)) == 200
    distances = [nearest(vectors, centres, Similarity.L2)[1].sum() for centres in (start, random)]
    assert distances[0] < distances[1]


def test_both_ways_of_summing_agree(monkeypatch):
    values, codes = mixture(500, 6, 3), np.random.default_rng(0).integers(0, 7, 500).astype(np.int32)
    begun = jnp.ones((9, 6))
    by_hand = begun + np.stack([values[codes == code].sum(axis=0) for code in range(9)])
    np.testing.assert_allclose(module._add_by_code(begun, codes, values), by_hand, atol=1e-4)
    monkeypatch.setattr(jax.lax, "platform_dependent", lambda *args, cpu, default: default(*args))
    np.testing.assert_allclose(module._add_by_code(begun, codes, values), by_hand, atol=1e-4)


def test_a_memory_map_is_streamed(tmp_path):
    vectors = mixture(2000, 8, 10)
    path = tmp_path / "vectors.npy"
    np.save(path, vectors)
    found = kmeans(np.load(path, mmap_mode="r"), 10, key=jax.random.key(0), batch=256)
    np.testing.assert_array_equal(found.centres, kmeans(vectors, 10, key=jax.random.key(0), batch=256).centres)


def test_more_vectors_than_devices_hold_are_read_in_batches(monkeypatch):
    vectors, key = mixture(900, 8, 5), jax.random.key(0)
    whole, batches = (kmeans(vectors, 8, key=key, batch=batch).centres for batch in (0, 256))
    np.testing.assert_array_equal(kmeans(vectors, 8, key=key).centres, whole)
    monkeypatch.setattr(module, "HELD", 4 * vectors.size - 1)
    monkeypatch.setattr(module, "BATCH", 256)
    np.testing.assert_array_equal(kmeans(vectors, 8, key=key).centres, batches)
    assert (np.asarray(whole) != np.asarray(batches)).any()


def test_clear_errors():
    vectors = mixture(10, 4, 2)
    with pytest.raises(UserError, match="11 centres asked of 10 vectors"):
        kmeans(vectors, 11, key=jax.random.key(0))
    with pytest.raises(UserError, match="3 centres asked of 2 vectors"):
        kmeans(vectors, 3, key=jax.random.key(0), weights=np.eye(10)[0] + np.eye(10)[1])
    with pytest.raises(UserError, match="inner products"):
        kmeans(vectors, 2, key=jax.random.key(0), similarity=Similarity.INNER)
    vectors[3, 1] = np.nan
    with pytest.raises(UserError, match="NaN"):
        kmeans(vectors, 2, key=jax.random.key(0))
