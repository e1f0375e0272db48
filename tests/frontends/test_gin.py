"""The gin spelling: what T5X's names come to, and that both spellings describe the same experiments."""

from pathlib import Path

import pytest

from t5x_like import registry
from t5x_like.errors import ExperimentError, UserError
from t5x_like.experiment import differences
from t5x_like.frontends import configdict, gin, gin_twins, shipped
from t5x_like.sections import flatten

CONFIGS = [Path(path).stem for path in shipped.listing("configs", ".py")]


def values(*bindings):
    """The experiment's fields that the bindings set, by dotted path."""
    return flatten(gin.load([], bindings).values)


@pytest.fixture
def gin_file(tmp_path):
    def write(text):
        (tmp_path / "run.gin").write_text(text)
        return str(tmp_path / "run.gin")

    return write


def test_every_config_has_a_gin_twin():
    assert CONFIGS
    listed = map(Path, shipped.listing("gin/models", ".gin"))
    # A folder there has a model's sizes, and is no experiment.
    assert [path.stem for path in listed if path.parent.name == "models"] == CONFIGS


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("order", [slice(None), slice(None, None, -1)], ids=["run first", "model first"])
def test_a_config_and_its_gin_twin_are_equal(name, order):
    files = ["gin/runs/pretrain.gin", f"gin/models/{name}.gin"][order]
    ours, twin = configdict.load(f"configs/{name}.py"), gin.load(files).experiment
    assert differences(ours, twin) == {}
    assert ours == twin


def test_pretraining_as_it_stands_is_the_quickstart():
    run = gin.load(["gin/runs/pretrain.gin"], ["--gin.TRAIN_STEPS=200", '--gin.MODEL_DIR="runs/b"'])
    assert run.workdir == "runs/b"
    assert run.experiment == configdict.load("configs/quickstart.py", ["--config.steps=200"])


def test_a_corpus_of_ones_own():
    run = gin.load(
        ["gin/tasks/text.gin", "gin/runs/pretrain.gin"],
        ['--gin.CORPUS="a.jsonl"', '--gin.TOKENIZER="v.model"'],
    )
    task = run.experiment.data.task
    assert (task.name, task.path, task.tokenizer) == ("text", "a.jsonl", "v.model")
    # The task that is asked for last brings none of the fields of the other.
    back = gin.load(["gin/runs/pretrain.gin", "gin/tasks/text.gin", "gin/tasks/sotu.gin"])
    assert back.experiment == gin.load(["gin/runs/pretrain.gin"]).experiment


@pytest.mark.parametrize(
    ("bindings", "expected"),
    [
        (
            ["TASK_FEATURE_LENGTHS={'inputs': 512, 'targets': 114}", "objective.name='span_corruption'"],
            {"data.sequence_length": 512, "objective.target_length": 114, "objective.name": "span_corruption"},
        ),
        (
            ["TASK_FEATURE_LENGTHS={'inputs': 8, 'targets': 4}", "MIXTURE_OR_TASK_NAME='translation'"],
            {
                "data.task.name": "seqio",
                "data.task.mixture": "translation",
                "data.task.features.inputs": 8,
                "data.task.features.targets": 4,
                "data.sequence_length": 8,
                "objective.name": "seq2seq",
                "objective.target_length": 4,
            },
        ),
        (
            [
                "TASK_FEATURE_LENGTHS={'inputs': 8, 'targets': 4}",
                "MIXTURE_OR_TASK_NAME='text'",
                "data.task.name='seqio'",
                "objective.name='ul2'",
            ],
            {
                "data.task.name": "seqio",
                "data.sequence_length": 8,
                "objective.name": "ul2",
                "objective.target_length": 4,
            },
        ),
        (["MODEL='gpt2'"], {"model": "gpt2"}),
        (["OPTIMIZER='lion'"], {"optimizer.name": "lion"}),
        (["OPTIMIZER=@adafactor.Adafactor()"], {"optimizer.name": "adafactor"}),
        (["MIXTURE_OR_TASK_NAME='sotu'"], {"data.task": "sotu"}),
        (["MIXTURE_OR_TASK_NAME='c4_v220'"], {"data.task.name": "seqio", "data.task.mixture": "c4_v220"}),
        (["TASK_FEATURE_LENGTHS={'targets': 64}"], {"data.sequence_length": 64}),
        (["SHUFFLE_TRAIN_EXAMPLES=True"], {}),
        (["BATCH_SIZE=16"], {"data.batch_size": 16}),
        (["TRAIN_STEPS=10"], {"steps": 10}),
        (["INITIAL_CHECKPOINT_PATH='a'"], {"initialize.checkpoint": "a"}),
        (["RANDOM_SEED=7"], {"seed": 7}),
        (["RANDOM_SEED=None"], {}),
        (["USE_HARDWARE_RNG=False"], {}),
        (["DROPOUT_RATE=0.1"], {"model.dropout": 0.1}),
        (["Z_LOSS=1e-4"], {"objective.z_loss": 1e-4}),
        (["LABEL_SMOOTHING=0.1"], {"objective.label_smoothing": 0.1}),
        (["LOSS_NORMALIZING_FACTOR=None"], {"objective.normalization": 1.0}),
        (["LOSS_NORMALIZING_FACTOR=2048"], {"objective.normalization": 2048}),
        (["LOSS_NORMALIZING_FACTOR='AVERAGE_PER_SEQUENCE'"], {"objective.normalization": "per_sequence"}),
        (["USE_CACHED_TASKS=False"], {}),
        (
            ["USE_CACHED_TASKS=True", "MIXTURE_OR_TASK_NAME='c4'"],
            {"data.task.name": "seqio", "data.task.mixture": "c4", "data.task.use_cached": True},
        ),
        # A period for those that have none of their own, wherever it stands.
        (
            ["EVAL_PERIOD=5", "evaluators.a.name='loss'", "evaluators.b.name='loss'", "evaluators.b.every=7"],
            {
                "evaluators.a.name": "loss",
                "evaluators.a.every": 5,
                "evaluators.b.name": "loss",
                "evaluators.b.every": 7,
            },
        ),
    ],
)
def test_what_macros_mean(bindings, expected):
    assert values(*bindings) == expected


