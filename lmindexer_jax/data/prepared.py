"""Named data sets: prepared once as TFDS array records (no TensorFlow) and streamed as rows."""

import contextlib
import importlib
import io
import os
import re
import socket
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from lmindexer_jax.data.cache import locked
from lmindexer_jax.data.records import Dropped, Reason, Row
from lmindexer_jax.errors import UserError

# Data sets this package builds: the class and the fields its documents keep beside id, text and path.
_OWN = {
    "python_docs": ("lmindexer_jax.data.builders.python_docs", "PythonDocs", ("summary", "see_also")),
    "icd10cm": ("lmindexer_jax.data.builders.icd10cm", "Icd10cm", ()),
    "amazon_reviews": ("lmindexer_jax.data.builders.amazon_reviews", "AmazonReviews", ("title", "brand")),
    "esci": ("lmindexer_jax.data.builders.esci", "Esci", ("title", "brand")),
    "nq320k": ("lmindexer_jax.data.builders.nq320k", "Nq320k", ("title",)),
    "msmarco": ("lmindexer_jax.data.builders.msmarco", "Msmarco", ("title", "url")),
}
_HOST = ("storage.googleapis.com", 443)  # where TFDS fetches from
_CHUNK = 512  # records fetched together: array records are several times faster than one by one


def is_own(name: str) -> bool:
    """Whether a data set of this name is built by this package."""
    return _base(name) in _OWN


def kept_fields(name: str) -> tuple[str, ...]:
    """The fields that documents of this data set keep beside id, text and path."""
    return _OWN[_base(name)][2] if _base(name) in _OWN else ()


def prepare(name: str, cache: Path) -> Path:
    """Returns the directory of the prepared data set `name[/config][:version]`, building it if need be.

    Data sets of this package are built under `cache`/tfds. Others are looked for there and in TFDS's own folder
    ($TFDS_DATA_DIR or ~/tensorflow_datasets) first, and only then downloaded.

    Raises:
        UserError: the data set is unknown, needs files that are not there, or cannot be downloaded.
    """
    if _base(name) in _OWN:
        return _prepare_own(name, cache)
    if not re.fullmatch(r"\w+(/[\w.+-]+)*(:[\w.*]+)?", name):
        raise UserError(f"corpus.name={name!r}: no name of a data set; give a file or folder as corpus.path")
    folders = [cache / "tfds", Path(os.environ.get("TFDS_DATA_DIR", "~/tensorflow_datasets")).expanduser()]
    found = [directory for folder in folders for directory in _versions(name, folder)]
    return found[0] if found else _download(name, folders[0])


def stamp(directory: Path) -> str:
    """Identity of a prepared data set without reading it."""
    status = (directory / "dataset_info.json").stat()
    return f"{directory.resolve()} {status.st_size} {status.st_mtime_ns}"


def split_names(directory: Path) -> tuple[str, ...]:
    """The splits of a prepared data set."""
    import tensorflow_datasets as tfds

    return tuple(tfds.builder_from_directory(directory).info.splits)


def read_rows(directory: Path, split: str) -> Iterator[Row | Dropped]:
    """Streams the records of a prepared data set; class labels come as their names, texts as strings.

    Raises:
        UserError: there is no such split, or the files are not array records.
    """
    import tensorflow_datasets as tfds

    builder = tfds.builder_from_directory(directory)
    file_format = builder.info.file_format.value
    if file_format != "array_record":
        raise UserError(
            f"{directory}: prepared as {file_format}, which needs TensorFlow to read; prepare it again with "
            "`tfds build --file_format=array_record`"
        )
    if split not in builder.info.splits:
        raise UserError(f"{directory}: no split {split!r}; corpus.split may be {', '.join(builder.info.splits)}")
    features = builder.info.features
    labels = {key: part for key, part in features.items() if isinstance(part, tfds.features.ClassLabel)}
    source = builder.as_data_source(split=split)
    for first in range(0, len(source), _CHUNK):
        numbers = range(first, min(first + _CHUNK, len(source)))
        for number, record in zip(numbers, source.__getitems__(list(numbers)), strict=True):
            where = f"{builder.info.full_name}/{split}:{number + 1}"
            try:
                fields = {key: _plain(value) for key, value in record.items()}
            except UnicodeDecodeError as error:
                yield Dropped(where, Reason.BAD_UTF8, f"byte {error.start + 1}")
                continue
            for key, label in labels.items():
                # A negative label is TFDS's sign for "unknown".
                fields[key] = label.int2str(fields[key]) if fields[key] >= 0 else None
            yield Row(where, fields)


