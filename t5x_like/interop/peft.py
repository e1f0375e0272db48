"""Adapters in the folder format of Hugging Face's `peft`, both ways: LoRA, rsLoRA, DoRA, IA³, prefixes and prompts.

A folder holds `adapter_config.json` and `adapter_model.safetensors`, whose keys begin with `base_model.model.` and the
name of a module of the base in `transformers`. A folder holds one adaptation; the base is not in it.
"""

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from etils import epath

from t5x_like.adaptations.base import Adaptation
from t5x_like.adaptations.ia3 import IA3
from t5x_like.adaptations.lora import LoRA
from t5x_like.adaptations.prefix import Prefix
from t5x_like.adaptations.prompt import PromptTuning
from t5x_like.checkpoint.layout import find
from t5x_like.errors import UserError
from t5x_like.interop import merging, tensor_file
from t5x_like.io import files
from t5x_like.models.tensor_steps import Transposed
from t5x_like.program import Program, program
from t5x_like.variables import Path

CONFIG, WEIGHTS, PREFIX = "adapter_config.json", "adapter_model.safetensors", "base_model.model."
KEY = "adapter"  # of an imported adaptation in the experiment

Arrays = dict[str, np.ndarray]
Values = Mapping[Path, Any]


@dataclasses.dataclass(frozen=True)
class NamedLinear:
    """A linear layer here and in `transformers`.

    Attributes:
      path: here, of the stacked layers where it is one of several.
      layer: which of those; None for one alone.
      name: there.
    """

    path: Path
    layer: int | None
    name: str


def export_adapter(checkpoint: str, output: epath.Path, adaptation: str = "", base: str = "") -> int:
    """Writes an adaptation of a checkpoint as a folder, and gives the number of its tensors.

    Args:
      checkpoint: a work directory, or one step inside it.
      output: the folder; missing, or empty.
      adaptation: its key in the experiment; empty where there is one.
      base: the name or path of the base model, for `base_model_name_or_path`.

    Raises:
      UserError: for a place that is taken, and an adaptation that the format has no place for.
    """
    merging.require_empty(output)
    commit = find(checkpoint)
    experiment = merging.experiment_of(commit)
    key = adaptation or next(iter(experiment.adaptations), "")
    if key not in experiment.adaptations or not adaptation and len(experiment.adaptations) > 1:
        known = ", ".join(experiment.adaptations) or "none"
        raise UserError(f"{commit.path} has the adaptations {known}; name one with --adaptation")
    run = program(experiment)
    values = {path: np.asarray(value) for path, value in merging.flat_values(merging.restore(commit, run)).items()}
    config, tensors = to_peft(experiment.adaptations[key], values, modules(run))
    files.make_directory(output)
    described = {name: (array.shape, array.dtype) for name, array in tensors.items()}
    tensor_file.write(output / WEIGHTS, described, iter(tensors.values()))
    task = "SEQ_2_SEQ_LM" if "encoder" in run.architecture.stacks else "CAUSAL_LM"
    files.write_json(output / CONFIG, {**config, "task_type": task, "base_model_name_or_path": base or None})
    return len(tensors)


def import_adapter(folder: epath.Path, checkpoint: str, output: epath.Path) -> int:
    """Writes a checkpoint with an adapter from a folder beside its layers, and gives the number of tensors.

    Args:
      folder: in `peft`'s format.
      checkpoint: of the base.
      output: the new work directory; missing, or empty.

    Raises:
      UserError: for a place that is taken, and an adapter of another base or of a kind that is not known here.
    """
    merging.require_empty(output)
    try:
        config = json.loads((folder / CONFIG).read_text())
        stored = tensor_file.stored_tensors(folder / WEIGHTS)
    except (FileNotFoundError, ValueError) as error:
        raise UserError(f"--path: {folder} is no folder of peft's ({error}); it needs {CONFIG} and {WEIGHTS}") from None
    tensors = {name: np.asarray(tensor.read(), np.float32) for name, tensor in stored.items()}
    commit = find(checkpoint)
    experiment = merging.experiment_of(commit)
    if experiment.adaptations:
        raise UserError(f"--checkpoint: {commit.path} is adapted already; give the base")
    base = program(experiment)
    adaptation, added = from_peft(config, tensors, base)
    adapted = dataclasses.replace(experiment, adaptations={KEY: adaptation})
    if isinstance(adaptation, PromptTuning):
        adapted = dataclasses.replace(adapted, data=dataclasses.replace(adapted.data, documents_per_row=1))
    run = program(adapted)
    values = {**merging.flat_values(merging.restore(commit, base)), **added}
    wanted = {path: tuple(shape.shape) for path, shape in merging.flat_values(run.abstract_state()).items()}
    for path in wanted:
        if path not in values or tuple(values[path].shape) != wanted[path]:
            there = tuple(values[path].shape) if path in values else "nothing"
            raise UserError(
                f"--path: {folder} is an adapter of another base: {'/'.join(path)} is {wanted[path]} here and {there}"
                " there"
            )
    merging.write(commit, adapted, run, {path: jax.numpy.asarray(values[path]) for path in wanted}, output)
    return len(tensors)


