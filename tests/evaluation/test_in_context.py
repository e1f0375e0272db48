"""In-context evaluation: the files of tasks, prompts, metrics and windows against what is known of each."""

import json
import math

import jax
import numpy as np
import pytest
from written import Letters, built, initial

from t5x_like.errors import UserError
from t5x_like.evaluation.in_context.asking import Examiner, windows_of
from t5x_like.evaluation.in_context.metrics import bootstrap, exact_match, f1
from t5x_like.evaluation.in_context.questions import Asker
from t5x_like.evaluation.in_context.task import open_task
from t5x_like.inference.sampling import GREEDY
from t5x_like.inference.scoring import Scored, Scorer, scored_pair
from t5x_like.inference.text import TextGenerator

RECORDS = [
    {"q": f"{i} {i + 1}", "choices": [str(i + 2), str(i + 3), str(i + 4)], "answer": str(i + 2)} for i in range(3, 13)
]
TASK = {"name": "next", "records": "next.jsonl", "template": "{{ q }}", "options": "choices"}


def write(folder, rows=RECORDS, **changes):
    """A task's file and its records."""
    (folder / "next.jsonl").write_text("".join(json.dumps(record) + "\n" for record in rows))
    values = {**TASK, **changes}
    (folder / "task.toml").write_text("".join(f"{key} = {json.dumps(value)}\n" for key, value in values.items()))
    return open_task(str(folder / "task.toml"))


# --- Prompts ----------------------------------------------------------------------------------------------------------


def test_examples_are_others_than_the_question_and_hang_on_its_number_and_the_seed(tmp_path):
    asker = Asker(write(tmp_path, description="Count."))
    first, again, other = (asker.questions(3, seed) for seed in (0, 0, 1))
    assert first == again != other and asker.questions(3, 0, limit=4) == first[:4]
    for number, question in enumerate(first):
        head, *examples, asked = question.prompt.split("\n\n")
        assert head == "Count." and asked == RECORDS[number]["q"] and question.right == 0
        assert len({*examples}) == 3 and all(
            example.split() == sorted(example.split(), key=int) for example in examples
        )
        assert not any(example.startswith(asked) for example in examples)
    assert asker.questions(0, 0)[0].prompt == "Count.\n\n3 4"


@pytest.mark.parametrize(
    ("changes", "records", "sentence"),
    [
        ({"template": "{{ question }}"}, RECORDS, "record 1 does not suit the template ('question' is undefined)"),
        ({"template": "{% if %}"}, RECORDS, "template is no Jinja"),
        (
            {},
            [*RECORDS[:1], {"q": "1", "choices": ["2", "3"], "answer": "4"}],
            "record 2 has the answer '4', which is none",
        ),
        ({"options": "others"}, RECORDS, "record 1 has no list of options in the field 'others'"),
        ({"answer": "right"}, RECORDS, "record 1 has no field 'right'"),
        ({}, RECORDS[:1], "1 examples are asked for, and there are 0"),
    ],
)
def test_what_does_not_fit_is_refused_with_the_record_s_number(tmp_path, changes, records, sentence):
    with pytest.raises(UserError) as caught:
        Asker(write(tmp_path, records, **changes)).questions(1 if len(records) < 2 else 0, 0)
    assert sentence in str(caught.value) and str(caught.value).startswith("task next: ")


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"kind": "option"}, "kind: 'option'"),
        ({"templates": "x"}, "templates: there is no such field; did you mean 'template'?"),
        ({"records": "absent.jsonl"}, "absent.jsonl"),
    ],
)
def test_a_file_that_is_no_task_is_refused_by_its_field(tmp_path, changes, sentence):
    with pytest.raises(UserError, match="--task"):
        write(tmp_path, **changes)
    with pytest.raises(UserError) as caught:
        write(tmp_path, **changes)
    assert sentence in str(caught.value)


# --- Metrics ----------------------------------------------------------------------------------------------------------


def test_exact_match_and_f1_are_those_of_squad():
    assert exact_match("The  Cat!", ["dog", "a cat"]) == 1 and exact_match("cats", ["cat"]) == 0
    assert f1("the big cat", ["a cat"]) == pytest.approx(2 / 3)
    assert f1("", []) == 1 and f1("something", []) == 0  # no answer, as in 2.0
    assert f1("", ["cat"]) == 0 and f1("cat cat", ["cat"]) == pytest.approx(2 / 3)


def test_bootstrap_errors_are_those_of_a_mean():
    values = np.random.default_rng(1).random(400).round()
    found = bootstrap(values.tolist())
    exact = values.std() / math.sqrt(len(values))
    assert found.mean == values.mean() and found.error == pytest.approx(exact, rel=0.1)
    assert found.low == pytest.approx(found.mean - 1.96 * exact, abs=exact / 3)
    assert bootstrap([1.0] * 5) == (1.0, 0.0, 1.0, 1.0)


