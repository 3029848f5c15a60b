"""Matrix products whose backward passes are as fast as their forward pass.

Gradients of a product are products too: dx = g w^T and dw = x^T g. The second contracts the rows of both factors, a
form that XLA's CPU backend has no fast path for (in bfloat16 it runs at a third of the forward rate), so there the
transpose is written out first. Elsewhere the compiler chooses layouts better than we could. Factors are cast to
`dtype` inside, so that the gradient of a float32 parameter leaves the accumulator in float32 and is never rounded.
"""

import functools

import jax
import jax.numpy as jnp
from jax.experimental.layout import Layout, with_layout_constraint
from jaxtyping import Array, Float


def transposed(matrix: Float[Array, "*batch M N"]) -> Float[Array, "*batch N M"]:
    """The transpose of the last two axes; on a CPU it is written to memory, never folded into what reads it."""
    swapped = functools.partial(jnp.swapaxes, axis1=-2, axis2=-1)

    def written(matrix: Array) -> Array:
        return with_layout_constraint(swapped(matrix), Layout(major_to_minor=tuple(range(matrix.ndim))))

    return jax.lax.platform_dependent(matrix, cpu=written, default=swapped)


def _multiply(left: Array, right: Array, *, over: tuple[int, int], dtype: jnp.dtype, out: jnp.dtype) -> Array:
    numbers = (((over[0],), (over[1],)), ((), ()))
    return jax.lax.dot_general(left.astype(dtype), right.astype(dtype), numbers, preferred_element_type=out)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def project(inputs: Float[Array, "M I"], kernel: Float[Array, "I O"], dtype: jnp.dtype) -> Float[Array, "M O"]:
    """`inputs @ kernel` in `dtype`."""
    return _multiply(inputs, kernel, over=(1, 0), dtype=dtype, out=dtype)


def _project_forward(inputs: Array, kernel: Array, dtype: jnp.dtype) -> tuple[Array, tuple[Array, Array]]:
    return project(inputs, kernel, dtype), (inputs, kernel)


def _project_backward(dtype: jnp.dtype, saved: tuple[Array, Array], gradient: Array) -> tuple[Array, Array]:
    inputs, kernel = saved
    to_inputs = _multiply(gradient, kernel, over=(1, 1), dtype=dtype, out=inputs.dtype)
    to_kernel = _multiply(transposed(inputs.astype(dtype)), gradient, over=(1, 0), dtype=dtype, out=kernel.dtype)
    return to_inputs, to_kernel


project.defvjp(_project_forward, _project_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def score(inputs: Float[Array, "M D"], rows: Float[Array, "V D"], dtype: jnp.dtype) -> Float[Array, "M V"]:
    """float32 `inputs @ rows.T`, the factors in `dtype`: scores of every row of a large table."""
    return _multiply(inputs, rows, over=(1, 1), dtype=dtype, out=jnp.float32)


def _score_forward(inputs: Array, rows: Array, dtype: jnp.dtype) -> tuple[Array, tuple[Array, Array]]:
    return score(inputs, rows, dtype), (inputs, rows)


def _score_backward(dtype: jnp.dtype, saved: tuple[Array, Array], gradient: Array) -> tuple[Array, Array]:
    inputs, rows = saved
    gradient = gradient.astype(dtype)
    to_inputs = _multiply(gradient, rows, over=(1, 0), dtype=dtype, out=inputs.dtype)
    to_rows = _multiply(transposed(gradient), inputs, over=(1, 0), dtype=dtype, out=rows.dtype)
    return to_inputs, to_rows


score.defvjp(_score_forward, _score_backward)
