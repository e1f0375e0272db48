"""Each rule of the stages that look at one document: what it keeps, drops and takes out."""

import pytest

from t5x_like.data.cleaning.cleaner import Cleaner
from t5x_like.errors import ExperimentError

LINE = "This is one line of five words or more."
PAGE = "\n".join([LINE, "Is there another one after the first?", "There is, and that makes it three!"])
PROSE = " ".join(["The quick brown fox jumps over the lazy dog and that is all of it."] * 5)


def stage(name, **options):
    return Cleaner.of([{"name": name, **options}]).stages[0]


def clean(name, text, **options):
    return stage(name, **options).clean(text)


# ---- C4 ----


@pytest.mark.parametrize("text", [PAGE, LINE.replace(".", '."') * 3 + "\n" + PAGE, PAGE.replace("three!", "“three.”")])
def test_c4_keeps_prose_as_it_is(text):
    outcome = clean("c4", text)
    assert outcome.text == text and not outcome.edits


@pytest.mark.parametrize(
    ("line", "rule"),
    [
        ("This line has no mark at its end", "no_end_mark"),
        ("This line just goes on and on...", "no_end_mark"),
        ("This line just goes on and on…", "no_end_mark"),
        ("Only four words here.", "few_words"),
        ("Please turn on JavaScript to see this.", "javascript"),
        ("You should read our Privacy Policy with care.", "policy"),
        ("This site uses cookies to know you.", "policy"),
        (f"One of these words is {'l' * 990}ong enough.", "long_word"),
    ],
)
def test_c4_takes_lines_out(line, rule):
    first, rest = PAGE.split("\n", 1)
    options = {"max_word_length": 990} if rule == "long_word" else {}
    outcome = clean("c4", f"{first}\n{line}\n\n{rest}", **options)
    assert outcome.text == PAGE
    assert outcome.edits == {rule: 1}


def test_c4_line_rules_at_their_limits():
    assert clean("c4", PAGE + "\nNow here are five words.").edits == {}
    assert clean("c4", PAGE + "\nOnly four words here.", min_words=4).edits == {}
    word = "w" * 1000
    assert clean("c4", f"{PAGE}\nIt has one long word {word} in it.").edits == {}
    assert clean("c4", f"{PAGE}\nIt has one long word {word}x in it.").edits == {"long_word": 1}


def test_c4_takes_citations_out():
    marked = (
        PAGE.replace("words", "words[12]").replace("first", "first[citation needed]").replace("three", "three[][Edit]")
    )
    outcome = clean("c4", marked)
    assert outcome.text == PAGE
    assert outcome.edits == {"citation": 4}
    assert clean("c4", PAGE.replace("words", "words [sic]")).edits == {}


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        (PAGE + "\nLorem Ipsum dolor", "lorem_ipsum"),
        (PAGE + "\nif (x) { return 1; }", "curly_bracket"),
        ("\n".join(PAGE.split("\n")[:2]), "few_sentences"),
        ("", "few_sentences"),
        ("No marks here\nnone at all", "few_sentences"),
    ],
)
def test_c4_drops_pages(text, rule):
    outcome = clean("c4", text)
    assert outcome.text is None
    assert outcome.rule == rule


def test_c4_counts_sentences_not_lines():
    page = "There are two of them. They share this line."
    assert clean("c4", page).rule == "few_sentences"
    assert clean("c4", page, min_sentences=2).text == page
    assert clean("c4", "It costs 3.50 at example.com for all of you.", min_sentences=2).rule == "few_sentences"


@pytest.mark.parametrize(
    ("text", "bad"),
    [
        ("Here is a Darn word.", True),
        ("Here is a darning needle.", False),
        ("What the heck is this?", True),
        ("What a heck is this?", False),
        ("What the hecklers did.", False),
        ("There is a 2bad4 word.", True),
        ("It ends in darn", True),
    ],
)
def test_c4_bad_words_stand_alone(tmp_path, text, bad):
    (tmp_path / "list.txt").write_text("darn\nthe heck\n\n2bad4\n")
    outcome = clean("c4", f"{PAGE}\n{text}", bad_words=str(tmp_path / "list.txt"))
    assert outcome.rule == ("bad_word" if bad else "")


def test_c4_names_a_missing_list(tmp_path):
    with pytest.raises(ExperimentError, match=f"^c4.bad_words: there is no file {tmp_path}/no.txt$"):
        clean("c4", PAGE, bad_words=f"{tmp_path}/no.txt")


# ---- Gopher, quality ----


def words(count, word="that"):
    return " ".join(["The", "fox", *[word] * (count - 2)])


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        (PROSE, ""),
        (words(50), ""),
        (words(49), "few_words"),
        ("", "few_words"),
        (words(101), "many_words"),
        (words(60, "a"), "short_words"),
        (words(60, "internationalisation"), "long_words"),
        (words(60) + " #" * 6, ""),
        (words(60) + " #" * 7, "hash_symbols"),
        (words(60) + " wait..." * 7, "ellipses"),
        (words(60) + " wait…" * 7, "ellipses"),
        (words(54) + " 1914" * 13, ""),
        (words(54) + " 1914" * 14, "few_letters"),
        (words(60, "fox"), "few_stop_words"),
        (words(60, "fox") + " that", ""),
        (" ".join(["• Der", *["rote"] * 59]), "bullets"),
    ],
)
def test_gopher_quality(text, rule):
    outcome = clean("gopher_quality", text, max_words=100)
    assert outcome.rule == rule
    assert outcome.text == (None if rule else text)


