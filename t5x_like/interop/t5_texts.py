"""T5's preprocessors of texts for SeqIO: examples of a dataset as inputs and targets (Raffel et al. 2020, appendix D).

SeqIO calls each with a `tf.data.Dataset` of examples as TFDS has them, often with arguments bound by
`functools.partial`.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import seqio
import tensorflow as tf

from t5x_like.errors import UserError

_NO_LABEL = "<unk>"
# English names of languages by their ISO 639-1 codes, as the inputs of translations have them.
_LANGUAGES = (
    "af=Afrikaans ar=Arabic az=Azerbaijani be=Belarusian bg=Bulgarian bn=Bangla bs=Bosnian ca=Catalan cs=Czech "
    "cy=Welsh da=Danish de=German el=Greek en=English eo=Esperanto es=Spanish et=Estonian eu=Basque fa=Persian "
    "fi=Finnish fr=French ga=Irish gl=Galician gu=Gujarati ha=Hausa he=Hebrew hi=Hindi hr=Croatian hu=Hungarian "
    "hy=Armenian id=Indonesian ig=Igbo is=Icelandic it=Italian ja=Japanese ka=Georgian kk=Kazakh km=Khmer "
    "kn=Kannada ko=Korean ku=Kurdish ky=Kyrgyz lb=Luxembourgish lo=Lao lt=Lithuanian lv=Latvian mg=Malagasy "
    "mk=Macedonian ml=Malayalam mn=Mongolian mr=Marathi ms=Malay mt=Maltese my=Burmese ne=Nepali nl=Dutch "
    "pa=Punjabi pl=Polish ps=Pashto pt=Portuguese ro=Romanian ru=Russian si=Sinhala sk=Slovak sl=Slovenian "
    "so=Somali sq=Albanian sr=Serbian sv=Swedish sw=Swahili ta=Tamil te=Telugu tg=Tajik th=Thai tk=Turkmen "
    "tr=Turkish tt=Tatar uk=Ukrainian ur=Urdu uz=Uzbek vi=Vietnamese xh=Xhosa yi=Yiddish yo=Yoruba zh=Chinese "
    "zu=Zulu"
)
LANGUAGES: Mapping[str, str] = dict(pair.split("=") for pair in _LANGUAGES.split())
# Scripts that have no spaces between words, as ranges of code points.
_UNSPACED = (
    "\u1000-\u104f\u4e00-\u9fff\u3400-\u4dbf\uf900-\ufaff\u2e80-\u2eff\u31c0-\u31ef\u3000-\u303f\u3040-\u309f"
    "\u30a0-\u30ff\ua980-\ua9df\u1780-\u17ff\u19e0-\u19ff\u0e80-\u0eff\u1980-\u19df\u1a20-\u1aaf\u0e00-\u0e7f"
    "\u0f00-\u0fff"
)


@seqio.map_over_dataset
def translate(example: Mapping[str, tf.Tensor], source_language: str, target_language: str) -> dict[str, tf.Tensor]:
    """`translate German to English: …` and its translation, of an example with a text of each language code."""
    before = f"translate {_language(source_language)} to {_language(target_language)}: "
    return {"inputs": tf.strings.join([before, example[source_language]]), "targets": example[target_language]}


def multi_translate(dataset: tf.data.Dataset, source_language: str, target_language: str) -> tf.data.Dataset:
    """`translate` of TFDS's examples of many languages, of those that have both."""

    def has_both(example: Any) -> tf.Tensor:
        codes = example["translations"]["language"]
        return tf.reduce_any(codes == source_language) & tf.reduce_any(codes == target_language)

    def chosen(example: Any) -> dict[str, tf.Tensor]:
        codes, texts = (example["translations"][name] for name in ("language", "translation"))
        both = (source_language, target_language)
        return {code: texts[tf.argmax(tf.cast(codes == code, tf.int32))] for code in both}

    return translate(dataset.filter(has_both).map(chosen), source_language, target_language)


@seqio.map_over_dataset
def summarize(example: Mapping[str, tf.Tensor], article_key: str, summary_key: str) -> dict[str, tf.Tensor]:
    """`summarize: …` and the summary."""
    return {"inputs": tf.strings.join(["summarize: ", example[article_key]]), "targets": example[summary_key]}


@seqio.map_over_dataset
def lm(example: Mapping[str, tf.Tensor]) -> dict[str, Any]:
    """No inputs, and the text for targets."""
    return {"inputs": "", "targets": example["text"]}


