"""Translation of `utils.DatasetConfig`: what is trained on, and what is measured, with which objective."""

import math
from collections.abc import Mapping
from typing import Any

from t5x_like import registry
from t5x_like.frontends.gin.calls import PAGE, Call
from t5x_like.frontends.gin.models import DECODER_ONLY
from t5x_like.frontends.gin.translation import GinTranslation

DATASET = "t5x.utils.DatasetConfig"
_LANES = 32  # at most, where a batch has so many rows
_PAIR = {"inputs", "targets"}
_FROM_FILE = "t5x.infer.create_task_from_tfexample_file"
_EITHER = {
    "use_custom_packing_ops": "rows are packed by this program",
    "use_memory_cache": "of the examples of an evaluation, tokens alone are kept",
    "num_prefetch_threads": "data.prefetch and data.workers say so",
    "num_workers": "data.workers says so",
}


def training(to: GinTranslation, run: Call, argument: str, model: Call | None) -> Call:
    """Translates the dataset that is trained on, and the objective that it asks for."""
    call = dataset(to, run, argument)
    task = task_section(to, call)
    to.set("data.task", task, call.arguments["mixture_or_task_name"].label)
    to.field(call, "split", "data.split")
    to.field(call, "batch_size", "data.batch_size")
    to.set("data.lanes", lanes(call["batch_size"]))
    to.field(call, "shuffle", "data.shuffle")
    if task["name"] == "seqio":
        to.set("data.streaming", True)  # as T5X does: a corpus may be larger than memory
    if call["seed"] is None:
        to.note(call, "seed", "any seed will do: the order follows from the experiment's, and is the same when resumed")
    else:
        to.field(call, "seed", "data.seed")
    if not call["pack"]:
        to.set("data.documents_per_row", 1, call.arguments["pack"].label)
    to.note(call, "pack", "rows are packed" if call["pack"] else "data.documents_per_row = 1")
    objective(to, call, task, model)
    return call


def dataset(to: GinTranslation, run: Call, argument: str) -> Call:
    """The dataset of a run; its module is among those that are imported."""
    call = to.begin(run[argument], DATASET, of=run, argument=argument)
    to.note(run, argument, f"@{call.short}")
    to.harmless(call, _EITHER)
    to.only(
        call,
        {
            "trim_output_features": ((True,), "features are cut to their lengths"),
            "runtime_preprocessors": ((None,), "they are AirIO's; give the task preprocessors"),
        },
    )
    to.note(call, "module", "imported first" if call["module"] else "none")
    return call


def task_section(to: GinTranslation, call: Call) -> dict[str, Any]:
    """`data.task`, of a dataset: one of our own tasks by its name, else SeqIO's task or mixture."""
    name = call["mixture_or_task_name"]
    if isinstance(name, Call):
        to.begin(name, _FROM_FILE, of=call, argument="mixture_or_task_name")
        to.note(call, "mixture_or_task_name", f"@{name.short}")
        return {"name": "seqio", "mixture": "t5x_like_tf_examples"}
    to.note(call, "mixture_or_task_name", f"data.task of {name!r}")
    if name in registry.names("task"):
        if call["use_cached"]:
            raise call.error(
                "use_cached",
                f"task {name!r} keeps its tokens in a cache of its own, and only SeqIO's tasks have the one this means;"
                " set it to False",
            )
        to.note(call, "use_cached", "none is needed")
        return {"name": name}
    section: dict[str, Any] = {"name": "seqio", "mixture": name, "use_cached": bool(call["use_cached"])}
    to.note(call, "use_cached", f"data.task.use_cached = {call['use_cached']!r}")
    return section


def objective(to: GinTranslation, call: Call, task: Mapping[str, Any], model: Call | None) -> None:
    """The objective that the features and the model ask for, and the lengths of a row."""
    lengths = feature_lengths(call)
    argument = "task_feature_lengths"
    to.note(call, argument, f"lengths of a row: {lengths}")
    label = call.arguments[argument].label
    if lengths is None:
        raise call.error(argument, "None leaves the lengths open, and training needs them; give {'inputs': 512, …}")
    seqio = task["name"] == "seqio"
    if model is not None and model.name == DECODER_ONLY:
        if set(lengths) == _PAIR and seqio:
            bidirectional = bool(model["inputs_bidirectional_attention"])
            to.set("objective.name", "completion_lm", label)
            to.set("objective.bidirectional_inputs", bidirectional, label)
            to.set("data.sequence_length", lengths["inputs"] + lengths["targets"], label)
            to.set("data.task.features", lengths, label)
        elif set(lengths) == {"targets"}:
            to.set("objective.name", "causal_lm", label)
            to.set("data.sequence_length", lengths["targets"], label)
        else:
            raise call.error(argument, f"{lengths!r} does not fit a decoder; write {{'targets': 256}} ({PAGE})")
    elif set(lengths) == _PAIR:
        to.set("objective.name", "seq2seq" if seqio else "span_corruption", label)
        to.set("objective.target_length", lengths["targets"], label)
        to.set("data.sequence_length", lengths["inputs"], label)
        if seqio:
            to.set("data.task.features", lengths, label)
    elif set(lengths) == {"targets"} and model is None:
        to.set("data.sequence_length", lengths["targets"], label)
    else:
        problem = f"{lengths!r} does not fit an encoder and a decoder; write {{'inputs': 512, 'targets': 114}}"
        raise call.error(argument, problem)
    if model is not None:
        to.set("model.max_length", max(512, to.values["data"]["sequence_length"]))


