"""Initial values from a source: which variable becomes which, what may differ, and a plan that can be shown.

A plan is made from paths, shapes and options alone, so that it costs nothing and everything that is wrong with it is
said before an array is read.
"""

import dataclasses
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from t5x_like import registry
from t5x_like.checkpoint.leaves import hint, text
from t5x_like.checkpoint.reshaping import KINDS
from t5x_like.checkpoint.sources import OpenSource
from t5x_like.errors import ExperimentError
from t5x_like.experiment import Initialize
from t5x_like.path_rules import Pattern, parse_patterns, parse_rules

# The last part of the path of options that say how a model is trained or computed, or of which shape it is: shapes are
# compared by themselves. Every other option below `model` changes what a model with the same variables computes.
_TRAINING = ("family", "size", "dropout", "dropout_inside", "init_std", "embedding_std", "residual_init")
_LOSSES = ("router_balance_loss", "router_z_loss", "balance_loss", "z_loss")
_COMPUTATION = ("dtype", "quantization")
_SHAPES = ("vocab_size", "max_length", "embed", "layers", "encoder_layers", "heads", "kv_heads", "head_dim")
_MORE_SHAPES = ("mlp", "hidden", "experts", "token_types", "types", "relative_buckets", "buckets")
_NOT_COMPARED = frozenset((*_TRAINING, *_LOSSES, *_COMPUTATION, *_SHAPES, *_MORE_SHAPES))

_LINES = 40  # of a mapping, that are shown at the start of a run

# Paths of the data's fingerprint that say what a token's number means.
_TOKENS = (Pattern("data.**.tokenizer"), Pattern("data.**.vocabulary"))


@dataclasses.dataclass(frozen=True)
class VariableMapping:
    """Mapping of the variables of a new run to those of a source.

    Attributes:
      source: the name of the source.
      taken: path here → path in the source.
      reshaped: path here → how it is fitted, of those among `taken` with another shape.
      fresh: paths here that start as their initialisers have them.
      copied: paths here that start as a copy of another variable here.
      unused: paths in the source that are left.
      accepted: by path of an option, its value in the source and here.
    """

    source: str
    taken: Mapping[str, str]
    reshaped: Mapping[str, str]
    fresh: tuple[str, ...]
    copied: tuple[str, ...]
    unused: tuple[str, ...]
    accepted: Mapping[str, tuple[Any, Any]]

    @property
    def initialised(self) -> frozenset[str]:
        """Paths here whose initialisers must be computed: fresh ones, and those that are reshaped into them."""
        return frozenset((*self.fresh, *(path for path, how in self.reshaped.items() if how == "cut_or_pad")))

    def counts(self) -> str:
        """One line that says how many variables start as what."""
        renamed = sum(path != source for path, source in self.taken.items())
        parts = [
            f"{len(self.taken)} taken",
            f"{renamed} of them from another path",
            f"{len(self.reshaped)} reshaped",
            f"{len(self.fresh)} fresh",
            f"{len(self.copied)} copied",
            f"{len(self.unused)} unused",
        ]
        return f"variables from {self.source}: {', '.join(parts)}"

    def lines(self, wanted: Mapping[str, Any], saved: Mapping[str, Any], *, whole: bool = False) -> list[str]:
        """The mapping as a user is shown it, a line each, the counts first.

        Args:
          wanted: the variables here, with shape and dtype.
          saved: those of the source.
          whole: also the variables that are taken as they are, and all lines, however many.
        """
        lines = [self.counts()]
        for path, source in self.taken.items():
            if path in self.reshaped:
                how = f"-> {path} {text(wanted[path])} ({self.reshaped[path]})"
                lines.append(f"  ~ {source} {text(saved[source])} {how}")
            elif path != source:
                lines.append(f"  > {source} -> {path} {text(wanted[path])}")
            elif whole:
                lines.append(f"  = {path} {text(wanted[path])}")
        lines += [f"  - {path} {text(wanted[path])}: fresh" for path in self.fresh]
        if whole:
            lines += [f"  c {path} {text(wanted[path])}: copied from another variable" for path in self.copied]
        lines += [f"  + {path} {text(saved[path])}: unused" for path in self.unused]
        lines += [f"  ! {path}: {was!r} there, {now!r} here" for path, (was, now) in self.accepted.items()]
        rest = 0 if whole else len(lines) - _LINES
        return [*lines[:_LINES], f"  … and {rest} more, which train --dry-run shows"] if rest > 0 else lines