def test_gopher_quality_looks_for_stop_words_in_the_whole_document():
    assert clean("gopher_quality", words(300, "fox") + " with").rule == ""


@pytest.mark.parametrize(
    ("begin", "end", "count", "rule"),
    [
        ("- ", "", 9, ""),
        ("- ", "", 10, "bullets"),
        ("• ", "", 10, "bullets"),
        ("", "...", 3, ""),
        ("", " and so on…", 4, "ellipsis_lines"),
    ],
)
def test_gopher_quality_of_lines(begin, end, count, rule):
    line = "The fox and the dog have met today"
    text = "\n\n".join(f"{begin}{line}{end}" if i < count else line for i in range(10))
    assert clean("gopher_quality", text).rule == rule


def test_gopher_quality_limits_must_fit():
    with pytest.raises(ExperimentError, match=r"stages\[0\].max_words: 10 is below min_words=50; raise it"):
        stage("gopher_quality", max_words=10)


# ---- RefinedWeb ----

LONG = " ".join(["Here is a line of ordinary text that is longer than any of the others on this page"] * 12) + "."


@pytest.mark.parametrize(
    ("line", "rule", "left"),
    [
        ("READ ALL THE NEWS", "upper_case", ""),
        ("ÄRGER ÜBER ÖDE FÜCHSE", "upper_case", ""),
        ("2021 / 12 / 31", "numeric", ""),
        ("3 likes", "counter", ""),
        ("1.2K followers", "counter", ""),
        ("Home", "one_word", ""),
        ("Sign in to write an answer", "beginning", "to write an answer"),
        ("A fox was seen. Read more...", "end", "A fox was seen."),
        ("You have 3 items in cart now", "anywhere", "You have now"),
    ],
)
def test_refined_web_takes_lines_out(line, rule, left):
    outcome = clean("refined_web_lines", f"{LONG}\n{line}\n{LONG}")
    assert outcome.edits == {rule: 1}
    assert " ".join(outcome.text.split()) == " ".join(f"{LONG} {left} {LONG}".split())


@pytest.mark.parametrize(
    "line",
    [
        "",
        "Not much, but text",
        "NASA said it would",
        "He got 3 likes and was glad",
        "Among the many things one may wish to read more of them is this",
        "***",
        "Die Bundesrepublik ist groß",
    ],
)
def test_refined_web_keeps_lines(line):
    outcome = clean("refined_web_lines", f"{LONG}\n{line}\n{LONG}")
    assert outcome.text == f"{LONG}\n{line}\n{LONG}"


@pytest.mark.parametrize(("words", "edited"), [(10, True), (11, False)])
def test_refined_web_searches_short_lines_for_phrases(words, edited):
    line = " ".join(["Sign in", *["here"] * (words - 2)])
    assert clean("refined_web_lines", f"{LONG}\n{line}\n{LONG}").edits == ({"beginning": 1} if edited else {})


def test_refined_web_drops_what_is_edited_too_much():
    words = len(LONG.split())
    few = "\n".join(["Home"] * (words // 20))
    assert clean("refined_web_lines", f"{LONG}\n{few}").text.strip() == LONG
    outcome = clean("refined_web_lines", f"{LONG}\n{few}\nHome\nHome")
    assert (outcome.text, outcome.rule) == (None, "many_edits")
    assert clean("refined_web_lines", " \n ").rule == "empty"
    assert clean("refined_web_lines", "Home\nContact", max_edited=1.0).rule == "empty"


# ---- Language ----

SENTENCES = {
    "en": "The cat sat on the mat and looked at the birds outside the window.",
    "de": "Die Katze saß auf der Matte und sah den Vögeln vor dem Fenster zu.",
    "fr": "Le chat était assis sur le tapis et regardait les oiseaux par la fenêtre.",
    "es": "El gato estaba sentado en la alfombra y miraba los pájaros por la ventana.",
    "ru": "Кошка сидела на коврике и смотрела на птиц за окном.",
    "ja": "猫はマットの上に座って、窓の外の鳥を見ていました。",
}


@pytest.mark.parametrize("language", SENTENCES)
def test_language_keeps_its_own(language):
    for spoken, text in SENTENCES.items():
        assert clean("language", text, keep=[language]).rule == ("" if spoken == language else "other_language")


def test_language_confidence_is_the_share_of_the_text():
    text = SENTENCES["en"] * 3 + SENTENCES["ru"]
    assert clean("language", text, min_confidence=0.3).text == text
    assert clean("language", text, min_confidence=0.95).rule == "low_confidence"


def test_language_of_the_beginning_counts():
    text = SENTENCES["en"] * 10 + SENTENCES["ru"] * 100
    assert clean("language", text, max_characters=500).text == text


def test_language_takes_any_character():
    text = SENTENCES["en"].replace("cat", "c\x00at\x7f\ufffe\x80")
    assert clean("language", text).text == text
    assert clean("language", "").rule == "other_language"


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"keep": []}, "keep: no language is given; give at least one code, such as en"),
        ({"min_confidence": 2}, "min_confidence: 2.0 is too large; it must be at most 1"),
    ],
)
def test_language_options(options, sentence):
    with pytest.raises(ExperimentError) as caught:
        stage("language", **options)
    assert str(caught.value) == f"cleaning.stages[0].{sentence}"