@pytest.mark.parametrize(
    ("bindings", "expected"),
    [
        (["utils.SaveCheckpointConfig.period=5"], {"checkpoint.every": 5}),
        (["utils.SaveCheckpointConfig.keep=2"], {"checkpoint.keep": 2}),
        (["utils.SaveCheckpointConfig.keep=None"], {"checkpoint.keep_every": 1}),
        (["utils.SaveCheckpointConfig.dtype='float32'"], {}),
        (["utils.SaveCheckpointConfig.save_dataset=False"], {}),
        (["utils.RestoreCheckpointConfig.path=[]"], {"initialize.checkpoint": ""}),
        (
            ["utils.RestoreCheckpointConfig.path='a'", "utils.RestoreCheckpointConfig.mode='specific'"],
            {"initialize.checkpoint": "a"},
        ),
        (["trainer.Trainer.num_microbatches=4"], {"parallelism.microbatches": 4}),
        (["Trainer.num_microbatches=None"], {}),
        (["t5x.trainer.Trainer.learning_rate_fn=@utils.create_learning_rate_scheduler()"], {}),
        (["partitioning.PjitPartitioner.num_partitions=2"], {"parallelism.tensor": 2}),
        (["partitioning.ModelBasedPjitPartitioner.model_parallel_submesh=()"], {}),
        (
            ["train_script.train.total_steps=9", "train.eval_period=3", "evaluators.a='loss'"],
            {"steps": 9, "evaluators.a.name": "loss", "evaluators.a.every": 3},
        ),
        (["train.random_seed=3", "train.trainer_cls=@trainer.Trainer"], {"seed": 3}),
        (["MODEL='llama'", "train.model=%MODEL", "model.size='1b'"], {"model.family": "llama", "model.size": "1b"}),
        (
            [
                "train/utils.DatasetConfig.mixture_or_task_name='text'",
                "train/utils.DatasetConfig.task_feature_lengths={'targets': 8}",
                "train/utils.DatasetConfig.split='half'",
                "train/utils.DatasetConfig.batch_size=4",
                "train/utils.DatasetConfig.shuffle=True",
                "train/utils.DatasetConfig.seed=None",
                "train/utils.DatasetConfig.use_cached=False",
                "train/utils.DatasetConfig.pack=True",
            ],
            {"data.task": "text", "data.sequence_length": 8, "data.split": "half", "data.batch_size": 4},
        ),
        # What MIXTURE_OR_TASK_NAME has picked keeps its fields when the binding repeats it.
        (
            [
                "MIXTURE_OR_TASK_NAME='text'",
                "data.task.path='a'",
                "train/DatasetConfig.mixture_or_task_name=%MIXTURE_OR_TASK_NAME",
            ],
            {"data.task.name": "text", "data.task.path": "a"},
        ),
        (["adafactor.Adafactor.decay_rate=0.9", "adafactor.Adafactor.step_offset=0"], {"optimizer.decay_rate": 0.9}),
        (
            ["adafactor.Adafactor.beta1=None", "adafactor.Adafactor.clipping_threshold=2.0"],
            {"optimizer.clip_threshold": 2.0},
        ),
    ],
)
def test_what_bound_parameters_mean(bindings, expected):
    assert values(*bindings) == expected


