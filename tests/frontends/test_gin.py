"""gin's rules and the experiment's own paths: order, scopes, macros, and one sentence for what cannot be."""

from pathlib import Path

import pytest

from t5x_like.errors import ExperimentError, UserError
from t5x_like.experiment import differences
from t5x_like.frontends import configdict, shipped
from t5x_like.frontends.gin.calls import MissingMacroError
from t5x_like.frontends.gin.load import load
from t5x_like.frontends.gin.signatures import SIGNATURES
from t5x_like.sections import flatten

CONFIGS = [Path(path).stem for path in shipped.listing("configs", ".py") if Path(path).parent.name == "configs"]
PRETRAIN = ["gin/models/t5_1_1/small.gin", "gin/runs/pretrain.gin"]
GIVEN = [
    "MIXTURE_OR_TASK_NAME = 'mine'",
    "TASK_FEATURE_LENGTHS = {'inputs': 8, 'targets': 4}",
    "TRAIN_STEPS = 9",
    "DROPOUT_RATE = 0.0",
    "MODEL_DIR = 'runs/a'",
]


def values(*bindings):
    """The experiment's fields that the bindings set, by dotted path."""
    return flatten(load([], bindings).values)


@pytest.fixture
def gin_file(tmp_path):
    def write(text, name="run.gin"):
        (tmp_path / name).write_text(text)
        return str(tmp_path / name)

    return write


def test_every_config_is_there_in_gin_too():
    assert CONFIGS
    listed = map(Path, shipped.listing("gin/models", ".gin"))
    # A folder there has a model's sizes, and is no experiment.
    assert [path.stem for path in listed if path.parent.name == "models"] == CONFIGS


@pytest.mark.parametrize("name", CONFIGS)
def test_both_spellings_of_a_config_are_equal(name):
    assert not differences(load([f"gin/models/{name}.gin"]).experiment, configdict.load(f"configs/{name}.py"))


def test_own_paths_refine_what_the_run_says_and_later_ones_win():
    paths = ["optimizer.schedule.warmup_steps = 5", "steps = %N", "N = 7", "N = 8", "evaluators.train_eval.every = 3"]
    found = load(PRETRAIN, [*GIVEN, *paths]).experiment
    assert (found.optimizer.schedule.warmup_steps, found.optimizer.schedule.name) == (5, "factors")
    assert (found.steps, found.evaluators["train_eval"].every, found.evaluators["train_eval"].batches) == (8, 3, 20)


def test_blocks_lists_and_dictionaries_take_macros():
    found = values("P = 'x'", "evaluators.a = {'name': 'samples', 'prompts': [%P, %P]}", "steps = 3")
    assert found["evaluators.a.prompts"] == ["x", "x"] and found["steps"] == 3


def test_a_family_of_ours_in_a_run_of_t5xs():
    lengths = "TASK_FEATURE_LENGTHS = {'targets': 32}"
    flags = [
        *GIVEN,
        lengths,
        "MODEL = 'gpt2'",
        "model.size = '124m'",
        "DROPOUT_RATE = 0.0",
        "MIXTURE_OR_TASK_NAME = 'sotu'",
    ]
    found = load(
        ["gin/runs/pretrain.gin"], [*[f for f in flags if not f.startswith("DROP")], "USE_CACHED_TASKS = False"]
    )
    experiment = found.experiment
    assert (experiment.model.family, experiment.data.task.name, experiment.data.sequence_length) == ("gpt2", "sotu", 32)
    assert experiment.objective.name == "causal_lm" and experiment.optimizer.schedule.name == "factors"


def test_scopes_hold_for_what_is_inside_them():
    """An outer binding is everybody's, and the innermost one wins."""
    run = ["utils.DatasetConfig.batch_size = 2", "train/utils.DatasetConfig.batch_size = 4"]
    found = load(PRETRAIN, [*GIVEN, *run]).experiment
    assert (found.data.batch_size, found.evaluators["train_eval"].batch_size) == (4, 2)


def test_names_are_those_of_the_imports(gin_file):
    text = "from t5x import utils as u\nimport t5x.trainer\nu.SaveCheckpointConfig.period = 3\n"
    text += "t5x.trainer.Trainer.num_microbatches = 2\n"
    found = load([*PRETRAIN, gin_file(text)], GIVEN).experiment
    assert (found.checkpoint.every, found.parallelism.microbatches) == (3, 2)


def test_modules_are_the_users_own(gin_file):
    text = "import seqio\nimport t5.data.mixtures\nfrom mine import tasks\nMIXTURE_OR_TASK_MODULE = 'more.tasks'\n"
    file = gin_file(text)
    found = load([*PRETRAIN, file], GIVEN).modules
    assert list(found) == ["t5.data.mixtures", "mine.tasks", "more.tasks"]
    assert (found["mine.tasks"], found["more.tasks"]) == (
        f"{file}:3",
        "gin/runs/pretrain.gin:40: t5x.utils.DatasetConfig.module",
    )


