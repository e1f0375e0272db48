"""The meaning of T5X's runs and models, as its source gives it: sizes, batches, schedules, losses, decoding.

The values are those of google-research/t5x at cc342d4, by hand. The files here that stand in for its own must come to
them, and so must its own: `tools/t5x_tree.py TREE` reads those, which are not part of this repository.
"""

import dataclasses

import numpy as np
import pytest

from t5x_like.frontends.gin.load import load

LENGTHS = "TASK_FEATURE_LENGTHS = {'inputs': 512, 'targets': 114}"
TASK = ["MIXTURE_OR_TASK_NAME = 'mine'", LENGTHS]
TRAIN = [*TASK, "TRAIN_STEPS = 2_000_000", "MODEL_DIR = 'runs/a'"]
RUNS = {
    "pretrain": ("train", [*TRAIN, "DROPOUT_RATE = 0.0"]),
    "finetune": ("train", [*TRAIN, "DROPOUT_RATE = 0.1", "INITIAL_CHECKPOINT_PATH = 'a/checkpoint_1000000'"]),
    "eval": ("eval", [TASK[0], "DROPOUT_RATE = 0.0", "CHECKPOINT_PATH = 'runs/a'", "EVAL_OUTPUT_DIR = 'out'"]),
    "infer": ("infer", [*TASK, "DROPOUT_RATE = 0.0", "CHECKPOINT_PATH = 'runs/a'", "INFER_OUTPUT_DIR = 'out'"]),
}
# Encoder and decoder layers, width, heads, width of a head, hidden width.
SIZES = {
    "t5_1_0/small": (6, 6, 512, 8, 64, 2048),
    "t5_1_0/base": (12, 12, 768, 12, 64, 3072),
    "t5_1_0/large": (24, 24, 1024, 16, 64, 4096),
    "t5_1_0/3B": (24, 24, 1024, 32, 128, 16384),
    "t5_1_0/11B": (24, 24, 1024, 128, 128, 65536),
    "t5_1_1/small": (8, 8, 512, 6, 64, 1024),
    "t5_1_1/base": (12, 12, 768, 12, 64, 2048),
    "t5_1_1/large": (24, 24, 1024, 16, 64, 2816),
    "t5_1_1/xl": (24, 24, 2048, 32, 64, 5120),
    "t5_1_1/xxl": (24, 24, 4096, 64, 64, 10240),
    "mt5/small": (8, 8, 512, 6, 64, 1024),
    "mt5/base": (12, 12, 768, 12, 64, 2048),
    "mt5/large": (24, 24, 1024, 16, 64, 2816),
    "mt5/xl": (24, 24, 2048, 32, 64, 5120),
    "mt5/xxl": (24, 24, 4096, 64, 64, 10240),
    "byt5/small": (12, 4, 1472, 6, 64, 3584),
    "byt5/base": (18, 6, 1536, 12, 64, 3968),
    "byt5/large": (36, 12, 1536, 16, 64, 3840),
    "byt5/xl": (36, 12, 2560, 32, 64, 6720),
    "byt5/xxl": (36, 12, 4672, 64, 64, 12352),
}
# Vocabulary, activation, whether it is gated, whether the head is the token table.
FAMILIES = {
    "t5_1_0": (32128, "relu", False, True),
    "t5_1_1": (32128, "gelu", True, False),
    "mt5": (250112, "gelu", True, False),
    "byt5": (384, "gelu", True, False),
}
# The learning rate of steps 1, 1000, 10,000 and 100,000.
SCHEDULES = {"pretrain": (1e-2, 1e-2, 1e-2, 0.0031622776), "finetune": (1e-3, 1e-3, 1e-3, 1e-3)}


def of(run, model="t5_1_1/small", *more):
    mode, flags = RUNS[run]
    return load([f"gin/models/{model}.gin", f"gin/runs/{run}.gin"], [*flags, *more], [], mode)


