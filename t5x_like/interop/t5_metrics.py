"""T5's metrics of texts: translation, summaries, answers; functions of lists to numbers by name, most in percent.

Raffel et al. 2020, section 2.3, says which task is measured by which. BLEU is sacrebleu's (Post 2018), ROUGE is Google
Research's rouge-score (Lin 2004); answers to questions are compared as SQuAD's script (Rajpurkar et al. 2016) and
TriviaQA's (Joshi et al. 2017) do, those of conversations as CoQA's (Reddy et al. 2019). Classes and numbers are in
`t5_classification`.
"""

import collections
import re
import string
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from t5x_like.errors import UserError
from t5x_like.interop.t5_classification import Metric, f1_score_with_invalid

_ROUGE = ("rouge1", "rouge2", "rougeLsum")
_TRIVIA_QA = string.punctuation + "\u2018\u2019\u00b4`_"  # and the other quotation marks
_ARTICLES = re.compile(r"\b(?:a|an|the)\b")


def bleu(targets: Sequence[Any], predictions: Sequence[str], tokenizer: str = "intl") -> dict[str, float]:
    """BLEU of a whole corpus, smoothed exponentially.

    Args:
      targets: a text, or a list of references, for each prediction. T5 hands a list of lists on as it is: sacrebleu's
        lists are one of each reference, not one of each prediction.
      predictions: texts.
      tokenizer: sacrebleu's.

    Raises:
      UserError: where sacrebleu is not installed.
    """
    sacrebleu = _needed("sacrebleu")
    references = [list(each) for each in targets] if isinstance(targets[0], list) else [list(targets)]
    options = {"smooth_method": "exp", "smooth_value": 0.0, "force": False, "lowercase": False}
    score = sacrebleu.corpus_bleu(predictions, references, tokenize=tokenizer, use_effective_order=False, **options)
    return {"bleu": score.score}


def rouge(
    targets: Sequence[str],
    predictions: Sequence[str],
    score_keys: Sequence[str] = _ROUGE,
    verbose: bool = True,
    **options: Any,
) -> dict[str, float]:
    """The middle of a bootstrap's confidence interval of each ROUGE's F, which differs a little from call to call.

    Args:
      targets: summaries, sentences separated by " . ".
      predictions: likewise.
      score_keys: of rouge-score.
      verbose: has no effect.
      **options: of its `RougeScorer`.

    Raises:
      UserError: where rouge-score is not installed.
    """
    scoring = _needed("rouge_score.scoring", "rouge-score")
    aggregator = scoring.BootstrapAggregator()
    for scores in _rouge_scores(targets, predictions, score_keys, options):
        aggregator.add_scores(scores)
    found = aggregator.aggregate()
    return {key: 100 * found[key].mid.fmeasure for key in score_keys}


def rouge_mean(
    targets: Sequence[str], predictions: Sequence[str], score_keys: Sequence[str] = _ROUGE, **options: Any
) -> dict[str, float]:
    """The mean of each ROUGE's F; arguments as of `rouge`.

    Raises:
      UserError: where rouge-score is not installed, or nothing was predicted.
    """
    if not len(predictions):
        raise UserError("rouge_mean has no predictions to measure")
    scores = _rouge_scores(targets, predictions, score_keys, options)
    return {key: 100 * float(np.mean([each[key].fmeasure for each in scores])) for key in score_keys}


def squad(targets: Sequence[Sequence[str]], predictions: Sequence[str]) -> dict[str, float]:
    """Exact match and F1 of tokens, in percent, with the best of several answers, as SQuAD's script has them."""
    return _answers(targets, predictions, normalize_squad)


def trivia_qa(targets: Sequence[Sequence[str]], predictions: Sequence[str]) -> dict[str, float]:
    """The same as TriviaQA's script has them."""
    return _answers(targets, predictions, normalize_trivia_qa)


def span_squad(targets: Sequence[Mapping[str, Any]], predictions: Sequence[str]) -> dict[str, float]:
    """`squad` of answers that are given by places of words, "start: 3 end: 6".

    Args:
      targets: each with `answers` and the `context` whose words are counted.
      predictions: what is no such text answers nothing.
    """
    texts = [_span(target["context"], text) for target, text in zip(targets, predictions, strict=True)]
    return squad([target["answers"] for target in targets], texts)


def coqa_f1(targets: Sequence[Sequence[str]], predictions: Sequence[str]) -> dict[str, float]:
    """F1 of tokens, in percent, with the best of several answers; two empty ones agree."""
    scores = []
    for answers, prediction in zip(targets, predictions, strict=True):
        words = normalize_squad(prediction).split()
        known = [normalize_squad(answer).split() for answer in answers]
        scores.append(max(float(not (words or each)) or _token_f1(each, words) for each in known))
    return {"f1": 100 * float(np.mean(scores))}


