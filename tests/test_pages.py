"""The README and the pages of docs/: the links, files and options that they name are there."""

import dataclasses
import re
import typing
from pathlib import Path

import pytest

from t5x_like import registry
from t5x_like.experiment import Experiment
from t5x_like.sections import Choice, Choices

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "CONTRIBUTING.md"]
LINK = re.compile(r"\]\(([^)\s]+)\)")
FILE = re.compile(r"`((?:t5x_like|tests|tools|configs|gin|docs)/[\w/.-]+\.(?:py|md|gin|txt|json))`")
SECTIONS = [field.name for field in dataclasses.fields(Experiment)]
# `data.batch_size`, `--config.data.batch_size=8`; not what begins like a section and is a method of a module.
OPTION = re.compile(rf"(?:`|--config\.)((?:{'|'.join(SECTIONS)})(?:\.[a-z_*][a-z_0-9*]*)+)(?=[`= ])")
METHODS = {"model.encode", "model.states", "model.finish", "model.decode", "model.remember", "model.logits"}


def anchors(page):
    """What GitHub makes of a page's headings."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target in LINK.findall(page.read_text()):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        there = page.parent / path if path else page
        assert there.exists(), target
        assert not anchor or anchor in anchors(there), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_of_the_repository_are_there(page):
    named = [name for name in FILE.findall(page.read_text()) if "NAME" not in name]
    assert not [name for name in named if not (ROOT / name).exists()]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_options_are_those_that_there_are(page):
    named = set(OPTION.findall(page.read_text())) - METHODS
    assert not [path for path in sorted(named) if not exists(path)]


def test_pages_name_links_files_and_options():
    """What the tests above rely on."""
    text = "\n".join(page.read_text() for page in PAGES)
    for pattern, least in ((LINK, 60), (FILE, 20), (OPTION, 60)):
        assert len(set(pattern.findall(text))) >= least
    assert exists("model.decoder.layer.attention.heads") and exists("evaluators.mine.every") and exists("checkpoint.*")
    assert exists("data.task.components.books.path") and exists("parallelism.rules.vocab")
    assert not exists("model.heads") and not exists("model.decoder.layer.heads") and not exists("checkpoint.evry")


def exists(path: str) -> bool:
    """Whether an experiment has an option of this path, with one or another choice."""
    return _exists({Experiment}, path.split("."))


def _exists(classes: set[type], parts: list[str]) -> bool:
    name, *rest = parts
    hints = [hints[name] for cls in classes if name in (hints := typing.get_type_hints(cls, include_extras=True))]
    if name == "*" or hints and not rest:
        return name == "*" and not rest or bool(hints)
    return any(_below(hint, rest) for hint in hints)


def _below(hint: typing.Any, rest: list[str]) -> bool:
    arguments = typing.get_args(hint)
    mark = arguments[1] if typing.get_origin(hint) is typing.Annotated else None
    if isinstance(mark, Choice | Choices):
        keyed = isinstance(mark, Choices)
        kinds = {registry.options(mark.kind, name) for name in registry.names(mark.kind)}
        return keyed and len(rest) == 1 or _exists(kinds, rest[1:] if keyed else rest)
    if inside := {each for each in (hint, *arguments) if isinstance(each, type) and dataclasses.is_dataclass(each)}:
        return _exists(inside, rest)
    # A mapping with keys of the user's own, of plain values or of choices.
    values = [each for each in arguments[1:] if typing.get_origin(each) is typing.Annotated]
    return bool(arguments) and (len(rest) == 1 or any(_below(each, rest[1:]) for each in values))
