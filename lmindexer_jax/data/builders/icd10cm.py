"""TFDS builder `icd10cm`: the tree of ICD-10-CM diagnoses as short documents with true hierarchical labels."""

import importlib.metadata
import re
import warnings
from collections.abc import Iterator

import tensorflow_datasets as tfds

_PACKAGE = "simple-icd-10-cm"
# The seventh character of injuries and the like repeats one diagnosis as "initial encounter", "subsequent encounter
# for ..." and "sequela": thousands of near copies that say nothing about the diagnosis.
_VARIANT = re.compile("(?:initial|subsequent) encounter|sequela")


class Icd10cm(tfds.core.GeneratorBasedBuilder):
    """Diagnoses of ICD-10-CM (public domain) as the package simple-icd-10-cm carries them; no download.

    One record per code that is neither a chapter, nor a block, nor an encounter variant (48,903 in the release of April
    2026): `id` is the code, `text` its own description alone, `path` the tree's nodes from the chapter down to the parent,
    each as "code description". A block of a single category bears the category's code and counts as a block; its
    category is on the paths below it.
    """

    VERSION = tfds.core.Version("1.0.0")
    BUILDER_CONFIGS = [
        tfds.core.BuilderConfig(name=f"{_PACKAGE}-{importlib.metadata.version(_PACKAGE)}".replace("-", "_"))
    ]

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            features=tfds.features.FeaturesDict(
                {
                    "id": tfds.features.Text(),
                    "text": tfds.features.Text(),
                    "path": tfds.features.Sequence(tfds.features.Text()),
                }
            ),
            homepage="https://www.cdc.gov/nchs/icd/icd-10-cm/",
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict:
        return {"train": self._generate_examples()}

    def _generate_examples(self) -> Iterator[tuple[int, dict]]:
        for number, (code, text, path) in enumerate(_walk()):
            yield number, {"id": code, "text": text, "path": path}


def _walk() -> Iterator[tuple[str, str, list[str]]]:
    """Every document in the order of the classification: code, description, path."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # it reads its files by a function that Python 3.11 deprecated
        import simple_icd_10_cm as icd

    for code in icd.get_all_codes(with_dots=True):
        text = icd.get_description(code)
        if not icd.is_chapter(code) and not icd.is_block(code) and not _VARIANT.search(text):
            yield code, text, _path(icd, code)


def _path(icd, code: str) -> list[str]:
    path: list[str] = []
    ancestors = icd.get_ancestors(code)  # the parent first
    for child, ancestor in zip([code, *ancestors], ancestors):
        # Twice the same code in a row: a category, then the block that holds nothing else.
        text = icd.get_description(ancestor, prioritize_blocks=ancestor == child)
        path.append(f"{ancestor} {text}")
    return path[::-1]
