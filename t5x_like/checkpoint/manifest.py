"""Manifest of a commit: a JSON file that names its step, its leaves and their digests.

It has the step, the leaves with their shapes, dtypes and digests, the data position, the metrics, whatever the program
adds as `meta` (the resolved experiment, the fingerprint of the data), and the number of the schema they are written in.
A SHA-256 of its own text keeps it honest in turn.
"""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from t5x_like import migrations

FORMAT = 1


@dataclass(frozen=True)
class Leaf:
    """One saved array.

    Attributes:
      shape: its shape.
      dtype: its dtype's name.
      digest: 16 hexadecimal digits, see `digest`.
      stored: its path in the files of the commit, where that is another: a migration has renamed it.
      frozen: the key of the frozen leaves that it is stored with, see `frozen`; empty where the commit itself holds it.
    """

    shape: tuple[int, ...]
    dtype: str
    digest: str
    stored: str = ""
    frozen: str = ""

    def to_json(self) -> dict[str, Any]:
        """JSON values."""
        values = {"shape": list(self.shape), "dtype": self.dtype, "digest": self.digest}
        return {**values, "frozen": self.frozen} if self.frozen else values

    @classmethod
    def from_json(cls, values: Mapping[str, Any], stored: str = "") -> "Leaf":
        """Reads what `to_json` gave."""
        shape, frozen = tuple(values["shape"]), values.get("frozen", "")
        return cls(shape, values["dtype"], values["digest"], stored, frozen)


@dataclass(frozen=True)
class Manifest:
    """Contents of a commit.

    Attributes:
      step: updates that were made before it.
      leaves: the saved arrays by dotted path.
      position: the place in the data, uint64, any shape.
      metrics: measurements at this step; None where one was not finite.
      meta: JSON values of the program's choosing.
    """

    step: int
    leaves: Mapping[str, Leaf]
    position: np.ndarray
    metrics: Mapping[str, float | None]
    meta: Mapping[str, Any]

    def to_json(self) -> dict[str, Any]:
        """JSON values; the SHA-256 of the rest is among them.

        Raises:
          TypeError: when `meta` holds something that JSON cannot.
        """
        content = {
            "format": FORMAT,
            migrations.KEY: migrations.newest(),
            "step": self.step,
            "leaves": {path: leaf.to_json() for path, leaf in self.leaves.items()},
            "position": {"shape": list(self.position.shape), "values": self.position.ravel().tolist()},
            "metrics": dict(self.metrics),
            "meta": dict(self.meta),
        }
        content = json.loads(json.dumps(content))  # keys become strings here, as they will be when it is read back
        return {**content, "sha256": _fingerprint(content)}

    @classmethod
    def from_json(cls, values: Mapping[str, Any], what: str = "the checkpoint") -> "Manifest":
        """Reads what `to_json` gave, in this schema or an earlier one; paths and meta become those of this schema.

        Args:
          values: the JSON.
          what: what it was read from, for the error.

        Raises:
          UserError: when it is of a newer schema.
          ValueError: when it is not a manifest, is of a later format, or was changed since it was written.
        """
        content = {key: value for key, value in values.items() if key != "sha256"}
        if content.get("format") != FORMAT:
            raise ValueError(f"its format is {content.get('format')!r}, and this program reads {FORMAT}")
        if values.get("sha256") != _fingerprint(content):
            raise ValueError("its text is not what was written")
        position, schema, saved = content["position"], content.get(migrations.KEY, 1), content["leaves"]
        return cls(
            step=content["step"],
            leaves={
                path: Leaf.from_json(saved[stored], "" if stored == path else stored)
                for path, stored in migrations.upgrade_paths(saved, schema, what).items()
            },
            position=np.array(position["values"], np.uint64).reshape(position["shape"]),
            metrics=content["metrics"],
            meta=migrations.upgrade_meta(content["meta"], schema, what),
        )


def finite(metrics: Mapping[str, float]) -> dict[str, float | None]:
    """The metrics as Python floats; None for what is NaN or infinite, which JSON does not have."""
    return {name: float(value) if math.isfinite(value) else None for name, value in metrics.items()}


def _fingerprint(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
