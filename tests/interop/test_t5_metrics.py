"""T5's metrics and postprocessors, on examples whose values are scikit-learn's, sacrebleu's, rouge-score's or plain."""

import numpy as np
import pytest

from t5x_like.errors import UserError
from t5x_like.interop import t5_classification as classes
from t5x_like.interop import t5_metrics as texts
from t5x_like.interop import t5_postprocessors as post

TRUTH, GUESS = [0, 1, 1, 0, 1, 0], [0, 1, 0, 0, 1, 1]


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (classes.accuracy(TRUTH, GUESS), {"accuracy": 100 * 4 / 6}),
        (classes.sequence_accuracy(["a b", "c"], ["a b", "d"]), {"sequence_accuracy": 50.0}),
        (classes.all_match([1, 0], [1, 0]), {"exact_match": 100.0}),
        (classes.all_match([1, 0], [1, 1]), {"exact_match": 0.0}),
        # sklearn.metrics.f1_score and matthews_corrcoef.
        (classes.f1_score_with_invalid(TRUTH, GUESS), {"f1": 100 * 2 / 3}),
        (classes.f1_score_with_invalid([0, 1, 1, 0, 1], [0, 1, -1, 5, 1]), {"f1": 100 * 2 / 3}),
        (classes.sklearn_metrics_wrapper("matthews_corrcoef")(TRUTH, GUESS), {"matthews_corrcoef": 1 / 3}),
        (
            classes.sklearn_metrics_wrapper("matthews_corrcoef")([0, 1, 2, 2], [0, 2, 1, 2]),
            {"matthews_corrcoef": 0.2},
        ),
        (classes.mean_multiclass_f1(3)([0, 1, 2, 2], [0, 2, 1, 2]), {"mean_3class_f1": 50.0}),
        # scipy.stats.pearsonr and spearmanr, with a tie.
        (classes.pearson_corrcoef([1, 2, 3, 4], [1, 2, 2, 8]), {"pearson_corrcoef": 84.680173047}),
        (classes.spearman_corrcoef([1, 2, 3, 4], [1, 2, 2, 8]), {"spearman_corrcoef": 94.86832981}),
        # sklearn.metrics.roc_auc_score and average_precision_score.
        (classes.auc(TRUTH, [0.1, 0.8, 0.35, 0.4, 0.9, 0.7]), {"auc-roc": 7 / 9, "auc-pr": 13 / 15}),
        (classes.auc([0.2, 0.9, 0.6], [1, 3, 2], 0.5), {"auc-roc": 1.0, "auc-pr": 1.0}),
        # The scripts of SQuAD, TriviaQA and CoQA.
        (texts.squad([["The cat.", "dog"], ["a big house"]], ["cat", "big red house"]), {"em": 50.0, "f1": 90.0}),
        (texts.trivia_qa([["Mid-winter"], ["x"]], ["mid winter", "y"]), {"em": 50.0, "f1": 50.0}),
        (texts.coqa_f1([["no", ""], ["the white one"]], ["", "white"]), {"f1": 100 * (1 + 2 / 3) / 2}),
        (
            texts.span_squad(
                [{"answers": ["second word"], "context": "first, second word here"}] * 3,
                ["start: 1 end: 2", "start: one end: 2", "words"],
            ),
            {"em": 100 / 3, "f1": 100 / 3},
        ),
    ],
)
def test_a_metric(found, expected):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, abs=1e-6), name


def test_edit_distances_are_of_words():
    found = texts.edit_distance(["The cat sat", "a b"], ["the dog sat", "a b c d"])
    assert found == {"min_edit": 1, "max_edit": 2, "mean_edit": 1.5, "median_edit": 1.5, "sum_edit": 3}


def test_groups_are_measured_once_or_each():
    pairs = [(0, "a", "a"), (0, "b", "x"), (1, "c", "c")]
    targets = [{"group": group, "value": value} for group, value, _ in pairs]
    predictions = [{"value": value} for _, _, value in pairs]
    assert texts.deduplicate_metric(classes.accuracy)(targets, predictions) == {"accuracy": 100.0}
    assert texts.mean_group_metric(classes.all_match)(targets, predictions) == {"exact_match": 50.0}
    both = texts.mean_group_metric(classes.all_match, return_subgroup_scores=True)(targets, predictions)
    assert both == {"exact_match": 50.0, "0-exact_match": 0.0, "1-exact_match": 100.0}
    assert texts.multirc_f1_over_all_answers([{"value": 1}, {"value": 0}], [{"value": 1}, {"value": -1}])["f1"] == (
        pytest.approx(100 * 2 / 3)
    )