SCHEDULER = "utils.create_learning_rate_scheduler"


@pytest.mark.parametrize(
    ("factors", "rate", "schedule"),
    [
        ("constant", 0.5, {"name": "constant", "warmup_steps": 0}),
        ("constant * linear_warmup", 0.5, {"name": "constant", "warmup_steps": 100}),
        ("constant * rsqrt_decay", 0.05, {"name": "rsqrt", "warmup_steps": 0, "decay_after": 100}),
        ("linear_warmup*constant*rsqrt_decay", 0.05, {"name": "rsqrt", "warmup_steps": 100, "decay_after": 100}),
        ("constant * rsqrt_normalized_decay", 0.5, {"name": "rsqrt", "warmup_steps": 0, "decay_after": 100}),
    ],
)
def test_schedules_are_those_of_t5x(factors, rate, schedule):
    """Against T5X's formula: the product of its factors, at each step."""
    found = gin.load(
        ["gin/runs/pretrain.gin"],
        [f"{SCHEDULER}.factors='{factors}'", f"{SCHEDULER}.base_learning_rate=0.5", f"{SCHEDULER}.warmup_steps=100"],
    )
    optimizer = found.values["optimizer"]
    assert optimizer["schedule"] == schedule
    assert optimizer["learning_rate"] == pytest.approx(rate)
    ours = found.experiment.optimizer
    for step in (100, 400, 10_000):
        expected = 0.5
        if "rsqrt_decay" in factors:
            expected *= max(step, 100) ** -0.5
        if "rsqrt_normalized_decay" in factors:
            expected *= 10 * max(step, 100) ** -0.5
        assert float(ours.schedule(step, ours.learning_rate, 20_000)) == pytest.approx(expected, rel=1e-5)


def test_parts_of_a_schedule_fit_into_ours():
    assert values(f"{SCHEDULER}.base_learning_rate=0.1") == {"optimizer.learning_rate": 0.1}
    assert values(f"{SCHEDULER}.warmup_steps=3") == {"optimizer.schedule.warmup_steps": 3}


def test_later_wins_whichever_way_it_is_spelled():
    assert values("data.batch_size=8", "BATCH_SIZE=16") == {"data.batch_size": 16}
    assert values("BATCH_SIZE=16", "train/utils.DatasetConfig.batch_size=32") == {"data.batch_size": 32}
    assert values("utils.SaveCheckpointConfig.period=5", "checkpoint.every=6", "SaveCheckpointConfig.period=7") == {
        "checkpoint.every": 7
    }


def test_a_macro_stands_for_what_it_is_in_the_end():
    bindings = ["N=3", "optimizer.schedule.warmup_steps=%N", "evaluators.a={'name': 'samples', 'prompts': [%P]}"]
    found = values(*bindings, "P='x'", "N=5")
    assert found["optimizer.schedule.warmup_steps"] == 5
    assert found["evaluators.a.prompts"] == ["x"]


def test_a_requirement_takes_no_value_away():
    assert values("TRAIN_STEPS=3", "TRAIN_STEPS=%gin.REQUIRED") == {"steps": 3}


def test_the_order_of_model_and_dropout_does_not_matter():
    expected = {"model.family": "gpt2", "model.dropout": 0.2}
    assert values("DROPOUT_RATE=0.2", "MODEL='gpt2'") == values("MODEL='gpt2'", "DROPOUT_RATE=0.2") == expected


def test_another_model_leaves_nothing_of_the_former():
    found = values("MODEL='llama'", "model.decoder.layers=2", "DROPOUT_RATE=0.2", "MODEL='gpt2'", "model.size='124m'")
    assert found == {"model.family": "gpt2", "model.size": "124m", "model.dropout": 0.2}


def test_sections_are_set_by_their_own_paths():
    found = values("optimizer='lion'", "optimizer.schedule.name='linear'", "steps=4", "model={'family': 'gpt2'}")
    assert found == {"optimizer.name": "lion", "optimizer.schedule.name": "linear", "steps": 4, "model.family": "gpt2"}


