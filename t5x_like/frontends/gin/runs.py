"""Translation of T5X's programs: `train`, `evaluate`, `infer`, `save` of an export, and `precompile`."""

import math
from dataclasses import dataclass
from typing import Any

from t5x_like.frontends.gin import checkpoints, datasets, models, optimizers
from t5x_like.frontends.gin.calls import Bindings, Call
from t5x_like.frontends.gin.translation import GinTranslation

_PARTITIONER = "t5x.partitioning.PjitPartitioner"
_RULES = "t5x.partitioning.standard_logical_axis_rules"
_PROGRAM = {
    "use_orbax": "one kind of checkpoint is written",
    "train_state_initializer_cls": "initialize says where the first values come from",
    "summarize_config_fn": "the experiment is written beside the checkpoints",
}


@dataclass(frozen=True)
class CheckpointJob:
    """Evaluation, inference or export of checkpoints, as gin says it.

    Attributes:
      checkpoints: paths of what is restored, in order; with `every`, directories whose checkpoints are all taken.
      every: whether a path stands for every checkpoint in it, T5X's mode `all`.
      output: a directory.
      options: of the program, by name.
    """

    checkpoints: tuple[str, ...]
    every: bool
    output: str
    options: dict[str, Any]


def train(to: GinTranslation, call: Call, bindings: Bindings) -> None:
    """Translates a training run."""
    model = models.model(to, call)
    trained = datasets.training(to, call, "train_dataset_cfg", model)
    source = checkpoints.checkpoints(to, call)
    checkpoints.total_steps(to, call, source)
    if model is not None and model["optimizer_def"].name == optimizers.ADAFACTOR:
        checkpoints.check_step_offset(to, model["optimizer_def"], source)
    _trainer(to, call, model)
    partitioner(to, call)
    _seed(to, call)
    _evaluators(to, call, bindings, model, trained)
    to.note(call, "model_dir", "the work directory")
    to.field(call, "run_eval_before_training", "evaluate_first")
    if call["stats_period"] is None:
        to.note(call, "stats_period", "telemetry.every")
    else:
        to.field(call, "stats_period", "telemetry.every")
    to.harmless(
        call,
        {
            **_PROGRAM,
            "use_hardware_rng": "random numbers are drawn on the device, and follow from the seed",
            "concurrent_metrics": "metrics are read while the next step runs",
            "gc_period": "no garbage is collected during a step",
            "verify_matching_vocabs_fn": "the vocabularies are compared when the run begins",
        },
    )
    to.only(
        call,
        {
            "get_dataset_fn": (("t5x.utils.get_dataset",), "the task makes the examples"),
            "train_eval_get_dataset_fn": (("t5x.utils.get_training_eval_datasets",), "the task makes the examples"),
        },
    )
    _actions(to, call)


def precompile(to: GinTranslation, call: Call, bindings: Bindings) -> None:
    """Translates the compilation ahead of a training run; it trains one step."""
    datasets.training(to, call, "train_dataset_cfg", models.model(to, call))
    partitioner(to, call)
    _seed(to, call)
    to.note(call, "model_dir", "the work directory")
    to.harmless(call, {"verify_matching_vocabs_fn": "the vocabularies are compared when the run begins"})
    to.only(call, {"get_dataset_fn": (("t5x.utils.get_dataset",), "the task makes the examples")})


def evaluate(to: GinTranslation, call: Call, bindings: Bindings) -> CheckpointJob:
    """Translates an evaluation of checkpoints."""
    model = _untrained(to, call)
    evaluator = datasets.seqio_evaluator(to, call, "dataset_cfg", _decoding(to, bindings, model))
    if evaluator is None:
        raise call.error("dataset_cfg", "the task has no metrics of SeqIO's; `t5x_like evaluate` measures its loss")
    to.set("evaluators", {"infer_eval": evaluator})
    to.set("data.task", {"name": "seqio", "mixture": evaluator["mixture"], "use_cached": evaluator["use_cached"]})
    partitioner(to, call)
    to.harmless(call, _PROGRAM)
    to.only(
        call,
        {
            "training_evaluator_cls": ((None,), "set evaluators.NAME.name = 'loss'"),
            "train_eval_get_dataset_fn": (("t5x.utils.get_training_eval_datasets",), "the task makes the examples"),
        },
    )
    return _job(to, call, {})


