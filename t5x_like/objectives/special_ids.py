"""Ids of an objective's own, such as a mask: above those of the task's texts, or one that its vocabulary has for it."""

from typing import Any

from t5x_like.errors import ExperimentError


def require_no_text(vocabulary: Any, field: str, token: int, spellings: tuple[str, ...], remedy: str) -> None:
    """Raises ExperimentError where an id stands for something in texts.

    Args:
      vocabulary: of the task.
      field: the option that has the id.
      token: the id.
      spellings: as vocabularies spell such an id that have one, such as `[MASK]`.
      remedy: what would be right, behind "use an id that is none of theirs, such as".
    """
    text = vocabulary.decode([token]).strip() if token < vocabulary.size else ""
    if text and text not in spellings:
        raise ExperimentError(
            f"objective.{field}",
            f"{token} is {text!r} in data.task's texts; use an id that is none of theirs, such as {remedy}",
        )