def answers(labels, weight=1.0, length=2):
    return [
        ((example, k), k == label, weight, length * (k + 1)) for example, label in enumerate(labels) for k in range(2)
    ]


def test_ranked_answers_are_classes():
    targets, scores = answers([0, 1, 1, 0]), [-1.0, -2.0, -3.0, -1.0, -1.0, -1.5, -0.5, -4.0]
    found = classes.rank_classification(targets, scores, num_classes=2)
    # sklearn.metrics over softmax(scores)[:, 1].
    assert found == pytest.approx({"accuracy": 75.0, "f1": 100 * 2 / 3, "auc-roc": 100.0, "auc-pr": 100.0})
    order = np.random.default_rng(0).permutation(len(targets))
    shuffled = classes.rank_classification([targets[i] for i in order], [scores[i] for i in order], num_classes=2)
    assert shuffled == found
    assert classes.rank_classification(targets, scores) == {"accuracy": 75.0}
    by_length = classes.rank_classification(targets, scores, 2, normalize_by_target_length=True)
    assert by_length["accuracy"] == 100.0  # of the third, −1.5 / 4 is above −1 / 2
    with pytest.raises(UserError, match="has an answer twice"):
        classes.rank_classification([targets[0], targets[0]], [1.0, 2.0])
    three = [((0, k), k == 1, 1.0, 1) for k in range(3)]
    assert classes.rank_classification(three, [0.0, 1.0, 0.5], num_classes=3) == pytest.approx(
        {"accuracy": 100.0, "mean_3class_f1": 100 / 3}
    )


def test_what_is_scikit_learns_alone_is_named_where_that_is_missing():
    try:
        import sklearn  # noqa: F401
    except ImportError:
        with pytest.raises(UserError, match="metric 'cohen_kappa_score' is scikit-learn's, which is not installed"):
            classes.sklearn_metrics_wrapper("cohen_kappa_score")


def test_bleu():
    hypotheses = ["the cat sat on the mat", "there is a dog"]
    assert texts.bleu(hypotheses, hypotheses)["bleu"] == pytest.approx(100.0)
    found = texts.bleu(["the cat sat on a mat", "there was a dog"], hypotheses)["bleu"]
    # corpus_bleu by hand: precisions 8/10, 4/8, 2/6, 1/4, no brevity penalty.
    assert found == pytest.approx(100 * (0.8 * 0.5 * (2 / 6) * 0.25) ** 0.25, abs=1e-6)
    assert texts.bleu([["the cat sat on a mat", "there was a dog"], hypotheses], hypotheses)["bleu"] == (
        pytest.approx(100.0)
    )


def test_rouge():
    found = texts.rouge_mean(["the cat sat", "a dog . it ran"], ["the cat", "a dog . it ran"])
    assert found == pytest.approx({"rouge1": 90.0, "rouge2": 100 * (2 / 3 + 1) / 2, "rougeLsum": 90.0})
    assert texts.rouge(["a b", "a b"], ["a b", "a b"]) == pytest.approx(dict.fromkeys(found, 100.0))
    with pytest.raises(UserError, match="no predictions"):
        texts.rouge_mean([], [])


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (post.string_to_float("3.4"), 3.4),
        (post.string_to_float("three", example={}), -1.0),
        (post.lower_text("ABC", is_target=True), "abc"),
        (post.string_label_to_class_id("yes", ["no", "yes"]), 1),
        (post.string_label_to_class_id("maybe", ["no", "yes"]), -1),
        (post.multirc("True"), {"value": 1}),
        (post.multirc("False", {"idx/question": 7}, is_target=True), {"value": 0, "group": 7}),
        (post.record("x"), {"value": "x"}),
        (
            post.record("x", {"answers": [b"x", b"y"], "idx/passage": 1, "idx/query": 2}, is_target=True),
            {"value": ["x", "y"], "group": (1, 2)},
        ),
        (post.qa("x"), "x"),
        (post.qa("x", {"answers": [b"x", "y"]}, is_target=True), ["x", "y"]),
        (post.span_qa("x", {"answers": [b"x"], "context": b"c"}, is_target=True), {"answers": ["x"], "context": "c"}),
        (post.rank_classification(-0.5), -0.5),
        (
            post.rank_classification(0, {"idx": [3, 1], "is_correct": True, "targets": [5, 6]}, is_target=True),
            ((3, 1), True, 1.0, 2),
        ),
    ],
)
def test_a_postprocessor(found, expected):
    assert found == expected
