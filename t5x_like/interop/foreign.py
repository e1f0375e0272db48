"""Models of other formats as `import` takes them: options here, tensors that can be read one by one, a vocabulary."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from etils import epath

from t5x_like.errors import UserError
from t5x_like.models.names import NameMap, Tensor
from t5x_like.path_rules import parse_patterns

_SHOWN = 12


class ForeignTensor(Protocol):
    """A tensor that was found and not read."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Its shape."""

    @property
    def dtype(self) -> np.dtype:
        """The dtype in which it is read."""

    @property
    def stored_bytes(self) -> int:
        """How many bytes it has in the file."""

    def read(self) -> np.ndarray:
        """Its values.

        Raises:
          UserError: where they cannot be read.
        """


@dataclass(frozen=True)
class Generation:
    """Ids with which texts begin and end.

    Attributes:
      begin: what a model reads before a text; of one with an encoder, what its decoder starts from.
      end: the id that ends a text; −1 leaves it to the vocabulary.
    """

    begin: tuple[int, ...] = ()
    end: int = -1


@dataclass(frozen=True)
class ForeignModel:
    """A model in another format, of which nothing but headers was read.

    Attributes:
      path: where it is.
      format: `hf`, `gguf`, `t5x` or `flax`.
      model: its architecture, in options here.
      names: of its variables there.
      tensors: by key there.
      vocabulary: the content of the file that makes texts its ids; None where there is none.
      generation: with what texts begin and end; None where nothing is said of it.
      files: small files to keep for an export, by name: what the tokenizer and generation are like there.
    """

    path: epath.Path
    format: str
    model: Any
    names: NameMap
    tensors: Mapping[str, ForeignTensor]
    vocabulary: bytes | None = None
    generation: Generation | None = None
    files: Mapping[str, bytes] = field(default_factory=dict)


@dataclass(frozen=True)
class Match:
    """A tensor there, and what it is here.

    Attributes:
      tensor: its name, and the parts of variables here that it holds.
      stored: where its values are.
      copies: keys under which the same values are there again, which is verified.
    """

    tensor: Tensor
    stored: ForeignTensor
    copies: tuple[str, ...] = ()


def matched(
    source: ForeignModel, wanted: Iterable[Tensor], unused: Iterable[str] = ()
) -> tuple[list[Match], list[str]]:
    """The tensors of a source that the variables here are made of, and the keys of those that are left.

    Args:
      source: the model.
      wanted: the tensors that the model's names ask for.
      unused: patterns of keys that may be left.

    Raises:
      UserError: naming, all at once, the tensors that are missing, those that are not asked for, and those of another
        shape or of a dtype that float32 does not hold.
    """
    found, problems = [], []
    wanted = [_named(tensor, source) for tensor in wanted]
    keys = {tensor.key for tensor in wanted}
    used: set[str] = set()
    for tensor in wanted:
        there = [key for key in (tensor.key, *tensor.aliases) if key in source.tensors]
        there = [key for key in there if key == tensor.key or key not in keys]
        used |= {*there}
        if not there:
            problems.append(f"- {tensor.key} {list(tensor.shape)}: not there")
            continue
        stored = source.tensors[there[0]]
        problems += _misfit(there[0], tensor, stored)
        found.append(Match(tensor, stored, tuple(there[1:])))
    left = [key for key in source.tensors if key not in used and not _is_ignored(key, source.names)]
    may_leave = parse_patterns(tuple(unused), "--unused")
    for number, pattern in enumerate(may_leave):
        if not any(pattern.match(key) for key in left):
            raise UserError(f"--unused: {may_leave[number].text!r} matches no tensor that is left")
    extra = [key for key in left if not any(pattern.match(key) is not None for pattern in may_leave)]
    problems += [f"+ {key} {list(source.tensors[key].shape)}: means nothing to the model here" for key in extra]
    if problems:
        rest = len(problems) - _SHOWN
        shown = [*problems[:_SHOWN], *([f"… and {rest} more"] if rest > 0 else [])]
        advice = "; --unused=PATTERN leaves what means nothing here" if extra else ""
        listed = "\n".join(f"  {line}" for line in shown)
        raise UserError(f"{source.path} does not hold the model that it describes{advice}:\n{listed}")
    return found, left


def _named(tensor: Tensor, source: ForeignModel) -> Tensor:
    """A tensor under the name that it has in files of the model without its head, where the source is one."""
    prefix = source.names.prefix
    if not prefix or any(key.startswith(prefix) for key in source.tensors):
        return tensor
    aliases = tuple(key.removeprefix(prefix) for key in tensor.aliases)
    return Tensor(tensor.key.removeprefix(prefix), tensor.parts, tensor.steps, aliases)


def _is_ignored(key: str, names: NameMap) -> bool:
    return names.is_ignored(key) or bool(names.prefix) and names.is_ignored(names.prefix + key)


def _misfit(key: str, tensor: Tensor, stored: ForeignTensor) -> list[str]:
    if tuple(stored.shape) != tensor.shape:
        return [f"~ {key} is {list(stored.shape)} there and {list(tensor.shape)} by its description"]
    if stored.dtype.itemsize > 4 or stored.dtype.kind in "iub":
        return [f"~ {key} is {stored.dtype}, which float32 does not hold"]
    return []