def infer(to: GinTranslation, call: Call, bindings: Bindings) -> CheckpointJob:
    """Translates inference over a task."""
    model = _untrained(to, call)
    data = datasets.dataset(to, call, "dataset_cfg")
    task = datasets.task_section(to, data)
    if task["name"] != "seqio":
        problem = f"{task['name']!r} is no task of SeqIO's; `t5x_like generate` continues texts"
        raise data.error("mixture_or_task_name", problem)
    to.set("data.task", task)
    lengths = datasets.feature_lengths(data) or {}
    for argument in ("split", "batch_size", "task_feature_lengths"):
        to.note(data, argument, f"{data[argument]!r}")
    to.only(data, {"shuffle": ((False,), "examples are read in their order")})
    to.harmless(data, {"seed": "examples are read in their order"})
    to.only(data, {"pack": ((False,), "an example is read by itself")})
    if call["mode"] not in ("predict", "score", "predict_with_aux"):
        raise call.error("mode", f"{call['mode']!r} is not known; it must be 'predict', 'score' or 'predict_with_aux'")
    for argument in ("mode", "checkpoint_period", "shard_id", "num_shards", "merge_chunked_results"):
        to.note(call, argument, f"{call[argument]!r}")
    for argument in ("file_extension", "output_vocab_feature_name"):
        to.note(call, argument, f"{call[argument]!r}")
    writer = to.begin(call["write_fn"], "t5x.infer.write_inferences_to_file", of=call, argument="write_fn")
    to.note(call, "write_fn", "JSON lines")
    for argument in writer.arguments:
        to.note(writer, argument, f"{writer[argument]!r}")
    partitioner(to, call)
    to.harmless(
        call,
        {
            **_PROGRAM,
            "checkpoint_ds_iter": "it goes on at the example after the last that is written",
            "keep_aux_as_numpy": "numbers are written as JSON has them",
            "verify_matching_vocabs_fn": "the vocabularies are compared when the run begins",
        },
    )
    to.only(call, {"merge_fn": (("t5x.infer.merge_chunks_to_file",), "parts are joined in their order")})
    options = {
        "mixture": task["mixture"],
        "files": _files(to, data),
        "split": data["split"],
        "use_cached": task.get("use_cached", False),
        "features": lengths,
        "batch_size": data["batch_size"],
        **{name: call[name] for name in ("mode", "checkpoint_period", "shard_id", "num_shards", "file_extension")},
        "merge": call["merge_chunked_results"],
        **{name: writer[name] for name in writer.arguments},
        "decoding": _decoding(to, bindings, model),
    }
    return _job(to, call, options)


def export(to: GinTranslation, call: Call, bindings: Bindings) -> CheckpointJob:
    """Translates an export; what is written is a Hugging Face folder, and no TensorFlow SavedModel."""
    _untrained(to, call)
    reason = "a Hugging Face folder is written, which says itself how it is called"
    served = (
        "batch_size create_decoding_state_callback_fn create_inference_function_fn create_polymorphic_shapes_fn"
        " create_postprocessor_fn create_preprocessor_fn decode_outputs enable_xla exportable_module_cls inference_mode"
        " mixture_or_task_name model_name native_lowering native_lowering_platforms output_features"
        " output_vocab_feature_name partitioner signature_name task_feature_lengths tokenized_inputs trailing_shapes"
        " validation_examples warmup_examples write_warmup_example_fn"
    )
    to.harmless(call, dict.fromkeys(served.split(), reason))
    return _job(to, call, {})