@pytest.mark.parametrize("model", SIZES)
def test_sizes(model):
    found = of("pretrain", model).experiment.model
    layer = found.encoder.layer
    attention, hidden = layer.attention, layer.feed_forward
    assert (found.encoder.layers, found.decoder.layers, found.embed) == SIZES[model][:3]
    assert (attention.heads, attention.head_dim, hidden.hidden) == SIZES[model][3:]
    assert found.decoder.layer == layer and attention.kv_heads == attention.heads and not attention.scaled
    vocabulary, activation, gated, tied = FAMILIES[model.split("/")[0]]
    assert (found.vocab_size, hidden.activation, hidden.gated) == (vocabulary, activation, gated)
    assert found.head.name == ("tied" if tied else "untied") and (not tied or found.head.rescaled)
    assert found.dtype == "bfloat16" and (layer.norm.kind, layer.norm.epsilon) == ("rmsnorm", 1e-6)
    positions = found.decoder.positions
    assert (positions.name, positions.buckets, positions.distance) == ("relative", 32, 128)


@pytest.mark.parametrize("model", [f"{family}/base" for family in FAMILIES])
@pytest.mark.parametrize("run", RUNS)
def test_every_run_has_every_models_loss_and_dropout(run, model):
    found = of(run, model).experiment
    assert found.model.dropout == (0.1 if run == "finetune" else 0.0)
    objective = found.objective
    assert (objective.name, objective.z_loss, objective.label_smoothing) == ("seq2seq", 1e-4, 0.0)
    assert objective.normalization == 1.0  # T5X's None: a sum


@pytest.mark.parametrize("run", SCHEDULES)
def test_what_is_trained_on(run):
    data = of(run).experiment.data
    assert (data.batch_size, data.sequence_length, data.split, data.shuffle) == (128, 512, "train", True)
    assert data.documents_per_row == 0  # rows are packed
    assert (data.task.mixture, dict(data.task.features)) == ("mine", {"inputs": 512, "targets": 114})
    assert data.task.use_cached and data.streaming and data.seed is None
    assert of(run).experiment.objective.target_length == 114


@pytest.mark.parametrize("run", SCHEDULES)
def test_optimizer_and_schedule(run):
    found = of(run).experiment
    optimizer = found.optimizer
    assert (optimizer.name, optimizer.decay_rate, optimizer.clip_threshold) == ("adafactor", 0.8, 1.0)
    assert (optimizer.min_factored_size, optimizer.parameter_scale, optimizer.momentum) == (128, True, 0.0)
    assert (optimizer.weight_decay, optimizer.clip_norm, optimizer.clip_value) == (0.0, 0.0, 0.0)
    rates = optimizer.schedule(np.array([1, 1000, 10_000, 100_000]), optimizer.learning_rate, found.steps)
    np.testing.assert_allclose(rates, SCHEDULES[run], rtol=1e-6)
    assert (found.parallelism.microbatches, found.parallelism.tensor, found.parallelism.remat) == (1, 1, "none")


def test_pretraining_is_saved_and_measured_every_thousand_steps():
    found = of("pretrain").experiment
    assert found.steps == 2_000_000 and found.initialize.checkpoint == "" and not found.initialize.keep_step
    assert (found.checkpoint.every, found.checkpoint.keep_every) == (1000, 1)  # each stays
    assert found.evaluators.keys() == {"train_eval"}
    evaluator = found.evaluators["train_eval"]
    assert (evaluator.split, evaluator.every, evaluator.batches, evaluator.batch_size) == ("validation", 1000, 20, 128)