def plan(
    options: Initialize,
    where: str,
    wanted: Mapping[str, jax.ShapeDtypeStruct],
    copies: Collection[str],
    source: OpenSource,
    here: Mapping[str, Any],
    derived: Collection[str] = (),
) -> VariableMapping:
    """The first value of every variable.

    Args:
      options: the experiment's `initialize`.
      where: the field that names the source, for errors.
      wanted: every variable of the new run's model by dotted path.
      copies: those that start as a copy of another one unless a rule gives them a value.
      source: what values are taken from.
      here: the options of this run, as `OpenSource.options`.
      derived: further variables of the run, which are computed from those; `missing` may speak of them.

    Raises:
      ExperimentError: naming, all at once, the variables here that the source has nothing for, those of the source that
        nothing takes, those of another shape and the options that change the function, unless the experiment allows
        them; or a pattern that fits nothing.
    """
    taken, left_out = _taken(options, wanted, copies, source)
    reshaped, misshapen = _reshaped(options, wanted, taken, source.leaves)
    needed = [path for path in wanted if path not in taken and path not in copies]
    may_miss = parse_patterns(options.missing, "initialize.missing")
    may_leave = parse_patterns(options.unused, "initialize.unused")
    _require_matches(may_miss, [*wanted, *derived], "initialize.missing", "variable of this run")
    _require_matches(may_leave, source.leaves, "initialize.unused", f"variable of {source.name}")
    unused = [path for path in source.leaves if path not in {*taken.values()}]
    allowed_unused = {path for path in unused if path in left_out or _any(may_leave, path)}
    # What is copied here anew is of no use from there.
    allowed_unused |= {path for path in unused if path in copies}
    different, accepted = _compared(options, source.options, here)
    problems = [
        *(f"- {path} {text(wanted[path])}: not there" for path in needed if not _any(may_miss, path)),
        *(f"+ {path} {text(source.leaves[path])}: only there" for path in unused if path not in allowed_unused),
        *misshapen,
        *(f"! {path}: {was!r} there, {now!r} here" for path, (was, now) in different.items()),
    ]
    if problems:
        raise ExperimentError(where, _sentence(source.name, problems))
    return VariableMapping(
        source=source.name,
        taken=taken,
        reshaped=reshaped,
        fresh=tuple(needed),
        copied=tuple(path for path in wanted if path in copies and path not in taken),
        unused=tuple(unused),
        accepted=accepted,
    )


def take(
    plan: VariableMapping,
    wanted: Mapping[str, jax.ShapeDtypeStruct],
    source: OpenSource,
    initialise: Callable[[frozenset[str]], Mapping[str, jax.Array]],
) -> dict[str, jax.Array]:
    """The values of every variable but those that are copied, each in a buffer of its own.

    Args:
      plan: made from the same `wanted` and `source`.
      wanted: with the shardings that the values get.
      source: what values are taken from.
      initialise: gives freshly initialised values by path; it is asked for `plan.initialised` alone.
    """
    values = dict(initialise(plan.initialised)) if plan.initialised else {}
    for part in _rounds(plan.taken):
        asked = {
            there: _as_saved(source.leaves[there], wanted[here], here in plan.reshaped) for here, there in part.items()
        }
        read = source.read(asked)
        for here, there in part.items():
            values[here] = _fitted(read.pop(there), wanted[here], plan.reshaped.get(here, ""), values.get(here))
    return values


# --- Paths and shapes -----------------------------------------------------------------------------------------------


def _taken(
    options: Initialize, wanted: Mapping[str, Any], copies: Collection[str], source: OpenSource
) -> tuple[dict[str, str], set[str]]:
    """Path here → path there, and the paths there that a rule leaves out."""
    taken: dict[str, str] = {}
    ruled: set[str] = set()
    left_out: set[str] = set()
    for number, rule in enumerate(parse_rules(options.rules, "initialize.rules")):
        where = f"initialize.rules[{number}]"
        matched = {path: new for path in source.leaves if (new := rule.apply(path)) is not None}
        if not matched:
            _no_match(where, rule.source, source.leaves, f"variable of {source.name}")
        for path, new in matched.items():
            if path in left_out:
                continue
            ruled.add(path)
            if not new:
                left_out.add(path)
            elif new not in wanted:
                problem = f"{rule.source.text!r} would become {new!r}, which is no variable of this run"
                raise ExperimentError(where, f"{path} of {problem}; {registry.suggest(new, wanted)}")
            else:
                taken.setdefault(new, path)
    for path in source.leaves:
        if path in wanted and path not in ruled and path not in copies:
            taken.setdefault(path, path)
    return {path: taken[path] for path in wanted if path in taken}, left_out


