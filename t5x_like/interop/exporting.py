"""Export: a checkpoint as a Hugging Face folder, a tensor at a time, with its tokenizer and a model card."""

import dataclasses
import json
import shutil
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from etils import epath
from flax import nnx

from t5x_like import variables
from t5x_like.checkpoint import leaves
from t5x_like.checkpoint.layout import Commit, find
from t5x_like.checkpoint.streaming import StreamedLeaves
from t5x_like.checkpoint.workdir import ASSETS
from t5x_like.data import vocabulary_files
from t5x_like.data.vocabulary import Vocabulary
from t5x_like.errors import UserError
from t5x_like.experiment import Experiment
from t5x_like.interop import model_card, tensor_file, tokenizer_files
from t5x_like.interop.hugging_face import CONFIG, GENERATION, INDEX, WEIGHTS
from t5x_like.interop.importing import FOREIGN
from t5x_like.io import files
from t5x_like.models.hugging_face import write_model
from t5x_like.models.names import Tensor
from t5x_like.program import MODEL_PARTS, Program, program

DTYPES = {"float32": "F32", "bfloat16": "BF16", "float16": "F16"}


@dataclasses.dataclass(frozen=True)
class Exported:
    """Outcome of an export.

    Attributes:
      path: the folder.
      parameters: how many numbers its tensors have.
      bytes_written: of tensors.
      tensors: how many there are.
      files: of weights.
    """

    path: epath.Path
    parameters: int
    bytes_written: int
    tensors: int
    files: int


def export_model(
    checkpoint: str,
    output: epath.Path,
    *,
    dtype: str = "",
    shard_bytes: int = tensor_file.SHARD_BYTES,
    license_: str = "",
    intended_use: str = "",
) -> Exported:
    """Writes the model of a checkpoint as a folder that `transformers` reads.

    Args:
      checkpoint: a work directory, or one step inside it.
      output: the folder; missing, or empty.
      dtype: of the tensors, a key of `DTYPES`; empty for the one that each had where the model was imported from, and
        float32 where it was trained here.
      shard_bytes: of a file of weights at most.
      license_: for the model card; empty for none given.
      intended_use: likewise.

    Raises:
      UserError: for a place that is taken, a damaged checkpoint, and a model that the format has no words for; nothing
        is left half-written.
    """
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise UserError(f"--output: {output} is there already; give a folder that is missing or empty")
    commit = find(checkpoint)
    stored = StreamedLeaves(commit)
    experiment = Experiment.from_dict(stored.manifest.meta["experiment"])
    run = program(experiment)
    config = write_model(experiment.model)
    homes = _homes(run)
    shapes = {path: stored.manifest.leaves[home].shape for path, home in homes.items()}
    tensors = experiment.model.names().tensors(shapes)
    dtypes = _dtypes(tensors, dtype, stored.manifest.meta.get("imported", {}))
    described = {tensor.key: (tensor.shape, tensor_file.DTYPES[dtypes[tensor.key]]) for tensor in tensors}
    sizes = {key: int(np.prod(shape)) for key, (shape, _) in described.items()}
    output.mkdir(parents=True, exist_ok=True)
    try:
        count = _write_weights(output, described, _values(tensors, homes, stored, described), shard_bytes)
        _write_beside(output, commit, stored.manifest.meta, {**config, "torch_dtype": _torch_name(dtypes)})
        card = model_card.model_card(commit, sum(sizes.values()), license_=license_, intended_use=intended_use)
        files.write(output / model_card.FILE, card.encode())
    except BaseException:
        shutil.rmtree(output, ignore_errors=True)
        raise
    return Exported(
        path=output,
        parameters=sum(sizes.values()),
        bytes_written=sum(size * described[key][1].itemsize for key, size in sizes.items()),
        tensors=len(tensors),
        files=count,
    )


def _homes(run: Program) -> dict[str, str]:
    """By path in the model that writes, which is perhaps a part of the program's, the leaf of the state.

    Raises:
      UserError: for a model with adapters.
    """
    if run.adaptations:
        names = ", ".join(run.adaptations)
        raise UserError(f"the checkpoint's model has the adaptations {names}, which have no place in the format")
    state = run.abstract_state()
    flat = {path: f"{part}.{path}" for part in MODEL_PARTS for path in leaves.flatten(state[part])}
    structure, shapes = variables.abstract(lambda: run.objective.build(run.architecture, nnx.Rngs(0)))
    model = structure.merge(shapes)
    written = run.objective.inference_model(model)
    inside = next(path for path, node in nnx.iter_graph(model) if node is written)
    prefix = "".join(f"{part}." for part in inside)
    return {path.removeprefix(prefix): leaf for path, leaf in flat.items() if path.startswith(prefix)}


