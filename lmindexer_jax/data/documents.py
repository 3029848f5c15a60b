"""Documents: what a corpus is made of, how it is configured, and the check that every record passes."""

import dataclasses
import enum
import hashlib
import math
import string
from collections.abc import Iterator, Mapping
from pathlib import Path

from lmindexer_jax.data import prepared, readers
from lmindexer_jax.data.cache import cache_root
from lmindexer_jax.data.noise import NoiseConfig, check as check_noise, damaged
from lmindexer_jax.data.records import Dropped, Reason, Row, shown
from lmindexer_jax.errors import UserError


class OnBad(enum.StrEnum):
    """What to do with a record that cannot become a document."""

    DROP = "drop"
    FAIL = "fail"


@dataclasses.dataclass
class CorpusConfig:
    """Where the documents come from. Give either `path` or `name`."""

    path: str = ""  # a .jsonl, .csv, .tsv (also .gz) or .parquet file, or a folder of text files (category path = folders)
    name: str = ""  # python_docs, icd10cm, amazon_reviews/beauty|sports|toys, or any TFDS data set: name[/config][:version]
    split: str = "train"  # of a named data set
    id_field: str = "id"  # "" numbers the records in reading order
    template: str = "{text}"  # fields named in braces; a missing one reads as "", a list is joined by ", "
    path_field: str = "path"  # optional category path, root first: a list of strings, or "a > b > c"
    on_bad: OnBad = OnBad.DROP
    max_documents: int = 0  # 0 takes all
    noise: NoiseConfig = dataclasses.field(default_factory=NoiseConfig)  # damage to the texts, for ablations
    cache_dir: str = ""  # of prepared corpora and token stores; "" is $LMINDEXER_CACHE or ~/.cache/lmindexer_jax


@dataclasses.dataclass(frozen=True)
class Document:
    """One document.

    Attributes:
        id: unique in its corpus.
        text: what the codes are learned from; never blank.
        path: category path, root first; empty where there is no label.
        fields: further columns that an embedded corpus keeps, such as links to related documents.
    """

    id: str
    text: str
    path: tuple[str, ...] = ()
    fields: Mapping[str, str | list[str]] = dataclasses.field(default_factory=dict)


def read_documents(config: CorpusConfig) -> Iterator[Document | Dropped]:
    """Streams the documents of a corpus in its own order, in memory that does not grow with the texts.

    Yields:
        `Document`, or `Dropped` where `config.on_bad` is DROP and a record is unfit.

    Raises:
        UserError: neither or both of path and name are given, the source cannot be read, `on_bad` is FAIL and a record is
            unfit, or no record has a field that the template names.
    """
    names = template_fields(config.template)
    rows, kept = _open(config, names)
    # A path field of another name than the default was asked for, so that its absence everywhere is a slip too.
    missing = set(names) | ({config.path_field} if config.path_field != CorpusConfig.path_field else set()) - {""}
    present: list[str] = []
    seen_ids: set[int] = set()
    taken = 0
    for number, row in enumerate(rows, start=1):
        result = row if isinstance(row, Dropped) else _document(row, config, names, number=number, kept=kept)
        if isinstance(row, Row):
            missing.difference_update(row.fields)
            present = present or list(row.fields)
        if isinstance(result, Document):
            digest = int.from_bytes(hashlib.blake2b(result.id.encode(), digest_size=8).digest())
            if digest in seen_ids:
                result = Dropped(row.where, Reason.DUPLICATE_ID, f"{shown(result.id)} stands further up already")
            seen_ids.add(digest)
        if isinstance(result, Dropped) and config.on_bad == OnBad.FAIL:
            raise UserError(f"{result}; {result.reason.remedy}, or leave such records out with corpus.on_bad=drop")
        yield result
        taken += isinstance(result, Document)
        if taken == config.max_documents > 0:
            break
    if missing and present:
        raise UserError(
            f"{_label(config)}: none of {number:,} records has the field {' or '.join(map(repr, sorted(missing)))} that "
            f"corpus.template or corpus.path_field names; the first record has {shown(present)[1:-1]}"
        )


def source_stamp(config: CorpusConfig) -> str:
    """Identity of what `config` reads, found without reading it: changes when the files or the prepared data set do."""
    _check_source(config)
    if config.path:
        path = Path(config.path).expanduser()
        readers.read_rows(path, columns=frozenset())  # refuses what is not there before its size is asked for
        return readers.stamp(path)
    return prepared.stamp(prepared.prepare(config.name, cache_root(config.cache_dir)))


