"""Files of records: JSONL, CSV, TSV, Parquet and folders of text, streamed one record at a time with line numbers."""

import csv
import gzip
import json
import os
import zlib
from collections.abc import Iterator
from pathlib import Path

from lmindexer_jax.data.records import Dropped, Reason, Row, shown
from lmindexer_jax.errors import UserError

_JSONL = (".jsonl", ".ndjson")
_DELIMITERS = {".csv": ",", ".tsv": "\t"}
# A quote that is never closed would swallow the rest of the file into one field: stop it here and go on at the next line.
_LONGEST_FIELD = 1 << 24
_LONGEST_LINE = 1 << 28  # bytes; what has longer lines, or is a small gzip of endless ones, does not hold a record a line
_BOM = b"\xef\xbb\xbf"


def read_rows(path: Path, *, columns: frozenset[str]) -> Iterator[Row | Dropped]:
    """Streams the records of a file or of a folder of text files.

    Args:
        path: `.jsonl`, `.ndjson`, `.csv` or `.tsv` (each also with `.gz`), `.parquet`, or a folder whose files are the
            texts; hidden files and folders are passed over.
        columns: the fields that will be used; other Parquet columns are not read.

    Yields:
        `Row`, or `Dropped` for a record that cannot be read; reading goes on with the next record.

    Raises:
        UserError: the path does not exist, is of an unknown type, or is damaged beyond a single record.
    """
    if not os.path.exists(path):  # unlike Path.exists, also for a name that no system would take
        raise UserError(f"{path}: no such file or folder; check corpus.path")
    if path.is_dir():
        return _read_folder(path)
    if not path.is_file():
        raise UserError(f"{path}: neither a file nor a folder; check corpus.path")
    suffixes = [suffix.lower() for suffix in path.suffixes]
    kind = suffixes[-2] if suffixes[-1:] == [".gz"] and len(suffixes) > 1 else "".join(suffixes[-1:])
    if kind in _JSONL:
        return _read_jsonl(path)
    if kind in _DELIMITERS:
        return _read_csv(path, delimiter=_DELIMITERS[kind])
    if suffixes[-1:] == [".parquet"]:
        return _read_parquet(path, columns)
    raise UserError(f"{path}: unknown file type; use .jsonl, .csv, .tsv (also .gz), .parquet or a folder of text files")


def stamp(path: Path) -> str:
    """Identity of a file or folder without reading it: resolved names, sizes and modification times."""
    files = _text_files(path) if path.is_dir() else [path]
    parts = [str(path.resolve())]
    for file in files:
        status = file.stat() if file.exists() else file.lstat()
        parts.append(f"{file.relative_to(path)} {status.st_size} {status.st_mtime_ns}")
    return "\n".join(parts)