def modules(run: Program) -> list[NamedLinear]:
    """The linear layers of a program's model that are one layer in `transformers` too."""
    shapes = {".".join(path): tuple(x.shape) for path, x in merging.flat_values(run.abstract_state()).items()}
    plain = {path: shape for path, shape in shapes.items() if not _is_added(path)}
    found = []
    for tensor in run.architecture.names().tensors(plain):
        if len(tensor.parts) == 1 and tensor.steps == (Transposed(),) and tensor.key.endswith(".weight"):
            [part] = tensor.parts
            layer = part.index[0] if part.index else None
            found.append(NamedLinear(tuple(part.path.split(".")[:-1]), layer, tensor.key.removesuffix(".weight")))
    return found


def _is_added(path: str) -> bool:
    parts = path.split(".")
    return bool({"adapter", "rescale", "prefix", "prompt"} & {*parts}) or any(p.endswith("_adapter") for p in parts)


# --- From here to there -----------------------------------------------------------------------------------------------


def to_peft(adaptation: Adaptation, values: Values, known: Sequence[NamedLinear]) -> tuple[dict[str, Any], Arrays]:
    """The configuration and the tensors of an adaptation.

    Args:
      adaptation: its options.
      values: of every variable of the adapted model.
      known: from `modules`.

    Raises:
      UserError: for one that the format has no place for.
    """
    if isinstance(adaptation, LoRA):
        tensors = _of_modules(values, known, "adapter", _LORA)
        config = {
            "peft_type": "LORA",
            "r": adaptation.rank,
            "lora_alpha": adaptation.alpha,
            "use_rslora": adaptation.rank_stabilized,
            "use_dora": adaptation.magnitude,
            "lora_dropout": 0.0,
            "bias": "none",
        }
        return {**config, "target_modules": _targets(tensors, "lora_A.weight")}, tensors
    if isinstance(adaptation, IA3):
        inputs = {
            ".".join(path[:-2]) for path in values if path[-1] == "factors" and _rescales_inputs(adaptation, path)
        }
        tensors = _of_modules(values, known, "rescale", {"factors": ("ia3_l", lambda x: x[:, None], np.ravel)})
        names = {module.name: ".".join(module.path) for module in known}
        rows = {f"{PREFIX}{name}.ia3_l" for name, path in names.items() if path in inputs}
        tensors = {key: array.T.copy() if key in rows else array for key, array in tensors.items()}
        targets = _targets(tensors, "ia3_l")
        forward = [name for name in targets if f"{PREFIX}{name}.ia3_l" in rows]
        return {"peft_type": "IA3", "target_modules": targets, "feedforward_modules": forward}, tensors
    if isinstance(adaptation, PromptTuning):
        [rows_pd] = [value for path, value in values.items() if path[-2:] == ("prompt", "rows")]
        config = {"peft_type": "PROMPT_TUNING", "num_virtual_tokens": adaptation.length, "token_dim": rows_pd.shape[1]}
        return config, {"prompt_embeddings": rows_pd}
    if isinstance(adaptation, Prefix):
        return _prefix_to_peft(adaptation, values)
    raise UserError(f"peft's format has no place for the adaptation {adaptation.name!r}")


_LORA: Mapping[str, tuple[str, Callable[..., Any], Callable[..., Any]]] = {
    "lora_a": ("lora_A.weight", np.transpose, np.transpose),
    "lora_b": ("lora_B.weight", np.transpose, np.transpose),
    "lora_magnitude": ("lora_magnitude_vector", np.asarray, np.ravel),
}


def _rescales_inputs(adaptation: IA3, path: Path) -> bool:
    from t5x_like.objectives.roles import matches_path

    return any(matches_path(glob, path[:-2]) for glob in adaptation.input_paths)


def _of_modules(values: Values, known: Sequence[NamedLinear], place: str, kinds: Mapping[str, Any]) -> Arrays:
    """The tensors of what stands beside linear layers, by the names of those there."""
    left = {path for path in values if place in path and path[-1] in kinds}
    tensors: Arrays = {}
    for module in known:
        for name, (key, there, _) in kinds.items():
            path = (*module.path, place, name)
            if path in values:
                left.discard(path)
                value = values[path] if module.layer is None else values[path][module.layer]
                tensors[f"{PREFIX}{module.name}.{key}"] = np.ascontiguousarray(there(value))
    if left:
        raise UserError(
            f"{'/'.join(min(left)[:-2])} is no layer of its own in transformers, so that peft has no name for it"
        )
    return dict(sorted(tensors.items()))


def _targets(tensors: Arrays, key: str) -> list[str]:
    return sorted(name.removeprefix(PREFIX).removesuffix(f".{key}") for name in tensors if name.endswith(key))


_PREFIXED = ("blocks", "layer", "attention", "prefix")


