"""TFDS builder `python_docs`: the documentation of installed scientific Python packages, one document per public object."""

import importlib.metadata
import json
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator

import tensorflow_datasets as tfds

from lmindexer_jax.data.builders.docstrings import Docstring, clean
from lmindexer_jax.errors import UserError

PACKAGES = ("numpy", "scipy", "jax", "flax", "optax")
_SHORTEST = 60  # characters of cleaned text; shorter ones say no more than their name


class PythonDocs(tfds.core.GeneratorBasedBuilder):
    """About 5,000 docstrings of numpy, scipy, jax, flax and optax as they are installed; no download.

    `id` is the shortest public name of a function, class or module, `text` its docstring without signatures, examples and
    marks, `path` the modules that hold it, `summary` its first paragraph, and `see_also` the ids of the documents that it
    refers to under "See Also". The configuration bears the packages' versions, since they make the content.
    """

    VERSION = tfds.core.Version("1.0.0")
    BUILDER_CONFIGS = [
        tfds.core.BuilderConfig(name="-".join(f"{name}_{importlib.metadata.version(name)}" for name in PACKAGES))
    ]

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            features=tfds.features.FeaturesDict(
                {
                    "id": tfds.features.Text(),
                    "text": tfds.features.Text(),
                    "path": tfds.features.Sequence(tfds.features.Text()),
                    "summary": tfds.features.Text(),
                    "see_also": tfds.features.Sequence(tfds.features.Text()),
                }
            ),
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict:
        return {"train": self._generate_examples()}

    def _generate_examples(self) -> Iterator[tuple[int, dict]]:
        yield from enumerate(make_records(_walk()))


def make_records(found: Iterable[tuple[list[str], str]]) -> list[dict]:
    """Turns (public names, docstring) pairs into records, in order of id.

    Objects whose cleaned docstrings are equal are one document; it takes the shortest of their names, and references by
    any of the names lead to it.
    """
    documents: dict[str, tuple[list[str], Docstring]] = {}
    for names, doc in found:
        cleaned = clean(doc)
        if len(cleaned.text) >= _SHORTEST:
            documents.setdefault(cleaned.text, ([], cleaned))[0].extend(names)
    ids: dict[str, str] = {}
    taken: set[str] = set()
    for text, (names, _) in documents.items():
        # A module and the function that hides it share a name: the first one met keeps it.
        if free := set(names) - taken:
            ids[text] = min(free, key=_length)
            taken.add(ids[text])
    canonical = {name: own for text, own in ids.items() for name in documents[text][0]}
    modules = {name.rpartition(".")[0] for name in canonical}
    records = []
    for text, own in ids.items():
        cleaned = documents[text][1]
        path = (own if own in modules else own.rpartition(".")[0] or own).split(".")
        related = dict.fromkeys(_resolve(name, own, canonical) for name in cleaned.see_also)
        links = [name for name in related if name not in ("", own)]
        records.append({"id": own, "text": text, "path": path, "summary": cleaned.summary, "see_also": links})
    return sorted(records, key=lambda record: record["id"])


def _length(name: str) -> tuple[int, int, str]:
    return name.count("."), len(name), name


def _resolve(name: str, origin: str, canonical: dict[str, str]) -> str:
    """The id that `name` means in the docstring of `origin`: searched from its module outwards; "" if there is none."""
    scope = origin
    while scope := scope.rpartition(".")[0]:
        if f"{scope}.{name}" in canonical:
            return canonical[f"{scope}.{name}"]
    return canonical.get(name, "")


def _walk() -> list[tuple[list[str], str]]:
    """The docstrings of the installed packages, gathered by a process of its own that takes no accelerator."""
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONHASHSEED": "0", "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-m", "lmindexer_jax.data.builders.walk", *PACKAGES]
    process = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if process.returncode:
        raise UserError(f"python_docs: reading the installed packages failed: {process.stderr.strip().splitlines()[-1]}")
    rows = map(json.loads, process.stdout.splitlines())
    return [(row["names"], row["doc"]) for row in rows]
