"""Docstrings as prose: signatures, examples, references and reStructuredText marks taken out, "See Also" kept apart.

Reads the two styles in use, numpydoc (underlined section titles) and Google (a title with a colon over an indented block).
"""

import dataclasses
import re
import textwrap

_DROPPED = {"example", "examples", "example usage", "usage", "references", "reference", "methods"}
_SEE_ALSO = "see also"
_UNDERLINE = re.compile(r"[-=~]{3,}\s*$")
_GOOGLE_TITLE = re.compile(
    r"(Args|Arguments|Attributes|Examples?|Example [Uu]sage|Notes?|Raises|References?|Returns|See [Aa]lso|Usage|Yields)::?\s*$"
)
_DIRECTIVE = re.compile(r"\s*\.\. (?:([\w-]+)::|\[|_|\||$)(.*)")
_PROSE_DIRECTIVES = {"note", "warning", "important", "tip", "hint", "admonition", "caution", "attention"}
_ROLE = re.compile(r":(?:[\w+-]+:)+`(?:(?P<title>[^`<]*?)\s*<[~!]?(?P<target>[^`]*)>|[~!]?(?P<plain>[^`]*))`")
_INLINE = (
    (re.compile(r"\s?\[#?[\w-]*\]_"), ""),  # references to footnotes and citations
    (re.compile(r"\\ "), ""),  # the mark that joins two words
    (re.compile(r"`([^`<]+?)\s*<[^`>]*>`__?"), r"\1"),  # links
    (re.compile(r"``(.+?)``", re.DOTALL), r"\1"),
    (re.compile(r"`([^`]*)`_?"), r"\1"),
    (re.compile(r"(?<![\w*])\*{1,2}([^\s*](?:[^*\n]*[^\s*,])?)\*{1,2}(?![\w*])"), r"\1"),  # emphasis, not *args
    (re.compile(r"\|(\w+)\|"), r"\1"),
    (re.compile(r"^[\s=+|~^-]+$", re.MULTILINE), ""),  # rules of tables and titles
    (re.compile(r"::(?=\s|$)"), ":"),
)
_NAME = re.compile(r"[A-Za-z_]\w*(?:\.\w+)*")
_SUMMARY_LENGTH = 200


@dataclasses.dataclass(frozen=True)
class Docstring:
    """A cleaned docstring: its prose on one line, its summary, and the names under "See Also" as written there."""

    text: str
    summary: str
    see_also: tuple[str, ...]


def clean(doc: str) -> Docstring:
    """Takes a docstring (indentation removed, as `inspect.getdoc` gives it) apart."""
    lines = _without_signature(doc.splitlines())
    prose: list[str] = []
    related: list[str] = []
    for title, body in _sections(lines):
        if title.lower() == _SEE_ALSO:
            related += _related(body)
        elif title.lower() not in _DROPPED:
            seen, kept = _without_blocks(body)
            related += seen
            prose += [f"{title}:" if title and kept else "", *kept]
    text = _without_marks("\n".join(prose))
    first = next(filter(None, map(_without_marks, "\n".join(prose).split("\n\n"))), "")
    summary = first if len(first) <= _SUMMARY_LENGTH else re.split(r"(?<=[.!?])\s", first)[0]
    return Docstring(text, summary, tuple(dict.fromkeys(related)))


def _without_signature(lines: list[str]) -> list[str]:
    """Drops leading call signatures, which compiled functions and dataclasses put into their docstrings."""
    while lines and not lines[0].strip():
        lines = lines[1:]
    if not lines or not re.match(r"[\w.]+\(", lines[0]):
        return lines
    depth = 0
    for number, line in enumerate(lines):
        depth += sum(line.count(mark) for mark in "([{") - sum(line.count(mark) for mark in ")]}")
        if depth <= 0:
            # Prose may start with a call, as in "f(x) is ..."; a signature ends its line or names what it returns.
            ends = re.search(r"\)\s*(?:->.*)?$", line)
            return _without_signature(lines[number + 1 :]) if ends else lines
    return []