def template_fields(template: str) -> tuple[str, ...]:
    """The field names of a template such as "{title} {brand}".

    Raises:
        UserError: the braces do not match, or hold anything but a plain name.
    """
    try:
        names = [name for _, name, spec, conversion in string.Formatter().parse(template) if name is not None]
        plain = all(part[2] in ("", None) and part[3] is None for part in string.Formatter().parse(template))
    except ValueError as error:
        raise UserError(f"corpus.template {template!r}: {error}; write fields as {{name}}") from error
    if not names or not plain or any(not name or name.isdigit() or set(name) & set(".[]") for name in names):
        raise UserError(f"corpus.template {template!r}: name at least one field, each as {{name}} and nothing else in braces")
    return tuple(names)


def _check_source(config: CorpusConfig) -> None:
    check_noise(config.noise)
    if config.max_documents < 0:
        raise UserError(f"corpus.max_documents={config.max_documents}: give a number of documents, or 0 for all")
    if bool(config.path) == bool(config.name):
        raise UserError("give exactly one of corpus.path (a file or folder) and corpus.name (a named corpus)")


def _label(config: CorpusConfig) -> str:
    return config.path or config.name


def _open(config: CorpusConfig, names: tuple[str, ...]) -> tuple[Iterator[Row | Dropped], tuple[str, ...]]:
    """The rows of the configured source, and the further fields its documents keep."""
    _check_source(config)
    if config.path:
        columns = frozenset({*names, config.id_field, config.path_field})
        return readers.read_rows(Path(config.path).expanduser(), columns=columns), ()
    source = prepared.prepare(config.name, cache_root(config.cache_dir))
    return prepared.read_rows(source, config.split), prepared.kept_fields(config.name)


def _document(
    row: Row, config: CorpusConfig, names: tuple[str, ...], *, number: int, kept: tuple[str, ...]
) -> Document | Dropped:
    """Validates one record."""
    try:
        name = _identifier(row.fields.get(config.id_field), number=number if not config.id_field else None)
        values = {field: _as_text(row.fields.get(field), field) for field in names}
        text = config.template.format_map(values).strip()
        path = _category_path(row.fields.get(config.path_field) if config.path_field else None)
        for part in (name, text, *path):
            part.encode("utf-8")
    except _Unfit as unfit:
        return Dropped(row.where, unfit.reason, unfit.detail)
    except UnicodeEncodeError:  # half a surrogate pair: an undecodable byte of a CSV file, or "\\ud800" in JSON
        return Dropped(row.where, Reason.BAD_UTF8, "characters that are no Unicode text")
    if not any(values.values()):
        return Dropped(row.where, Reason.EMPTY_TEXT, f"nothing in {', '.join(values)}")
    text = damaged(text, config.noise, id=name)
    return Document(name, text, path, {field: row.fields[field] for field in kept if field in row.fields})


class _Unfit(Exception):
    """Why a value cannot be used."""

    def __init__(self, reason: Reason, detail: str):
        self.reason, self.detail = reason, detail


def _identifier(value: object, *, number: int | None) -> str:
    if number is not None:
        return str(number)
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if _missing(value):
        raise _Unfit(Reason.MISSING_ID, "no value in corpus.id_field")
    if not isinstance(value, str):
        raise _Unfit(Reason.WRONG_TYPE, f"the id is a {type(value).__name__}, not a string or whole number")
    return value


def _as_text(value: object, field: str, *, levels: int = 2) -> str:
    """One field as text; lists may hold lists, as some catalogues write several category paths, but no more."""
    if _missing(value):
        return ""
    if isinstance(value, str):
        return value.strip()
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return str(value)
    if isinstance(value, list) and levels:
        return ", ".join(filter(None, (_as_text(part, field, levels=levels - 1) for part in value)))
    raise _Unfit(Reason.WRONG_TYPE, f"field {field!r} holds a {type(value).__name__}")


def _missing(value: object) -> bool:
    """Whether there is no value: dataframes write NaN where they have none."""
    return value is None or value == "" or (isinstance(value, float) and math.isnan(value))


def _category_path(value: object) -> tuple[str, ...]:
    if _missing(value):
        return ()
    parts = value.split(">") if isinstance(value, str) else value
    if not isinstance(parts, list):
        raise _Unfit(Reason.BAD_PATH, f"the category path is a {type(value).__name__}")
    for part in parts:
        if not isinstance(part, str) or not part.strip():
            raise _Unfit(Reason.BAD_PATH, f"part {shown(part)} of the category path is not a non-empty string")
    return tuple(part.strip() for part in parts)
