"""Stages in order, their counts, and a whole corpus with one process and with several, stopped and taken up again."""

import json
import random

import pytest
import zstandard

from t5x_like import registry
from t5x_like.data.cleaning import corpus as corpora
from t5x_like.data.cleaning.cleaner import Cleaner, from_flag
from t5x_like.data.cleaning.corpus import CleaningInput, clean_corpus
from t5x_like.data.cleaning.counts import Counts
from t5x_like.errors import ExperimentError, UserError
from t5x_like.sections import section

STAGES = [
    {"name": "c4", "min_sentences": 2},
    "exact_duplicates",
    {"name": "duplicate_spans", "min_sentences": 1},
    {"name": "near_duplicates", "bands": 20, "rows": 4},
]
SENTENCE = "The fox number {} has met the dog number {}."


def texts(count=120):
    rng = random.Random(0)
    pages = []
    for _ in range(count):
        kind = rng.randrange(4)
        if kind == 0 and pages:
            pages.append(rng.choice(pages))
        elif kind == 1 and pages:
            pages.append(rng.choice(pages) + "\n" + SENTENCE.format(rng.randrange(99), rng.randrange(99)))
        elif kind == 2:
            pages.append("A page of one line with no end")
        else:
            lines = [SENTENCE.format(rng.randrange(10**6), rng.randrange(10**6)) for _ in range(rng.randint(3, 30))]
            pages.append("\n".join([*lines, "Home | About"]))
    return pages


