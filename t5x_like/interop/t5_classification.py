"""T5's metrics of classes and numbers: accuracy, F1, correlations, areas under curves, ranked answers.

Each takes lists of targets and predictions and gives numbers by name. They are computed here from their definitions;
tests compare them with scikit-learn's values.
"""

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from t5x_like.errors import UserError

Metric = Callable[[Any, Any], dict[str, float]]


def accuracy(targets: Sequence[Any], predictions: Sequence[Any]) -> dict[str, float]:
    """The share of predictions that are the target, in percent."""
    return {"accuracy": 100 * _mean_equal(targets, predictions)}


def sequence_accuracy(targets: Sequence[Any], predictions: Sequence[Any]) -> dict[str, float]:
    """The same of whole sequences."""
    return {"sequence_accuracy": 100 * _mean_equal(targets, predictions)}


def all_match(targets: Sequence[Any], predictions: Sequence[Any]) -> dict[str, float]:
    """Whether every prediction is its target: 100 or 0."""
    return {"exact_match": 100.0 * bool(np.array_equal(targets, predictions))}


def pearson_corrcoef(targets: Sequence[float], predictions: Sequence[float]) -> dict[str, float]:
    """Pearson's correlation, in percent."""
    return {"pearson_corrcoef": 100 * _correlation(np.asarray(targets, float), np.asarray(predictions, float))}


def spearman_corrcoef(targets: Sequence[float], predictions: Sequence[float]) -> dict[str, float]:
    """Spearman's correlation of ranks, in percent; equal values share the mean of their ranks."""
    return {"spearman_corrcoef": 100 * _correlation(_ranks(targets), _ranks(predictions))}


def matthews_corrcoef(targets: Sequence[int], predictions: Sequence[int]) -> float:
    """Matthews' correlation of two classes or more (Gorodkin 2004), from −1 to 1."""
    t, p = np.asarray(targets), np.asarray(predictions)
    classes = np.unique(np.concatenate([t, p]))
    t_nk, p_nk = (values[:, None] == classes[None] for values in (t, p))
    covariance = _covariance(t_nk, p_nk)
    scale = np.sqrt(_covariance(t_nk, t_nk) * _covariance(p_nk, p_nk))
    return float(covariance / scale) if scale else 0.0


def f1_score_with_invalid(targets: Sequence[int], predictions: Sequence[int]) -> dict[str, float]:
    """F1 of class 1 of two, in percent; a prediction that is neither counts as wrong."""
    t, p = np.asarray(targets), np.asarray(predictions)
    p = np.where((p == 0) | (p == 1), p, 1 - t)
    return {"f1": 100 * _f1(t == 1, p == 1, np.ones(len(t)))}


def mean_multiclass_f1(num_classes: int, sample_weight: Sequence[float] | None = None) -> Metric:
    """The metric that is the plain mean of each class's F1, in percent."""

    def metric(targets: Any, predictions: Any) -> dict[str, float]:
        t, p = (np.asarray(values) for values in (targets, predictions))
        weights = np.ones(len(t)) if sample_weight is None else np.asarray(sample_weight)
        of = (lambda values, k: values[:, k] == 1) if t.ndim == 2 else (lambda values, k: values == k)
        scores = [_f1(of(t, k), of(p, k), weights) for k in range(num_classes)]
        return {f"mean_{num_classes}class_f1": 100 * float(np.mean(scores))}

    return metric


def auc(
    targets: Sequence[float], predictions: Sequence[float], targets_threshold: float | None = None
) -> dict[str, float]:
    """The areas under the ROC curve and under the curve of precision over recall, from 0 to 1.

    Args:
      targets: 0 or 1, or numbers of which those of at least the threshold are 1.
      predictions: any numbers.
      targets_threshold: None for targets of 0 and 1.
    """
    t = np.asarray(targets)
    t = t if targets_threshold is None else (t >= targets_threshold).astype(int)
    weights = np.ones(len(t))
    scores = np.asarray(predictions, float)
    return {"auc-roc": _roc(t == 1, scores, weights), "auc-pr": _precision_recall(t == 1, scores, weights)}


def score_auc(
    targets: Sequence[float], scores: Sequence[float], targets_threshold: float | None = None
) -> dict[str, float]:
    """`auc` of scores."""
    return auc(targets, scores, targets_threshold)


_SKLEARN: Mapping[str, Callable[..., float]] = {
    "matthews_corrcoef": matthews_corrcoef,
    "accuracy_score": lambda targets, predictions: _mean_equal(targets, predictions),
    "f1_score": lambda targets, predictions: _f1(
        np.asarray(targets) == 1, np.asarray(predictions) == 1, np.ones(len(targets))
    ),
}


def sklearn_metrics_wrapper(
    metric_str: str,
    metric_dict_str: str | None = None,
    metric_post_process_fn: Callable[[float], float] | None = None,
    **metric_fn_kwargs: Any,
) -> Metric:
    """A metric of scikit-learn by its name: one of those here, else of that package where it is installed.

    Args:
      metric_str: such as `matthews_corrcoef`.
      metric_dict_str: what the number is called; by default the metric's name.
      metric_post_process_fn: what is done with the number.
      **metric_fn_kwargs: more arguments of the metric.

    Raises:
      UserError: for a metric that is not here, where scikit-learn is not installed or has none.
    """
    function = None if metric_fn_kwargs else _SKLEARN.get(metric_str)
    if function is None:
        try:
            import sklearn.metrics
        except ImportError:
            known = ", ".join(_SKLEARN)
            raise UserError(
                f"metric {metric_str!r} is scikit-learn's, which is not installed; these are here: {known}"
            ) from None
        function = getattr(sklearn.metrics, metric_str, None)
        if function is None:
            raise UserError(f"scikit-learn has no metric {metric_str!r}")
    found = function

    def metric(targets: Any, predictions: Any) -> dict[str, float]:
        value = found(targets, predictions, **metric_fn_kwargs)
        return {metric_dict_str or metric_str: metric_post_process_fn(value) if metric_post_process_fn else value}

    return metric


