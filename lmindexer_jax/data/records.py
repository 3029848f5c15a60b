"""What a reader hands over for each record of a corpus: its fields, or why it cannot be used."""

import dataclasses
import enum
import reprlib
from collections.abc import Mapping

_SHORT = reprlib.Repr(maxstring=80, maxother=80, maxlong=80, maxlist=12, maxlevel=3)


class Reason(enum.StrEnum):
    """Why a record cannot become a document."""

    BAD_UTF8 = "bad UTF-8"
    INVALID_JSON = "invalid JSON"
    INVALID_CSV = "invalid CSV"
    WRONG_TYPE = "wrong type"
    MISSING_ID = "missing id"
    DUPLICATE_ID = "duplicate id"
    EMPTY_TEXT = "empty text"
    BAD_PATH = "ragged label"
    UNREADABLE = "unreadable file"

    @property
    def remedy(self) -> str:
        """What a person can do about it, as the end of an error line."""
        return _REMEDIES[self]


_REMEDIES = {
    Reason.BAD_UTF8: "save the file as UTF-8",
    Reason.INVALID_JSON: "write one JSON object per line",
    Reason.INVALID_CSV: "quote the field and keep to the header's columns",
    Reason.WRONG_TYPE: "use strings, numbers or lists of them",
    Reason.MISSING_ID: "give each record an id, name the field by corpus.id_field, or set it to '' to number the records",
    Reason.DUPLICATE_ID: "make the ids unique",
    Reason.EMPTY_TEXT: "fill the fields that corpus.template names",
    Reason.UNREADABLE: "mend or remove it",
    Reason.BAD_PATH: "make the category path a list of non-empty strings, root first, or a string 'a > b > c'",
}


@dataclasses.dataclass(frozen=True)
class Dropped:
    """A record left out: where it stands (`file:line`), the reason, and the detail a person needs to find it."""

    where: str
    reason: Reason
    detail: str

    def __str__(self) -> str:
        line = f"{self.where}: {self.reason} ({self.detail})"
        return line.encode("utf-8", "backslashreplace").decode().replace("\n", " ")  # a file's name may hold anything


@dataclasses.dataclass(frozen=True)
class Row:
    """A record as read, not yet validated: where it stands and its named fields."""

    where: str
    fields: Mapping[str, object]


def shown(value: object) -> str:
    """A value as an error line can quote it: `repr`, cut short where it is long or deep."""
    return _SHORT.repr(value)