def _base(name: str) -> str:
    return name.split("/")[0].split(":")[0]


def _prepare_own(name: str, cache: Path) -> Path:
    module, class_name, _ = _OWN[_base(name)]
    builder_class = getattr(importlib.import_module(module), class_name)
    configs = list(builder_class.builder_configs)
    config = name.partition("/")[2] or (configs[0] if len(configs) == 1 else "")
    if config not in configs:
        raise UserError(f"corpus.name={name!r}: name one of {', '.join(f'{_base(name)}/{c}' for c in configs)}")
    builder = builder_class(config=config, data_dir=cache / "tfds", file_format="array_record")
    directory = Path(builder.data_dir)

    def build() -> None:
        if builder.MANUAL_DOWNLOAD_INSTRUCTIONS:
            manual = cache / "tfds" / "downloads" / "manual"  # must not be empty for TFDS to let the builder look into it
            manual.mkdir(parents=True, exist_ok=True)
            (manual / "README").write_text(builder.MANUAL_DOWNLOAD_INSTRUCTIONS + "\n")
        _quietly(builder.download_and_prepare)

    if not (directory / "dataset_info.json").exists():
        with locked(cache / "tfds" / f"{_base(name)}-{config}-{builder.version}"):
            if not (directory / "dataset_info.json").exists():  # by another process, while this one waited
                build()  # TFDS renames its finished folder itself
    return directory


def _versions(name: str, folder: Path) -> list[Path]:
    """The prepared versions of a data set in one folder, newest first."""
    path, _, version = name.partition(":")
    infos = folder.glob(f"{path}/{version or '*'}/dataset_info.json")
    return sorted((info.parent for info in infos), key=_version_key, reverse=True)


def _version_key(directory: Path) -> tuple[int, ...]:
    return tuple(int(part) if part.isdigit() else -1 for part in directory.name.split("."))


def _download(name: str, folder: Path) -> Path:
    import tensorflow_datasets as tfds

    build = f"`tfds build {name} --file_format=array_record --data_dir={folder}`"
    try:
        # Asked first because TFDS itself retries for minutes before it gives up on a network that is not there.
        socket.create_connection(_HOST, timeout=3).close()
    except OSError as error:
        raise UserError(
            f"corpus.name={name!r}: not prepared in {folder} and {_HOST[0]} cannot be reached ({error}); where there is a "
            f"network run {build}, or give corpus.path"
        ) from error
    try:
        builder = tfds.builder(name, data_dir=folder, file_format="array_record")
        _quietly(builder.download_and_prepare)
    except tfds.core.DatasetNotFoundError as error:
        own = ", ".join(_OWN)
        raise UserError(f"corpus.name={name!r}: neither one of {own} nor known to TFDS; check the name") from error
    except ImportError as error:
        raise UserError(
            f"corpus.name={name!r}: its builder needs {error.name or 'a package'} that is not installed; where it is, run {build}"
        ) from error
    return Path(builder.data_dir)


def _quietly(action) -> None:
    """Runs a TFDS action without its banners and bars, which would break into the terminal's own progress."""
    import tensorflow_datasets as tfds

    tfds.disable_progress_bar()
    with contextlib.redirect_stdout(io.StringIO()):
        action()


def _plain(value: object) -> object:
    """TFDS's bytes and arrays as the plain values that other readers give."""
    if isinstance(value, bytes):
        return value.decode("utf-8")
    if isinstance(value, (np.ndarray, np.generic)):
        value = value.tolist()
        return _plain(value) if isinstance(value, (bytes, list)) else value
    if isinstance(value, (list, tuple)):
        return [_plain(part) for part in value]
    return value