def feature_lengths(call: Call) -> dict[str, int] | None:
    """The lengths of a dataset's features; None where T5X takes the longest there is."""
    found = call["task_feature_lengths"]
    if found is None:
        return None
    if not isinstance(found, Mapping) or not all(type(length) is int and length > 0 for length in found.values()):
        raise call.error("task_feature_lengths", f"{found!r} is no dictionary of lengths; write {{'inputs': 512, …}}")
    return dict(found)


def loss_evaluator(to: GinTranslation, run: Call, argument: str, trained: Call) -> dict[str, Any]:
    """The evaluator that measures the loss of so many batches of a split: T5X's training evaluation."""
    call = dataset(to, run, argument)
    evaluator: dict[str, Any] = {
        "name": "loss",
        "split": call["split"],
        "every": run["eval_period"],
        "batch_size": call["batch_size"],
        "batches": run["eval_steps"],
        "skip_missing": True,
    }
    task, lengths = task_section(to, call), feature_lengths(call)
    if lengths is None or lengths != feature_lengths(trained):
        raise call.error("task_feature_lengths", "rows have the lengths of training when the loss is measured")
    if task["name"] == "seqio":
        if set(lengths) == _PAIR:
            task["features"] = lengths
        rows = run["eval_steps"] * call["batch_size"]
        evaluator["task"] = task | {"first_tokens": rows * sum(lengths.values())}  # as many as all batches hold
    for name in ("split", "batch_size", "task_feature_lengths"):
        to.note(call, name, f"evaluators.train_eval.{name}")
    _in_order(to, call)
    to.note(call, "pack", "rows are filled as in training; each target counts once either way")
    return evaluator


def seqio_evaluator(to: GinTranslation, run: Call, argument: str, decoding: Mapping[str, Any]) -> dict[str, Any] | None:
    """The evaluator that has SeqIO measure predictions and scores; None for a task that has no metrics of SeqIO's."""
    call = dataset(to, run, argument)
    task, lengths = task_section(to, call), feature_lengths(call) or {}
    for name in ("split", "batch_size", "task_feature_lengths"):
        to.note(call, name, f"evaluators.infer_eval: {call[name]!r}")
    _in_order(to, call)
    to.note(call, "pack", "an example is read by itself")
    options = _metrics(to, run)
    if task["name"] != "seqio":
        to.note(run, argument, f"task {task['name']!r} has no metrics of SeqIO's, so nothing is measured")
        return None
    evaluator: dict[str, Any] = {
        "name": "seqio",
        "mixture": task["mixture"],
        "use_cached": task.get("use_cached", False),
        "split": call["split"],
        "features": lengths,
        "tokens": lengths.get("targets", 0),
        "examples": options["num_examples"] or 0,
        **{name: value for name, value in decoding.items() if name != "all"},
    }
    if "eval_period" in run.arguments:
        evaluator |= {"every": run["eval_period"], "skip_missing": True}
    return evaluator


def lanes(batch_size: Any) -> int:
    """The independent sequences of rows in a batch: as many as a power of two up to 32 divides it into."""
    return math.gcd(batch_size, _LANES) if isinstance(batch_size, int) and batch_size > 0 else 1


def _in_order(to: GinTranslation, call: Call) -> None:
    """An evaluation reads a split in its order, and so takes no seed."""
    to.only(call, {"shuffle": ((False,), "an evaluation reads a split in its order")})
    to.harmless(call, {"seed": "an evaluation reads a split in its order"})


def _metrics(to: GinTranslation, run: Call) -> Call:
    """`seqio.Evaluator` with its loggers."""
    argument = "inference_evaluator_cls"
    call = to.begin(run[argument], "seqio.Evaluator", of=run, argument=argument)
    to.note(run, argument, f"@{call.short}")
    to.note(call, "num_examples", "all" if call["num_examples"] is None else f"{call['num_examples']} of each task")
    to.only(call, {"target_field_name": (("targets",), "the feature that is measured is called targets")})
    reason = "metrics are always written: of a run with its own, of an evaluation as JSON lines"
    to.harmless(
        call, {"logger_cls": reason, "use_memory_cache": "tokens are kept", "async_compute_metrics": "they wait"}
    )
    for logger in call["logger_cls"] or ():
        to.begin(logger, "seqio.PyLoggingLogger", "seqio.TensorBoardLogger", "seqio.JSONLogger", of=call)
        if "write_n_results" in logger.arguments:
            to.only(logger, {"write_n_results": ((None,), "every prediction is written")})
    return call
