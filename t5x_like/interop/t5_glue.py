"""T5's parts for GLUE and SuperGLUE: preprocessor, postprocessor and metrics of each task, and the mixtures' weights.

Raffel et al. 2020, section 2.3 and appendix D. A task is named by its TFDS `BuilderConfig`, which knows its classes.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

from t5x_like.interop import t5_classification, t5_metrics, t5_postprocessors, t5_texts

# A task's weight in a mixture is the number of its training examples.
GLUE_WEIGHT_MAPPING: Mapping[str, float] = {
    "glue_cola_v002": 8_551.0,
    "glue_sst2_v002": 67_349.0,
    "glue_mrpc_v002": 3_668.0,
    "glue_qqp_v002": 363_849.0,
    "glue_stsb_v002": 5_749.0,
    "glue_mnli_v002": 392_702.0,
    "glue_qnli_v002": 104_743.0,
    "glue_rte_v002": 2_490.0,
    "glue_mnli_mismatched_v002": 0.0,
    "glue_mnli_matched_v002": 0.0,
    "glue_ax_v002": 0.0,
}
SUPER_GLUE_WEIGHT_MAPPING: Mapping[str, float] = {
    "dpr_v001_simple": 1_322.0,
    "super_glue_wsc_v102_simple_train": 259.0,
    "super_glue_wsc_v102_simple_eval": 0.0,
    "super_glue_boolq_v102": 9_427.0,
    "super_glue_cb_v102": 250.0,
    "super_glue_copa_v102": 400.0,
    "super_glue_multirc_v102": 27_243.0,
    "super_glue_record_v102": 138_854.0,
    "super_glue_rte_v102": 2_490.0,
    "super_glue_wic_v102": 5_428.0,
    "super_glue_axb_v102": 0.0,
    "super_glue_axg_v102": 0.0,
}
_ACCURACY = (t5_classification.accuracy,)
_F1 = (t5_classification.f1_score_with_invalid, t5_classification.accuracy)
_CORRELATIONS = (t5_classification.pearson_corrcoef, t5_classification.spearman_corrcoef)
_MATTHEWS = t5_classification.sklearn_metrics_wrapper("matthews_corrcoef", metric_post_process_fn=lambda x: 100 * x)
_METRICS: Mapping[str, tuple[Callable[..., Any], ...]] = {
    "cola": (_MATTHEWS,),
    "mrpc": _F1,
    "qqp": _F1,
    "stsb": _CORRELATIONS,
    **dict.fromkeys(("sst2", "mnli", "mnli_matched", "mnli_mismatched", "qnli", "rte", "wnli"), _ACCURACY),
    **dict.fromkeys(("ax", "axb", "axg"), ()),  # have a test split alone
    "cb": (t5_classification.mean_multiclass_f1(num_classes=3), t5_classification.accuracy),
    **dict.fromkeys(("boolq", "copa", "wic"), _ACCURACY),
    "multirc": (
        t5_metrics.multirc_f1_over_all_answers,
        t5_metrics.mean_group_metric(t5_classification.all_match),
    ),
    "record": (t5_metrics.deduplicate_metric(t5_metrics.squad),),
}


def get_glue_weight_mapping() -> Mapping[str, float]:
    """The weights of GLUE's mixture."""
    return GLUE_WEIGHT_MAPPING


def get_super_glue_weight_mapping() -> Mapping[str, float]:
    """The weights of SuperGLUE's mixture."""
    return SUPER_GLUE_WEIGHT_MAPPING


def get_glue_text_preprocessor(builder_config: Any) -> Callable[..., Any]:
    """The preprocessor of a task of GLUE or SuperGLUE."""
    name = builder_config.name
    own: Mapping[str, Callable[..., Any]] = {
        "stsb": t5_texts.stsb,
        "wsc.fixed": t5_texts.wsc,
        "record": t5_texts.record,
    }
    if name in own:
        return own[name]
    benchmark = "mnli" if "mnli" in name or name == "ax" else "rte" if name in ("axb", "axg") else name
    order = {"multirc": ("question", "answer", "paragraph"), "wic": ("sentence1", "sentence2", "word")}
    labels = builder_config.label_classes
    return functools.partial(t5_texts.glue, benchmark_name=benchmark, label_names=labels, feature_names=order.get(name))


def get_glue_postprocess_fn(builder_config: Any) -> Callable[..., Any]:
    """The postprocessor of a task of GLUE or SuperGLUE."""
    own: Mapping[str, Callable[..., Any]] = {
        "stsb": t5_postprocessors.string_to_float,
        "multirc": t5_postprocessors.multirc,
        "record": t5_postprocessors.record,
    }
    classes = functools.partial(t5_postprocessors.string_label_to_class_id, label_classes=builder_config.label_classes)
    return own.get(builder_config.name, classes)


def get_glue_metric(task_name: str) -> list[Callable[..., Any]]:
    """The metrics of a task of GLUE by its name."""
    return list(_METRICS[task_name])


def get_super_glue_metric(task_name: str) -> list[Callable[..., Any]]:
    """The metrics of a task of SuperGLUE by its name."""
    return list(_METRICS[task_name])
