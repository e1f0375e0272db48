"""Import: a model of another format becomes a commit, a tensor at a time."""

import dataclasses
import math
from collections import Counter
from collections.abc import Iterable
from typing import Any

import numpy as np
from etils import epath

from t5x_like.checkpoint import leaves, workdir
from t5x_like.checkpoint.streaming import StreamedCommit
from t5x_like.data import vocabulary_files
from t5x_like.data.vocabulary import Vocabulary
from t5x_like.errors import UserError
from t5x_like.experiment import Experiment
from t5x_like.interop import tokenizer_files
from t5x_like.interop.foreign import ForeignModel, Match, matched
from t5x_like.interop.tensor_file import NAMES
from t5x_like.io import files
from t5x_like.program import MODEL_PARTS, program
from t5x_like.sections import plain

# Of a work directory: what an export writes again beside the weights.
FOREIGN = "foreign"

_LENGTH = 256  # of rows that the experiment speaks of; nothing is trained here


@dataclasses.dataclass(frozen=True)
class Imported:
    """Outcome of an import.

    Attributes:
      path: the work directory.
      parameters: how many numbers the model has.
      bytes_read: of tensors.
      tensors: how many were taken.
      left: keys that mean nothing here and were left.
    """

    path: epath.Path
    parameters: int
    bytes_read: int
    tensors: int
    left: tuple[str, ...]


def import_model(source: ForeignModel, output: epath.Path, unused: Iterable[str] = ()) -> Imported:
    """Writes a model as the commit of step 0 of a work directory.

    Args:
      source: the model.
      output: the work directory; missing, or empty.
      unused: patterns of tensors that may be left.

    Raises:
      UserError: before anything is written, for a place that is taken, and for a source that does not hold what it
        describes.
    """
    _require_empty(output)
    vocabulary = _vocabulary(source)
    experiment = experiment_for(source, output, vocabulary)
    run = program(experiment)
    flat = {part: leaves.flatten(run.abstract_state()[part]) for part in MODEL_PARTS}
    home = {path: part for part in MODEL_PARTS for path in flat[part]}
    shapes = {path: tuple(leaf.shape) for part in flat.values() for path, leaf in part.items()}
    taken, left = matched(source, source.names.tensors(shapes), unused)
    apart = {path: len(part.index) for match in taken for part in match.tensor.parts for path in [part.path]}
    described = {f"{home[path]}.{path}": (shape, "float32", apart[path]) for path, shape in shapes.items()}
    try:
        with StreamedCommit(output, 0, described) as commit:
            for match in taken:
                for part, array in zip(match.tensor.parts, match.tensor.ours(_read(match, source)), strict=True):
                    commit.write(f"{home[part.path]}.{part.path}", part.index, array)
            _write_beside(output, source, experiment, vocabulary)
            commit.finish(_meta(source, experiment, vocabulary, taken))
    except BaseException:
        output.rmtree(missing_ok=True)  # it was missing, or empty
        raise
    return Imported(
        path=output,
        parameters=sum(map(math.prod, shapes.values())),
        bytes_read=sum(match.stored.stored_bytes for match in taken),
        tensors=len(taken),
        left=tuple(left),
    )


def experiment_for(source: ForeignModel, output: epath.Path, vocabulary: Vocabulary | None) -> Experiment:
    """The experiment of an imported model, which says how it is read and written.

    It has the objective that the kind of model suits, and a text task without a corpus, with the source's tokenizer.
    """
    model = source.model
    objective: dict[str, Any] = {"name": "causal_lm"}
    if not model.causal:
        # Nothing is masked here; a run that masks says with what.
        mask = tokenizer_files.mask_id(source.vocabulary)
        objective = {"name": "masked_lm", "mask_id": mask, "vocab_size": model.vocab_size}
    elif model.encoder:
        objective = {"name": "seq2seq"}
    task: dict[str, Any] = {"name": "text"}
    if vocabulary is not None:
        task["tokenizer"] = str(output / workdir.ASSETS / vocabulary.file)
    data = {"task": task, "sequence_length": min(_LENGTH, model.max_length)}
    return Experiment.from_dict(
        {"name": output.name, "steps": 1, "objective": objective, "data": data, "model": plain(model)}
    )


def _read(match: Match, source: ForeignModel) -> np.ndarray:
    values = match.stored.read()
    for key in match.copies:
        if not np.array_equal(source.tensors[key].read(), values, equal_nan=values.dtype.kind == "f"):
            raise UserError(
                f"{source.path}: {key} and {match.tensor.key} differ, and are one table in the model that it describes;"
                " set tie_word_embeddings to false in its config.json if they are two"
            )
    return values


def _require_empty(output: epath.Path) -> None:
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise UserError(f"--output: {output} is there already; give a directory that is missing or empty")


def _vocabulary(source: ForeignModel) -> Vocabulary | None:
    """The source's vocabulary, which the model has ids for.

    Raises:
      UserError: for a tokenizer that has more ids than the model.
    """
    if source.vocabulary is None:
        return None
    found = vocabulary_files.read(source.vocabulary, "--path", f"the tokenizer of {source.path}")
    if found.size > source.model.vocab_size:
        raise UserError(
            f"the tokenizer of {source.path} has {found.size} ids, and the model {source.model.vocab_size}; give the"
            " tokenizer that the model was trained with"
        )
    return found


def _write_beside(
    output: epath.Path, source: ForeignModel, experiment: Experiment, vocabulary: Vocabulary | None
) -> None:
    assets = {} if vocabulary is None else {vocabulary.file: vocabulary.model}
    workdir.write_description(output, experiment, assets)
    for name, content in source.files.items():
        files.write(output / FOREIGN / name, content)


def _meta(
    source: ForeignModel, experiment: Experiment, vocabulary: Vocabulary | None, taken: Iterable[Match]
) -> dict[str, Any]:
    """What the commit says beside its arrays: as a run's, and where it came from, with the dtypes that it had there."""
    dtypes = {match.tensor.key: NAMES.get(match.stored.dtype, "F32") for match in taken}
    usual = Counter(dtypes.values()).most_common(1)[0][0]
    meta: dict[str, Any] = {
        "experiment": experiment.to_dict(),
        "data": {} if vocabulary is None else {"data.task.tokenizer": vocabulary.identity},
        "totals": {"tokens": 0, "seconds": 0.0},
        "imported": {
            "format": source.format,
            "name": source.path.name,
            "dtype": usual,
            "dtypes": {key: name for key, name in dtypes.items() if name != usual},
        },
    }
    if source.generation is not None:
        meta["generation"] = dataclasses.asdict(source.generation)
    return meta
