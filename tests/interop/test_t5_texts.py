"""T5's preprocessors, on examples by hand; TensorFlow runs them in a process of its own."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow  # TensorFlow is imported: half a minute

PROGRAM = Path(__file__).with_name("t5_texts_program.py")
TEXTS = {
    "translate": [{"inputs": "translate German to English: Das ist gut.", "targets": "That is good."}],
    "multi_translate": [
        {"inputs": "translate German to French: gut", "targets": "bon"},
        {"inputs": "translate German to French: ja", "targets": "oui"},
    ],
    "summarize": [{"inputs": "summarize: An article.", "targets": "A summary."}],
    "lm": [{"inputs": "", "targets": "Some text."}],
    "pad": [{"text": "Hello 日 本 x"}],
    "squad": [
        {
            "inputs": "question: Who , then ? context: It was Bob . ",
            "targets": "Bob . ",
            "id": "7",
            "context": "It was Bob . ",
            "question": "Who , then ? ",
            "answers": ["Bob . ", "Al"],
        }
    ],
    "squad_without": [
        {
            "inputs": "squad trivia question: Who ? ",
            "targets": "Bob",
            "id": "7",
            "context": "c",
            "question": "Who ? ",
            "answers": ["Bob"],
        }
    ],
    "trivia_qa": [
        {"inputs": "question: Who ? context: It was Bob , said Al . ", "targets": "bob"},
        {"inputs": "question: Who ? context: It was Bob , said Al . ", "targets": "al"},
    ],
    "qqp": [
        {"inputs": "qqp question1: Why? question2: Why so?", "targets": "duplicate", "idx": 10},
        {"inputs": "qqp question1: b question2: a", "targets": "<unk>", "idx": 11},
    ],
    "multirc": [
        {
            "inputs": "multirc question: Q? answer: A paragraph: P q",
            "targets": "False",
            "idx/paragraph": 1,
            "idx/question": 2,
            "idx/answer": 3,
        }
    ],
    "stsb": [{"inputs": "stsb sentence1: One. sentence2: Two.", "targets": "1.8", "idx": 0}],
    "wsc": [
        {"inputs": "wsc text: # This # is a * test * sentence .", "targets": "False", "idx": 4},
        {"inputs": "wsc text: This is a * test * # sentence # .", "targets": "True", "idx": 5},
    ],
    "record": [
        {
            "inputs": "record query: A @placeholder. entities: x, y passage: First. Then. last",
            "targets": target,
            "answers": ["y", "x"],
            "idx/passage": 1,
            "idx/query": 2,
        }
        for target in ("y", "x")
    ],
    "parse_tsv": [{"x": "a", "y": "c"}],
    "preprocess_tsv": [{"inputs": "numerator: 42 denominator: 7", "targets": "quotient: 6"}],
    "preprocess_tsv_names": [{"inputs": "7 or 6?", "targets": "6"}],
}
TWELVE = list(range(2, 14))


@pytest.fixture(scope="module")
def found():
    done = subprocess.run([sys.executable, str(PROGRAM)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


@pytest.mark.parametrize("name", TEXTS)
def test_a_preprocessor_of_texts(found, name):
    assert found[name] == TEXTS[name]


def tokens(found, name):
    return [example["targets"] for example in found[name]]


def test_sequences_are_joined_and_split(found):
    assert tokens(found, "concat") == [TWELVE[:5], TWELVE]
    assert tokens(found, "split") == [TWELVE[:5], TWELVE[:5], TWELVE[5:10], TWELVE[10:]]
    assert tokens(found, "unsupervised") == [TWELVE[:5] + TWELVE]
    assert tokens(found, "front") == [TWELVE[2:5], [], TWELVE[-3:]]


def test_a_part_of_a_long_sequence_is_drawn(found):
    short, long = tokens(found, "chunk")
    assert short == TWELVE[:5] and long in (TWELVE[:5], TWELVE[5:10], TWELVE[10:])
    drawn = tokens(found, "chunk_anywhere")
    assert all(part == TWELVE[part[0] - 2 : part[0] - 2 + len(part)] and 1 <= len(part) <= 4 for part in drawn)
    assert len({tuple(part) for part in drawn}) > 8


def test_a_prefix_and_the_rest(found):
    pairs = [(example["inputs"], example["targets"]) for example in found["prefix_lm"]]
    assert all(inputs + targets in (TWELVE[:5], TWELVE[5:10], TWELVE[10:]) for inputs, targets in pairs)
    assert {len(inputs) for inputs, targets in pairs if len(inputs + targets) == 5} == {1, 2, 3, 4}
    assert all(inputs and targets for inputs, targets in pairs)
