"""Translation of T5X's Adafactor and of optax's optimizers, and of the learning rate's schedules."""

from typing import Any

from t5x_like.frontends.gin.calls import PAGE, Call
from t5x_like.frontends.gin.translation import GinTranslation

ADAFACTOR = "t5x.adafactor.Adafactor"
SCHEDULER = "t5x.utils.create_learning_rate_scheduler"
_SCHEDULES = tuple(
    f"optax.{name}"
    for name in (
        "constant_schedule",
        "linear_schedule",
        "cosine_decay_schedule",
        "warmup_constant_schedule",
        "warmup_cosine_decay_schedule",
    )
)
_OPTAX = ("optax.adam", "optax.adamw", "optax.lion", "optax.sgd")
_CLIPS = {"optax.clip": ("max_delta", "clip_value"), "optax.clip_by_global_norm": ("max_norm", "clip_norm")}
_ALL_KINDS = ("matrix", "embedding", "norm", "bias")
_UNFACTORED = (1 << 31) - 1  # a width that no matrix has


def optimizer(to: GinTranslation, model: Call) -> None:
    """Translates a model's `optimizer_def`, without a learning rate that it takes from the trainer."""
    found = to.begin(
        model["optimizer_def"], ADAFACTOR, "t5x.optimizers.chain", *_OPTAX, of=model, argument="optimizer_def"
    )
    to.note(model, "optimizer_def", f"@{found.short}")
    if found.name == ADAFACTOR:
        _adafactor(to, found)
    elif found.name == "t5x.optimizers.chain":
        _chain(to, found)
    else:
        _optax(to, found, {})


def takes_trainers_rate(model: Call) -> bool:
    """Whether the learning rate is that of `Trainer.learning_rate_fn`; optax's optimizers have their own."""
    return model["optimizer_def"].name == ADAFACTOR and model["optimizer_def"]["learning_rate"] is None


def trainer_rate(to: GinTranslation, trainer: Call, model: Call | None) -> None:
    """Translates the trainer's schedule of the learning rate."""
    if model is not None and not takes_trainers_rate(model):
        to.harmless(trainer, {"learning_rate_fn": "the optimizer has a learning rate of its own"})
        return
    schedule = to.begin(trainer["learning_rate_fn"], SCHEDULER, *_SCHEDULES, of=trainer, argument="learning_rate_fn")
    to.note(trainer, "learning_rate_fn", f"@{schedule.short}")
    _schedule(to, schedule)


def _schedule(to: GinTranslation, call: Call) -> None:
    if call.name == SCHEDULER:
        to.field(call, "base_learning_rate", "optimizer.learning_rate", float(call["base_learning_rate"]))
        names = [name for name in call.arguments if name != "base_learning_rate"]
        to.set("optimizer.schedule", {"name": "factors", **{name: call[name] for name in names}}, call.label)
        for name in names:
            to.note(call, name, f"optimizer.schedule.{name} = {call[name]!r}")
        return
    arguments = {name: given.value for name, given in call.arguments.items() if given.value is not None}
    to.set("optimizer.learning_rate", 1.0, call.label)
    schedule = {"name": "optax", "function": call.name.removeprefix("optax."), "arguments": arguments}
    to.set("optimizer.schedule", schedule, call.label)
    for name in call.arguments:
        to.note(call, name, f"optimizer.schedule.arguments.{name} = {call[name]!r}")


def _adafactor(to: GinTranslation, call: Call) -> None:
    to.set("optimizer", {"name": "adafactor"}, call.label)
    to.field(call, "decay_rate", "optimizer.decay_rate")
    to.field(call, "clipping_threshold", "optimizer.clip_threshold", float(call["clipping_threshold"] or 0.0))
    norm = call["global_norm_clip_threshold"]
    to.field(call, "global_norm_clip_threshold", "optimizer.clip_norm", float(norm or 0.0))
    to.field(call, "multiply_by_parameter_scale", "optimizer.parameter_scale")
    to.field(call, "beta1", "optimizer.momentum", float(call["beta1"] or 0.0))
    if call["beta1"]:
        to.set("optimizer.momentum_of", "update")  # of what the learning rate has multiplied already, as T5X keeps it
    width = call["min_dim_size_to_factor"] if call["factored"] else _UNFACTORED
    to.field(call, "min_dim_size_to_factor", "optimizer.min_factored_size", width)
    to.note(call, "factored", "optimizer.min_factored_size")
    _adafactor_weight_decay(to, call)
    to.note(call, "step_offset", "checked against the step of the checkpoint that the run starts from")
    if call["learning_rate"] is not None:
        to.field(call, "learning_rate", "optimizer.learning_rate")
        to.set("optimizer.schedule", {"name": "constant"}, call.label)
    to.harmless(call, {"logical_factor_rules": "a matrix is factored by its two longest axes, layer by layer"})
    to.harmless(call, {"skip_nan_updates": "no update is made of a gradient that is not finite"})
    to.only(
        call,
        {
            "epsilon1": ((1e-30,), "it is 1e-30"),
            "epsilon2": ((1e-3,), "it is 1e-3"),
            "dtype_momentum": (("float32",), "momentum is float32"),
            "factor_map": ((None,), "matrices are factored by their shape"),
            "max_parameter_scale": ((None,), "a parameter's scale has no upper bound"),
        },
    )


