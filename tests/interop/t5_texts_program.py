"""T5's preprocessors over examples, as JSON; a program of its own, for TensorFlow's sake."""

import functools
import json
import sys

import numpy as np
import seqio
import tensorflow as tf

from t5x_like.interop import t5_names

t5_names.offer()
from t5.data import preprocessors as prep  # noqa: E402


def plain(value):
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, np.ndarray | np.generic):
        return plain(value.tolist())
    return [plain(item) for item in value] if isinstance(value, list) else value


def run(preprocessor, examples, **options):
    """The examples that come out of a preprocessor."""
    structure = {
        key: tf.nest.map_structure(lambda v: tf.convert_to_tensor(v), value) for key, value in examples[0].items()
    }
    signature = tf.nest.map_structure(lambda t: tf.TensorSpec([None] * t.shape.rank, t.dtype), structure)
    dataset = tf.data.Dataset.from_generator(lambda: iter(examples), output_signature=signature)
    return [{k: plain(v) for k, v in one.items()} for one in preprocessor(dataset, **options).as_numpy_iterator()]


def lines(preprocessor, texts, **options):
    return [
        {k: plain(v) for k, v in one.items()}
        for one in preprocessor(tf.data.Dataset.from_tensor_slices(texts), **options).as_numpy_iterator()
    ]


vocabulary = seqio.PassThroughVocabulary(200, eos_id=1)
features = {name: seqio.Feature(vocabulary, add_eos=True) for name in ("inputs", "targets")}
lengths = {"inputs": 6, "targets": 6}
trivia = {
    "question": "Who?",
    "entity_pages": {"wiki_context": np.array(["It was Bob, said Al.", "Nobody."])},
    "answer": {"normalized_aliases": np.array(["bob", "al"])},
}
wsc = {"text": "This is a test sentence .", "span1_text": "test", "span1_index": 3, "span2_text": "This"}
found = {
    "translate": run(
        prep.translate, [{"de": "Das ist gut.", "en": "That is good."}], source_language="de", target_language="en"
    ),
    "multi_translate": run(
        prep.multi_translate,
        [
            {"translations": {"language": np.array(["de", "fr"]), "translation": np.array(["gut", "bon"])}},
            {"translations": {"language": np.array(["fr", "de"]), "translation": np.array(["oui", "ja"])}},
            {"translations": {"language": np.array(["fr"]), "translation": np.array(["non"])}},
        ],
        source_language="de",
        target_language="fr",
    ),
    "summarize": run(
        prep.summarize,
        [{"article": "An article.", "highlights": "A summary."}],
        article_key="article",
        summary_key="highlights",
    ),
    "lm": run(prep.lm, [{"text": "Some text."}]),
    "pad": run(prep.pad_nonspaced_languages, [{"text": "Hello 日本 x"}]),
    "squad": run(
        prep.squad,
        [
            {
                "id": "7",
                "question": "Who, then?",
                "context": "It was  Bob.",
                "answers": {"text": np.array(["Bob.", "Al"])},
            }
        ],
    ),
    "squad_without": run(
        functools.partial(prep.squad, include_context=False),
        [{"id": "7", "question": "Who?", "context": "c", "answers": {"text": np.array(["Bob"])}}],
    ),
    "trivia_qa": run(prep.trivia_qa, [trivia]),
    "qqp": run(
        prep.glue,
        [
            {"question2": "Why so?", "question1": "Why?", "label": 1, "idx": 10},
            {"question2": "a", "question1": "b", "label": -1, "idx": 11},
        ],
        benchmark_name="qqp",
        label_names=["not_duplicate", "duplicate"],
    ),
    "multirc": run(
        prep.glue,
        [
            {
                "paragraph": "<b>P</b><br>q",
                "question": "Q?",
                "answer": "A",
                "label": 0,
                "idx": {"paragraph": 1, "question": 2, "answer": 3},
            }
        ],
        benchmark_name="multirc",
        label_names=["False", "True"],
        feature_names=("question", "answer", "paragraph"),
    ),
    "stsb": run(prep.stsb, [{"sentence1": "One.", "sentence2": "Two.", "label": np.float32(1.73), "idx": 0}]),
    "wsc": run(
        prep.wsc,
        [
            {**wsc, "span2_index": 0, "label": 0, "idx": 4},
            {**wsc, "span2_text": "sentence", "span2_index": 4, "label": 1, "idx": 5},
        ],
    ),
    "record": run(
        prep.record,
        [
            {
                "passage": "First.\n@highlight\nThen\n@highlight\nlast",
                "query": "A @placeholder.",
                "entities": np.array(["x", "y"]),
                "answers": np.array(["y", "x"]),
                "idx": {"passage": 1, "query": 2},
            }
        ],
    ),
    "parse_tsv": lines(prep.parse_tsv, ['a\t"b\tc'], field_names=["x", "y"], field_columns=[0, 2]),
    "preprocess_tsv": lines(
        prep.preprocess_tsv,
        ["6,7,42"],
        field_delim=",",
        num_fields=3,
        inputs_format="numerator: {2} denominator: {1}",
        targets_format="quotient: {0}",
    ),
    "preprocess_tsv_names": lines(
        prep.preprocess_tsv,
        ["6,7"],
        field_delim=",",
        field_names=["q", "d"],
        inputs_format="{d} or {q}?",
        targets_format="{q}",
    ),
}
numbers = [{"targets": np.arange(2, 2 + n, dtype=np.int32)} for n in (5, 0, 12)]
found["concat"] = run(prep.reduce_concat_tokens, numbers, batch_size=2)
found["split"] = run(prep.split_tokens, numbers, max_tokens_per_segment=5)
found["chunk"] = run(prep.select_random_chunk, numbers, output_features=features, max_length=5)
found["chunk_anywhere"] = run(
    prep.select_random_chunk, numbers[2:] * 40, output_features=features, max_length=4, uniform_random_start=True
)
found["front"] = run(prep.trim_tokens_at_front, numbers, sequence_length={"targets": 4})
found["prefix_lm"] = run(prep.prefix_lm, numbers[2:] * 20, sequence_length=lengths, output_features=features)
found["unsupervised"] = run(
    prep.unsupervised,
    numbers,
    output_features=features,
    preprocessors=[functools.partial(prep.split_tokens, max_tokens_per_segment=100), prep.reduce_concat_tokens],
)
json.dump(found, sys.stdout)