def edit_distance(targets: Sequence[str], predictions: Sequence[str], lower: bool = True) -> dict[str, float]:
    """The distance of Levenshtein between words, summed up in the ways in which T5 does."""
    import editdistance

    pairs = [(t.lower(), p.lower()) if lower else (t, p) for t, p in zip(targets, predictions, strict=True)]
    distances = [editdistance.distance(re.split(r"\W", p), re.split(r"\W", t)) for t, p in pairs]
    return {
        "min_edit": min(distances),
        "max_edit": max(distances),
        "mean_edit": float(np.mean(distances)),
        "median_edit": float(np.median(distances)),
        "sum_edit": sum(distances),
    }


def deduplicate_metric(metric_fn: Metric, group_key: str = "group", value_key: str = "value") -> Metric:
    """A metric of the first example of each group alone: targets and predictions are dictionaries."""

    def metric(targets: Sequence[Any], predictions: Sequence[Any]) -> dict[str, float]:
        first: dict[Any, tuple[Any, Any]] = {}
        for target, prediction in zip(targets, predictions, strict=True):
            first.setdefault(target[group_key], (target[value_key], prediction[value_key]))
        return metric_fn([t for t, _ in first.values()], [p for _, p in first.values()])

    return metric


def mean_group_metric(
    metric_fn: Metric, group_key: str = "group", value_key: str = "value", return_subgroup_scores: bool = False
) -> Metric:
    """The mean over groups of examples of a metric of each group."""

    def metric(targets: Sequence[Any], predictions: Sequence[Any]) -> dict[str, float]:
        groups: dict[Any, tuple[list[Any], list[Any]]] = collections.defaultdict(lambda: ([], []))
        for target, prediction in zip(targets, predictions, strict=True):
            groups[target[group_key]][0].append(target[value_key])
            groups[target[group_key]][1].append(prediction[value_key])
        scores: dict[str, list[float]] = collections.defaultdict(list)
        for group, (truth, predicted) in groups.items():
            for name, score in metric_fn(truth, predicted).items():
                scores[name].append(score)
                if return_subgroup_scores:
                    scores[f"{group}-{name}"].append(score)
        return {name: float(np.mean(values)) for name, values in scores.items()}

    return metric


def multirc_f1_over_all_answers(targets: Sequence[Any], predictions: Sequence[Any]) -> dict[str, float]:
    """F1 over every answer of MultiRC, whatever its question."""
    return f1_score_with_invalid([t["value"] for t in targets], [p["value"] for p in predictions])


def normalize_squad(answer: str) -> str:
    """An answer as SQuAD's script compares it."""
    return _normalized(answer, string.punctuation, "")


def normalize_trivia_qa(answer: str) -> str:
    """An answer as TriviaQA's script compares it."""
    return _normalized(answer, _TRIVIA_QA, " ")


def _needed(module: str, package: str = "") -> Any:
    import importlib

    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = package or module
        raise UserError(f"{package} is not installed; pip install 't5x_like[metrics]' brings it") from error


def _rouge_scores(targets: Any, predictions: Any, score_keys: Any, options: Mapping[str, Any]) -> list[Any]:
    """rouge-score's scores of each pair, a sentence a line."""
    scorer = _needed("rouge_score.rouge_scorer", "rouge-score").RougeScorer(rouge_types=score_keys, **options)
    lines = ((t.replace(" . ", " .\n"), p.replace(" . ", " .\n")) for t, p in zip(targets, predictions, strict=True))
    return [scorer.score(target=target, prediction=prediction) for target, prediction in lines]


def _normalized(text: str, punctuation: str, replacement: str) -> str:
    """A text in lower case, without punctuation and articles, with single spaces."""
    text = "".join(replacement if character in punctuation else character for character in text.lower())
    return " ".join(_ARTICLES.sub(" ", text).split())


def _answers(targets: Any, predictions: Any, normalize: Callable[[str], str]) -> dict[str, float]:
    exact, overlap = [], []
    for answers, prediction in zip(targets, predictions, strict=True):
        words, known = normalize(prediction), [normalize(answer) for answer in answers]
        exact.append(words in known)
        overlap.append(max(_token_f1(answer.split(), words.split()) for answer in known))
    return {"em": 100 * float(np.mean(exact)), "f1": 100 * float(np.mean(overlap))}


def _token_f1(target: Sequence[str], prediction: Sequence[str]) -> float:
    common = sum((collections.Counter(target) & collections.Counter(prediction)).values())
    return 2 * common / (len(target) + len(prediction)) if common else 0.0


def _span(context: str, answer: str) -> str:
    """The words of a context between the places that "start: 3 end: 6" names."""
    words, parts = (re.sub(r"\W", " ", text).split() for text in (context, answer))
    if len(parts) < 4 or not (parts[1].isdigit() and parts[3].isdigit()):
        return ""
    return " ".join(words[int(parts[1]) : int(parts[3]) + 1])