def partitioner(to: GinTranslation, run: Call) -> None:
    """Translates the layout over devices."""
    call = to.begin(run["partitioner"], _PARTITIONER, of=run, argument="partitioner")
    to.note(run, "partitioner", f"@{call.short}")
    submesh = call["model_parallel_submesh"]
    tensor = math.prod(submesh) if submesh else call["num_partitions"] or 1
    to.note(call, "model_parallel_submesh", "parallelism.tensor is the product")
    to.field(call, "num_partitions", "parallelism.tensor", tensor)
    to.harmless(call, {"params_on_devices": "parameters are on the devices", "backend": "JAX finds the devices"})
    reason = "parallelism.data, .fsdp and .tensor lay out the mesh"
    to.only(call, {"ici_mesh_shape": ((None,), reason), "dcn_mesh_shape": ((None,), reason)})
    to.note(call, "logical_axis_rules", "parallelism.rules")
    if call["logical_axis_rules"] is None:
        return
    rules = to.begin(call["logical_axis_rules"], _RULES, of=call, argument="logical_axis_rules")
    if rules["parameter_partitioning_dims"] == 2:
        to.field(rules, "parameter_partitioning_dims", "parallelism.strategy", "fsdp_tp" if tensor > 1 else "fsdp")
    reason = "set parallelism.strategy and parallelism.rules"
    to.only(rules, {"activation_partitioning_dims": ((1,), reason), "additional_rules": ((None, (), []), reason)})
    if rules["parameter_partitioning_dims"] not in (1, 2):
        raise rules.error("parameter_partitioning_dims", f"it must be 1 or 2; {reason}")
    to.note(rules, "parameter_partitioning_dims", "parallelism.strategy")


def _untrained(to: GinTranslation, call: Call) -> Call:
    """The model of a run that does not train it."""
    model = models.model(to, call)
    if model is None:
        raise call.error("model", "a checkpoint of one of our families is measured by `t5x_like evaluate`")
    to.set("objective.name", "seq2seq" if model.name == models.ENCODER_DECODER else "causal_lm")
    return model


def _decoding(to: GinTranslation, bindings: Bindings, model: Call | None) -> dict[str, Any]:
    """How the model chooses tokens; nothing for one of our families, which takes the likeliest."""
    if model is None:
        return {}
    return models.decoding(to, model, bindings.call(f"{model.name}.predict_batch_with_aux"))


def _job(to: GinTranslation, call: Call, options: dict[str, Any]) -> CheckpointJob:
    argument = "restore_checkpoint_cfg"
    config = to.begin(call[argument], checkpoints.RESTORE, of=call, argument=argument)
    to.note(call, argument, f"@{config.short}")
    paths = checkpoints.restore(to, config)
    if not paths:
        raise config.error("path", "it is empty; give a checkpoint")
    to.note(config, "path", "what is restored")
    to.note(config, "dtype", "parameters are cast to model.dtype where they are used")
    to.only(config, {"fallback_to_scratch": ((False,), "each variable must be in the checkpoint")})
    if "fallback_init_rng" in call.arguments:
        to.only(call, {"fallback_init_rng": ((None,), "each variable must be in the checkpoint")})
    output = call["output_dir"]
    if not isinstance(output, str):
        raise call.error("output_dir", f"{output!r} is no path; give one in quotes")
    to.note(call, "output_dir", f"{output!r}")
    return CheckpointJob(tuple(paths), config["mode"] == "all", output, options)


