"""Stand-ins for the modules of T5's package that a T5X user's files import, where that package is not installed.

T5's package asks for other versions of SeqIO and TFDS than training does. What T5X users' tasks take from it is here:
its tasks over C4, preprocessors, postprocessors and metrics. TensorFlow is imported with the first that needs it.
"""

import importlib.abc
import importlib.util
import sys
from collections.abc import Mapping, Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

from t5x_like.errors import UserError

_HERE = "t5x_like.interop"


def _names(module: str, names: str) -> dict[str, str]:
    return dict.fromkeys(names.split(), f"{_HERE}.{module}")


_PREPROCESSORS = {
    **_names("t5_tasks", "rekey span_corruption full_lm prefix_lm"),
    **_names("t5_tokens", "select_random_chunk reduce_concat_tokens split_tokens trim_tokens_at_front unsupervised"),
    **_names(
        "t5_texts", "translate multi_translate summarize lm pad_nonspaced_languages squad trivia_qa glue stsb wsc"
    ),
    **_names("t5_texts", "record parse_tsv preprocess_tsv"),
}
_POSTPROCESSORS = _names(
    "t5_postprocessors",
    "string_to_float lower_text string_label_to_class_id multirc record qa span_qa rank_classification",
)
_METRICS = {
    **_names("t5_metrics", "bleu rouge rouge_mean squad trivia_qa span_squad coqa_f1 edit_distance deduplicate_metric"),
    **_names("t5_metrics", "mean_group_metric multirc_f1_over_all_answers"),
    **_names(
        "t5_classification", "accuracy sequence_accuracy all_match pearson_corrcoef spearman_corrcoef auc score_auc"
    ),
    **_names(
        "t5_classification", "f1_score_with_invalid mean_multiclass_f1 sklearn_metrics_wrapper rank_classification"
    ),
}
_GLUE = _names(
    "t5_glue",
    "get_glue_text_preprocessor get_glue_postprocess_fn get_glue_metric get_super_glue_metric get_glue_weight_mapping"
    " get_super_glue_weight_mapping GLUE_WEIGHT_MAPPING SUPER_GLUE_WEIGHT_MAPPING",
)
_DATA = _names("t5_tasks", "get_default_vocabulary DEFAULT_SPM_PATH DEFAULT_EXTRA_IDS")
_SEQIO = _names("t5_tasks", "Feature TaskRegistry MixtureRegistry")
# Each module with its names, and where each is here; of a submodule, its own name.
_MODULES: Mapping[str, Mapping[str, str]] = {
    "t5": {"data": "t5.data", "evaluation": "t5.evaluation"},
    "t5.data": {
        **_DATA,
        **_SEQIO,
        **{name: f"t5.data.{name}" for name in ("preprocessors", "postprocessors", "utils", "glue_utils")},
    },
    "t5.data.utils": _DATA,
    "t5.data.preprocessors": _PREPROCESSORS,
    "t5.data.postprocessors": _POSTPROCESSORS,
    "t5.data.glue_utils": _GLUE,
    "t5.data.tasks": {},
    "t5.data.mixtures": {},
    "t5.evaluation": {"metrics": "t5.evaluation.metrics", "qa_utils": "t5.evaluation.qa_utils"},
    "t5.evaluation.metrics": _METRICS,
    "t5.evaluation.qa_utils": _names("t5_metrics", "normalize_squad normalize_trivia_qa"),
}
# Imported for the tasks that they register.
_REGISTERING = ("t5.data.tasks", "t5.data.mixtures")


def offer() -> None:
    """Makes the stand-ins importable, behind whatever is installed; may be called again."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.append(_Finder())


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds the modules of the table above, and fills them."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The module's spec; None for what has no stand-in."""
        if fullname not in _MODULES:
            return None
        return importlib.util.spec_from_loader(fullname, self, is_package=True)

    def exec_module(self, module: ModuleType) -> None:
        """Gives the module its names, and registers the tasks where that is what it is imported for."""
        name = module.__name__
        if name in _REGISTERING:
            _tasks().register()

        def lookup(attribute: str) -> Any:
            if attribute.startswith("__"):
                raise AttributeError(attribute)
            if attribute not in _MODULES[name]:
                has = ", ".join(_MODULES[name]) or "none"
                raise UserError(
                    f"{name}.{attribute}: T5's package is not installed, and its stand-in here has {has}; define it in"
                    " your own module"
                )
            where = _MODULES[name][attribute]
            return (
                importlib.import_module(where)
                if where in _MODULES
                else getattr(importlib.import_module(where), attribute)
            )

        module.__dict__["__getattr__"] = lookup


def _tasks() -> Any:
    return importlib.import_module(f"{_HERE}.t5_tasks")
