"""Texts: prompts as a vocabulary spells them, stop strings, streaming, and files of prompts."""

import jax
import pytest
from written import Letters, built, initial

from t5x_like.data.byte_vocabulary import ByteVocabulary
from t5x_like.errors import UserError
from t5x_like.inference import prompts as files
from t5x_like.inference.sampling import GREEDY, Sampling
from t5x_like.inference.search import BeamSearch
from t5x_like.inference.text import TextGenerator

KEY = jax.random.key(0)
PROMPTS = ["5 6 7", "9", "", "8 8 8 8 8 8 8 8 8 8 8 8"]


@pytest.fixture(scope="module", params=["decoder", "encoder_decoder"])
def writes(request):
    """A function from prompts to texts."""
    generate = TextGenerator(built(request.param), Letters())
    state = initial(request.param)

    def write(prompts=PROMPTS, sampling=GREEDY, **options):
        return generate(state, prompts, tokens=12, sampling=sampling, key=KEY, **options)

    write.encodes = request.param != "decoder"
    return write


def test_texts_follow_their_prompts_space_and_all(writes):
    texts = writes()
    assert len(set(texts)) > 2
    for prompt, text in zip(PROMPTS, texts, strict=True):
        assert 0 < len(text.split()) <= 12 and set(text) <= set("0123456789 ")
        assert text.startswith(" ") == (not writes.encodes and prompt != "")
    assert writes(PROMPTS[1:2]) == texts[1:2]
    sampled = writes(sampling=Sampling())
    assert sampled == writes(sampling=Sampling()) != texts


def test_a_reader_hears_the_texts_while_they_are_written(writes):
    heard = dict.fromkeys(range(len(PROMPTS)), "")
    pieces = []

    def reader(number, piece):
        heard[number] += piece
        pieces.append(piece)

    texts = writes(sampling=Sampling(), reader=reader)
    assert [heard[number] for number in range(len(PROMPTS))] == texts == writes(sampling=Sampling())
    assert len(pieces) > len(PROMPTS)  # the first token comes before the others


def test_a_stop_string_ends_a_text_and_is_no_part_of_it(writes):
    whole = writes(sampling=Sampling())
    stop = max(whole, key=len).split()[3]
    heard = []
    texts = writes(
        sampling=Sampling(), stops=[stop, "never"], reader=lambda number, piece: heard.append((number, piece))
    )
    assert texts == [text.split(stop)[0] for text in whole] != whole
    assert ["".join(piece for n, piece in heard if n == number) for number in range(len(PROMPTS))] == texts


def test_beams_are_read_as_texts(writes):
    one, several = writes(sampling=BeamSearch(1, 0.0)), writes(sampling=BeamSearch(4, 0.6))
    assert len(one) == len(several) == len(PROMPTS) and one != several
    stop = several[0].split()[0]
    assert writes(sampling=BeamSearch(4, 0.6), stops=[stop])[0] == several[0].split(stop)[0]


def test_a_stop_string_across_tokens_is_not_shown_before_it_is_whole():
    """With bytes for tokens, every stop string is of several."""
    subject, vocabulary = built("decoder"), ByteVocabulary()
    generate = TextGenerator(subject, vocabulary)
    generate.engine.pieces = 32  # the model's table: control characters and some punctuation
    arguments = {"tokens": 30, "sampling": Sampling(4.0), "key": KEY}
    [whole] = generate(initial("decoder"), [""], **arguments)
    stop = whole[5:8]
    assert len(stop) == 3
    heard = []
    [text] = generate(initial("decoder"), [""], **arguments, stops=[stop], reader=lambda _, piece: heard.append(piece))
    assert text == whole[: whole.index(stop)] == "".join(heard)


@pytest.mark.parametrize("prompt", ["a\udce9b", "\ud800"])
def test_a_prompt_that_is_not_utf_8_is_a_sentence(writes, prompt):
    with pytest.raises(UserError, match=r"^prompt 2 is not UTF-8, from its character [12] on; convert it to UTF-8$"):
        writes(["5", prompt])


def test_an_empty_stop_string_is_refused(writes):
    with pytest.raises(UserError, match="a stop string is empty"):
        writes(stops=["a", ""])


def test_nothing_to_continue(writes):
    assert writes([]) == []


# --- Files ----------------------------------------------------------------------------------------------------------


def test_files_of_text_and_of_json_lines(tmp_path, monkeypatch):
    text, lines = tmp_path / "a.txt", tmp_path / "b.JSONL"
    text.write_bytes(b'\xef\xbb\xbfone two\r\n\n  three \n{"prompt": 1}\nl\xc3\xa4st')
    assert files.read(str(text)) == ["one two", "  three ", '{"prompt": 1}', "läst"]
    lines.write_text('{"prompt": "one\\ntwo", "id": 3}\n\n"three"\n{"prompt": ""}')
    assert files.read(str(lines)) == ["one\ntwo", "three", ""]


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("a.jsonl", b'"a"\n{"prompt": "b"\n', "line 2 of .*a.jsonl is no JSON .*; write a line such as"),
        ("a.jsonl", b'{"text": "b"}', "line 1 of .* has no text; write a string, or an object with the field prompt"),
        ("a.jsonl", b'{"prompt": 3}', "line 1 of .* has no text"),
        ("a.jsonl", b"[1]", "line 1 of .* has no text"),
        ("a.jsonl", b"[" * 100_000, "line 1 of .* is no JSON"),
        ("a.jsonl", b'"\\ud800"', "line 1 of .* has half of a surrogate pair"),
        ("a.txt", b"a\nb\xe9\n", "line 2 of .* is not UTF-8, from its byte 2 on"),
        ("a.txt", b"\n \n", "has no prompt; give a file with a prompt a line"),
        ("a.txt", b"", "has no prompt"),
    ],
)
def test_a_bad_line_is_one_sentence(tmp_path, name, content, sentence):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=f"^--prompts: .*{sentence}") as caught:
        files.read(str(tmp_path / name))
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_one_sentence(tmp_path):
    with pytest.raises(UserError, match="^--prompts: there is no file"):
        files.read(str(tmp_path / "missing"))
