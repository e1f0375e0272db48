"""The gin spelling: T5X's files and flags, read as text and translated to the pairs that `--config.*` flags are.

Nothing is looked up in a registry and nothing is run. A binding means what `gin_twins` says of its name, or it is a
section path of the experiment itself (`optimizer.schedule.warmup_steps = 100`). What means neither is an error.

Statements are translated in their order, and later ones win, whichever way they are spelled; a macro stands for the
value it has in the end. Two things do not depend on the order, because T5X's users give model and run files in either:
MODEL and MIXTURE_OR_TASK_NAME come before the fields of what they pick, and `NAME = %gin.REQUIRED` takes no value away.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

from t5x_like import registry
from t5x_like.errors import ExperimentError, UserError
from t5x_like.experiment import Experiment
from t5x_like.frontends import gin_parser, gin_twins, pairs
from t5x_like.frontends.gin_parser import Binding, Import, Macro, Reference
from t5x_like.frontends.gin_twins import BindingContext, Twin

_SECTIONS = tuple(field.name for field in fields(Experiment))
# Packages whose names are known here, so that a T5X file's imports of them ask for nothing.
_KNOWN_PACKAGES = ("__gin__", "__main__", "gin", "t5x", "seqio", "t5x_like")
_ALIASES = {"train_script": "t5x.train", "__main__": "t5x.train"}
_REQUIRED = Macro("gin.REQUIRED")
# The macro that names the model file a run falls back on where nothing sets MODEL.
_DEFAULT_MODEL = "DEFAULT_MODEL"


@dataclass(frozen=True)
class GinRun:
    """Translation of gin files and flags.

    Attributes:
      values: nested plain values of the experiment.
      workdir: MODEL_DIR; empty when it is not given.
      checkpoint: CHECKPOINT_PATH; empty when it is not given.
      prompts: PROMPTS.
      modules: the user's modules, to be imported before the experiment is run.
      origins: where each dotted path was set, as `file:line`.
    """

    values: Mapping[str, Any]
    workdir: str
    checkpoint: str
    prompts: tuple[str, ...]
    modules: tuple[str, ...]
    origins: Mapping[str, str]

    @cached_property
    def experiment(self) -> Experiment:
        """The experiment; raises ExperimentError for a field that cannot be, naming the line that set it."""
        try:
            return Experiment.from_dict(self.values)
        except ExperimentError as error:
            path = error.where
            while path and path not in self.origins:
                path = path.rpartition(".")[0]
            if not path:
                raise
            raise ExperimentError(error.where, f"{error.problem} (set in {self.origins[path]})") from None


def load(files: Sequence[str], bindings: Sequence[str] = (), search_paths: Sequence[str] = ()) -> GinRun:
    """Reads and translates gin.

    Args:
      files: paths. They are looked for as given, below `search_paths`, and then among the shipped ones.
      bindings: `--gin.NAME=value` flags or `NAME = value` lines; they come after the files.
      search_paths: directories in which files and includes are looked for.

    Raises:
      UserError: for a missing file, text that is not gin, a name without a meaning, or a value that cannot be had.
    """
    statements = [*gin_parser.read_files(files, search_paths), *gin_parser.read_flags(bindings)]
    macros = {s.name: s.value for s in statements if isinstance(s, Binding) and not s.argument}
    if _DEFAULT_MODEL in macros and "MODEL" not in macros:
        statements = [*gin_parser.read_files([str(macros[_DEFAULT_MODEL])], search_paths), *statements]
    imports = [statement for statement in statements if isinstance(statement, Import)]
    aliases = _ALIASES | {
        s.alias: _ALIASES.get(s.module, s.module)
        for s in imports
        if s.module in _ALIASES or s.module.startswith("t5x.")
    }
    bindings_in_order = [statement for statement in statements if isinstance(statement, Binding)]
    asked_for = {leaf.name for b in bindings_in_order for leaf in _leaves(b.value) if isinstance(leaf, Macro)}
    values, origins = _translate(_latest(bindings_in_order, aliases), {_DEFAULT_MODEL, *asked_for})
    return _split(values, origins, imports)


def _latest(bindings: Iterable[Binding], aliases: Mapping[str, str]) -> dict[str, Binding]:
    """The last binding to each name, in the order of the last; T5X's parameters by their full name."""
    latest: dict[str, Binding] = {}
    for binding in bindings:
        module, dot, rest = binding.selector.partition(".")
        selector = aliases.get(module, module) + dot + rest if binding.argument else binding.selector
        key = gin_twins.full_name(binding.scope, selector, binding.argument) or binding.name
        if key in latest:
            if binding.value == _REQUIRED:
                continue
            former = gin_twins.PICKS.get(key)
            latest = {k: b for k, b in latest.items() if k != key and not (former and k.startswith(former))}
        latest[key] = binding
    return latest