@pytest.fixture
def corpus(tmp_path, monkeypatch):
    monkeypatch.setattr(corpora, "GROUP_CHARACTERS", 5000)
    (tmp_path / "corpus.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts()))
    return CleaningInput(path=str(tmp_path / "corpus.jsonl"))


def files(folder):
    """Every file of an output but the state, by name."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def documents(folder):
    parts = [zstandard.decompress(content) for name, content in sorted(files(folder).items()) if name.endswith(".zst")]
    return {row["number"]: row["text"] for part in parts for row in map(json.loads, part.decode().splitlines())}


def test_stages_are_options_that_go_through_json():
    cleaner = Cleaner.of(STAGES)
    assert [stage.name for stage in cleaner.stages] == [
        "c4",
        "exact_duplicates",
        "duplicate_spans",
        "near_duplicates",
    ]
    values, _ = json.loads(cleaner.identity())
    assert section(Cleaner, {"stages": values}, "") == cleaner
    with pytest.raises(
        ExperimentError, match=r"^cleaning\.stages\[1\]\.min_word: there is no such field; did you mean"
    ):
        Cleaner.of(["c4", {"name": "c4", "min_word": 3}])


@pytest.mark.parametrize("name", registry.names("cleaning"))
def test_every_stage_has_the_name_it_is_registered_under(name):
    options = {"paths": ["a"]} if name == "decontaminate" else {}
    assert Cleaner.of([{"name": name, **options}]).stages[0].name == name


def test_counts_of_composed_stages():
    cleaner = Cleaner.of(
        [{"name": "c4", "min_sentences": 1}, {"name": "gopher_quality", "min_words": 8, "min_stop_words": 1}]
    )
    counts = cleaner.counts()
    good = SENTENCE.format(1, 2)
    outcomes = [
        cleaner.clean(text, counts).text
        for text in (f"{good}\nHome\nHome", "é", "Too few words for this ä.", "{", good)
    ]
    assert outcomes == [good, None, None, None, good]
    amount = lambda documents, size: {"documents": documents, "bytes": size}  # noqa: E731
    size, few = len(good), len("Too few words for this ä.".encode())
    assert counts.to_dict() == {
        "stages": [
            {
                "stage": "c4",
                "taken": amount(5, 2 * size + 10 + 2 + few + 1),
                "given": amount(3, 2 * size + few),
                "dropped": {"curly_bracket": amount(1, 1), "few_sentences": amount(1, 2)},
                "edited": {"no_end_mark": {"documents": 2, "pieces": 3}},
            },
            {
                "stage": "gopher_quality",
                "taken": amount(3, 2 * size + few),
                "given": amount(2, 2 * size),
                "dropped": {"few_words": amount(1, few)},
                "edited": {},
            },
        ]
    }


def test_counts_add_up_and_go_through_json():
    cleaner = Cleaner.of(["c4", "refined_web_lines"])
    whole, odd, even = cleaner.counts(), cleaner.counts(), cleaner.counts()
    for number, text in enumerate(texts()):
        cleaner.clean(text, whole)
        cleaner.clean(text, odd if number % 2 else even)
    sums = [Counts.from_dict(json.loads(json.dumps(counts.to_dict()))) for counts in (odd, even)]
    sums[0].add(sums[1])
    odd_first = sums[0].to_dict()
    even.add(odd)
    assert odd_first == even.to_dict() == whole.to_dict()
    with pytest.raises(ValueError, match="the counts of 'c4' and 'language' cannot be added"):
        Counts.of(["c4"]).add(Counts.of(["language"]))


def test_a_corpus_stage_needs_the_corpus():
    cleaner = Cleaner.of(["c4", "exact_duplicates"])
    with pytest.raises(ExperimentError, match=r"stages\[1\]: exact_duplicates must see the whole corpus first"):
        cleaner.clean("\n".join([SENTENCE.format(1, 2)] * 3), cleaner.counts())


def test_three_processes_write_what_one_writes(corpus, tmp_path):
    cleaner = Cleaner.of(STAGES)
    counts = clean_corpus(corpus, cleaner, tmp_path / "one")
    assert clean_corpus(corpus, cleaner, tmp_path / "three", processes=3) == counts
    assert files(tmp_path / "one") == files(tmp_path / "three")
    assert len(files(tmp_path / "one")) > 5
    assert json.loads((tmp_path / "one/counts.json").read_text()) == counts.to_dict()
    for stage, after in zip(counts.stages, counts.stages[1:], strict=False):
        assert stage.given == after.taken
        assert stage.dropped or stage.edited
    assert len(documents(tmp_path / "one")) == counts.stages[-1].given.documents


def test_the_groups_do_not_matter_to_what_is_left(corpus, tmp_path, monkeypatch):
    cleaner = Cleaner.of(STAGES)
    counts = clean_corpus(corpus, cleaner, tmp_path / "small")
    monkeypatch.setattr(corpora, "GROUP_CHARACTERS", 10**9)
    assert clean_corpus(corpus, cleaner, tmp_path / "large") == counts
    assert documents(tmp_path / "small") == documents(tmp_path / "large")


def test_what_is_left_is_unique(corpus, tmp_path):
    clean_corpus(corpus, Cleaner.of(["exact_duplicates"]), tmp_path / "out")
    left, all_texts = documents(tmp_path / "out"), texts()
    assert left == {all_texts.index(text): text for text in dict.fromkeys(all_texts)}


@pytest.mark.parametrize("calls", [0, 1, 7, 20, 40, 70])
def test_it_goes_on_where_it_was_stopped(corpus, tmp_path, monkeypatch, calls):
    cleaner = Cleaner.of(STAGES)
    counts = clean_corpus(corpus, cleaner, tmp_path / "whole")
    write, left = corpora.keys_of.write_whole, [calls]

    def write_until_stopped(path, content):
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        write(path, content)

    monkeypatch.setattr(corpora.keys_of, "write_whole", write_until_stopped)
    with pytest.raises(KeyboardInterrupt):
        clean_corpus(corpus, cleaner, tmp_path / "stopped")
    monkeypatch.undo()
    monkeypatch.setattr(corpora, "GROUP_CHARACTERS", 5000)
    made = {path: path.stat().st_mtime_ns for path in (tmp_path / "stopped").glob("part-*")}
    assert clean_corpus(corpus, cleaner, tmp_path / "stopped") == counts
    assert files(tmp_path / "stopped") == files(tmp_path / "whole")
    assert made == {path: path.stat().st_mtime_ns for path in made}


@pytest.mark.parametrize("processes", [1, 2])
def test_what_is_there_is_not_made_again(corpus, tmp_path, processes):
    cleaner, out = Cleaner.of(STAGES), tmp_path / "out"
    counts = clean_corpus(corpus, cleaner, out)
    (out / "part-000001.jsonl.zst").unlink()
    made = {path: path.stat().st_mtime_ns for path in out.rglob("part-*.zst")}
    assert clean_corpus(corpus, cleaner, out, processes) == counts
    assert made == {path: path.stat().st_mtime_ns for path in made}
    assert (out / "part-000001.jsonl.zst").exists()


def test_leftovers_of_a_crash_are_removed(corpus, tmp_path):
    clean_corpus(corpus, Cleaner.of(["c4"]), tmp_path / "out")
    (tmp_path / "out/.draft-1").write_text("half")
    clean_corpus(corpus, Cleaner.of(["c4"]), tmp_path / "out")
    assert not list((tmp_path / "out").rglob(".draft-*"))
    assert not list((tmp_path / "out").rglob("keys-*"))


@pytest.mark.parametrize("change", ["stages", "corpus", "no state"])
def test_an_output_of_something_else_is_refused(corpus, tmp_path, change):
    out, stages = tmp_path / "out", ["c4"]
    clean_corpus(corpus, Cleaner.of(stages), out)
    if change == "stages":
        stages = [{"name": "c4", "min_words": 4}]
    elif change == "corpus":
        (tmp_path / "corpus.jsonl").write_text('{"text": "another"}\n')
    else:
        (out / "state/identity.json").unlink()
    with pytest.raises(UserError, match=f"^{out} holds another corpus, or what other stages left of this one; give"):
        clean_corpus(corpus, Cleaner.of(stages), out)


def test_an_error_in_a_process_is_the_user_s_sentence(corpus, tmp_path):
    (tmp_path / "empty.jsonl").write_text("")
    cleaner = Cleaner.of([{"name": "decontaminate", "paths": [f"{tmp_path}/empty.jsonl"]}])
    with pytest.raises(ExperimentError, match=r"^decontaminate.path: there is no document in .*/empty.jsonl$"):
        clean_corpus(corpus, cleaner, tmp_path / "out", processes=2)


def test_another_list_of_words_is_another_stage(corpus, tmp_path):
    words = tmp_path / "words.txt"
    words.write_text("number")
    cleaner = Cleaner.of([{"name": "c4", "bad_words": str(words)}])
    assert clean_corpus(corpus, cleaner, tmp_path / "out").stages[0].given.documents == 0
    words.write_text("cat")
    with pytest.raises(UserError, match="other stages left of this one"):
        clean_corpus(corpus, cleaner, tmp_path / "out")
    assert clean_corpus(corpus, cleaner, tmp_path / "other").stages[0].given.documents


@pytest.mark.parametrize("name", ["stages.json", "STAGES.JSON"])
def test_stages_in_a_file_with_its_ending_in_any_case(tmp_path, name):
    (tmp_path / name).write_text(json.dumps(["c4", {"name": "gopher_quality", "min_words": 3}]))
    assert [stage.name for stage in from_flag(f"{tmp_path}/{name}").stages] == ["c4", "gopher_quality"]