def _adafactor_weight_decay(to: GinTranslation, call: Call) -> None:
    """T5X's decay is not times the learning rate, unless the exponent of it says so."""
    rate, exponent = call["weight_decay_rate"], call["weight_decay_rate_lr_exponent"]
    if exponent:
        rate = rate or 1.0
    if rate and exponent != 1:
        argument = "weight_decay_rate_lr_exponent" if exponent else "weight_decay_rate"
        problem = (
            f"weights decay by the learning rate times a factor here; set weight_decay_rate_lr_exponent = 1 ({PAGE})"
        )
        raise call.error(argument, problem)
    to.field(call, "weight_decay_rate", "optimizer.weight_decay", float(rate or 0.0))
    to.note(call, "weight_decay_rate_lr_exponent", "weights decay by the learning rate times a factor")
    if rate:
        to.set("optimizer.weight_decay_kinds", _ALL_KINDS)


def _chain(to: GinTranslation, call: Call) -> None:
    """`optimizers.chain`: clips, and one optimizer at the end."""
    *clips, last = call["transformations"] or [None]
    to.note(call, "transformations", "clips, then the optimizer")
    clipping: dict[str, Any] = {}
    for found in clips:
        clip = to.begin(found, *_CLIPS, of=call, argument="transformations")
        argument, field = _CLIPS[clip.name]
        if field in clipping or (field == "clip_value" and clipping):
            raise call.error("transformations", "gradients are clipped by value first, then by norm, each once")
        clipping[field] = float(clip[argument])
        to.note(clip, argument, f"optimizer.{field} = {clip[argument]!r}")
    _optax(to, to.begin(last, *_OPTAX, of=call, argument="transformations"), clipping)


def _optax(to: GinTranslation, call: Call, clipping: dict[str, Any]) -> None:
    name = call.name.removeprefix("optax.")
    ours = "adamw" if name == "adam" else name
    to.set("optimizer", {"name": ours, "clip_norm": 0.0, "weight_decay": 0.0, **clipping}, call.label)
    for argument in ("b1", "b2", "eps"):
        if argument in call.arguments:
            to.field(call, argument, f"optimizer.{argument}")
    if "weight_decay" in call.arguments:
        to.field(call, "weight_decay", "optimizer.weight_decay")
        to.set("optimizer.weight_decay_kinds", _ALL_KINDS)
        to.only(call, {"mask": ((None,), "optimizer.weight_decay_kinds says what decays")})
    if name == "sgd":
        to.field(call, "momentum", "optimizer.momentum", float(call["momentum"] or 0.0))
        to.field(call, "nesterov", "optimizer.nesterov")
    elif "nesterov" in call.arguments:
        to.only(call, {"nesterov": ((False,), "there is no Nesterov momentum in it")})
    if "eps_root" in call.arguments:
        to.only(call, {"eps_root": ((0.0,), "it is 0")})
    for argument in ("mu_dtype", "accumulator_dtype"):
        if argument in call.arguments:
            to.only(call, {argument: ((None, "float32"), "moments are float32")})
    rate = call["learning_rate"]
    if isinstance(rate, int | float):
        to.field(call, "learning_rate", "optimizer.learning_rate", float(rate))
        to.set("optimizer.schedule", {"name": "constant"}, call.label)
        return
    schedule = to.begin(rate, SCHEDULER, *_SCHEDULES, of=call, argument="learning_rate")
    to.note(call, "learning_rate", f"@{schedule.short}")
    _schedule(to, schedule)
