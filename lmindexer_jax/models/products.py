"""Matrix products whose backward passes are as fast as their forward pass, and the likelihood of words over a vocabulary.

Gradients of a product are products too: dx = g w^T and dw = x^T g. The second contracts the rows of both factors, a
form that XLA's CPU backend has no fast path for (in bfloat16 it runs at a third of the forward rate), so there the
transpose is written out first. Elsewhere the compiler chooses layouts better than we could. Factors are cast to
`dtype` inside, so that the gradient of a float32 parameter leaves the accumulator in float32 and is never rounded.
"""

import functools

import jax
import jax.numpy as jnp
from jax.experimental.layout import Layout, with_layout_constraint
from jaxtyping import Array, Float, Int

# A chunk of scores against the vocabulary holds at most this many numbers.
CHUNK = 2**25


def transposed(matrix: Float[Array, "*batch M N"]) -> Float[Array, "*batch N M"]:
    """The transpose of the last two axes; on a CPU it is written to memory, never folded into what reads or makes it."""
    swapped = functools.partial(jnp.swapaxes, axis1=-2, axis2=-1)

    def written(matrix: Array) -> Array:
        swap = swapped(jax.lax.optimization_barrier(matrix))
        return with_layout_constraint(swap, Layout(major_to_minor=tuple(range(matrix.ndim))))

    return jax.lax.platform_dependent(matrix, cpu=written, default=swapped)


def _multiply(left: Array, right: Array, *, dtype: jnp.dtype, out: jnp.dtype, flip: bool = False) -> Array:
    """`left @ right`, or with `flip` `left @ right^T`, over the same leading axes of both."""
    batch = tuple(range(left.ndim - 2))
    numbers = (((left.ndim - 1,), (right.ndim - (1 if flip else 2),)), (batch, batch))
    return jax.lax.dot_general(left.astype(dtype), right.astype(dtype), numbers, preferred_element_type=out)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def product(
    left: Float[Array, "*batch M I"], right: Float[Array, "*batch I O"], dtype: jnp.dtype, out: jnp.dtype
) -> Float[Array, "*batch M O"]:
    """`left @ right` with the factors in `dtype`, the result in `out`."""
    return _multiply(left, right, dtype=dtype, out=out)


def _product_backward(dtype: jnp.dtype, _: jnp.dtype, saved: tuple[Array, Array], gradient: Array) -> tuple[Array, Array]:
    left, right = saved
    to_left = _multiply(gradient, right, dtype=dtype, out=left.dtype, flip=True)
    return to_left, _multiply(transposed(left.astype(dtype)), gradient, dtype=dtype, out=right.dtype)


product.defvjp(lambda left, right, dtype, out: (product(left, right, dtype, out), (left, right)), _product_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def inner_products(
    left: Float[Array, "*batch M D"], right: Float[Array, "*batch N D"], dtype: jnp.dtype, out: jnp.dtype
) -> Float[Array, "*batch M N"]:
    """`left @ right^T` with the factors in `dtype`, the result in `out`."""
    return _multiply(left, right, dtype=dtype, out=out, flip=True)


def _inner_backward(dtype: jnp.dtype, _: jnp.dtype, saved: tuple[Array, Array], gradient: Array) -> tuple[Array, Array]:
    left, right = saved
    gradient = gradient.astype(dtype)
    to_left = _multiply(gradient, right, dtype=dtype, out=left.dtype)
    return to_left, _multiply(transposed(gradient), left, dtype=dtype, out=right.dtype)


inner_products.defvjp(
    lambda left, right, dtype, out: (inner_products(left, right, dtype, out), (left, right)), _inner_backward
)


@functools.partial(jax.custom_vjp, nondiff_argnums=(5,))
def surprise(
    hidden: Float[Array, "B L D"],
    rows: Float[Array, "V D"],
    bias: Float[Array, " V"] | None,
    words: Int[Array, "B L"],
    weights: Float[Array, "B L"],
    dtype: jnp.dtype,
) -> Float[Array, ""]:
    """Weighted sum of the cross-entropies of `words` under softmax(hidden @ rows^T + bias), in nats and float32.

    The scores of the whole vocabulary never exist at once: they are made by chunks of slots, and the gradient of each
    chunk is taken while its scores are there, so that none is computed twice (Wijmans et al., 2024, do so for less
    memory on GPUs). Weights have no gradient.
    """
    return _surprise(hidden, rows, bias, words, weights, dtype, gradient=False)[0]


def _surprise(
    hidden: Array, rows: Array, bias: Array | None, words: Array, weights: Array, dtype: jnp.dtype, *, gradient: bool
) -> tuple[Array, tuple[Array, Array, Array | None] | None]:
    batch, length, width = hidden.shape
    slots = next(n for n in range(length, 0, -1) if length % n == 0 and (n == 1 or batch * n * len(rows) <= CHUNK))

    def chunk(part: tuple[Array, Array, Array]) -> tuple[Array, Array, Array, Array | None] | tuple[Array]:
        states, labels, weight = (values.reshape(batch * slots, *values.shape[2:]) for values in part)
        scores = _multiply(states, rows, dtype=dtype, out=jnp.float32, flip=True)
        scores = scores if bias is None else scores + bias[None]
        logsum = jax.nn.logsumexp(scores, axis=-1)
        picked = jnp.take_along_axis(scores, labels[:, None], axis=-1)[:, 0]
        loss = jnp.sum((logsum - picked) * weight)
        if not gradient:
            return (loss,)
        chosen = labels[:, None] == jnp.arange(len(rows))[None]
        to_scores = (jnp.exp(scores - logsum[:, None]) - chosen) * weight[:, None]
        to_bias = None if bias is None else to_scores.sum(0)
        to_scores = to_scores.astype(dtype)
        to_states = _multiply(to_scores, rows, dtype=dtype, out=hidden.dtype).reshape(batch, slots, width)
        return loss, to_states, _multiply(transposed(to_scores), states, dtype=dtype, out=jnp.float32), to_bias

    # Cut along the slots, so that a batch over several devices stays where it is.
    cut = [jnp.moveaxis(x.reshape(batch, length // slots, slots, *x.shape[2:]), 1, 0) for x in (hidden, words, weights)]
    first, rest = [values[0] for values in cut], [values[1:] for values in cut]
    loss, *found = chunk(first)
    if length == slots:
        return loss, tuple(found) or None
    if not gradient:
        return loss + jax.lax.map(lambda part: chunk(part)[0], rest).sum(), None

    def add(total: tuple, part: tuple[Array, Array, Array]) -> tuple[tuple, Array]:
        loss, to_states, *more = chunk(part)
        return jax.tree.map(jnp.add, total, (loss, *more)), to_states

    (loss, *total), others = jax.lax.scan(add, (loss, *found[1:]), rest)
    to_hidden = jnp.moveaxis(jnp.concatenate([found[0][None], others]), 0, 1).reshape(hidden.shape)
    return loss, (to_hidden, *total)


def _surprise_forward(*operands: Array) -> tuple[Array, tuple[Array, Array, Array | None]]:
    return _surprise(*operands, gradient=True)


def _surprise_backward(_: jnp.dtype, saved: tuple[Array, Array, Array | None], gradient: Array) -> tuple:
    to_hidden, to_rows, to_bias = jax.tree.map(lambda values: (values * gradient).astype(values.dtype), saved)
    return to_hidden, to_rows, to_bias, None, None


surprise.defvjp(_surprise_forward, _surprise_backward)
