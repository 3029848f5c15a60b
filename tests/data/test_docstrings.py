"""Docstrings of both styles lose what is not prose and keep what is."""

import pytest

from lmindexer_jax.data.builders.docstrings import clean

NUMPY = """
svd(a, full_matrices=True,
    compute_uv=True)

Singular Value
Decomposition of `a`.

.. versionadded:: 1.0
   Not news.

When `a` is a 2D array it is factorised [1]_ as ``u @ np.diag(s)`` where
:math:`u` is *unitary*, see :func:`~numpy.linalg.eig` and `a site <http://x.y>`_::

    u, s, v = svd(a)

Parameters
----------
a : (M, N) array_like
    A real array.
*args, **kwargs
    Passed on.

See Also
--------
scipy.linalg.svd : Similar function
    in SciPy, better.
eig, :func:`det`
:obj:`pinv <numpy.linalg.pinv>`: inverse

Notes
-----
.. math:: A = U S V

.. note::
   Kept remark.

Done.

References
----------
.. [1] A. Person, "A book", 1999.

Examples
--------
>>> svd(1)
array(1)

Prose within the examples.
"""

GOOGLE = """Sorts values.

JAX version of :func:`numpy.sort`.

Args:
  a: what to sort,
    in any order.
  axis: along which.

Returns:
  The values of ``a``.

See also:
  - :func:`jax.numpy.argsort`: the
    indices.
  - :meth:`jax.Array.sort`

Examples:
  Simply:

  >>> sort([2, 1])
  Array([1, 2])

  And so on.

Goodbye.
"""


def test_numpy_style():
    found = clean(NUMPY.strip())
    assert found.text == (
        "Singular Value Decomposition of a. When a is a 2D array it is factorised as u @ np.diag(s) where u is unitary, "
        "see numpy.linalg.eig and a site: Parameters: a : (M, N) array_like A real array. *args, **kwargs Passed on. "
        "Notes: Kept remark. Done."
    )
    assert found.summary == "Singular Value Decomposition of a."
    assert found.see_also == ("scipy.linalg.svd", "eig", "det", "numpy.linalg.pinv")


def test_google_style():
    found = clean(GOOGLE.strip())
    assert found.text == (
        "Sorts values. JAX version of numpy.sort. Args: a: what to sort, in any order. axis: along which. "
        "Returns: The values of a. Goodbye."
    )
    assert found.see_also == ("jax.numpy.argsort", "jax.Array.sort")


@pytest.mark.parametrize(
    ("doc", "text"),
    [
        ("Point(x: int = <object at 0x7f>, y: tuple[int, ...] = (1, 2))", ""),
        ("f(x) -> int\n\nDoes it.", "Does it."),
        ("f(x)\nf(x, y) -> Array\n\nDoes it.", "Does it."),
        ("f(x) is what it computes.", "f(x) is what it computes."),
        ("Title\n=====\n\nBody.", "Title: Body."),
        ("One.\n\n.. seealso:: :func:`g`\n\nTwo.", "One. Two."),
        ("One.\n\n>>> a\n1\n\nTwo.", "One. Two."),
        ("2 * 3 * 4 and a*b*c stay; **this** does not, nor ``x`` or :py:class:`!Y`.", None),
        ("", ""),
    ],
)
def test_single_marks(doc, text):
    expected = "2 * 3 * 4 and a*b*c stay; this does not, nor x or Y." if text is None else text
    assert clean(doc).text == expected


def test_long_first_paragraphs_are_summarised_by_their_first_sentence():
    assert clean("Short. " + "And much more about it " * 20).summary == "Short."
