"""What the documents name is there: files, headings, commands, their flags, fields of configs."""

import argparse
import dataclasses
import functools
import importlib
import pathlib
import re

import pytest

from lmindexer_jax.config import BakeoffConfig, Config
from lmindexer_jax.next_item import RecommendConfig

ROOT = pathlib.Path(__file__).parents[1]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
PLACES = r"(?:configs|benchmarks|docs|launch|notebooks|tests|lmindexer_jax)"
CONFIGURED = {"main": Config, "bakeoff": BakeoffConfig, "recommend": RecommendConfig}
every_document = pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)


def slug(heading: str) -> str:
    """A heading as GitHub names it in links."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def fields(kind: type, prefix: str = "") -> set[str]:
    """Names of a config's fields with dots; a dictionary may hold any."""
    found = set()
    for field in dataclasses.fields(kind):
        found.add(prefix + field.name)
        nested = field.default_factory if dataclasses.is_dataclass(field.default_factory) else type(field.default)
        if dataclasses.is_dataclass(nested):
            found |= fields(nested, f"{prefix}{field.name}.")
    return found


def commands(text: str) -> list[str]:
    """Every command of ours with its arguments, lines that are continued as one."""
    text = re.sub(r"\\\n\s*", "", text)
    return re.findall(r"(?:^|[ `(])((?:lmindexer(?:-\w+)?|python -m lmindexer_jax\.\w+) [^\n`]*)", text)


class Parser(Exception):
    """A command's parser, on its way out of the command."""


@functools.cache
def flags_of(command: str) -> set[str]:
    """The flags of a command that reads its own."""

    def leave(parser, *_):
        raise Parser(parser)

    with pytest.MonkeyPatch.context() as patched, pytest.raises(Parser) as found:
        patched.setattr(argparse.ArgumentParser, "parse_args", leave)
        importlib.import_module(f"lmindexer_jax.{command}").parse([])
    return {flag for action in found.value.args[0]._actions for flag in action.option_strings}


@every_document
def test_links_lead_somewhere(path):
    for target in re.findall(r"\]\(([^)\s]+)\)", path.read_text()):
        if "://" in target:
            continue
        file, _, heading = target.partition("#")
        at = path.parent / file if file else path
        assert at.exists(), target
        if heading:
            assert heading in [slug(line.lstrip("# ")) for line in at.read_text().splitlines() if line.startswith("#")], target


@every_document
def test_files_that_are_named_exist(path):
    for name in re.findall(rf"(?<![\w/.-]){PLACES}/[\w/.-]*\w", path.read_text()):
        assert (ROOT / name).exists(), name


@every_document
def test_flags_are_flags_and_fields_are_fields(path):
    everything = set().union(*(fields(kind) for kind in CONFIGURED.values()))
    for field in re.findall(r"--config\.([\w.]*\w)", path.read_text()):
        assert field in everything or field.startswith("cells."), field
    for command in commands(path.read_text()):
        name, arguments = re.match(r"(?:lmindexer-?|python -m lmindexer_jax\.)(\w*) (.*)", command).groups()
        name, arguments = name or "main", arguments.split("  #")[0]
        given = set(re.findall(r"(?<!\S)(--?[a-z][\w-]*)(?=[\s=.]|$)", arguments))
        if name in CONFIGURED:
            own = {field.split(".")[0] for field in re.findall(r"--config\.([\w.]*\w)", arguments)}
            assert own <= {field.name for field in dataclasses.fields(CONFIGURED[name])}, command
            assert given <= {"--config", "--workdir"}, command
        else:
            assert given <= flags_of(name), command