def text_lines(path: Path) -> Iterator[tuple[str, str]]:
    """The lines of a plain or gzipped UTF-8 file that are not blank, each with its place (`file:line`).

    Lines end at the newline alone: any other separator may be part of a text.

    Raises:
        UserError: no such file, damaged gzip, or a line that is not UTF-8.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    for number, line in enumerate(_lines(path), start=1):
        if line.strip():
            try:
                yield f"{path}:{number}", line.decode("utf-8").rstrip("\r\n")
            except UnicodeDecodeError as error:
                raise UserError(f"{path}:{number}: bad UTF-8 (byte {error.start + 1}); save the file as UTF-8") from error


def _lines(path: Path) -> Iterator[bytes]:
    """The lines of a plain or gzipped file, without a byte-order mark."""
    number = 0
    try:
        with gzip.open(path) if path.suffix.lower() == ".gz" else open(path, "rb") as file:
            while line := file.readline(_LONGEST_LINE):
                number += 1
                if len(line) == _LONGEST_LINE:
                    raise UserError(f"{path}:{number}: a line of {len(line) >> 20:,} MB or more; write one record per line")
                yield line.removeprefix(_BOM) if number == 1 else line
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise UserError(f"{path}:{number + 1}: damaged gzip ({error}); copy or compress the file again") from error
    except OSError as error:
        raise UserError(f"{path}:{number + 1}: cannot be read ({error.strerror})") from error


def _read_jsonl(path: Path) -> Iterator[Row | Dropped]:
    for number, line in enumerate(_lines(path), start=1):
        if not line.strip():
            continue
        where = f"{path}:{number}"
        try:
            record = json.loads(line.decode("utf-8"))
        except UnicodeDecodeError as error:
            yield Dropped(where, Reason.BAD_UTF8, f"byte {error.start + 1}")
        except json.JSONDecodeError as error:
            yield Dropped(where, Reason.INVALID_JSON, f"{error.msg}, column {error.colno}")
        except (ValueError, RecursionError) as error:  # a number of thousands of digits; brackets nested too deeply
            yield Dropped(where, Reason.INVALID_JSON, str(error).split(";")[0])
        else:
            if isinstance(record, dict):
                yield Row(where, record)
            else:
                yield Dropped(where, Reason.WRONG_TYPE, f"the line holds a {type(record).__name__}, not an object")


def _read_csv(path: Path, *, delimiter: str) -> Iterator[Row | Dropped]:
    csv.field_size_limit(_LONGEST_FIELD)
    # Surrogates carry undecodable bytes through the parser, so that only the record that holds them is lost.
    lines = (line.decode("utf-8", "surrogateescape") for line in _lines(path))
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    try:
        header = next(reader, [])
    except csv.Error as error:
        raise UserError(f"{path}:1: the header cannot be read ({error}); name each column once") from error
    if not header or len(set(header)) < len(header):
        raise UserError(f"{path}:1: the header must name each column once; it holds {shown(header)}")
    if any("\udc80" <= character <= "\udcff" for name in header for character in name):
        raise UserError(f"{path}:1: the header is not UTF-8; save the file as UTF-8")
    while True:
        first = reader.line_num + 1
        where = f"{path}:{first}"
        try:
            record = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            lines = reader.line_num - first + 1  # an open quote takes with it what follows
            yield Dropped(where, Reason.INVALID_CSV, f"{error}; {lines:,} lines are lost with it" if lines > 1 else str(error))
            continue
        if not record:
            continue
        if len(record) != len(header):
            yield Dropped(where, Reason.INVALID_CSV, f"{len(record)} fields, the header has {len(header)}")
        else:
            yield Row(where, dict(zip(header, record, strict=True)))


def _read_parquet(path: Path, columns: frozenset[str]) -> Iterator[Row | Dropped]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            names = [name for name in file.schema_arrow.names if name in columns]
            if len(set(names)) < len(names):
                raise UserError(f"{path}: {shown(max(names, key=names.count))} is the name of two columns; name each once")
            number = 0
            for batch in file.iter_batches(batch_size=1024, columns=names):
                for index in range(batch.num_rows):
                    number += 1
                    where = f"{path}:{number}"
                    try:
                        fields = {name: batch.column(name)[index].as_py() for name in names}
                    except UnicodeDecodeError as error:
                        yield Dropped(where, Reason.BAD_UTF8, f"byte {error.start + 1}")
                    except (ValueError, OverflowError) as error:  # a date or time that Python has no value for
                        yield Dropped(where, Reason.WRONG_TYPE, str(error).split(". ")[0])
                    else:
                        yield Row(where, fields)
    except (pa.ArrowException, UnicodeDecodeError, OSError) as error:
        raise UserError(f"{path}: not a readable Parquet file ({str(error).splitlines()[0]})") from error


def _read_folder(folder: Path) -> Iterator[Row | Dropped]:
    for file in _text_files(folder):
        relative = file.relative_to(folder)
        try:
            text = file.read_bytes().removeprefix(_BOM).decode("utf-8")
        except UnicodeDecodeError as error:
            yield Dropped(str(file), Reason.BAD_UTF8, f"byte {error.start + 1}")
        except OSError as error:
            yield Dropped(str(file), Reason.UNREADABLE, error.strerror)
        else:
            # Fields by the names that the configuration has by default, so that a folder needs no further settings.
            yield Row(str(file), {"id": relative.as_posix(), "text": text, "path": list(relative.parts[:-1])})


def _text_files(folder: Path) -> list[Path]:
    """Every file below the folder that is not hidden, in order of name, so that the corpus does not depend on the disk.

    Links are followed. One that leads nowhere is among them, to be named; pipes and devices, which never end, are not.

    Raises:
        UserError: a folder below cannot be read, or a link leads back into a folder that it stands in.
    """

    def refuse(error: OSError) -> None:
        raise UserError(f"{error.filename}: cannot be read ({error.strerror}); make it readable, or hide it by a dot") from error

    found = []
    for root, folders, files in os.walk(folder, onerror=refuse, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in folders:
            inner = os.path.join(root, name)
            if f"{os.path.realpath(root)}/".startswith(f"{os.path.realpath(inner)}/"):
                raise UserError(f"{inner}: a link to a folder that it stands in; remove it, or hide it by a dot")
        paths = [Path(root, name) for name in sorted(files) if not name.startswith(".")]
        found += [path for path in paths if path.is_file() or not path.exists()]
    return found