def test_without_a_program_the_macros_of_a_run_are_read():
    run = load([], ["CHECKPOINT_PATH = 'a'", "PROMPTS = ['b', 'c']", "MODEL_DIR = 'd'"], mode="infer")
    assert (run.checkpoint, run.prompts, run.workdir, dict(run.origins), run.job) == ("a", ("b", "c"), "d", {}, None)


def test_directories_are_told_to_every_task_of_seqios():
    run = load(PRETRAIN, GIVEN, directories={"data_dir": "/tfds", "cache_dirs": ["/a"]})
    for task in (run.experiment.data.task, run.experiment.evaluators["train_eval"].task):
        assert (task.data_dir, task.cache_dirs) == ("/tfds", ("/a",))


def test_what_nothing_asks_for_is_said():
    run = load(PRETRAIN, [*GIVEN, "infer_eval/utils.DatasetConfig.pack = False"])
    fates = {fate.label.rpartition(" ")[2]: fate.text for fate in run.fates}
    assert fates["infer_eval/utils.DatasetConfig.pack"] == "unused: no part of this run is made of it"


@pytest.mark.parametrize(
    ("bindings", "sentence"),
    [
        (["--gin.TRAIN_STEP=3"], "--gin.TRAIN_STEP: nothing in this run uses this macro; did you mean 'TRAIN_STEPS'?"),
        (
            ["--gin.EVAL_PERIOD=3"],
            "--gin.EVAL_PERIOD: nothing in this run uses this macro; its files set the parameter themselves; bind"
            " that, such"
            " as --gin.train.eval_period=VALUE (docs/from-t5x.md)",
        ),
        (["steps = %N"], "--gin_bindings steps: nothing sets %N; set it with --gin.N=VALUE"),
        (["N = %M", "M = %N", "steps = %N"], "--gin_bindings M: %N stands for itself"),
        (
            ["--gin.TRAIN_STEPS=%gin.REQUIRED"],
            "--gin.TRAIN_STEPS: it must be given; set it with --gin.TRAIN_STEPS=VALUE, or after this line:"
            " --gin_bindings"
            " TRAIN_STEPS, which sets it, comes before",
        ),
        (
            ["--gin.model.embed=@trainer.Trainer()"],
            "--gin.model.embed: @t5x.trainer.Trainer cannot be called here; give the plain value",
        ),
        (["--gin.MODEL_DIR=3"], "MODEL_DIR is 3; it must be a path in quotes"),
        (["--gin.PROMPTS=3"], "PROMPTS is 3; it must be a list of texts in quotes"),
        (
            ["MIXTURE_OR_TASK_NAME = 'sotu'"],
            "gin/runs/pretrain.gin:42: t5x.utils.DatasetConfig.use_cached: task 'sotu' keeps its tokens in a cache"
            " of its"
            " own, and only SeqIO's tasks have the one this means; set it to False",
        ),
        (
            ["TASK_FEATURE_LENGTHS = {'inputs': 8}"],
            "gin/runs/pretrain.gin:39: t5x.utils.DatasetConfig.task_feature_lengths: {'inputs': 8} does not fit an"
            " encoder"
            " and a decoder; write {'inputs': 512, 'targets': 114}",
        ),
        (
            ["LOSS_NORMALIZING_FACTOR = 'NUM_REAL_TOKENS'"],
            "gin/models/t5_1_1/base.gin:27: t5x.models.EncoderDecoderModel.loss_normalizing_factor:"
            " 'NUM_REAL_TOKENS' is"
            " neither a number, None nor one of NUM_REAL_TARGET_TOKENS, NUM_TOTAL_TARGET_TOKENS, AVERAGE_PER_SEQUENCE",
        ),
        (
            ["--gin.train.trainer_cls=@mine.Trainer2"],
            "--gin.train.trainer_cls: mine.Trainer2 is a class or function of your own, which no gin file can plug"
            " in here;"
            " docs/from-t5x.md says what can",
        ),
        (
            ["--gin.OPTIMIZER=@my.Lion()", "import my"],
            "--gin.OPTIMIZER: my.Lion is a class or function of your own, which no gin file can plug in here;"
            " docs/from-t5x.md says what can",
        ),
        (
            ["from t5x.contrib.moe import models as moe", "moe.MoeEncoderDecoderModel.aux_loss_factor = 0.1"],
            "--gin_bindings moe.MoeEncoderDecoderModel.aux_loss_factor:"
            " t5x.contrib.moe.models.MoeEncoderDecoderModel is of"
            " T5X's contrib, which has no counterpart here; docs/from-t5x.md says what has",
        ),
        (
            ["from mine import network as n", "n.T5Config.depth = 3"],
            "--gin_bindings n.T5Config.depth: mine.network.T5Config is a class or function of your own, which no gin"
            " file"
            " can plug in here; docs/from-t5x.md says what can",
        ),
        (
            ["train.train_dataset_cfg = @trainer.Trainer()"],
            "--gin_bindings train.train_dataset_cfg: @trainer.Trainer cannot be plugged in here; it must be"
            " @utils.DatasetConfig (docs/from-t5x.md)",
        ),
        (
            ["utils.RestoreCheckpointConfig.path = ['a', 'b']"],
            "--gin_bindings utils.RestoreCheckpointConfig.path: ['a', 'b'] names 2 checkpoints; a run starts from one",
        ),
        (
            ["trainer.Trainer.microbatches = 3"],
            "--gin_bindings trainer.Trainer.microbatches: t5x.trainer.Trainer has no such argument that is"
            " understood; did"
            " you mean 'num_microbatches'?",
        ),
        (
            ["network.T5Config.mlp_activations = ('elu', 'linear')"],
            "--gin_bindings network.T5Config.mlp_activations: ('elu', 'linear') is not here; these are: ('gelu',),"
            " ('gelu', 'linear'), ('relu',), ('relu', 'linear'), ('silu',), ('silu', 'linear'), ('swish',), ('swish',"
            " 'linear') (docs/from-t5x.md)",
        ),
        (
            ["adafactor.Adafactor.weight_decay_rate = 0.1"],
            "--gin_bindings adafactor.Adafactor.weight_decay_rate: weights decay by the learning rate times a factor"
            " here;"
            " set weight_decay_rate_lr_exponent = 1 (docs/from-t5x.md)",
        ),
        (
            ["adafactor.Adafactor.step_offset = 5"],
            "--gin_bindings adafactor.Adafactor.step_offset: the optimizer can start anew at the checkpoint's step"
            " alone,"
            " which is not 5 (docs/from-t5x.md)",
        ),
        (
            ["utils.SaveCheckpointConfig.dtype = 'bfloat16'"],
            "--gin_bindings utils.SaveCheckpointConfig.dtype: 'bfloat16' cannot be had: parameters are saved as they"
            " are"
            " trained, in float32 (docs/from-t5x.md)",
        ),
    ],
)
def test_what_cannot_be_translated_is_named_with_its_line(bindings, sentence):
    with pytest.raises(UserError) as caught:
        load(PRETRAIN, [*GIVEN, *bindings])
    assert str(caught.value) == sentence


