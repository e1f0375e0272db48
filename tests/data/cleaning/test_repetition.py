"""The measurements of repetition against a slow count by the book, and the rules that stand on them."""

import random
from collections import Counter

import pytest

from t5x_like.data.cleaning.repetition import GopherRepetition, NGrams
from t5x_like.errors import ExperimentError


def top_share(words, n):
    """The n-gram that comes most often, the longest of them, times how often it comes."""
    grams = Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1))
    most = max(grams.values(), default=0)
    if most < 2:
        return 0
    return most * max(len("".join(gram)) for gram, count in grams.items() if count == most) / len("".join(words))


def duplicate_share(words, n):
    """The characters of every n-gram that was there before, each once."""
    seen, covered = set(), set()
    for i in range(len(words) - n + 1):
        gram = tuple(words[i : i + n])
        if gram in seen:
            covered.update(range(i, i + n))
        seen.add(gram)
    return sum(len(words[i]) for i in covered) / max(len("".join(words)), 1)


@pytest.mark.parametrize("size", [0, 1, 3, 12, 200])
@pytest.mark.parametrize("different", [1, 2, 5, 50])
def test_measurements_are_those_by_the_book(size, different):
    rng = random.Random(size * 100 + different)
    words = ["w" * rng.randint(1, 9) + str(rng.randrange(different)) for _ in range(size)]
    words += words[: size // 3]
    for n in range(2, 11):
        grams = NGrams(words)
        assert grams.top_share(n) == pytest.approx(top_share(words, n)), n
        assert grams.duplicate_share(n) == pytest.approx(duplicate_share(words, n)), n


def sentence(rng, count):
    return " ".join(f"{rng.choice('abcdefgh')}{rng.randrange(100_000)}" for _ in range(count))


def text_with_repeated(n, times):
    """200 words of their own, and n words `times` times among them."""
    rng = random.Random(0)
    again = sentence(rng, n)
    return " ".join(sentence(rng, 200 // times) + f" {again}" for _ in range(times))


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("", ""),
        ("one", ""),
        (text_with_repeated(10, 1), ""),
        (text_with_repeated(2, 10), ""),
        (text_with_repeated(2, 40), "top_2_gram"),
        (text_with_repeated(3, 18), "top_3_gram"),
        (text_with_repeated(4, 11), "top_4_gram"),
        (text_with_repeated(100, 2), "duplicate_5_gram"),
        ("a b\n" * 2 + "\n".join(f"c{i} d{i}" for i in range(8)), ""),
        ("a b\n" * 6 + "\n".join(f"c{i} d{i}" for i in range(8)), "duplicate_lines"),
        ("\n\n".join(["a\nb", *["c\nd"] * 3, "e\nf\ng\nh\ni\nj\nk\nl\nm\nn\no\np"]), "duplicate_paragraphs"),
        ("long line of many words\n" * 2 + "\n".join("abcdefgh"), "duplicate_line_characters"),
    ],
)
def test_rules(text, rule):
    outcome = GopherRepetition().clean(text)
    assert outcome.rule == rule
    assert outcome.text == (None if rule else text)


def test_paragraph_characters():
    paragraph = "one line\nanother line\na third line"
    text = "\n\n".join([paragraph, *(f"short {i}" for i in range(6)), paragraph])
    generous = GopherRepetition(duplicate_lines=1.0, duplicate_line_characters=1.0)
    assert generous.clean(text).rule == "duplicate_paragraph_characters"


@pytest.mark.parametrize("n", range(6, 11))
def test_longer_n_grams_have_limits_of_their_own(n):
    text = text_with_repeated(n, 4)
    share = duplicate_share(text.split(), n)
    loose = [1.0] * 6
    loose[n - 5] = share * 0.99
    options = {"top_n_grams": (1.0, 1.0, 1.0), "duplicate_n_grams": tuple(loose)}
    assert GopherRepetition(**options).clean(text).rule == f"duplicate_{n}_gram"
    loose[n - 5] = share * 1.01
    assert GopherRepetition(**(options | {"duplicate_n_grams": tuple(loose)})).clean(text).rule == ""


def test_limits_are_one_a_length():
    with pytest.raises(ExperimentError, match="duplicate_n_grams: 2 limits; give 6, for n = 5 to 10"):
        GopherRepetition(duplicate_n_grams=(0.1, 0.1))
