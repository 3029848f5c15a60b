"""Config dataclasses from what JSON kept of them."""

import dataclasses
import typing


def from_dict(kind: type, values: dict) -> object:
    """A (nested) config dataclass from what JSON kept of it."""
    hints = typing.get_type_hints(kind)
    fields = {}
    for field in dataclasses.fields(kind):
        if field.name not in values:
            continue
        value, hint = values[field.name], hints[field.name]
        if dataclasses.is_dataclass(hint):
            value = from_dict(hint, value)
        elif isinstance(value, list):
            value = tuple(value)
        elif isinstance(hint, type) and issubclass(hint, str):
            value = hint(value)
        fields[field.name] = value
    return kind(**fields)