def test_finetuning_counts_from_the_checkpoint_and_predicts():
    found = of("finetune").experiment
    assert found.steps == 2_000_000 and found.initialize.checkpoint == "a/checkpoint_1000000"
    assert found.initialize.keep_step and not found.initialize.fresh_optimizer and not found.initialize.missing
    assert (found.checkpoint.every, found.checkpoint.keep_every) == (5000, 1)
    assert found.evaluators.keys() == {"train_eval", "infer_eval"}
    evaluator = found.evaluators["infer_eval"]
    assert (evaluator.mixture, evaluator.split, evaluator.every) == ("mine", "validation", 1000)
    assert (dict(evaluator.features), evaluator.tokens, evaluator.examples) == ({}, 0, 0)  # the longest; all
    assert (evaluator.beams, evaluator.length_penalty) == (1, 0.6)
    relative = of("finetune", "t5_1_1/small", "TRAIN_STEPS_RELATIVE = 20_000").experiment
    assert relative.steps == 1_020_000


def test_evaluation():
    run = of("eval")
    assert (run.job.checkpoints, run.job.every, run.job.output) == (("runs/a",), False, "out")
    evaluator = run.experiment.evaluators["infer_eval"]
    assert (evaluator.mixture, evaluator.split, evaluator.use_cached) == ("mine", "test", False)
    assert (evaluator.beams, evaluator.length_penalty, dict(evaluator.features)) == (1, 0.6, {})


def test_inference():
    run = of("infer")
    options = run.job.options
    assert (run.job.checkpoints, run.job.output, options["mode"], options["split"]) == (
        ("runs/a",),
        "out",
        "predict",
        "test",
    )
    assert (options["batch_size"], options["checkpoint_period"], options["num_shards"]) == (32, 100, 1)
    assert options["features"] == {"inputs": 512, "targets": 114} and not options["use_cached"]
    assert options["decoding"] == {"beams": 1, "length_penalty": 0.6, "all": False}


@pytest.mark.parametrize(
    ("binding", "path", "value"),
    [
        # A lone argument of the schedule leaves T5X's defaults, and not others', beside it.
        ("utils.create_learning_rate_scheduler.base_learning_rate = 2.0", "optimizer.learning_rate", 2.0),
        ("utils.create_learning_rate_scheduler.warmup_steps = 5", "optimizer.schedule.warmup_steps", 5),
        ("utils.create_learning_rate_scheduler.factors = 'constant'", "optimizer.schedule.factors", "constant"),
        # None means off.
        ("adafactor.Adafactor.clipping_threshold = None", "optimizer.clip_threshold", 0.0),
        ("utils.CheckpointConfig.save = None", "checkpoint.every", 0),
        ("utils.CheckpointConfig.restore = None", "initialize.checkpoint", ""),
        ("utils.SaveCheckpointConfig.period = None", "checkpoint.every", 0),
        ("utils.SaveCheckpointConfig.keep = 2", "checkpoint.keep", 2),
        ("trainer.Trainer.num_microbatches = 0", "parallelism.microbatches", 1),
        ("trainer.Trainer.num_microbatches = 4", "parallelism.microbatches", 4),
        ("train/utils.DatasetConfig.pack = False", "data.documents_per_row", 1),
        ("train/utils.DatasetConfig.shuffle = False", "data.shuffle", False),
        ("train/utils.DatasetConfig.seed = 0", "data.seed", 0),
        ("partitioning.PjitPartitioner.model_parallel_submesh = (1, 1, 1, 2)", "parallelism.tensor", 2),
        ("partitioning.standard_logical_axis_rules.parameter_partitioning_dims = 2", "parallelism.strategy", "fsdp"),
        ("network.T5Config.remat_policy = 'minimal'", "parallelism.remat", "save_dots"),
        ("LOSS_NORMALIZING_FACTOR = 233472", "objective.normalization", 233472.0),
        ("LOSS_NORMALIZING_FACTOR = 'AVERAGE_PER_SEQUENCE'", "objective.normalization", "per_sequence"),
        ("train.stats_period = 250", "telemetry.every", 250),
        ("train.run_eval_before_training = True", "evaluate_first", True),
        ("train.random_seed = 7", "seed", 7),
        ("train.use_hardware_rng = True", "seed", 0),
        ("adafactor.Adafactor.global_norm_clip_threshold = 1.0", "optimizer.clip_norm", 1.0),
        ("adafactor.Adafactor.beta1 = 0.9", "optimizer.momentum_of", "update"),
    ],
)
def test_a_binding_over_the_pretraining_run(binding, path, value):
    found = of("pretrain", "t5_1_1/small", binding).experiment
    for name in path.split("."):
        found = getattr(found, name)
    assert found == value