T5X_SHAPED = """
from __gin__ import dynamic_registration
import __main__ as script
from t5x import utils as u
import seqio
import my_project.tasks
from other import mixtures

MODEL_DIR = %gin.REQUIRED
TRAIN_STEPS = %gin.REQUIRED
include 't5x/configs/runs/pretrain.gin'
MIXTURE_OR_TASK_MODULE = 'third.tasks'

script.train:
  model = %MODEL
  model_dir = %MODEL_DIR
  train_dataset_cfg = @train/u.DatasetConfig()
  checkpoint_cfg = @u.CheckpointConfig()
  total_steps = %TRAIN_STEPS
train/u.DatasetConfig:
  batch_size = 16
  module = %MIXTURE_OR_TASK_MODULE
u.CheckpointConfig.save = @u.SaveCheckpointConfig()
u.SaveCheckpointConfig.period = 50
"""


def test_a_file_in_t5x_s_shape(gin_file):
    files = [gin_file(T5X_SHAPED), "gin/models/gpt2_124m.gin"]
    run = gin.load(files, ["--gin.TRAIN_STEPS=1500", '--gin.MODEL_DIR="gs://bucket/run"', "--gin.BATCH_SIZE=64"])
    flags = ["steps=1500", "data.batch_size=64", "checkpoint.every=1000"]
    assert run.experiment == configdict.load("configs/gpt2_124m.py", [f"--config.{flag}" for flag in flags])
    assert run.workdir == "gs://bucket/run"
    assert run.modules == ("my_project.tasks", "other.mixtures", "third.tasks")


def test_evaluation_names_a_checkpoint_and_no_experiment():
    run = gin.load(["gin/runs/infer.gin"], ['--gin.CHECKPOINT_PATH="a"', '--gin.PROMPTS=["b", "c"]'])
    assert (run.checkpoint, run.prompts, dict(run.origins)) == ("a", ("b", "c"), {})


@pytest.mark.parametrize(
    ("bindings", "sentence"),
    [
        (["--gin.TRAIN_STEP=3"], "--gin.TRAIN_STEP: nothing uses this macro; did you mean 'TRAIN_STEPS'?"),
        (["steps=%N"], "--gin_bindings steps: nothing sets %N; set it with --gin.N=VALUE"),
        (["N=%M", "M=%N", "steps=%N"], "--gin_bindings M: %N stands for itself"),
        (
            ["--gin.TRAIN_STEPS=%gin.REQUIRED"],
            "--gin.TRAIN_STEPS: it must be given; set it with --gin.TRAIN_STEPS=VALUE",
        ),
        (
            ["CORPUS=%gin.REQUIRED", "data.task.path=%CORPUS"],
            "--gin_bindings CORPUS: it must be given; set it with --gin.CORPUS=VALUE",
        ),
        (
            ["--gin.model.layers=@f()"],
            "--gin.model.layers: @f() is nothing that can be called here; give the plain value",
        ),
        (
            ["--gin.MODEL=@models.DecoderOnlyModel()"],
            "--gin.MODEL: @models.DecoderOnlyModel() is no model here; name a family,"
            f" {' or '.join(registry.names('model'))}",
        ),
        (["--gin.MODEL_DIR=3"], "--gin.MODEL_DIR: MODEL_DIR is 3; it must be a path in quotes"),
        (["--gin.PROMPTS=3"], "--gin.PROMPTS: PROMPTS is 3; it must be a list of texts in quotes"),
        (
            ["--gin.MIXTURE_OR_TASK_MODULE=3"],
            "--gin.MIXTURE_OR_TASK_MODULE: 3 does not name a module; give its dotted name in quotes",
        ),
        (
            ["--gin.USE_CACHED_TASKS=True"],
            "--gin.USE_CACHED_TASKS: task 'sotu' keeps its tokens in a cache of its own, and only SeqIO tasks have the"
            " one this means; set it to False",
        ),
        (
            ["--gin.TASK_FEATURE_LENGTHS={'inputs': 8}"],
            "--gin.TASK_FEATURE_LENGTHS: {'inputs': 8} does not fit a language model, whose one feature is targets, or"
            " an encoder-decoder; write {'targets': 256} or {'inputs': 512, 'targets': 114}",
        ),
        (
            ["--gin.USE_HARDWARE_RNG=True"],
            "--gin.USE_HARDWARE_RNG: True cannot be had: every random number here is reproducible; set it to False",
        ),
        (
            ["--gin.LOSS_NORMALIZING_FACTOR='NUM_REAL_TOKENS'"],
            "--gin.LOSS_NORMALIZING_FACTOR: 'NUM_REAL_TOKENS' is neither a number, None nor one of"
            " NUM_REAL_TARGET_TOKENS, NUM_TOTAL_TARGET_TOKENS, AVERAGE_PER_SEQUENCE",
        ),
        (
            ["--gin.EVAL_PERIOD=3"],
            "--gin.EVAL_PERIOD: there is no evaluator without a period of its own; set evaluators.NAME.every",
        ),
        (
            ["--gin.train.trainer_cls=@mine.Trainer2"],
            "--gin.train.trainer_cls: @mine.Trainer2 cannot be plugged in; it must be @Trainer",
        ),
        (
            ["--gin.train.train_dataset_cfg=@eval/utils.DatasetConfig()"],
            "--gin.train.train_dataset_cfg: @eval/utils.DatasetConfig() cannot be plugged in; it must be"
            " @train/DatasetConfig",
        ),
        (
            ["--gin.utils.RestoreCheckpointConfig.path=['a', 'b']"],
            "--gin.utils.RestoreCheckpointConfig.path: ['a', 'b'] names 2 checkpoints; parameters come from one",
        ),
        (
            [f"--gin.{SCHEDULER}.factors='constant'", f"--gin.{SCHEDULER}.warmup_steps=0"],
            f"--gin.{SCHEDULER}.factors: base_learning_rate=0.5 and warmup_steps=0 must be numbers, the latter 1"
            " or more",
        ),
        (
            ["--gin.trainer.Trainer.microbatches=3"],
            "--gin.trainer.Trainer.microbatches: it has no twin here; of Trainer these are understood:"
            " num_microbatches, learning_rate_fn",
        ),
        (
            ["--gin.utils.DatasetConfig.batch_size=3"],
            "--gin.utils.DatasetConfig.batch_size: it has no twin here; of train/DatasetConfig these are understood:"
            " mixture_or_task_name, task_feature_lengths, split, batch_size, shuffle, seed, use_cached, pack, module",
        ),
    ],
)
def test_what_cannot_be_translated_is_named(bindings, sentence):
    with pytest.raises(UserError) as caught:
        gin.load([], bindings)
    assert str(caught.value) == sentence