def _files(to: GinTranslation, data: Call) -> dict[str, Any] | None:
    """The files of `create_task_from_tfexample_file`, if the dataset is made of them."""
    found = data["mixture_or_task_name"]
    if not isinstance(found, Call):
        return None
    if found["file_type"] != "tfrecord":
        raise found.error("file_type", f"{found['file_type']!r} cannot be read; it must be 'tfrecord'")
    to.only(found, {"task_id": ((None,), "a task of files has one name")})
    for argument in found.arguments:
        to.note(found, argument, f"{argument} of the examples")
    for feature in found["features"].values():
        to.begin(feature, "seqio.Feature", of=found, argument="features")
        to.note(feature, "vocabulary", "the model's")
        to.note(feature, "add_eos", f"{feature['add_eos']!r}")
        to.only(feature, {"required": ((True, False), ""), "dtype": (("int32",), "ids"), "rank": ((1,), "ids")})
    vocabularies = {name: feature["vocabulary"] for name, feature in found["features"].items()}
    for name, vocabulary in vocabularies.items():
        if vocabulary.name.startswith("t5x.models.get_"):
            to.begin(vocabulary, vocabulary.name)
            to.note(vocabulary, "model", "its vocabulary")
            model = vocabulary["model"]
            argument = "vocabulary" if "vocabulary" in model.arguments else f"{name[:-1]}_vocabulary"
            argument = {"inputs": "input_vocabulary", "targets": "output_vocabulary"}.get(name, argument)
            vocabularies[name] = model["vocabulary" if "vocabulary" in model.arguments else argument]
    return {
        "paths": found["paths"],
        "inputs_key": found["inputs_key"],
        "targets_key": found["targets_key"],
        "vocabularies": {
            name: {"name": vocabulary.name, **{key: given.value for key, given in vocabulary.arguments.items()}}
            for name, vocabulary in vocabularies.items()
        },
        "add_eos": {name: feature["add_eos"] for name, feature in found["features"].items()},
    }


def _trainer(to: GinTranslation, run: Call, model: Call | None) -> None:
    trainer = to.begin(run["trainer_cls"], "t5x.trainer.Trainer", of=run, argument="trainer_cls")
    to.note(run, "trainer_cls", f"@{trainer.short}")
    to.field(trainer, "num_microbatches", "parallelism.microbatches", trainer["num_microbatches"] or 1)
    to.only(trainer, {"weight_metrics_computer": ((None,), "norms of gradients and updates are always measured")})
    optimizers.trainer_rate(to, trainer, model)


def _seed(to: GinTranslation, run: Call) -> None:
    if run["random_seed"] is None:
        to.note(run, "random_seed", "any seed will do: 0, so that the run can be repeated")
    else:
        to.field(run, "random_seed", "seed")


def _evaluators(to: GinTranslation, run: Call, bindings: Bindings, model: Call | None, trained: Call) -> None:
    evaluators: dict[str, Any] = {}
    if run["train_eval_dataset_cfg"] is None:
        to.note(run, "train_eval_dataset_cfg", "none")
    else:
        evaluators["train_eval"] = datasets.loss_evaluator(to, run, "train_eval_dataset_cfg", trained)
    to.note(run, "eval_steps", "batches of evaluators.train_eval")
    to.note(run, "eval_period", "every of the evaluators")
    if run["infer_eval_dataset_cfg"] is None:
        to.note(run, "infer_eval_dataset_cfg", "none")
        to.harmless(run, {"inference_evaluator_cls": "nothing is predicted"})
    else:
        decoding = _decoding(to, bindings, model)
        found = datasets.seqio_evaluator(to, run, "infer_eval_dataset_cfg", decoding)
        evaluators |= {"infer_eval": found} if found else {}
    to.set("evaluators", evaluators)


def _actions(to: GinTranslation, run: Call) -> None:
    """T5X's actions: to end a run whose loss is not finite is what this program does by itself."""
    for found in (run["actions"] or {}).values():
        for action in found:
            to.begin(action, "t5x.trainer.TerminateOnNanAction", of=run, argument="actions")
            to.harmless(action, dict.fromkeys(action.arguments, "optimizer.nonfinite_limit ends such a run"))
    to.note(run, "actions", "a run whose loss is not finite ends by itself")
