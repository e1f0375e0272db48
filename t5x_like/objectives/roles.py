"""Roles: who moves each variable of a model, chosen by an ordered list of filters of which the first match wins."""

import dataclasses
import fnmatch
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from flax import nnx

from t5x_like import registry
from t5x_like.errors import ExperimentError
from t5x_like.parallel.parameters import ParameterInfo
from t5x_like.variables import Path


@dataclasses.dataclass(frozen=True)
class Trained:
    """Variables that the optimizer moves."""


@dataclasses.dataclass(frozen=True)
class Ema:
    """Variables that follow others as an exponential moving average, and start as their copy.

    Attributes:
      of: the path of the followed module, such as `student`; it is built alike. The filter of this role is the path of
        the following module with `/**` behind it.
      decay: the share of the old value that stays, from the updates before this one (int32) to a scalar in [0, 1].
    """

    of: str
    decay: Callable[[Any], Any]


@dataclasses.dataclass(frozen=True)
class Frozen:
    """Variables that nothing moves.

    Attributes:
      of: the path of the module, built alike, that they start as a copy of; empty for the values they were built with.
        The filter is then as for `Ema`.
    """

    of: str = ""


@dataclasses.dataclass(frozen=True)
class Statistics:
    """Variables that `Objective.update` or a module's `update_statistics` moves: a queue, a batch norm's means."""


Role = Trained | Ema | Frozen | Statistics

# A filter of variables: a glob over the path, whose parts are joined by `/`, where `*` is within a part and `**` any
# number of parts (`**/lora/**`, `teacher/**`); a kind of variable, such as `nnx.Param`; or a predicate of path and
# info.
Filter = str | type[nnx.Variable] | Callable[[Path, ParameterInfo], bool]
Roles = Sequence[tuple[Filter, Role]]


class Assignment(NamedTuple):
    """The role of one variable.

    Attributes:
      role: who moves it.
      source: the path of the variable it is a copy or an average of, where there is one.
    """

    role: Role
    source: Path | None = None


def matches(chosen: Filter, path: Path, kind: type[nnx.Variable], info: ParameterInfo) -> bool:
    """Whether a filter takes a variable of this path and kind."""
    if isinstance(chosen, str):
        return matches_path(chosen, path)
    return issubclass(kind, chosen) if isinstance(chosen, type) else bool(chosen(path, info))


def matches_path(glob: str, path: Path) -> bool:
    """Whether a glob takes a path; see `Filter`."""
    return _pattern(glob).fullmatch("/".join(path)) is not None


def _pattern(glob: str) -> re.Pattern[str]:
    text = ""
    for part in glob.split("/"):
        text += "(?:[^/]+/)*" if part == "**" else fnmatch.translate(part)[4:-3].replace(".*", "[^/]*") + "/"
    # A trailing `**` takes what is below, and every path ends without a slash.
    text = text.removesuffix("(?:[^/]+/)*") + ".+" if glob.endswith("**") else text.removesuffix("/")
    return re.compile(text)


def assign(
    infos: Mapping[Path, ParameterInfo],
    kinds: Mapping[Path, type[nnx.Variable]],
    roles: Roles,
    where: Sequence[str] = (),
    rest: Roles = (),
) -> dict[Path, Assignment]:
    """The role of every variable: that of the first filter that takes it, or the default for its kind.

    What no filter takes is trained if it is an `nnx.Param`, and statistics otherwise.

    Args:
      infos: every variable of the model by path.
      kinds: the class of each.
      roles: filters and their roles.
      where: the part of the experiment that each of them is from, for errors; the objective where there is none.
      rest: filters and roles of what is left, which may be nothing.

    Raises:
      ExperimentError: when a filter takes nothing, or something follows what is not there, is not like it or follows
        something itself.
    """
    sections = [*where, *["objective"] * (len(roles) + len(rest) - len(where))]
    assigned: dict[Path, Assignment] = {}
    used = set()
    for path, info in infos.items():
        found = ((n, pair) for n, pair in enumerate((*roles, *rest)) if matches(pair[0], path, kinds[path], info))
        number, pair = next(found, (-1, None))
        if pair is None:
            assigned[path] = Assignment(Trained() if issubclass(kinds[path], nnx.Param) else Statistics())
            continue
        used.add(number)
        try:
            assigned[path] = Assignment(pair[1], _source(path, *pair, infos))
        except ExperimentError as error:
            raise ExperimentError(sections[number], error.problem) from None
    for number, (chosen, role) in enumerate(roles):
        if number not in used:
            raise ExperimentError(sections[number], _unused(chosen, role, infos, kinds))
    for path, (_, source) in assigned.items():
        if source is not None and assigned[source].source is not None:
            raise ExperimentError("objective", f"{_text(path)} follows {_text(source)}, which follows something else")
    return assigned


def _source(path: Path, chosen: Filter, role: Role, infos: Mapping[Path, ParameterInfo]) -> Path | None:
    """The variable that one follows or is a copy of."""
    of = role.of if isinstance(role, Ema | Frozen) else ""
    if not of:
        return None
    if not isinstance(chosen, str) or not chosen.endswith("/**") or "*" in chosen[:-3]:
        raise ExperimentError(
            "objective", f"a role that follows {of!r} needs a filter like 'teacher/**', not {chosen!r}"
        )
    source = (*of.split("/"), *path[len(chosen[:-3].split("/")) :])
    if source not in infos or infos[source].shape != infos[path].shape:
        raise ExperimentError(
            "objective", f"{_text(path)} follows {of!r}, where there is no {_text(source)} of its shape"
        )
    return source


def _unused(
    chosen: Filter, role: Role, infos: Mapping[Path, ParameterInfo], kinds: Mapping[Path, type[nnx.Variable]]
) -> str:
    """The problem of a filter that decides nothing: it takes no variable, or earlier ones took them all."""
    name = chosen if isinstance(chosen, str) else chosen.__name__
    if any(matches(chosen, path, kinds[path], info) for path, info in infos.items()):
        return f"the role {type(role).__name__} of {name!r} is in conflict with earlier ones, which leave it nothing"
    known = {_text(path[:length]): None for path in infos for length in range(1, len(path) + 1)}
    return f"the filter {name!r} matches no variable; {registry.suggest(name.replace('/**', ''), known)}"


def _text(path: Path) -> str:
    return "/".join(path)
