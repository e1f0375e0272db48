"""Migrations: experiments and checkpoints of earlier schemas, brought up to date when they are read.

A schema is the set of options an experiment has and the paths its variables have. `experiment.json` and the manifest of
a commit carry the number of the schema they were written in; what carries none is of schema 1. Every reader of either
goes through here, so that the rest of the program knows the newest schema alone.

To change the schema, append one `Migration` to `MIGRATIONS`, and put an example of the old spelling into
`tests/test_migrations.py`. The package's classes may have changed since, so a migration works on plain values alone.
"""

import copy
import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from t5x_like import schema1_model
from t5x_like.errors import UserError
from t5x_like.path_rules import Rule, rename

KEY = "schema"


@dataclasses.dataclass(frozen=True)
class Migration:
    """The way from one schema to the next.

    Attributes:
      experiment: changes an experiment's nested plain values in place; they may lack what has a default.
      paths: rules `OLD -> NEW` for the paths in a commit's state, of which the first that matches is taken. A variable
        `blocks.mlp.up` occurs there as `parameters.blocks.mlp.up` and in the optimizer's state, as in
        `optimizer.0.mu.blocks.mlp.up`: a rule for all of them begins with `**`.
      meta: changes in place what else the program wrote beside the state: `data`, the fingerprint, and `totals`.
    """

    experiment: Callable[[dict[str, Any]], None] = lambda values: None
    paths: tuple[str, ...] = ()
    meta: Callable[[dict[str, Any]], None] = lambda meta: None


# The first leads from schema 1 to schema 2.
MIGRATIONS: tuple[Migration, ...] = (Migration(experiment=schema1_model.to_tree),)


def newest() -> int:
    """The number of the schema that this program writes."""
    return 1 + len(MIGRATIONS)


def upgrade(values: Mapping[str, Any], what: str = "the experiment") -> dict[str, Any]:
    """An experiment's nested plain values in the newest schema, without the schema's number.

    Args:
      values: as they were written, with the number under `schema`.
      what: what they were read from, for the error.

    Raises:
      UserError: when they are of a schema that is newer than this program.
    """
    changed = copy.deepcopy(dict(values))
    for migration in _since(changed.pop(KEY, 1), what):
        migration.experiment(changed)
    return changed


def upgrade_meta(meta: Mapping[str, Any], schema: int, what: str) -> dict[str, Any]:
    """The metadata that the program wrote beside a state, in the newest schema: `experiment` and all else.

    Raises:
      UserError: as `upgrade` does.
    """
    changed = copy.deepcopy(dict(meta))
    for migration in _since(schema, what):
        if isinstance(changed.get("experiment"), dict):
            migration.experiment(changed["experiment"])
        migration.meta(changed)
    return changed


def upgrade_paths(paths: Iterable[str], schema: int, what: str) -> dict[str, str]:
    """Path in the newest schema → path as it was written, for the leaves of a state.

    Raises:
      UserError: as `upgrade` does.
    """
    found = {path: path for path in paths}
    for migration in _since(schema, what):
        renamed = rename(found, [Rule.parse(text) for text in migration.paths])
        found = {new: found[old] for new, old in renamed.items()}
    return found


def _since(schema: Any, what: str) -> tuple[Migration, ...]:
    """The migrations that lead from a schema to the newest."""
    if not isinstance(schema, int) or isinstance(schema, bool) or schema < 1:
        raise UserError(f"{what} is damaged: {schema!r} is no number of a schema; use a checkpoint that is whole")
    if schema > newest():
        raise UserError(
            f"{what} is of schema {schema}, and this program reads schemas up to {newest()}; use the version of"
            " t5x_like that wrote it, or a later one"
        )
    return MIGRATIONS[schema - 1 :]
