"""All options there are, frozen: none appears, goes or changes its default unnoticed.

`tests/golden/options.txt` lists them. When a change is meant, write the file anew and let it be reviewed:

    UPDATE_GOLDEN=1 python -m pytest tests/test_options.py
"""

import argparse
import dataclasses
import difflib
import importlib
import json
import os
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

from t5x_like import registry
from t5x_like.__main__ import COMMANDS
from t5x_like.experiment import Experiment
from t5x_like.frontends.gin.signatures import SIGNATURES
from t5x_like.sections import Choice, Choices

GOLDEN = Path(__file__).parent / "golden" / "options.txt"


def test_the_options_are_those_of_the_golden_file():
    now = "\n".join(all_options()) + "\n"
    if os.environ.get("UPDATE_GOLDEN"):
        GOLDEN.write_text(now)
    then = GOLDEN.read_text()
    changes = difflib.unified_diff(then.splitlines(), now.splitlines(), "golden", "now", lineterm="", n=1)
    assert then == now, "\n".join(
        ["the options have changed; if that is meant: UPDATE_GOLDEN=1 python -m pytest tests/test_options.py", *changes]
    )


def test_the_listing_sees_fields_choices_presets_flags_and_names():
    lines = list(all_options())
    for line in (
        "data.batch_size: int = 8",
        "data.task: <task> = sotu",
        "optimizer[adamw].schedule: <schedule> = cosine",
        "model[gpt2].embed: int, required",
        "model[gpt2].size: str = '', one of 124m, 350m, 774m, 1.5b",
        "command train: --workdir",
        "gin: t5x.utils.DatasetConfig.batch_size",
    ):
        assert line in lines


def all_options() -> Iterator[str]:
    """One line an option: the experiment's, those of everything it names, the commands' flags and gin's names.

    Sections that may be left out, such as a model's stacks, are listed once for all that have them.
    """
    inner: dict[str, type] = {}
    yield from options_of(Experiment, "", {}, inner)
    for kind in registry.kinds():
        for name in registry.names(kind):
            entry = registry.load(kind, name)
            preset = entry if isinstance(entry, registry.Preset) else registry.Preset(entry, {})
            for line in options_of(preset.options, f"{kind}[{name}].", preset.values, inner):
                sizes = preset.sizes if line.startswith(f"{kind}[{name}].size:") else ()
                yield f"{line}, one of {', '.join(sizes)}" if sizes else line
    for name, section in inner.items():
        yield from options_of(section, f"{name}.", {}, {})
    yield from flags()
    yield from (f"gin: {name}.{argument}" for name, known in SIGNATURES.items() for argument in known)


def options_of(options: type, prefix: str, preset: Mapping[str, Any], inner: dict[str, type]) -> Iterator[str]:
    """The fields of a dataclass and of the sections in it; classes that a field may hold are added to `inner`."""
    hints = typing.get_type_hints(options, include_extras=True)
    for field in dataclasses.fields(options):
        path, hint = prefix + field.name, hints[field.name]
        if dataclasses.is_dataclass(hint):
            yield from options_of(hint, f"{path}.", {}, inner)
        elif mark := choice(hint):
            yield (
                f"{path}: <{mark.kind}> = {mark.default}"
                if isinstance(mark, Choice)
                else f"{path}: <{mark.kind}> by key"
            )
        else:
            yield f"{path}: {type_name(hint)}{default(field, preset)}"
            inner |= {each.__name__: each for each in typing.get_args(hint) if dataclasses.is_dataclass(each)}


def choice(hint: Any) -> Choice | Choices | None:
    mark = typing.get_args(hint)[1] if typing.get_origin(hint) is Annotated else None
    return mark if isinstance(mark, Choice | Choices) else None


def type_name(hint: Any) -> str:
    inside = [choice(argument) for argument in typing.get_args(hint)]
    if any(inside):
        return f"{typing.get_origin(hint).__name__} of {next(mark.kind for mark in inside if mark)}"
    return (
        hint.__name__
        if isinstance(hint, type) and not typing.get_args(hint)
        else str(hint).replace("collections.abc.", "")
    )


def default(field: dataclasses.Field, preset: Mapping[str, Any]) -> str:
    if field.name in preset:
        return f" = {preset[field.name]!r}"
    if field.default is not dataclasses.MISSING:
        return f" = {field.default!r}"
    if field.default_factory is not dataclasses.MISSING:
        return f" = {field.default_factory()!r}"
    return ", required"


def flags() -> Iterator[str]:
    """The flags of every command."""
    parser = argparse.ArgumentParser()
    subparsers = parser.add_subparsers()
    for command in COMMANDS:
        importlib.import_module(f"t5x_like.commands.{command}").add_parser(subparsers)
    yield from flags_of(subparsers.choices, "command ")


def flags_of(parsers: Mapping[str, argparse.ArgumentParser], prefix: str) -> Iterator[str]:
    for name, parser in parsers.items():
        for action in parser._actions:
            if isinstance(action, argparse._SubParsersAction):
                yield from flags_of(action.choices, f"{prefix}{name} ")
            elif not isinstance(action, argparse._HelpAction):
                shown = " ".join(action.option_strings) or action.dest
                fallback = (
                    f" = {json.dumps(action.default)}"
                    if action.default not in (None, [], "") and action.default is not False
                    else ""
                )
                yield f"{prefix}{name}: {shown}{fallback}"