def test_a_macro_that_a_later_file_takes_back_is_missing():
    """T5X's fine-tuning run sets the dropout rate, and the model's file after it asks for one again."""
    files = ["gin/runs/finetune.gin", "gin/models/t5_1_1/small.gin"]
    given = [*(each for each in GIVEN if "DROPOUT" not in each), "INITIAL_CHECKPOINT_PATH = 'a'"]
    with pytest.raises(MissingMacroError) as caught:
        load(files, given)
    assert caught.value.name == "DROPOUT_RATE"
    assert "gin/models/t5_1_1/base.gin:4: DROPOUT_RATE: it must be given" in str(caught.value)
    assert "gin/runs/finetune.gin:19, which sets it, comes before" in str(caught.value)
    assert load(files[::-1], given).experiment.model.dropout == 0.1


def test_a_checkpoint_in_t5xs_format_says_how_it_is_imported(tmp_path):
    (tmp_path / "checkpoint_10").mkdir()
    (tmp_path / "checkpoint_10" / "checkpoint").write_bytes(b"")
    elsewhere = "utils.RestoreCheckpointConfig.path = 'gs://bucket/checkpoint_10'"  # nothing is asked of a store
    assert load(PRETRAIN, [*GIVEN, elsewhere]).experiment.initialize.checkpoint == "gs://bucket/checkpoint_10"
    path = f"utils.RestoreCheckpointConfig.path = '{tmp_path}/checkpoint_10'"
    with pytest.raises(
        UserError, match=r"RestoreCheckpointConfig.path: .* is in T5X's own format; `t5x_like import --from"
    ):
        load(PRETRAIN, [*GIVEN, path])


def test_a_run_without_a_model_says_how_to_get_one():
    with pytest.raises(
        MissingMacroError, match="nothing sets %MODEL; give a model's file before the run's, such as --gin"
    ):
        load(["gin/runs/pretrain.gin"], [each for each in GIVEN if "DROPOUT" not in each])


def test_a_file_of_another_run_mode_is_named():
    with pytest.raises(UserError, match=r"^the files are of --run_mode=train, and bind nothing of t5x.eval.evaluate; "):
        load(PRETRAIN, GIVEN, mode="eval")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("\nmodel.family = 'lama'", "model.family: there is no model 'lama'; did you mean 'llama'? (set in {}:2)"),
        ("steps = 0", "steps: 0 is too small; it must be at least 1 (set in {}:1)"),
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
        _ = load(["gin/models/quickstart.gin", file]).experiment
    assert str(caught.value).startswith(sentence.format(file))


def test_a_field_that_no_line_sets_is_named_alone(gin_file):
    with pytest.raises(ExperimentError) as caught:
        _ = load([gin_file("model.family = 'gpt2'")]).experiment
    assert str(caught.value).startswith("model.embed: it is not given")


@pytest.mark.parametrize("name", SIGNATURES)
def test_every_class_and_function_is_in_the_documentation(name):
    page = (Path(__file__).parents[2] / "docs" / "from-t5x.md").read_text()
    assert f"`{'.'.join(name.split('.')[-2:])}`" in page