def _reshaped(
    options: Initialize, wanted: Mapping[str, Any], taken: Mapping[str, str], saved: Mapping[str, Any]
) -> tuple[dict[str, str], list[str]]:
    """The fitting of variables of another shape, and a line for each that the experiment does not speak of."""
    rules = parse_rules(options.reshaped, "initialize.reshaped")
    _require_matches([rule.source for rule in rules], wanted, "initialize.reshaped", "variable of this run")
    found: dict[str, str] = {}
    lines: list[str] = []
    for here, there in taken.items():
        new, old = wanted[here], saved[there]
        how = next((rule.target for rule in rules if rule.source.match(here) is not None), "")
        if tuple(new.shape) != tuple(old.shape) and how and len(new.shape) == len(old.shape):
            found[here] = how
        elif tuple(new.shape) != tuple(old.shape) or not _holds(new.dtype, old.dtype):
            lines.append(f"~ {here} is {text(old)} there and {text(new)} here{hint(here, new.shape, old.shape)}")
    return found, lines


def _holds(new: Any, old: Any) -> bool:
    """Whether a dtype holds every value of another: bfloat16 may become float32, and not the other way round."""
    return jnp.promote_types(new, old) == jnp.dtype(new)


# --- Options --------------------------------------------------------------------------------------------------------


def _compared(
    options: Initialize, there: Mapping[str, Any], here: Mapping[str, Any]
) -> tuple[dict[str, tuple[Any, Any]], dict[str, tuple[Any, Any]]]:
    """The options that change the function and differ: those that are not accepted, and those that are."""
    accept = parse_patterns(options.accept, "initialize.accept")
    compared = [path for path in here if path in there and _changes_function(path)]
    _require_matches(accept, compared, "initialize.accept", "option that changes what the model computes")
    different = {path: (there[path], here[path]) for path in compared if there[path] != here[path]}
    accepted = {path: values for path, values in different.items() if _any(accept, path)}
    return {path: values for path, values in different.items() if path not in accepted}, accepted


def _changes_function(path: str) -> bool:
    parts = path.split(".")
    if parts[0] == "model":
        return parts[-1] not in _NOT_COMPARED
    return any(pattern.match(path) is not None for pattern in _TOKENS)


# --- Errors ---------------------------------------------------------------------------------------------------------

_SHOWN = 12
_ADVICE = {
    "-": "initialize.rules maps others to what is not there, and initialize.missing lets it start fresh",
    "+": "initialize.unused leaves what is only there",
    "~": "initialize.reshaped fits what has another shape",
    "!": "initialize.accept takes an option that changes what the model computes",
}


def _sentence(name: str, problems: list[str]) -> str:
    advice = "; ".join(text for sign, text in _ADVICE.items() if any(line.startswith(sign) for line in problems))
    rest = len(problems) - _SHOWN
    shown = [*problems[:_SHOWN], *([f"… and {rest} more"] if rest > 0 else [])]
    listed = "\n".join(f"  {line}" for line in shown)
    return f"{name} is of another model than this run's; {advice}:\n{listed}"


def _require_matches(patterns: Any, paths: Any, where: str, what: str) -> None:
    for number, pattern in enumerate(patterns):
        if not any(pattern.match(path) is not None for path in paths):
            _no_match(f"{where}[{number}]", pattern, paths, what)


def _no_match(where: str, pattern: Pattern, paths: Any, what: str) -> None:
    raise ExperimentError(where, f"{pattern.text!r} matches no {what}; {registry.suggest(pattern.text, paths)}")


def _any(patterns: tuple[Pattern, ...], path: str) -> bool:
    return any(pattern.match(path) is not None for pattern in patterns)


# --- Arrays ---------------------------------------------------------------------------------------------------------


def _rounds(taken: Mapping[str, str]) -> Iterator[dict[str, str]]:
    """`taken` in parts in which no variable of the source occurs twice."""
    left = dict(taken)
    while left:
        part = {there: here for here, there in reversed(left.items())}
        yield {here: there for there, here in part.items()}
        left = {here: there for here, there in left.items() if here not in {*part.values()}}


def _as_saved(old: Any, new: jax.ShapeDtypeStruct, reshaped: bool) -> jax.ShapeDtypeStruct:
    """The array that is read: on the devices where it stays, or on all where another shape may not divide over them."""
    sharding = new.sharding
    if reshaped and isinstance(sharding, NamedSharding):
        sharding = NamedSharding(sharding.mesh, PartitionSpec())
    return jax.ShapeDtypeStruct(old.shape, jnp.dtype(old.dtype), sharding=sharding)


def _fitted(old: jax.Array, new: jax.ShapeDtypeStruct, how: str, fresh: jax.Array | None) -> jax.Array:
    if not how:
        return old if old.dtype == new.dtype else old.astype(new.dtype)
    fit = KINDS[how]
    if fresh is not None:
        return jax.jit(fit, out_shardings=new.sharding)(old.astype(new.dtype), fresh)
    return jax.jit(lambda x: fit(x, jnp.zeros(new.shape, new.dtype)), out_shardings=new.sharding)(old.astype(new.dtype))
