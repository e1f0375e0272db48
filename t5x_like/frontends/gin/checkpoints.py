"""Translation of `utils.CheckpointConfig`: what is committed, and what a run starts from."""

import re
from collections.abc import Mapping
from typing import Any

from etils import epath

from t5x_like.checkpoint.layout import find
from t5x_like.errors import UserError
from t5x_like.frontends.gin.calls import PAGE, Call
from t5x_like.frontends.gin.translation import GinTranslation
from t5x_like.io.files import is_remote

CONFIG = "t5x.utils.CheckpointConfig"
SAVE = "t5x.utils.SaveCheckpointConfig"
RESTORE = "t5x.utils.RestoreCheckpointConfig"
_STEP = re.compile(r"(?:checkpoint_|checkpoints/)(\d+)/?$")
_CLASSES = {
    "checkpointer_cls": "one kind of checkpoint is written, and several are read",
    "checkpoint_manager_cls": "one kind of checkpoint is written, and several are read",
}
_UNTRANSFORMED: Mapping[str, tuple[tuple[Any, ...], str]] = {
    "state_transformation_fns": (((), []), "initialize.rules say which value goes where")
}


def checkpoints(to: GinTranslation, run: Call) -> str:
    """Translates a training run's `checkpoint_cfg`; gives the checkpoint that it starts from, or nothing."""
    config = to.begin(run["checkpoint_cfg"], CONFIG, of=run, argument="checkpoint_cfg")
    to.note(run, "checkpoint_cfg", f"@{config.short}")
    if config["save"] is None:
        to.field(config, "save", "checkpoint.every", 0)
    else:
        to.note(config, "save", "checkpoint")
        _save(to, to.begin(config["save"], SAVE, of=config, argument="save"))
    if config["restore"] is None:
        to.note(config, "restore", "every variable starts fresh")
        return ""
    to.note(config, "restore", "initialize")
    return _initialize(to, to.begin(config["restore"], RESTORE, of=config, argument="restore"))


def _save(to: GinTranslation, call: Call) -> None:
    if call["period"] is None:
        to.field(call, "period", "checkpoint.every", 0)
    else:
        to.field(call, "period", "checkpoint.every")
    if call["keep"] is None:
        to.set("checkpoint.keep_every", 1, call.arguments["keep"].label)  # all stay
        to.note(call, "keep", "checkpoint.keep_every = 1: all stay")
    else:
        to.field(call, "keep", "checkpoint.keep")
    to.harmless(
        call,
        {
            "save_dataset": "the place in the data is in every checkpoint",
            "keep_dataset_checkpoints": "the place in the data is in every checkpoint, and takes a few bytes",
            **_CLASSES,
        },
    )
    to.only(
        call,
        {
            "dtype": (("float32", None), "parameters are saved as they are trained, in float32"),
            "checkpoint_steps": ((None,), "set checkpoint.every and checkpoint.keep_every"),
            **_UNTRANSFORMED,
        },
    )


def _initialize(to: GinTranslation, call: Call) -> str:
    """What training starts from, with T5X's count of steps: that of the checkpoint."""
    paths = restore(to, call)
    if len(paths) > 1:
        raise call.error("path", f"{paths!r} names {len(paths)} checkpoints; a run starts from one")
    if call["mode"] == "all":
        raise call.error("mode", "'all' is of evaluation; a run starts from one checkpoint")
    if not paths:
        to.note(call, "path", "none: every variable starts fresh")
        to.note(call, "fallback_to_scratch", "every variable starts fresh")
        return ""
    to.field(call, "path", "initialize.checkpoint", paths[0])
    to.set("initialize.keep_step", True)
    to.note(call, "fallback_to_scratch", "initialize.missing")
    if call["fallback_to_scratch"]:
        to.set("initialize.missing", ["**"], call.arguments["fallback_to_scratch"].label)
    to.only(call, {"dtype": ((None, "float32"), "variables that are trained are float32")})
    return paths[0]


def restore(to: GinTranslation, call: Call) -> list[str]:
    """The paths of a `RestoreCheckpointConfig`, once what is the same in all runs is translated."""
    found = call["path"]
    paths = [found] if isinstance(found, str) else list(found or ())
    if not all(isinstance(path, str) for path in paths):
        raise call.error("path", f"{found!r} is no path; give one in quotes")
    to.harmless(call, {**_CLASSES, "restore_dataset": "a run that is resumed goes on where it was in the data"})
    for path in paths if call["mode"] != "all" else ():
        require_ours(call.arguments["path"].label, path)
    to.note(call, "strict", "each variable must be there, and the optimizer's state is taken where it is")
    if call["mode"] not in ("specific", "latest", "all"):
        raise call.error("mode", f"{call['mode']!r} is not known; it must be 'specific', 'latest' or 'all'")
    to.note(call, "mode", "a path is a run's directory, whose latest checkpoint is taken, or one of its checkpoints")
    to.only(
        call,
        {
            "assignment_map": ((None, (), []), f"set initialize.rules, such as ['encoder.** -> encoder.**'] ({PAGE})"),
            **_UNTRANSFORMED,
        },
    )
    return paths


def require_ours(label: str, path: str) -> None:
    """Raises UserError for a checkpoint on a disk in T5X's own format, which has to be imported first."""
    if is_remote(path) or not (epath.Path(path).expanduser() / "checkpoint").is_file():
        return
    raise UserError(
        f"{label}: {path} is in T5X's own format; `t5x_like import --from=t5x --path={path} --output=DIR --config=FILE`"
        " makes a checkpoint of step 0 of it, from which TRAIN_STEPS counts the steps of fine-tuning alone"
    )


def step_of(path: str) -> int | None:
    """The step of a checkpoint: by its name, else by looking; None where there is none."""
    if match := _STEP.search(path):
        return int(match[1])
    try:
        return find(path).step
    except UserError:
        return None


def total_steps(to: GinTranslation, run: Call, source: str) -> None:
    """`steps`: T5X counts from the checkpoint's step, and `relative_steps` from there on."""
    relative: Any = run["relative_steps"]
    to.note(run, "total_steps", "steps")
    to.note(run, "relative_steps", "none")
    if not relative:
        to.field(run, "total_steps", "steps")
        return
    begin = step_of(source) if source else 0
    if begin is None:
        raise run.error("relative_steps", f"the step of {source!r} is not known, and the steps count from it")
    to.field(run, "relative_steps", "steps", begin + relative)


def check_step_offset(to: GinTranslation, optimizer: Call, source: str) -> None:
    """Adafactor's `step_offset` makes the second moments start anew at a step: that of the checkpoint alone."""
    offset = optimizer["step_offset"]
    if not offset:
        return
    if not source or step_of(source) != offset:
        raise optimizer.error(
            "step_offset",
            f"the optimizer can start anew at the checkpoint's step alone, which is not {offset} ({PAGE})",
        )
    to.set("initialize.fresh_optimizer", True, optimizer.arguments["step_offset"].label)
    to.note(optimizer, "step_offset", "the optimizer's state starts anew")
