"""A gin run: T5X's files and flags as an experiment, and what is done with it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from t5x_like import registry
from t5x_like.errors import ExperimentError, UserError
from t5x_like.experiment import Experiment
from t5x_like.frontends.gin import models, runs, statements
from t5x_like.frontends.gin.calls import PAGE, Bindings, Call, leaves
from t5x_like.frontends.gin.runs import CheckpointJob
from t5x_like.frontends.gin.signatures import EVALUATE, EXPORT, INFER, PRECOMPILE, TRAIN
from t5x_like.frontends.gin.statements import Binding
from t5x_like.frontends.gin.translation import Fate, GinTranslation

PROGRAMS = {"train": TRAIN, "eval": EVALUATE, "infer": INFER, "export": EXPORT, "precompile": PRECOMPILE}
_TRANSLATE: Mapping[str, Any] = {
    TRAIN: runs.train,
    EVALUATE: runs.evaluate,
    INFER: runs.infer,
    EXPORT: runs.export,
    PRECOMPILE: runs.precompile,
}
# Macros of T5X's own files that some of their runs do not use, and what they would be for.
_IDLE = {
    "ACTIVATION_DTYPE": "T5X uses it nowhere; network.T5Config.dtype is that of activations",
    "VOCAB_SIZE": "architecture files use it",
    "VOCABULARY": "model files use it",
    "OPTIMIZER": "model files use it",
    **dict.fromkeys(
        ("BATCH_SIZE", "DROPOUT_RATE", "EVAL_PERIOD", "EVAL_STEPS", "INITIAL_CHECKPOINT_PATH", "LABEL_SMOOTHING"),
        "the run's files set the parameter themselves",
    ),
    **dict.fromkeys(
        ("LEARNING_RATE", "LOSS_NORMALIZING_FACTOR", "MIXTURE_OR_TASK_MODULE", "MIXTURE_OR_TASK_NAME", "MODEL"),
        "the run's files set the parameter themselves",
    ),
    **dict.fromkeys(
        ("RANDOM_SEED", "SHUFFLE_TRAIN_EXAMPLES", "TASK_FEATURE_LENGTHS", "TRAIN_STEPS", "TRAIN_STEPS_RELATIVE"),
        "the run's files set the parameter themselves",
    ),
    **dict.fromkeys(("USE_CACHED_TASKS", "USE_HARDWARE_RNG", "Z_LOSS"), "the run's files set the parameter themselves"),
}


@dataclass(frozen=True)
class GinRun:
    """Translation of gin files and flags.

    Attributes:
      values: nested plain values of the experiment.
      workdir: the work directory; empty when none is given.
      checkpoint: CHECKPOINT_PATH, where no program of T5X's is bound; empty when it is not given.
      prompts: PROMPTS, likewise.
      job: what an evaluation, inference or export does; None for training, and where no program of T5X's is bound.
      vocabulary: the file and the extra ids of the model's vocabulary, which the task's must be; None for any.
      modules: the user's modules, to be imported before the experiment is run, and where each is named.
      origins: where each dotted path was set.
      fates: what has become of each binding.
    """

    values: Mapping[str, Any]
    workdir: str
    checkpoint: str
    prompts: tuple[str, ...]
    job: CheckpointJob | None
    vocabulary: tuple[str, int] | None
    modules: Mapping[str, str]
    origins: Mapping[str, str]
    fates: tuple[Fate, ...]

    @cached_property
    def experiment(self) -> Experiment:
        """The experiment; raises ExperimentError for a field that cannot be, naming the line that set it."""
        try:
            return Experiment.from_dict(self.values)
        except ExperimentError as error:
            path = error.where
            while path and path not in self.origins:
                path = path.rpartition(".")[0]
            if not path:
                raise
            raise ExperimentError(error.where, f"{error.problem} (set in {self.origins[path]})") from None


def load(
    files: Sequence[str],
    flags: Sequence[str] = (),
    search_paths: Sequence[str] = (),
    mode: str = "train",
    directories: Mapping[str, Any] | None = None,
) -> GinRun:
    """Reads, evaluates and translates gin.

    Args:
      files: paths. They are looked for as given, below `search_paths`, and then among the shipped ones.
      flags: `--gin.NAME=value` flags or `NAME = value` lines; they come after the files.
      search_paths: directories in which files and includes are looked for.
      mode: T5X's run mode, whose program is translated; where nothing binds that, the experiment is what its own paths
        say.
      directories: fields of SeqIO's tasks that say where their files are: `data_dir` and `cache_dirs`.

    Raises:
      UserError: for a missing file, text that is not gin, a name without a meaning, or a value that cannot be had.
    """
    bindings = Bindings([*statements.read_files(files, search_paths), *statements.read_flags(flags)])
    to, job = GinTranslation(), None
    call = bindings.call(PROGRAMS[mode], label=f"--run_mode={mode}") if bindings.binds(PROGRAMS[mode]) else None
    if call is None and (other := [name for name, program in PROGRAMS.items() if bindings.binds(program)]):
        raise UserError(
            f"the files are of --run_mode={other[0]}, and bind nothing of {PROGRAMS[mode]}; give"
            f" --run_mode={other[0]}, or a run's file for --run_mode={mode}"
        )
    if call is not None:
        to.begin(call, call.name)
        job = _TRANSLATE[call.name](to, call, bindings)
    for binding, value in bindings.own:
        to.set(binding.name, value, binding.where)
    _place(to, directories or {})
    workdir = call["model_dir"] if call and "model_dir" in call.arguments else bindings.macro("MODEL_DIR")
    checkpoint, prompts = bindings.macro("CHECKPOINT_PATH"), bindings.macro("PROMPTS", ())
    modules = _modules(bindings, to, call)
    fates = [*to.finish(), *_idle(bindings), *(Fate(b.label, "the experiment's own field") for b, _ in bindings.own)]
    return GinRun(
        values=to.values,
        workdir=_text(workdir, "MODEL_DIR"),
        checkpoint=_text(checkpoint, "CHECKPOINT_PATH"),
        prompts=_texts(prompts),
        job=job,
        vocabulary=_vocabulary(call),
        modules=modules,
        origins=to.origins,
        fates=tuple(fates),
    )


def _place(to: GinTranslation, directories: Mapping[str, Any]) -> None:
    """Tells every task of SeqIO's where its files are."""
    task = to.values.get("data", {}).get("task", {})
    evaluators = to.values.get("evaluators", {})
    tasks = {f"evaluators.{key}.task": one["task"] for key, one in evaluators.items() if one.get("task")}
    for path, one in {"data.task": {"name": task} if isinstance(task, str) else task, **tasks}.items():
        for name, value in directories.items() if one.get("name") == "seqio" else ():
            to.set(f"{path}.{name}", value)