@pytest.mark.parametrize(
    ("optimizer", "expected"),
    [
        ("@optax.adamw()", ("adamw", 0.9, 0.999, 1e-8, 1e-4, ("matrix", "embedding", "norm", "bias"), 0.0)),
        ("@optimizers.adam()", ("adamw", 0.9, 0.999, 1e-8, 0.0, ("matrix", "embedding"), 0.0)),
    ],
)
def test_optaxs_optimizers_have_optaxs_defaults(optimizer, expected):
    rate = f"{optimizer[1:-2].replace('optimizers', 'optax')}.learning_rate = 1e-4"
    found = of("pretrain", "t5_1_1/small", f"OPTIMIZER = {optimizer}", rate).experiment.optimizer
    names = ("name", "b1", "b2", "eps", "weight_decay", "weight_decay_kinds", "clip_norm")
    assert tuple(getattr(found, name) for name in names) == expected
    assert (found.learning_rate, found.schedule.name) == (1e-4, "constant")


def test_a_chain_clips_and_has_a_schedule_of_its_own():
    schedule = "optax.warmup_cosine_decay_schedule"
    flags = [
        "OPTIMIZER = @optimizers.chain()",
        "optimizers.chain.transformations = [@optax.clip(), @optax.lion()]",
        "optax.clip.max_delta = 1.0",
        f"optax.lion.learning_rate = @{schedule}()",
        *(f"{schedule}.{name}" for name in ("init_value = 0.0", "peak_value = 5e-5", "warmup_steps = 1000")),
        f"{schedule}.decay_steps = %TRAIN_STEPS",
        "TRAIN_STEPS = 50_000",
    ]
    found = of("pretrain", "t5_1_1/small", *flags).experiment.optimizer
    assert (found.name, found.clip_value, found.clip_norm, found.weight_decay) == ("lion", 1.0, 0.0, 1e-3)
    rates = found.schedule(np.array([0, 500, 1000, 25_500, 50_000]), found.learning_rate, 50_000)
    np.testing.assert_allclose(rates, [0, 2.5e-5, 5e-5, 2.5e-5, 0], rtol=1e-5, atol=1e-12)


def test_scopes_macros_and_order_are_gins():
    later = "train/utils.DatasetConfig.batch_size = 64"
    data = of("pretrain", "t5_1_1/small", "utils.DatasetConfig.batch_size = 32", later).experiment
    assert (data.data.batch_size, data.evaluators["train_eval"].batch_size) == (64, 32)
    assert of("pretrain", "t5_1_1/small", "BATCH_SIZE = 16", "BATCH_SIZE = 8").experiment.data.batch_size == 8


def test_every_binding_has_a_fate():
    run = of("finetune")
    bound = {
        statement.split(":")[-1].strip()
        for statement in (fate.label for fate in run.fates)
        if "DatasetConfig" in statement
    }
    assert {f"train/t5x.utils.DatasetConfig.{name}" for name in ("split", "shuffle", "seed", "pack")} <= bound
    fates = {fate.label.rpartition(" ")[2]: fate.text for fate in run.fates}
    assert fates["t5x.utils.SaveCheckpointConfig.period"] == "checkpoint.every = 5000"
    assert fates["seqio.Evaluator.use_memory_cache"] == "changes nothing: tokens are kept"
    assert dataclasses.is_dataclass(run.experiment)
