"""T5's postprocessors for SeqIO: a text as what a metric takes.

SeqIO calls each with a text, and of a target also with its example and `is_target=True`.
"""

from collections.abc import Mapping, Sequence
from typing import Any


def string_to_float(string: str, default: float = -1.0, **unused: Any) -> float:
    """The number that a text is; the default where it is none."""
    try:
        return float(string)
    except ValueError:
        return default


def lower_text(string: str, **unused: Any) -> str:
    """The text in lower case."""
    return string.lower()


def string_label_to_class_id(string_label: str, label_classes: Sequence[str], default: int = -1, **unused: Any) -> int:
    """The number of the class with this name; the default for no class."""
    return list(label_classes).index(string_label) if string_label in label_classes else default


def multirc(string_label: str, example: Any = None, is_target: bool = False) -> dict[str, Any]:
    """The class of an answer; of a target also its question, by which answers belong together."""
    made: dict[str, Any] = {"value": string_label_to_class_id(string_label, ("False", "True"))}
    return made | {"group": example["idx/question"]} if is_target else made


def record(answer: str, example: Any = None, is_target: bool = False) -> dict[str, Any]:
    """The answer; of a target all of them, and the query, by which they belong together."""
    if not is_target:
        return {"value": answer}
    return {"value": _texts(example["answers"]), "group": (int(example["idx/passage"]), int(example["idx/query"]))}


def qa(answer: str, example: Any = None, is_target: bool = False) -> Any:
    """The answer; of a target all of them."""
    return _texts(example["answers"]) if is_target else answer


def span_qa(answer: str, example: Any = None, is_target: bool = False) -> Any:
    """The answer; of a target all of them, and the context in which they are looked for."""
    return {"answers": _texts(example["answers"]), "context": _text(example["context"])} if is_target else answer


def rank_classification(
    score: Any,
    example: Mapping[str, Any] | None = None,
    is_target: bool = False,
    passthrough_feature_keys: Sequence[str] | None = None,
) -> Any:
    """The score; of a target its numbers, whether it is right, its weight and its tokens, and further features."""
    if not is_target or example is None:
        return score
    made = (tuple(example["idx"]), example["is_correct"], example.get("weight", 1.0), len(example["targets"]))
    return (*made, *(example[key] for key in passthrough_feature_keys or ()))


def _text(value: Any) -> str:
    return value.decode("utf-8") if isinstance(value, bytes) else str(value)


def _texts(values: Any) -> list[str]:
    return [_text(value) for value in values]