def _idle(bindings: Bindings) -> list[Fate]:
    """The fate of what nothing in the run asks for.

    Raises:
      UserError: for a macro that no T5X file has, or that a flag sets.
    """
    for macro in bindings.unused_macros():
        if macro.name not in _IDLE or macro.where.endswith(macro.name) and macro.name != "ACTIVATION_DTYPE":
            raise UserError(f"{macro.label}: nothing in this run uses this macro; {_meant(macro, bindings)}")
    unused = [Fate(b.label, f"unused: {_IDLE[b.name]}") for b in bindings.unused_macros()]
    return [*unused, *(Fate(b.label, "unused: no part of this run is made of it") for b in bindings.unreached())]


def _meant(macro: Binding, bindings: Bindings) -> str:
    """Half a sentence: what a user may have meant by a macro that nothing uses."""
    if macro.name in _IDLE:
        return f"its files set the parameter themselves; bind that, such as --gin.train.eval_period=VALUE ({PAGE})"
    return registry.suggest(macro.name, sorted({*bindings.used_macros(), *_IDLE}))


def _vocabulary(call: Call | None) -> tuple[str, int] | None:
    model = call["model"] if call else None
    return models.vocabulary_of(model) if isinstance(model, Call) else None


def _modules(bindings: Bindings, to: GinTranslation, call: Call | None) -> dict[str, str]:
    """The modules that files import, in their order, and those that datasets name; each with its place."""
    found = dict(reversed(bindings.modules.items()))
    for each in to.calls:
        if "module" in each.arguments and isinstance(each["module"], str):
            found.setdefault(each["module"], each.arguments["module"].label)
    if call is None:
        macro = bindings.macro("MIXTURE_OR_TASK_MODULE")
        found |= dict.fromkeys([macro] if isinstance(macro, str) else macro or (), "MIXTURE_OR_TASK_MODULE")
    return found


def _text(value: Any, macro: str) -> str:
    if value is None:
        return ""
    if not isinstance(value, str):
        raise UserError(f"{macro} is {value!r}; it must be a path in quotes")
    return value


def _texts(value: Any) -> tuple[str, ...]:
    prompts = [value] if isinstance(value, str) else value
    if not isinstance(prompts, list | tuple) or not all(isinstance(prompt, str) for prompt in prompts):
        raise UserError(f"PROMPTS is {value!r}; it must be a list of texts in quotes")
    return tuple(leaves(prompts, str))