def test_an_unknown_schedule_lists_the_known_ones():
    with pytest.raises(
        UserError, match=r"'constant \* decay_every' has no twin; it can be 'constant', .* or set optimizer"
    ):
        values(f"{SCHEDULER}.factors='constant * decay_every'")


def test_bindings_without_a_twin_are_all_named_with_their_lines(gin_file):
    file = gin_file("network.TransformerConfig:\n  emb_dim = 8\n  num_heads = 2\nFOO = 3\nsteps = 4\n")
    with pytest.raises(UserError) as caught:
        gin.load([file])
    sentence = str(caught.value)
    assert sentence.startswith(
        f"{file}:2: network.TransformerConfig.emb_dim: it has no twin here; these are understood: "
    )
    assert "trainer.Trainer" in sentence
    assert "TRAIN_STEPS" in sentence
    assert "optimizer" in sentence
    assert sentence.endswith(
        f"; neither is there a use for {file}:3: network.TransformerConfig.num_heads, {file}:4: FOO"
    )


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("\nMODEL = 'lama'", "model.family: there is no model 'lama'; did you mean 'llama'? (set in {}:2)"),
        ("TRAIN_STEPS = 0", "steps: 0 is too small; it must be at least 1 (set in {}:1)"),
        ("optimizer.lr = 1.0", "optimizer.lr: there is no such field; it must be one of name, "),
        (
            "optimizer:\n  schedule = {'name': 'cosine', 'warmup_steps': 'x'}",
            "optimizer.schedule.warmup_steps: 'x' is not int (set in {}:2)",
        ),
    ],
)
def test_a_wrong_value_is_named_with_its_line(gin_file, text, sentence):
    file = gin_file(text)
    with pytest.raises(ExperimentError) as caught:
        _ = gin.load(["gin/runs/pretrain.gin", file]).experiment
    assert str(caught.value).startswith(sentence.format(file))


def test_a_field_that_no_line_sets_is_named_alone(gin_file):
    with pytest.raises(ExperimentError) as caught:
        _ = gin.load([gin_file("model.family = 'gpt2'")]).experiment
    assert str(caught.value).startswith("model.embed: it is not given")


@pytest.mark.parametrize("name", [*gin_twins.MACROS, *gin_twins.PARAMETERS])
def test_every_name_is_in_the_documentation(name):
    page = (Path(__file__).parents[2] / "docs" / "configs.md").read_text()
    assert f"`{name.replace('t5x.train.', '').replace('t5x.', '')}`" in page