def _dtypes(tensors: tuple[Tensor, ...], dtype: str, imported: Mapping[str, Any]) -> dict[str, str]:
    """The name of each tensor's dtype."""
    if dtype:
        return {tensor.key: DTYPES[dtype] for tensor in tensors}
    usual, others = imported.get("dtype", "F32"), imported.get("dtypes", {})
    return {tensor.key: others.get(tensor.key, usual) for tensor in tensors}


def _values(
    tensors: tuple[Tensor, ...], homes: Mapping[str, str], stored: StreamedLeaves, described: Mapping[str, Any]
) -> Iterator[np.ndarray]:
    for tensor in tensors:
        dtype = described[tensor.key][1]
        yield tensor.theirs(stored.read(homes[part.path], part.index, dtype) for part in tensor.parts)


def _write_weights(
    output: epath.Path, described: Mapping[str, Any], values: Iterator[np.ndarray], shard_bytes: int
) -> int:
    """Writes one file, or several and their index; says how many."""
    parts = list(tensor_file.shards(described, shard_bytes))
    names = [WEIGHTS]
    if len(parts) > 1:
        names = [f"model-{n + 1:05d}-of-{len(parts):05d}.safetensors" for n in range(len(parts))]
    for name, part in zip(names, parts, strict=True):
        tensor_file.write(output / name, part, (next(values) for _ in part))
    if len(parts) > 1:
        total = sum(int(np.prod(shape)) * dtype.itemsize for shape, dtype in described.values())
        index = {key: name for name, part in zip(names, parts, strict=True) for key in part}
        files.write_json(output / INDEX, {"metadata": {"total_size": total}, "weight_map": index})
    return len(parts)


def _torch_name(dtypes: Mapping[str, str]) -> str:
    names = {short: name for name, short in DTYPES.items()}
    return names.get(max([*dtypes.values()], key=[*dtypes.values()].count), "float32")


# --- Beside the weights -----------------------------------------------------------------------------------------------


def _write_beside(output: epath.Path, commit: Commit, meta: Mapping[str, Any], config: Mapping[str, Any]) -> None:
    vocabulary = _vocabulary(commit)
    kept = _foreign(commit) or ({} if vocabulary is None else tokenizer_files.folder(vocabulary))
    generation = _generation(meta, config, vocabulary) | json.loads(kept.pop(GENERATION, b"{}"))
    for name, content in kept.items():
        files.write(output / name, content)
    ids = {key: value for key, value in generation.items() if key.endswith("_token_id")}
    files.write_json(output / CONFIG, {**ids, **config})  # of some families an id decides more than where a text ends
    files.write_json(output / GENERATION, generation)


def _foreign(commit: Commit) -> dict[str, bytes]:
    """The files of the tokenizer and of generation that an imported model had."""
    directory = commit.workdir / FOREIGN
    return {path.name: path.read_bytes() for path in directory.iterdir()} if directory.exists() else {}


def _vocabulary(commit: Commit) -> Vocabulary | None:
    directory = commit.workdir / ASSETS
    kept = next(iter(sorted(directory.iterdir())), None) if directory.exists() else None
    return None if kept is None else vocabulary_files.read(kept.read_bytes(), "--checkpoint", str(kept))


def _generation(meta: Mapping[str, Any], config: Mapping[str, Any], vocabulary: Vocabulary | None) -> dict[str, Any]:
    """Ids with which texts begin and end, as `generation_config.json` has them."""
    if vocabulary is None:
        return {}
    said = meta.get("generation", {})
    begin, end = said.get("begin", [vocabulary.pad_id]), said.get("end", -1)
    ids = {"eos_token_id": vocabulary.eos_id if end < 0 else end, "pad_token_id": vocabulary.pad_id}
    if config.get("is_encoder_decoder"):
        return {**ids, "decoder_start_token_id": begin[0] if begin else vocabulary.pad_id}
    return {**ids, **({"bos_token_id": begin[0]} if begin else {})}
