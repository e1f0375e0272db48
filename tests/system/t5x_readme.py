"""A T5X user's `tasks.py` with T5's preprocessors and metrics, its data, and gin files of T5X's form."""

import json
from pathlib import Path

from t5x_like.data import tokenizer

TASKS = '''
"""Tasks as T5X's users write them: SeqIO, T5's preprocessors, postprocessors and metrics, and nothing of t5x_like."""

import functools
import os

import seqio
import t5.data
from t5.data import postprocessors, preprocessors
from t5.evaluation import metrics

HERE = os.path.dirname(os.path.abspath(__file__))
VOCABULARY = seqio.SentencePieceVocabulary(os.path.join(HERE, "v.model"), extra_ids=100)
FEATURES = {name: seqio.Feature(vocabulary=VOCABULARY, add_eos=True) for name in ("inputs", "targets")}
FILES = {split: os.path.join(HERE, f"{split}.tsv") for split in ("train", "validation", "test")}
TEXT = [
    seqio.preprocessors.tokenize,
    seqio.CacheDatasetPlaceholder(),
    seqio.preprocessors.append_eos_after_trim,
]

seqio.TaskRegistry.add(
    "mine_spans",
    source=seqio.TextLineDataSource(FILES),
    preprocessors=[
        functools.partial(preprocessors.parse_tsv, field_names=["targets"]),
        seqio.preprocessors.tokenize,
        seqio.CacheDatasetPlaceholder(),
        preprocessors.span_corruption,
        seqio.preprocessors.append_eos_after_trim,
    ],
    output_features=FEATURES,
    metric_fns=[],
)
seqio.TaskRegistry.add(
    "mine_translation",
    source=seqio.TextLineDataSource(FILES),
    preprocessors=[
        functools.partial(preprocessors.parse_tsv, field_names=["en", "de"]),
        functools.partial(preprocessors.translate, source_language="en", target_language="de"),
        *TEXT,
    ],
    output_features=FEATURES,
    metric_fns=[metrics.sequence_accuracy, metrics.edit_distance],
)
seqio.TaskRegistry.add(
    "mine_polarity",
    source=seqio.TextLineDataSource(FILES),
    preprocessors=[
        functools.partial(
            preprocessors.preprocess_tsv, num_fields=3, inputs_format="sst2 sentence: {0}", targets_format="{2}"
        ),
        *TEXT,
    ],
    postprocess_fn=functools.partial(
        postprocessors.string_label_to_class_id, label_classes=["negative", "positive"]
    ),
    output_features=FEATURES,
    metric_fns=[metrics.accuracy, metrics.f1_score_with_invalid],
)
seqio.MixtureRegistry.add("mine_supervised", ["mine_translation", "mine_polarity"], default_rate=1.0)
'''
MODEL = """
from __gin__ import dynamic_registration
import seqio
from t5x.examples.t5 import network

include "t5x/examples/t5/t5_1_1/tiny.gin"

seqio.SentencePieceVocabulary:
  sentencepiece_model_file = "{place}/v.model"
  extra_ids = 100
network.T5Config:
  vocab_size = 512
  emb_dim = 16
  num_heads = 2
  head_dim = 8
  num_encoder_layers = 1
  num_decoder_layers = 1
  mlp_dim = 32
  dtype = "float32"
"""
PRETRAIN = """
from __gin__ import dynamic_registration
import __main__ as train_script
from t5x import utils
import tasks

include "model.gin"
include "t5x/configs/runs/pretrain.gin"

MIXTURE_OR_TASK_NAME = "mine_spans"
TASK_FEATURE_LENGTHS = {"inputs": 32, "targets": 16}
TRAIN_STEPS = 6
DROPOUT_RATE = 0.0
BATCH_SIZE = 4
USE_CACHED_TASKS = False
train_script.train:
  eval_period = 3
  eval_steps = 2
utils.SaveCheckpointConfig.period = 3
"""
FINETUNE = """
from __gin__ import dynamic_registration
import __main__ as train_script
from t5x import models
from t5x import utils
import tasks

include "model.gin"
include "t5x/configs/runs/finetune.gin"

MIXTURE_OR_TASK_NAME = "mine_supervised"
TASK_FEATURE_LENGTHS = {"inputs": 40, "targets": 16}
TRAIN_STEPS = 10  # 6 of pre-training and 4 more
INITIAL_CHECKPOINT_PATH = "{place}/pretrained/checkpoints/6"
BATCH_SIZE = 4
USE_CACHED_TASKS = False
EVAL_PERIOD = 4
EVAL_STEPS = 1
EVALUATOR_NUM_EXAMPLES = 4
LABEL_SMOOTHING = 0.1
utils.SaveCheckpointConfig.period = 2
models.EncoderDecoderModel.predict_batch_with_aux.num_decodes = 2
"""
EVAL = """
from __gin__ import dynamic_registration
from t5x import utils
import tasks

include "model.gin"
include "t5x/configs/runs/eval.gin"

DROPOUT_RATE = 0.0
MIXTURE_OR_TASK_NAME = "mine_supervised"
"""
INFER = """
from __gin__ import dynamic_registration
from t5x import utils
import tasks

include "model.gin"
include "t5x/configs/runs/infer.gin"

DROPOUT_RATE = 0.0
MIXTURE_OR_TASK_NAME = "mine_translation"
TASK_FEATURE_LENGTHS = {"inputs": 40, "targets": 16}
utils.DatasetConfig.batch_size = 2
infer.checkpoint_period = 2
"""
WORDS = (("a good day", "ein guter Tag", "positive"), ("a bad night", "eine schlechte Nacht", "negative"))


def bring(place: Path) -> None:
    """Writes everything below `place`."""
    rows = [
        f"number {n} is {WORDS[n % 2][0]} and so on\tZahl {n} ist {WORDS[n % 2][1]}\t{WORDS[n % 2][2]}"
        for n in range(60)
    ]
    for split, part in (("train", rows[:44]), ("validation", rows[44:52]), ("test", rows[52:])):
        (place / f"{split}.tsv").write_text("\n".join(part) + "\n")
    texts = [text for row in rows for text in (f"sst2 sentence: translate English to German: {row}", row)]
    (place / "v.model").write_bytes(tokenizer.train(texts, size=300))
    (place / "tasks.py").write_text(TASKS)
    for name, text in (
        ("model", MODEL),
        ("pretrain", PRETRAIN),
        ("finetune", FINETUNE),
        ("eval", EVAL),
        ("infer", INFER),
    ):
        (place / f"{name}.gin").write_text(text.replace("{place}", str(place)))
    (place / "rows.json").write_text(json.dumps(rows))