def rank_classification(
    targets: Sequence[tuple[Sequence[int], bool, float, int]],
    scores: Sequence[float],
    num_classes: int | None = None,
    normalize_by_target_length: bool = False,
    idx_len: int = 2,
) -> dict[str, float]:
    """Metrics of classes of which each is an answer with a score, and the best one counts.

    Args:
      targets: of each answer its (example, answer) numbers, whether it is right, its weight, and its tokens.
      scores: the log-probability of each.
      num_classes: answers of each example; None where they differ, with accuracy alone.
      normalize_by_target_length: divide the scores by the tokens.
      idx_len: how many numbers the first part has.

    Raises:
      UserError: for targets of another form, or the same numbers twice.
    """
    if any(len(target) != 4 or len(target[0]) != idx_len for target in targets):
        raise UserError(f"rank_classification takes targets of four parts, the first of which has {idx_len} numbers")
    if len({tuple(target[0]) for target in targets}) != len(targets):
        raise UserError("rank_classification has an answer twice: the numbers of `idx` must differ")
    values = [s / t[3] if normalize_by_target_length else s for t, s in zip(targets, scores, strict=True)]
    ordered = sorted(zip(targets, values, strict=True), key=lambda each: tuple(each[0][0]))
    groups = [list(group) for _, group in itertools.groupby(ordered, key=lambda each: each[0][0][0])]
    if not num_classes:
        best = [max(group, key=lambda each: each[1])[0] for group in groups]
        weight = sum(answer[2] for answer in best)
        return {"accuracy": 100 * sum(answer[1] * answer[2] for answer in best) / weight}
    right_nk = np.array([each[0][1] for each in ordered], float).reshape(-1, num_classes)
    weights = np.array([each[0][2] for each in ordered], float).reshape(-1, num_classes)[:, 0]
    scores_nk = np.array([each[1] for each in ordered], np.float32).reshape(-1, num_classes)
    chosen = scores_nk.argmax(-1)
    hits = right_nk[np.arange(len(chosen)), chosen]
    metrics = {"accuracy": 100 * float(np.average(hits, weights=weights))}
    if (right_nk.sum(-1) > 1).any():  # several right answers: any will do
        return metrics
    if num_classes > 2:
        return metrics | mean_multiclass_f1(num_classes, list(weights))(right_nk, np.eye(num_classes)[chosen])
    truth = right_nk[:, 1] == 1
    odds = np.exp(scores_nk - scores_nk.max(-1, keepdims=True))
    positive = (odds / odds.sum(-1, keepdims=True))[:, 1]
    return metrics | {
        "f1": 100 * _f1(right_nk.argmax(-1) == 1, chosen == 1, weights),
        "auc-roc": 100 * _roc(truth, positive, weights),
        "auc-pr": 100 * _precision_recall(truth, positive, weights),
    }


def _mean_equal(targets: Sequence[Any], predictions: Sequence[Any]) -> float:
    return float(np.mean([t == p for t, p in zip(targets, predictions, strict=True)]))


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    a, b = a - a.mean(), b - b.mean()
    scale = np.sqrt((a * a).sum() * (b * b).sum())
    return float((a * b).sum() / scale) if scale else float("nan")


def _ranks(values: Sequence[float]) -> np.ndarray:
    _, inverse, counts = np.unique(np.asarray(values, float), return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return ((ends - counts + ends + 1) / 2)[inverse]


def _covariance(a_nk: np.ndarray, b_nk: np.ndarray) -> float:
    a_nk, b_nk = a_nk.astype(float), b_nk.astype(float)
    return float(((a_nk - a_nk.mean(0)) * (b_nk - b_nk.mean(0))).sum())


def _f1(truth: np.ndarray, predicted: np.ndarray, weights: np.ndarray) -> float:
    both = weights[truth & predicted].sum()
    total = weights[truth].sum() + weights[predicted].sum()
    return float(2 * both / total) if total else 0.0


def _cumulated(truth: np.ndarray, scores: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The weights of right and wrong ones whose score is at least each distinct score, the highest first."""
    order = np.argsort(-scores, kind="stable")
    last = np.append(np.flatnonzero(np.diff(scores[order])), len(scores) - 1)
    right = np.cumsum((weights * truth)[order])[last]
    wrong = np.cumsum((weights * ~truth)[order])[last]
    return right, wrong


def _roc(truth: np.ndarray, scores: np.ndarray, weights: np.ndarray) -> float:
    right, wrong = _cumulated(truth, scores, weights)
    if not right[-1] or not wrong[-1]:
        return float("nan")
    return float(np.trapezoid(np.append(0, right / right[-1]), np.append(0, wrong / wrong[-1])))


def _precision_recall(truth: np.ndarray, scores: np.ndarray, weights: np.ndarray) -> float:
    """Average precision: the sum of precisions over the steps of recall, nothing interpolated."""
    right, wrong = _cumulated(truth, scores, weights)
    if not right[-1]:
        return 0.0
    return float((np.diff(np.append(0, right / right[-1])) * right / (right + wrong)).sum())