def _sections(lines: list[str]) -> list[tuple[str, list[str]]]:
    """Splits lines at section titles; the part before the first title, and after a Google block, has the title ""."""
    sections: list[tuple[str, list[str]]] = [("", [])]
    indented = False  # inside a Google section, which lasts as long as its indentation
    for number, line in enumerate(lines):
        following = lines[number + 1] if number + 1 < len(lines) else ""
        if _UNDERLINE.match(line) and number and lines[number - 1].strip():
            continue
        if line.strip() and line == line.lstrip():
            if _UNDERLINE.match(following) and len(line) < 60:
                sections.append((line.strip().rstrip(":"), []))
                indented = False
                continue
            if _GOOGLE_TITLE.match(line):
                sections.append((line.strip().rstrip(":"), []))
                indented = True
                continue
            if indented and not _continues(sections[-1], line):
                sections.append(("", []))
                indented = False
        sections[-1][1].append(line)
    return sections


def _continues(section: tuple[str, list[str]], line: str) -> bool:
    """Whether an unindented line still belongs to a Google section: its text may stand flush with the title."""
    title, body = section
    return not any(part.strip() for part in body) or (title.lower() in _DROPPED and line.startswith((">>>", "...")))


def _without_blocks(lines: list[str]) -> tuple[list[str], list[str]]:
    """Drops doctests, literal blocks and directives; keeps the prose of notes. Returns names seen also, and lines kept."""
    related: list[str] = []
    kept: list[str] = []
    number = 0
    while number < len(lines):
        line = lines[number]
        number += 1
        indent = len(line) - len(line.lstrip())
        directive = _DIRECTIVE.match(line)
        if line.lstrip().startswith(">>>"):
            while number < len(lines) and lines[number].strip():
                number += 1
        elif directive:
            body, number = _block(lines, number, indent)
            name, argument = directive.groups()
            if name == "seealso":
                related += _related([argument, *body])
            elif name in _PROSE_DIRECTIVES:
                seen, inner = _without_blocks([argument, *textwrap.dedent("\n".join(body)).splitlines()])
                related += seen
                kept += inner
        elif line.rstrip().endswith("::"):
            kept.append(line.rstrip()[:-1])
            number = _block(lines, number, indent)[1]
        elif not re.match(r"\s*:[A-Z][\w ]*:(?:\s|$)", line):  # field lists, such as ":Character code: ``'V'``"
            kept.append(line)
    return related, kept


def _block(lines: list[str], start: int, indent: int) -> tuple[list[str], int]:
    """The lines from `start` that are blank or indented deeper than `indent`, and where they end."""
    end = start
    while end < len(lines) and (not lines[end].strip() or len(lines[end]) - len(lines[end].lstrip()) > indent):
        end += 1
    return lines[start:end], end


def _related(lines: list[str]) -> list[str]:
    """Names in a "See Also" section: those before the colon of each entry, its indented description left out."""
    names: list[str] = []
    for line in textwrap.dedent("\n".join(lines)).splitlines():
        if not line.strip() or line[0].isspace() or line.startswith(".."):
            continue
        roles = [_target(match) for match in _ROLE.finditer(line)]
        entry = re.split(r"\s:\s|:(?:\s|$)", _ROLE.sub(_target, line.lstrip("-* ")))[0]
        listed = [name for name in map(_bare, entry.split(",")) if name]
        names += listed or list(filter(None, map(_bare, roles)))  # or a sentence that mentions them
    return names


def _target(match: re.Match) -> str:
    """What a role such as :func:`title <target>` leads to."""
    return match["target"] or match["plain"] or ""


def _shown(match: re.Match) -> str:
    """What a role shows to the reader."""
    return match["title"] or _target(match)


def _bare(text: str) -> str:
    """The name that a list entry consists of; "" if it is anything else."""
    name = text.strip(" `").removesuffix("()")
    return name if _NAME.fullmatch(name) else ""


def _without_marks(text: str) -> str:
    """Prose on one line, without reStructuredText marks."""
    text = _ROLE.sub(_shown, text)
    for pattern, replacement in _INLINE:
        text = pattern.sub(replacement, text)
    return " ".join(text.split())