@seqio.map_over_dataset
def pad_nonspaced_languages(example: Mapping[str, tf.Tensor], text_key: str = "text") -> dict[str, tf.Tensor]:
    """The example with spaces around each character of scripts that have none between words."""
    return {
        **example,
        text_key: _single_spaced(tf.strings.regex_replace(example[text_key], f"([{_UNSPACED}])", r" \1 ")),
    }


@seqio.map_over_dataset
def squad(example: Mapping[str, Any], include_context: bool = True) -> dict[str, tf.Tensor]:
    """`question: … context: …` and the first answer; without the context, `squad trivia question: …`."""
    answers, question, context = (
        _spaced_punctuation(text) for text in (example["answers"]["text"], example["question"], example["context"])
    )
    parts = ["question:", question, "context:", context] if include_context else ["squad trivia question:", question]
    return {
        "inputs": _joined(parts),
        "targets": answers[0],
        "id": example["id"],
        "context": context,
        "question": question,
        "answers": answers,
    }


def trivia_qa(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """TriviaQA's questions with each context in which one of the answers stands, for each such answer."""

    def pairs(example: Any) -> dict[str, tf.Tensor]:
        found = [
            example[section][field]
            for section, field in (("entity_pages", "wiki_context"), ("search_results", "search_context"))
            if section in example
        ]
        contexts = _spaced_punctuation(tf.concat(found, 0))
        answers = _spaced_punctuation(example["answer"]["normalized_aliases"])
        question = _spaced_punctuation(example["question"])
        context_ca = tf.repeat(contexts[:, None], tf.size(answers), 1)
        answer_ca = tf.repeat(answers[None], tf.size(contexts), 0)
        context, answer = tf.reshape(context_ca, [-1]), tf.reshape(answer_ca, [-1])
        stands = tf.map_fn(
            lambda both: tf.strings.regex_full_match(
                tf.strings.lower(both[0]), tf.strings.lower(tf.strings.join([".*", both[1], ".*"]))
            ),
            (context, answer),
            fn_output_signature=tf.bool,
        )
        inputs = tf.map_fn(lambda text: _joined(["question:", question, "context:", text]), context)
        return {"inputs": tf.boolean_mask(inputs, stands), "targets": tf.boolean_mask(answer, stands)}

    return dataset.map(pairs).unbatch()


@seqio.map_over_dataset
def glue(
    example: Mapping[str, Any],
    benchmark_name: str,
    label_names: Sequence[str],
    feature_names: Sequence[str] | None = None,
    id_key: str | None = "idx",
) -> dict[str, tf.Tensor]:
    """A benchmark's name and each feature with its own, as `mnli hypothesis: … premise: …`, and the label's name.

    Args:
      example: of GLUE or SuperGLUE.
      benchmark_name: with which the inputs begin.
      label_names: by the number of the class; −1 is `<unk>`.
      feature_names: which features, in order; by default all in the order of their names.
      id_key: the feature that is kept as `idx`; None keeps none. MultiRC keeps its three numbers.
    """
    names = feature_names or sorted(set(example) - {"label", "idx"})
    joined = tf.strings.join([benchmark_name, *(part for name in names for part in (f"{name}:", example[name]))], " ")
    made: dict[str, tf.Tensor] = {}
    if benchmark_name == "multirc":
        joined = tf.strings.regex_replace(tf.strings.regex_replace(joined, "<br>", " "), "<(/)?b>", "")
        made |= {f"idx/{part}": example["idx"][part] for part in ("paragraph", "question", "answer")}
    elif id_key:
        made["idx"] = example[id_key]
    return {**made, "inputs": joined, "targets": _label(example["label"], label_names)}


@seqio.map_over_dataset
def stsb(example: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    """Two sentences and their similarity, to the nearest fifth, as a text."""
    inputs = tf.strings.join(["stsb sentence1:", example["sentence1"], "sentence2:", example["sentence2"]], " ")
    label = tf.as_string(tf.round(example["label"] * 5) / 5, precision=1)
    return {"inputs": inputs, "targets": label, "idx": example["idx"]}


@seqio.map_over_dataset
def wsc(example: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    """A sentence with `*` around a noun and `#` around a pronoun, and whether one is the other."""
    text = _marked(example["text"], example["span1_text"], example["span1_index"], "*")
    behind = tf.cast(example["span1_index"] < example["span2_index"], tf.int32)  # two words more stand before it
    text = _marked(text, example["span2_text"], tf.cast(example["span2_index"], tf.int32) + 2 * behind, "#")
    label = _label(example["label"], ("False", "True"))
    return {"inputs": tf.strings.join(["wsc text:", text], " "), "targets": label, "idx": example["idx"]}


def record(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """ReCoRD's queries with their entities and passage, once for each answer."""

    def each_answer(example: Any) -> dict[str, tf.Tensor]:
        passage = tf.strings.regex_replace(example["passage"], r"(\.|\?|\!|\"|\')\n@highlight\n", r"\1 ")
        passage = tf.strings.regex_replace(passage, r"\n@highlight\n", ". ")
        entities = tf.strings.reduce_join(example["entities"], separator=", ")
        parts = ["record query:", example["query"], "entities:", entities, "passage:", passage]
        answers = example["answers"]
        targets = tf.cond(tf.size(answers) > 0, lambda: answers, lambda: tf.constant([_NO_LABEL]))
        count = tf.size(targets)

        def again(value: tf.Tensor) -> tf.Tensor:
            return tf.repeat(value[None], count, 0)

        return {
            "idx/passage": again(example["idx"]["passage"]),
            "idx/query": again(example["idx"]["query"]),
            "inputs": again(tf.strings.join(parts, " ")),
            "targets": targets,
            "answers": again(answers),
        }

    return dataset.map(each_answer).unbatch()


@seqio.map_over_dataset
def parse_tsv(
    line: tf.Tensor,
    field_names: Sequence[str] | None = None,
    field_delim: str = "\t",
    field_columns: Sequence[int] | None = None,
) -> dict[str, tf.Tensor]:
    """The fields of a line by name, by default `inputs` and `targets`; quotation marks are characters like others."""
    names = list(field_names or ("inputs", "targets"))
    columns = list(field_columns or range(len(names)))
    blank = [""] * len(names)
    fields = tf.io.decode_csv(line, blank, field_delim=field_delim, use_quote_delim=False, select_cols=columns)
    return dict(zip(names, fields, strict=True))


@seqio.map_over_dataset
def preprocess_tsv(
    line: tf.Tensor,
    field_delim: str = "\t",
    num_fields: int = 2,
    inputs_format: str = "{0}",
    targets_format: str = "{1}",
    field_names: Sequence[str] | None = None,
    use_quote_delim: bool = False,
) -> dict[str, tf.Tensor]:
    """Inputs and targets from the fields of a line, by templates with the fields' numbers or names in braces."""
    names = list(field_names or map(str, range(num_fields)))
    fields = tf.io.decode_csv(line, [""] * len(names), field_delim=field_delim, use_quote_delim=use_quote_delim)
    of = dict(zip(names, fields, strict=True))

    def filled(template: str) -> tf.Tensor:
        parts = re.split(r"\{(" + "|".join(map(re.escape, names)) + r")\}", template)
        return tf.strings.join([of[part] if i % 2 else part for i, part in enumerate(parts)])

    return {"inputs": filled(inputs_format), "targets": filled(targets_format)}


def _language(code: str) -> str:
    name = LANGUAGES.get(code[:2])
    if name is None:
        raise UserError(
            f"translate: {code!r} is no language code that is known; give the text a `translate` of your own"
        )
    return name


def _label(number: tf.Tensor, names: Sequence[str]) -> tf.Tensor:
    return tf.gather([_NO_LABEL, *names], tf.cast(number, tf.int32) + 1)


def _spaced_punctuation(text: tf.Tensor) -> tf.Tensor:
    return _single_spaced(tf.strings.regex_replace(text, "([[:punct:]])", r" \1 "))


def _single_spaced(text: tf.Tensor) -> tf.Tensor:
    return tf.strings.regex_replace(text, r"\s+", " ")


def _joined(parts: Sequence[Any]) -> tf.Tensor:
    return _single_spaced(tf.strings.join(parts, " "))


def _marked(text: tf.Tensor, words: tf.Tensor, place: tf.Tensor, mark: str) -> tf.Tensor:
    """The text with a mark on either side of the words that begin at the place-th word."""
    pattern = tf.strings.join([r"^((?:\S+\s){", tf.as_string(place), "})(", words, ")"])
    return tf.strings.regex_replace(text, pattern, rf"\1{mark} \2 {mark}")
