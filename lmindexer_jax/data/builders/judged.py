"""What the builders of queries have in common: one record per query, with the documents that are judged for it."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds

from lmindexer_jax.errors import UserError


def query_features() -> tfds.features.FeaturesDict:
    """`id` and `text` of a query, the ids of its judged `documents` and their `grades`, 0 for not relevant."""
    text = tfds.features.Text()
    grades = tfds.features.Sequence(tfds.features.Scalar(np.int32))
    return tfds.features.FeaturesDict({"id": text, "text": text, "documents": tfds.features.Sequence(text), "grades": grades})


def query_records(texts: Mapping[str, str], judgements: Iterable[tuple[str, str, int]]) -> Iterator[dict]:
    """Records of the queries that are judged, in the order of `texts`.

    Args:
        texts: of each query id; judgements of other queries are passed over.
        judgements: query, document, grade.
    """
    judged: dict[str, dict[str, int]] = {}
    for query, document, grade in judgements:
        judged.setdefault(query, {})[document] = grade
    for query, text in texts.items():
        if query in judged:
            yield {"id": query, "text": text, "documents": list(judged[query]), "grades": list(judged[query].values())}


def manual_files(folder: Path, *choices: tuple[str, ...], dataset: str, site: str) -> list[Path]:
    """The files that a user has put into the manual folder, each under one of the names it is known by.

    Raises:
        UserError: some are missing; it names them all.
    """
    found = [next((Path(folder) / name for name in names if (Path(folder) / name).exists()), None) for names in choices]
    missing = [names[0] for names, path in zip(choices, found, strict=True) if path is None]
    if missing:
        raise UserError(f"{dataset}: put {' and '.join(missing)} into {folder}; they come from {site}")
    return found
