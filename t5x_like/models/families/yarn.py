"""Entries of `config.json` that scale rotary positions by YaRN (Peng et al. 2023): those of gpt-oss and DeepSeek-V3."""

import math
from collections.abc import Mapping
from typing import Any

from t5x_like.errors import UserError
from t5x_like.models.hugging_face import Config, Translation

_POSITIONS = "decoder.positions"


def yarn(theta: float, *, scores: bool = False) -> Translation:
    """The rotary base and its scaling by YaRN, or none.

    Args:
      theta: the base in a file that gives none.
      scores: whether `mscale_all_dim` scales attention's scores, as DeepSeek has it.
    """

    def read(config: Config) -> Mapping[str, Any]:
        given = {**(config.get("rope_scaling") or {}), **(config.get("rope_parameters") or {})}
        kind = given.get("rope_type", given.get("type", "default"))
        if kind not in ("default", "yarn"):
            raise UserError(f"config.json has rope_type={kind!r}; it must be 'default' or 'yarn'")
        base = given.get("rope_theta", config.get("rope_theta", theta))
        options: dict[str, Any] = {f"{_POSITIONS}.name": "rope", f"{_POSITIONS}.theta": base}
        if scores:
            options["decoder.layer.attention.scale"] = 0.0
        if kind == "default":
            return {**options, f"{_POSITIONS}.scaling.kind": "none", f"{_POSITIONS}.scaling.factor": 1.0} | _plain()
        factor, every = given["factor"], given.get("mscale_all_dim", 0)
        if given.get("mscale") and every:
            amplitude = _amplitude(factor, given["mscale"]) / _amplitude(factor, every)
        else:
            amplitude = _amplitude(factor, 1)
        scaling = {
            "kind": "yarn",
            "factor": factor,
            "high": given.get("beta_fast", 32.0),
            "low": given.get("beta_slow", 1.0),
            "original_length": given["original_max_position_embeddings"],
            "rounded": given.get("truncate", True),
            "attention_factor": given.get("attention_factor") or amplitude,
        }
        if scores and every:
            width = config["qk_nope_head_dim"] + config["qk_rope_head_dim"]
            options["decoder.layer.attention.scale"] = width**-0.5 * _amplitude(factor, every) ** 2
        return options | {f"{_POSITIONS}.scaling.{name}": value for name, value in scaling.items()}

    def write(model: Any) -> Mapping[str, Any]:
        scaling, attention = model.decoder.positions.scaling, model.decoder.layer.attention
        if scaling.kind == "none":
            return {"rope_theta": model.decoder.positions.theta, "rope_scaling": None}
        written = {
            "rope_type": "yarn",
            "factor": scaling.factor,
            "beta_fast": scaling.high,
            "beta_slow": scaling.low,
            "original_max_position_embeddings": scaling.original_length,
            "truncate": scaling.rounded,
            "attention_factor": scaling.attention_factor,
        }
        if scores and attention.scale:
            amplitude = math.sqrt(attention.scale * math.sqrt(attention.head_dim))
            written["mscale_all_dim"] = round((amplitude - 1) / (0.1 * math.log(scaling.factor)), 9)
        return {"rope_theta": model.decoder.positions.theta, "rope_scaling": written}

    return Translation(("rope_theta", "rope_scaling", "rope_parameters"), read, write)


def _plain() -> dict[str, Any]:
    """What YaRN alone has, where nothing is scaled."""
    return {f"{_POSITIONS}.scaling.rounded": True, f"{_POSITIONS}.scaling.attention_factor": 1.0}


def _amplitude(factor: float, weight: float) -> float:
    """What rotated queries and keys are multiplied by (section 3.4), with DeepSeek's weight of the logarithm."""
    return 0.1 * weight * math.log(factor) + 1.0 if factor > 1 else 1.0