def _translate(latest: Mapping[str, Binding], used: set[str]) -> tuple[dict[str, Any], dict[str, str]]:
    """The nested values that the bindings make, and where each path was set.

    Args:
      latest: what `_latest` gives.
      used: macros that some binding asks for, in effect or not.
    """
    known = {key: (binding, twin) for key, binding in latest.items() if (twin := _twin(key, binding)) is not None}
    if without_twin := [b for key, b in latest.items() if key not in known and b.name not in used]:
        raise _no_twin(without_twin)
    macros = {binding.name: binding for binding in latest.values() if not binding.argument}
    resolved = {key: _resolve(binding.value, binding, macros) for key, (binding, _) in known.items()}
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for key, (binding, twin) in sorted(known.items(), key=lambda item: item[1][1].order):
        try:
            translated = twin.translate(resolved[key], BindingContext(values, resolved))
        except UserError as error:
            raise UserError(f"{binding.label}: {error}") from None
        values = pairs.apply(values, translated)
        for path, _ in translated:
            origins = {other: where for other, where in origins.items() if not other.startswith(f"{path}.")}
            origins[path] = binding.where
    return values, origins


def _twin(key: str, binding: Binding) -> Twin | None:
    """What the binding means; None for what means nothing by itself."""
    if key in gin_twins.PARAMETERS:
        return gin_twins.PARAMETERS[key]
    if not binding.scope and binding.selector.partition(".")[0] in _SECTIONS:
        return gin_twins.Twin(_own_path(binding.name))
    if binding.argument:
        return None
    return gin_twins.MACROS.get(binding.name)


def _own_path(path: str) -> Any:
    def translate(value: Any, _: BindingContext) -> list[pairs.Pair]:
        if references := [leaf for leaf in _leaves(value) if isinstance(leaf, Reference)]:
            raise UserError(f"{references[0]} is nothing that can be called here; give the plain value")
        return [(path, value)]

    return translate


def _leaves(value: Any) -> Iterator[Any]:
    """What a value holds, inside its lists and dictionaries."""
    if isinstance(value, dict | list | tuple):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _leaves(item)
    else:
        yield value


def _resolve(value: Any, binding: Binding, macros: Mapping[str, Binding], inside: tuple[str, ...] = ()) -> Any:
    """`value` with each macro in it replaced by what it has in the end.

    Raises:
      UserError: for a macro that nothing sets, that must still be given, or that stands for itself.
    """
    if isinstance(value, dict):
        return {key: _resolve(item, binding, macros, inside) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_resolve(item, binding, macros, inside) for item in value)
    if not isinstance(value, Macro):
        return value
    if value == _REQUIRED:
        raise UserError(f"{binding.label}: it must be given; set it with --gin.{binding.name}=VALUE")
    if value.name in inside:
        raise UserError(f"{binding.label}: %{value.name} stands for itself")
    if value.name not in macros:
        raise UserError(f"{binding.label}: nothing sets %{value.name}; set it with --gin.{value.name}=VALUE")
    definition = macros[value.name]
    return _resolve(definition.value, definition, macros, (*inside, value.name))


def _no_twin(bindings: Sequence[Binding]) -> UserError:
    """The error for bindings that mean nothing: the first with what would be understood, and the names of the rest."""
    first, *rest = bindings
    problem = f"it has no twin here; {_understood(first)}"
    if not first.argument:
        problem = f"nothing uses this macro; {registry.suggest(first.name, gin_twins.MACROS)}"
    others = f"; neither is there a use for {', '.join(b.label for b in rest)}" if rest else ""
    return UserError(f"{first.label}: {problem}{others}")


def _understood(binding: Binding) -> str:
    """Half a sentence: what a T5X file may bind instead."""
    configurable = binding.selector.rpartition(".")[2]
    siblings = [name for name in gin_twins.PARAMETERS if name.split(".")[-2] == configurable]
    if siblings:
        scope = siblings[0].rpartition("/")[0]
        arguments = ", ".join(name.rpartition(".")[2] for name in siblings)
        return f"of {scope}{'/' if scope else ''}{configurable} these are understood: {arguments}"
    known = sorted({name.rpartition(".")[0].replace("t5x.", "", 1) for name in gin_twins.PARAMETERS})
    return (
        f"these are understood: {', '.join(known)}, the macros {', '.join(gin_twins.MACROS)},"
        f" and paths below {', '.join(_SECTIONS)}"
    )


def _split(values: dict[str, Any], origins: dict[str, str], imports: Sequence[Import]) -> GinRun:
    """What belongs to the experiment, and what says how it is run."""
    run = {"workdir": "", "checkpoint": "", "prompts": (), "modules": ()} | values.pop("run", {})
    for key, macro in (("workdir", "MODEL_DIR"), ("checkpoint", "CHECKPOINT_PATH")):
        if not isinstance(run[key], str):
            raise UserError(f"{origins[f'run.{key}']}: {macro} is {run[key]!r}; it must be a path in quotes")
    prompts = [run["prompts"]] if isinstance(run["prompts"], str) else run["prompts"]
    if not isinstance(prompts, list | tuple) or not all(isinstance(prompt, str) for prompt in prompts):
        raise UserError(f"{origins['run.prompts']}: PROMPTS is {prompts!r}; it must be a list of texts in quotes")
    imported = [s.module for s in imports if s.module.split(".")[0] not in _KNOWN_PACKAGES]
    return GinRun(
        values=values,
        workdir=run["workdir"],
        checkpoint=run["checkpoint"],
        prompts=tuple(prompts),
        modules=tuple(dict.fromkeys([*imported, *run["modules"]])),
        origins={path: where for path, where in origins.items() if not path.startswith("run.")},
    )
