"""The Python spelling: a file with `get_config(argument=None)`, and `--config.FIELD=VALUE` over what it returns."""

import inspect
import json
import traceback
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import ml_collections
from etils import epath
from ml_collections import config_dict

from t5x_like import migrations
from t5x_like.errors import ExperimentError, UserError
from t5x_like.experiment import Experiment
from t5x_like.frontends import pairs, shipped
from t5x_like.io.files import read_limited


def load(path_and_argument: str, overrides: Sequence[str] = ()) -> Experiment:
    """The experiment that a config file and the flags over it describe.

    Args:
      path_and_argument: `configs/quickstart.py`, or `configs/quickstart.py:TEXT` to hand TEXT to its `get_config`. A
        path that is not below the working directory is looked for among the shipped ones. Or `experiment.json`, a
        resolved experiment as a run writes it: reading that runs no code.
      overrides: `--config.a.b=value` or `--config.a.b`, `value`; later ones win.

    Raises:
      UserError: for a file that is missing or broken, or an argument that is no override.
      ExperimentError: for a field that cannot be, named by its dotted path.
    """
    pairs_given = pairs.parse_flags(overrides)
    if path_and_argument.endswith(".json"):
        return Experiment.from_dict(pairs.apply(_resolved(path_and_argument), pairs_given))
    head, separator, argument = path_and_argument.partition(".py:")
    path = head + ".py" if separator else path_and_argument
    config = _get_config(shipped.find(path), path, argument if separator else None)
    return Experiment.from_dict(pairs.apply(_resolve(config, pairs_given, path), pairs_given))


def _resolved(path: str) -> dict[str, Any]:
    """The values of a resolved experiment, brought up to date.

    Raises:
      UserError: when the file is missing or is none, or is of a newer schema.
    """
    try:
        values = json.loads(read_limited(epath.Path(path)))
    except FileNotFoundError as error:
        raise UserError(f"{path}: there is no such file; give an experiment.json that a run has written") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: it is no JSON ({str(error)[:100]})") from error
    if not isinstance(values, dict):
        raise UserError(f"{path}: it holds a {type(values).__name__}, and must hold an experiment's fields")
    return migrations.upgrade(values)


def _get_config(file: Path, path: str, argument: str | None) -> ml_collections.ConfigDict:
    """Runs the file and calls its `get_config`."""
    module = _run(file, path)
    get_config = getattr(module, "get_config", None)
    if not callable(get_config):
        raise UserError(
            f"{path}: it has no get_config(argument=None); add one that returns an ml_collections.ConfigDict"
        )
    if argument is not None and not inspect.signature(get_config).parameters:
        raise UserError(f"{path}: its get_config takes no argument, so {argument!r} cannot be handed to it")
    try:
        config = get_config() if argument is None else get_config(argument)
    except UserError:
        raise
    except Exception as error:
        raise _broken(path, file, error) from error
    if not isinstance(config, dict | ml_collections.ConfigDict):
        raise UserError(
            f"{path}: get_config returned {type(config).__name__}; it must return an ml_collections.ConfigDict"
        )
    return ml_collections.ConfigDict(config)


def _run(file: Path, path: str) -> ModuleType:
    """Runs the file anew, leaving no compiled copy beside it."""
    module = ModuleType(f"config_{file.stem}")
    module.__file__ = str(file)
    try:
        exec(compile(file.read_bytes(), str(file), "exec"), module.__dict__)
    except UserError:
        raise
    except Exception as error:
        raise _broken(path, file, error) from error
    return module


def _broken(path: str, file: Path, error: Exception) -> UserError:
    """One sentence for a file that raises, with the last of its own lines on the way."""
    if isinstance(error, SyntaxError):
        return UserError(f"{path}:{error.lineno}: {type(error).__name__}: {error.msg}")
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(file)]
    line = f":{lines[-1]}" if lines else ""
    return UserError(f"{path}{line}: {type(error).__name__}: {error}")


def _resolve(config: ml_collections.ConfigDict, pairs_given: Sequence[pairs.Pair], path: str) -> dict[str, Any]:
    """The config's plain values, where what refers to an overridden field follows it."""
    for dotted, value in pairs_given:
        *sections, field = dotted.split(".")
        inner: Any = config
        for section in sections:
            inner = inner.get(section) if isinstance(inner, ml_collections.ConfigDict) else None
        if isinstance(inner, ml_collections.ConfigDict) and field in inner and not isinstance(value, dict):
            with inner.ignore_type():
                inner[field] = value
    return _plain(config, "", path)


def _plain(config: ml_collections.ConfigDict, prefix: str, path: str) -> dict[str, Any]:
    """`config` as nested dicts; a required placeholder that is still empty is named, and another one is left out."""
    values: dict[str, Any] = {}
    for key, kept in config.items(preserve_field_references=True):
        try:
            value = config[key]
        except config_dict.RequiredValueError:
            dotted = prefix + key
            raise ExperimentError(dotted, f"{path} leaves it open; set it with --config.{dotted}=VALUE") from None
        if value is None and isinstance(kept, config_dict.FieldReference):
            continue  # `placeholder(int)`, which nobody has filled
        values[key] = _plain(value, f"{prefix}{key}.", path) if isinstance(value, ml_collections.ConfigDict) else value
    return values