def _prefix_to_peft(adaptation: Prefix, values: Values) -> tuple[dict[str, Any], Arrays]:
    if (*_PREFIXED, "keys") not in values or not adaptation.takes_positions:
        raise UserError(
            "peft's prefixes are of all layers of one stack, and take positions; train with takes_positions, and no"
            " pattern"
        )
    both = [values[*_PREFIXED, name] for name in ("keys", "values")]  # [layers, prefix, heads, width]
    layers, p, heads, width = both[0].shape
    flat = np.stack(both, 1).transpose(2, 0, 1, 3, 4).reshape(p, -1)
    config = {
        "peft_type": "PREFIX_TUNING",
        "num_virtual_tokens": p,
        "token_dim": heads * width,
        "num_attention_heads": heads,
        "num_layers": layers,
        "prefix_projection": False,
    }
    return config, {"prompt_embeddings": np.ascontiguousarray(flat)}


# --- From there to here -----------------------------------------------------------------------------------------------


def from_peft(config: Mapping[str, Any], tensors: Arrays, base: Program) -> tuple[Adaptation, dict[Path, np.ndarray]]:
    """The adaptation in a folder, and the values of what it adds.

    Args:
      config: of the folder.
      tensors: of the folder, by key.
      base: the program of the model that it is for.

    Raises:
      UserError: for a kind or an option that is not known here, and for modules that the base has not.
    """
    kind = config.get("peft_type")
    for option in ("rank_pattern", "alpha_pattern", "modules_to_save", "lora_bias", "layers_to_transform"):
        if config.get(option):
            raise UserError(f"--path: the adapter's {option} is {config[option]!r}, which is not understood here")
    if kind == "LORA":
        values = _to_modules(tensors, modules(base), "adapter", _LORA)
        return LoRA(
            paths=_globs(values, "lora_a"),
            rank=int(config["r"]),
            alpha=float(config["lora_alpha"]),
            rank_stabilized=bool(config.get("use_rslora")),
            magnitude=bool(config.get("use_dora")),
        ), values
    if kind == "IA3":
        values = _to_modules(tensors, modules(base), "rescale", {"ia3": ("ia3_l", None, np.ravel)}, name="factors")
        rows = {name.removesuffix(".ia3_l") for name, array in tensors.items() if array.shape[0] == 1}
        paths = {module.path for module in modules(base) if f"{PREFIX}{module.name}" in rows}
        inner = {path: value for path, value in values.items() if path[:-2] in paths}
        outer = {path: value for path, value in values.items() if path[:-2] not in paths}
        return IA3(paths=_globs(outer, "factors"), input_paths=_globs(inner, "factors")), values
    if kind == "PROMPT_TUNING":
        rows_pd = tensors["prompt_embeddings"]
        path = ("encoder", "prompt", "rows") if "encoder" in base.architecture.stacks else ("prompt", "rows")
        return PromptTuning(length=len(rows_pd)), {path: rows_pd}
    if kind == "PREFIX_TUNING":
        return _prefix_from_peft(config, tensors["prompt_embeddings"], base)
    raise UserError(
        f"--path: an adapter of the kind {kind!r} is not known here; LORA, IA3, PREFIX_TUNING and PROMPT_TUNING are"
    )


def _to_modules(
    tensors: Arrays, known: Sequence[NamedLinear], place: str, kinds: Mapping[str, Any], name: str = ""
) -> dict[Path, np.ndarray]:
    """Variables, stacked over layers, from tensors by the names of modules there."""
    left = set(tensors)
    parts: dict[Path, Any] = {}
    for module in known:
        for own, (key, _, here) in kinds.items():
            full = f"{PREFIX}{module.name}.{key}"
            if full in tensors:
                left.discard(full)
                parts.setdefault((*module.path, place, name or own), {})[module.layer] = here(tensors[full])
    if left:
        raise UserError(f"--path: the base has no linear layer for {min(left)} of the adapter")
    counts = {path: sum(module.path == path[:-2] for module in known) for path in parts}
    for path, layers in parts.items():
        if len(layers) < counts[path]:
            raise UserError(
                f"--path: the adapter has {'/'.join(path[:-2])} in some layers alone; here all have it, or none"
            )
    return {
        path: layers[None] if None in layers else np.stack([layers[i] for i in sorted(layers)])
        for path, layers in parts.items()
    }


def _globs(values: Values, name: str) -> tuple[str, ...]:
    return tuple(sorted("/".join(path[:-2]) for path in values if path[-1] == name))


def _prefix_from_peft(
    config: Mapping[str, Any], flat: np.ndarray, base: Program
) -> tuple[Adaptation, dict[Path, np.ndarray]]:
    if config.get("prefix_projection"):
        raise UserError("--path: the adapter projects its prefix, which is not understood here")
    kernel = merging.flat_values(base.abstract_state()).get(("blocks", "layer", "attention", "key", "kernel"))
    heads = int(config["num_attention_heads"])
    if kernel is None or flat.shape[1] != 2 * kernel.shape[0] * kernel.shape[2]:
        raise UserError("--path: the prefix is of a model with other layers or heads than the base")
    both = flat.reshape(len(flat), kernel.shape[0], 2, heads, -1).transpose(2, 1, 0, 3, 4)
    paths: dict[Path, np.ndarray] = {(*_PREFIXED, name): both[part] for part, name in enumerate(("keys", "values"))}
    return Prefix(path="blocks/**/attention", length=len(flat), takes_positions=True), paths
