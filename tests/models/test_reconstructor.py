"""Reconstructor: hint statistics, no leak of the target, and the block against an independent numpy computation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmindexer_jax.models.reconstructor import (
    Head,
    HeadScale,
    Reconstructor,
    ReconstructorConfig,
    ReconstructorKind,
    hint_mask,
)

B, P, L, D, H, V = 2, 2, 5, 8, 2, 11
RNG = np.random.default_rng(0)


def build(**kwargs):
    config = ReconstructorConfig(**({"kind": ReconstructorKind.HINTED, "head": Head.TIED} | kwargs))
    module = Reconstructor(config, width=D, heads=H, head_width=D // H, hidden=16, vocabulary=V)
    args = arguments()
    method = Reconstructor.hinted if config.kind == ReconstructorKind.HINTED else Reconstructor.bag
    if config.kind == ReconstructorKind.BAG:
        args = (args[0], args[-1])
    params = module.init(jax.random.key(0), *args, method=method)["params"]
    return lambda params, *args: module.apply({"params": params}, *args, method=method), params


def arguments():
    queries = RNG.normal(size=(B, P, D)).astype(np.float32)
    tokens = RNG.normal(size=(B, L, D)).astype(np.float32)
    mask = np.concatenate([np.ones((B, L, P), bool), RNG.random((B, L, L)) < 0.5], axis=2)
    mask[:, np.arange(L), P + np.arange(L)] = False
    return queries, queries, tokens, mask, RNG.normal(size=(V, D)).astype(np.float32)


def test_hint_mask_statistics():
    labelled = np.zeros((50, 40), bool)
    labelled[:, 1:31] = True
    mask = np.asarray(hint_mask(jax.random.key(0), labelled, codes=3, hidden=0.7))
    assert mask.shape == (50, 40, 43)
    assert mask[:, :, :3].all(), "every slot sees all codes"
    text = mask[:, :, 3:]
    assert not text[:, np.arange(40), np.arange(40)].any(), "a slot never sees itself"
    assert not text[:, :, 0].any() and not text[:, :, 31:].any(), "unlabelled tokens are hidden"
    off = text[:, :, 1:31].sum() / (50 * (40 * 30 - 30))
    assert abs(off - 0.3) < 0.005  # 5 standard deviations
    rows = text[:, :31, 1:31]
    assert np.corrcoef(rows[:, 5, 10], rows[:, 6, 10])[0, 1] < 0.5, "drawn per row and column"
    assert np.asarray(hint_mask(jax.random.key(0), labelled, codes=0, hidden=0.0)).sum() == 50 * (40 * 30 - 30)
    assert not np.asarray(hint_mask(jax.random.key(0), labelled, codes=0, hidden=1.0)).any()


@pytest.mark.parametrize("depth", [1, 3])
def test_a_slot_depends_on_what_it_sees_alone(depth):
    apply, params = build(depth=depth)
    queries, codes, tokens, mask, embedding = arguments()

    def slot(tokens, b, i):
        return apply(params, queries, codes, tokens, mask, embedding)[b, i].sum()

    for b in range(B):
        for i in range(L):
            gradient = np.abs(np.asarray(jax.grad(slot)(tokens, b, i))).sum(-1)
            assert (gradient[b][~mask[b, i, P:]] == 0).all(), "hidden tokens and the slot's own do not reach it"
            assert (gradient[b][mask[b, i, P:]] > 0).all()
            assert (gradient[1 - b] == 0).all()


def rms(x, scale):
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6) * scale


def bucket(distance, buckets=32, most=128):
    """T5's bidirectional relative position bucket of key - query, by its definition."""
    half = buckets // 2
    base = half if distance > 0 else 0
    n = abs(distance)
    if n < half // 2:
        return base + n
    exact = half // 2
    return base + min(half - 1, exact + int(np.log(n / exact) / np.log(most / exact) * (half - exact)))


def test_block_equals_numpy():
    apply, params = build()
    queries, codes, tokens, mask, embedding = arguments()
    codes = codes + 1.0  # queries and code vectors are told apart
    p = jax.tree.map(lambda x: np.asarray(x, np.float64), params)
    block = p["blocks_0"]
    table = p["relative_bias"]["embedding"]
    out = np.zeros((B, L, V))
    for b in range(B):
        keys = np.concatenate([codes[b], tokens[b]]).astype(np.float64)
        normed = rms(keys, block["norm"]["scale"])
        total = 0
        for position in range(P):
            query = queries[b, position].astype(np.float64)
            asked = rms(query, block["norm"]["scale"]) @ block["query"]["kernel"]
            mixed = np.zeros((L, D))
            for head in range(H):
                part = slice(head * D // H, (head + 1) * D // H)
                k = (normed @ block["key"]["kernel"])[:, part]
                v = (normed @ block["value"]["kernel"])[:, part]
                for i in range(L):
                    bias = np.array([table[bucket(j - (P + i)), head] for j in range(P + L)])
                    score = np.where(mask[b, i], k @ asked[part] + bias, -np.inf)
                    weight = np.exp(score - score.max())
                    mixed[i, part] = weight / weight.sum() @ v
            x = query + mixed @ block["out"]["kernel"]
            up = np.maximum(rms(x, block["norm_ff"]["scale"]) @ block["feed_forward"]["up"]["kernel"], 0)
            total = total + rms(x + up @ block["feed_forward"]["down"]["kernel"], p["final_norm"]["scale"])
        out[b] = total @ embedding.T
    np.testing.assert_allclose(apply(params, queries, codes, tokens, mask, embedding), out, atol=2e-5)


def test_bag_is_the_sum_of_normed_outputs_and_knows_no_text():
    apply, params = build(kind=ReconstructorKind.BAG, head=Head.OWN)
    queries, *_, embedding = arguments()
    params = params | {"bias": jnp.arange(V, dtype=jnp.float32)}
    one, two = (np.asarray(apply(params, queries[:, p : p + 1], embedding)) for p in range(2))
    both = np.asarray(apply(params, queries, embedding))
    np.testing.assert_allclose(both, one + two - np.arange(V), atol=2e-5)


def test_head_scale_divides_the_logits():
    plain, params = build(head_scale=HeadScale.NONE)
    scaled, _ = build(head_scale=HeadScale.T5)
    args = arguments()
    np.testing.assert_allclose(scaled(params, *args), np.asarray(plain(params, *args)) * D**-0.5, rtol=1e-5, atol=1e-6)