@pytest.mark.parametrize(("context", "stride"), [(4, 4), (4, 1), (5, 3), (50, 50)])
def test_windows_predict_each_token_once_with_no_more_than_the_context(context, stride):
    ids = np.arange(17, dtype=np.int32)
    windows = windows_of(ids, context, stride)
    np.testing.assert_array_equal(np.concatenate([targets for _, targets in windows]), ids)
    for given, targets in windows:
        assert len(given) + len(targets) <= context and (len(given) == 0 or given[-1] + 1 == targets[0])
    assert all(len(given) + len(targets) == context for given, targets in windows[1:-1])


# --- A model ----------------------------------------------------------------------------------------------------------


class Model:
    """What an examiner asks of a restored checkpoint, over a model in memory."""

    def __init__(self):
        self.program, self.state = built("decoder"), initial("decoder")

    def vocabulary(self):
        return Letters()

    def scorer(self):
        return Scorer(self.program)

    def text_generator(self):
        return TextGenerator(self.program, Letters())


@pytest.fixture(scope="module")
def model():
    return Model()


def log_p(model, given, targets):
    """The log-likelihood by reading the whole sequence once, without batches."""
    net = model.program.model(model.state)
    ids = np.array([[0, *given, *targets]], np.int32)
    places = np.arange(ids.shape[1] - 1)[None]
    logits = net.logits(net(ids[:, :-1], positions_bt=places, segment_ids_bt=np.ones_like(places)))
    each = np.take_along_axis(np.asarray(jax.nn.log_softmax(logits)), ids[:, 1:, None], 2)[0, :, 0]
    return each[len(given) :].sum()


def test_the_likeliest_option_is_taken_raw_by_length_and_over_its_own_likelihood(model, tmp_path):
    task = write(tmp_path, unconditional="7", options=["8 9 10", "11", "12 13"], rows=[{"q": "5 6", "answer": 1}] * 2)
    found = Examiner(model).ask(task, shots=0, seeds=[0])
    texts = [[8, 9, 10], [11], [12, 13]]
    raw = np.array([log_p(model, [5, 6], text) for text in texts])
    alone = np.array([log_p(model, [7], text) for text in texts])
    lengths = np.array([len(" 8 9 10"), len(" 11"), len(" 12 13")])
    for name, scores in {"accuracy": raw, "accuracy_by_length": raw / lengths, "accuracy_pmi": raw - alone}.items():
        assert found[name].mean == float(scores.argmax() == 1), name
    assert found["chance"].mean == pytest.approx(1 / 3)


def test_perplexity_and_bits_a_byte_are_those_of_the_windows(model, tmp_path):
    texts = ["3 4 5 6 7 8 9 10 11", "20 21 22"]
    task = write(tmp_path, [{"q": text} for text in texts], kind="likelihood", context=4, stride=2)
    found = Examiner(model).ask(task, shots=0, seeds=[0])
    nats = 0.0
    for text in texts:
        for given, targets in windows_of(np.array([*map(int, text.split())]), 4, 2):
            nats -= log_p(model, given, targets)
    assert found["perplexity"].mean == pytest.approx(math.exp(nats / 12), rel=1e-4)
    assert found["bits_per_byte"].mean == pytest.approx(nats / math.log(2) / sum(map(len, texts)), rel=1e-4)


def test_written_answers_are_compared_with_all_right_ones(model, tmp_path):
    [text] = TextGenerator(built("decoder"), Letters())(
        model.state, ["5 6"], tokens=3, sampling=GREEDY, key=jax.random.key(0)
    )
    records = [{"q": "5 6", "answer": [text, "nothing"]}, {"q": "5 6", "answer": ["nothing"]}]
    found = Examiner(model).ask(write(tmp_path, records, kind="text", tokens=3), shots=0, seeds=[0])
    assert found["exact_match"].mean == 0.5 and found["f1"].mean == 0.5


def test_a_prompt_longer_than_the_model_reads_is_refused(model, tmp_path):
    task = write(tmp_path, [{"q": "5 " * 80, "choices": ["1", "2"], "answer": 0}])
    with pytest.raises(UserError, match="has 81 tokens with its answer, and the model reads 64"):
        Examiner(model).ask(task, shots=0, seeds=[0])


def test_a_pair_is_spelled_as_one_text_and_spaces_go_to_the_continuation():
    pair = scored_pair(Letters(), "5 6 ", "7 8", encodes=False)
    assert isinstance(pair, Scored) and pair.inputs.tolist() == [5, 6] and pair.targets.tolist() == [7, 8]
    encoded = scored_pair(Letters(), "5 6", "7", encodes=True)
    assert encoded.inputs.tolist() == [5, 6, 1] and encoded.targets.tolist() == [7]
