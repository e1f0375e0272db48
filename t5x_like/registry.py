"""One lazy table: what a name in an experiment stands for.

A kind ("optimizer") has names ("adamw"), and each name points at `module:attribute`. Nothing is imported until a name
is loaded, so checking a name costs nothing and `--help` stays instant.

An attribute is a frozen dataclass, whose fields are the options the experiment may set, or a `Preset`: a table of
values for such a dataclass.
"""

import dataclasses
import difflib
import importlib
from collections.abc import Iterable, Mapping
from typing import Any

from t5x_like.errors import ExperimentError

_TABLE: Mapping[str, dict[str, str]] = {
    "model": {
        "albert": "t5x_like.models.families.albert:FAMILY",
        "bart": "t5x_like.models.families.bart:FAMILY",
        "bert": "t5x_like.models.families.bert:FAMILY",
        "byt5": "t5x_like.models.families.t5:BYTES",
        "chinchilla": "t5x_like.models.families.gopher:CHINCHILLA",
        "deberta": "t5x_like.models.families.deberta:VERSION_1",
        "deberta_v2": "t5x_like.models.families.deberta:VERSION_2",
        "deberta_v3": "t5x_like.models.families.deberta:VERSION_3",
        "deepseek_v3": "t5x_like.models.families.deepseek:FAMILY",
        "distilbert": "t5x_like.models.families.distilbert:FAMILY",
        "electra": "t5x_like.models.families.electra:DISCRIMINATOR",
        "electra_generator": "t5x_like.models.families.electra:GENERATOR",
        "falcon": "t5x_like.models.families.falcon:FAMILY",
        "gemma2": "t5x_like.models.families.gemma:VERSION_2",
        "gemma3": "t5x_like.models.families.gemma:VERSION_3",
        "gopher": "t5x_like.models.families.gopher:GOPHER",
        "gpt1": "t5x_like.models.families.gpt1:FAMILY",
        "gpt2": "t5x_like.models.families.gpt2:FAMILY",
        "gpt3": "t5x_like.models.families.gpt3:FAMILY",
        "gpt3_banded": "t5x_like.models.families.gpt3:BANDED",
        "gpt_oss": "t5x_like.models.families.gpt_oss:FAMILY",
        "gpt_neo": "t5x_like.models.families.gpt_neo:FAMILY",
        "gptj": "t5x_like.models.families.gptj:FAMILY",
        "llama": "t5x_like.models.families.llama:FAMILY",
        "code_llama": "t5x_like.models.families.llama_kin:CODE",
        "llama1": "t5x_like.models.families.llama_kin:VERSION_1",
        "llama3": "t5x_like.models.families.llama_kin:VERSION_3",
        "llama3_1": "t5x_like.models.families.llama_kin:VERSION_3_1",
        "llama3_2": "t5x_like.models.families.llama_kin:VERSION_3_2",
        "mistral": "t5x_like.models.families.mistral:FAMILY",
        "mixtral": "t5x_like.models.families.mixtral:FAMILY",
        "modernbert": "t5x_like.models.families.modernbert:FAMILY",
        "mt5": "t5x_like.models.families.t5:MULTILINGUAL",
        "olmo2": "t5x_like.models.families.olmo2:FAMILY",
        "qwen2_5": "t5x_like.models.families.qwen2:FAMILY",
        "qwen3": "t5x_like.models.families.qwen3:FAMILY",
        "qwen3_moe": "t5x_like.models.families.qwen3:EXPERTS",
        "roberta": "t5x_like.models.families.roberta:FAMILY",
        "smollm": "t5x_like.models.families.llama_kin:SMOL",
        "smollm2": "t5x_like.models.families.llama_kin:SMOL_2",
        "starcoder": "t5x_like.models.families.starcoder:VERSION_1",
        "starcoder2": "t5x_like.models.families.starcoder:VERSION_2",
        "t5": "t5x_like.models.families.t5:ORIGINAL",
        "t5_1_1": "t5x_like.models.families.t5:VERSION_1_1",
        "t5_decoder": "t5x_like.models.families.t5:DECODER",
        "ul2": "t5x_like.models.families.t5:UL2",
        "umt5": "t5x_like.models.families.t5:UNI_MAX",
        "xlnet": "t5x_like.models.families.xlnet:FAMILY",
    },
    "attention": {
        "disentangled": "t5x_like.models.transformer.attention_bias_options:Disentangled",
        "distances": "t5x_like.models.transformer.attention_options:Distances",
        "dot_product": "t5x_like.models.transformer.layer_options:DotProduct",
        "latent": "t5x_like.models.transformer.attention_options:Latent",
        "normed": "t5x_like.models.transformer.attention_options:NormedDotProduct",
        "relative": "t5x_like.models.transformer.attention_bias_options:RelativeBuckets",
        "sinks": "t5x_like.models.transformer.attention_options:Sinks",
        "two_stream": "t5x_like.models.transformer.attention_bias_options:TwoStream",
    },
    "feed_forward": {
        "clamped_experts": "t5x_like.models.transformer.expert_options:ClampedExperts",
        "dense": "t5x_like.models.transformer.layer_options:Dense",
        "experts": "t5x_like.models.transformer.layer_options:Experts",
        "shared_experts": "t5x_like.models.transformer.expert_options:SharedExperts",
    },
    "positions": {
        "none": "t5x_like.models.transformer.ends_options:NoPositions",
        "learned": "t5x_like.models.transformer.ends_options:Learned",
        "sinusoidal": "t5x_like.models.transformer.ends_options:Sinusoidal",
        "rope": "t5x_like.models.transformer.ends_options:Rope",
        "relative": "t5x_like.models.transformer.ends_options:Relative",
        "disentangled": "t5x_like.models.transformer.ends_options:DisentangledPositions",
        "alibi": "t5x_like.models.transformer.ends_options:Alibi",
    },
    "embeddings": {"tokens": "t5x_like.models.transformer.ends_options:Tokens"},
    "head": {
        "tied": "t5x_like.models.transformer.ends_options:Tied",
        "untied": "t5x_like.models.transformer.ends_options:Untied",
        "masked_lm": "t5x_like.models.transformer.encoder_heads:MaskedLMHead",
        "pooled": "t5x_like.models.transformer.encoder_heads:PooledHead",
        "token_classes": "t5x_like.models.transformer.encoder_heads:TokenClasses",
    },
    "adaptation": {
        "lora": "t5x_like.adaptations.lora:LoRA",
        "ia3": "t5x_like.adaptations.ia3:IA3",
        "bottleneck": "t5x_like.adaptations.bottleneck:Bottleneck",
        "prompt": "t5x_like.adaptations.prompt:PromptTuning",
        "bitfit": "t5x_like.adaptations.bitfit:BitFit",
        "freeze": "t5x_like.adaptations.freeze:Freeze",
        "quantize": "t5x_like.adaptations.quantize:Quantize",
        "prefix": "t5x_like.adaptations.prefix:Prefix",
    },
    "objective": {
        "causal_lm": "t5x_like.objectives.causal_lm:CausalLM",
        "masked_lm": "t5x_like.objectives.masked_lm:MaskedLM",
        "seq2seq": "t5x_like.objectives.seq2seq:GivenPairs",
        "span_corruption": "t5x_like.objectives.span_corruption:SpanCorruption",
        "prefix_lm": "t5x_like.objectives.prefix_lm:PrefixLM",
        "ul2": "t5x_like.objectives.ul2:MixtureOfDenoisers",
        "dpo": "t5x_like.objectives.dpo:DPO",
        "reward": "t5x_like.objectives.reward:Reward",
        "grpo": "t5x_like.objectives.grpo:GRPO",
        "next_sentence": "t5x_like.objectives.next_sentence:NextSentence",
        "sentence_order": "t5x_like.objectives.sentence_order:SentenceOrder",
        "span_boundary": "t5x_like.objectives.span_boundary:SpanBoundary",
        "replaced_tokens": "t5x_like.objectives.replaced_tokens:ReplacedTokens",
        "permutation_lm": "t5x_like.objectives.permutation_lm:PermutationLM",
        "denoising": "t5x_like.objectives.denoising:Denoising",
        "fill_in_the_middle": "t5x_like.objectives.fill_in_the_middle:FillInTheMiddle",
        "completion_lm": "t5x_like.objectives.completion_lm:CompletionLM",
        "multi_token_prediction": "t5x_like.objectives.multi_token_prediction:MultiTokenPrediction",
    },
    "task": {
        "sotu": "t5x_like.data.tasks:SOTU",
        "text": "t5x_like.data.tasks:TextTask",
        "tokens": "t5x_like.data.token_shards:TokensTask",
        "seqio": "t5x_like.data.seqio_bridge:SeqioTask",
        "mixture": "t5x_like.data.mixture:MixtureTask",
        "synthetic": "t5x_like.data.synthetic:SyntheticTask",
        "images": "t5x_like.data.records.images:ImageTask",
        "audio": "t5x_like.data.records.audio:AudioTask",
        "pairs": "t5x_like.data.records.texts:PAIRS",
        "preferences": "t5x_like.data.records.texts:PREFERENCES",
    },
    "transform": {
        "resize": "t5x_like.data.records.transforms:Resize",
        "center_crop": "t5x_like.data.records.transforms:CenterCrop",
        "random_crop": "t5x_like.data.records.transforms:RandomCrop",
        "random_resized_crop": "t5x_like.data.records.transforms:RandomResizedCrop",
        "random_flip": "t5x_like.data.records.transforms:RandomFlip",
        "scale": "t5x_like.data.records.transforms:Scale",
        "normalize": "t5x_like.data.records.transforms:Normalize",
        "crop_sound": "t5x_like.data.records.sound:CropSound",
        "log_mel": "t5x_like.data.records.sound:LogMel",
    },
    "batch_source": {
        "pipeline": "t5x_like.data.pipeline:PipelineOptions",
        "rollouts": "t5x_like.inference.rollouts:Rollouts",
    },
    "optimizer": {
        "adamw": "t5x_like.optim.adamw:AdamW",
        "adafactor": "t5x_like.optim.adafactor:Adafactor",
        "lion": "t5x_like.optim.lion:Lion",
        "muon": "t5x_like.optim.muon:Muon",
        "sgd": "t5x_like.optim.sgd:SGD",
    },
    "schedule": {
        "constant": "t5x_like.optim.schedules:Constant",
        "linear": "t5x_like.optim.schedules:LinearDecay",
        "cosine": "t5x_like.optim.schedules:Cosine",
        "rsqrt": "t5x_like.optim.schedules:ReciprocalSquareRoot",
        "wsd": "t5x_like.optim.schedules:WarmupStableDecay",
        "factors": "t5x_like.optim.schedules_t5x:Factors",
        "optax": "t5x_like.optim.schedules_optax:OptaxSchedule",
    },
    "source": {
        "none": "t5x_like.experiment:NoSource",
        "checkpoint": "t5x_like.checkpoint.sources:CheckpointSource",
    },
    "evaluator": {
        "loss": "t5x_like.evaluation.loss:LossEvaluator",
        "samples": "t5x_like.evaluation.samples:SamplesEvaluator",
        "seqio": "t5x_like.evaluation.seqio_evaluator:SeqioEvaluator",
    },
    "cleaning": {
        "c4": "t5x_like.data.cleaning.c4:C4",
        "gopher_quality": "t5x_like.data.cleaning.gopher:GopherQuality",
        "gopher_repetition": "t5x_like.data.cleaning.repetition:GopherRepetition",
        "refined_web_lines": "t5x_like.data.cleaning.refined_web:RefinedWebLines",
        "language": "t5x_like.data.cleaning.language:Language",
        "exact_duplicates": "t5x_like.data.cleaning.duplicates:ExactDuplicates",
        "duplicate_spans": "t5x_like.data.cleaning.duplicates:DuplicateSpans",
        "near_duplicates": "t5x_like.data.cleaning.near_duplicates:NearDuplicates",
        "decontaminate": "t5x_like.data.cleaning.decontamination:Decontaminate",
    },
}


@dataclasses.dataclass(frozen=True)
class Preset:
    """A named table of values for a dataclass of options: a model family with its sizes, a task over a known corpus.

    Attributes:
      options: the dataclass the values are for.
      values: field values this name stands for; an experiment may still override each.
      sizes: further values by size name, chosen by the dataclass's `size` field; they win over `values`.
      hugging_face: of a model family, its form there, a `models.hugging_face.HuggingFace`; None where it has none.
    """

    options: type
    values: Mapping[str, Any]
    sizes: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)
    hugging_face: Any = None

    def of_size(self, given: Mapping[str, Any], where: str) -> Mapping[str, Any]:
        """The values of the size that `given` asks for; none where it asks for no size.

        Raises:
          ExperimentError: for a size that is not there.
        """
        size = given.get("size", self.values.get("size", ""))
        if not isinstance(size, str) or size and size not in self.sizes:
            raise ExperimentError(f"{where}.size", f"there is no size {size!r}; {suggest(str(size), self.sizes)}")
        return self.sizes.get(size, {})


def names(kind: str) -> tuple[str, ...]:
    """The names known for `kind`, in the order of the table."""
    return tuple(_TABLE[kind])


def kinds() -> tuple[str, ...]:
    """Every kind of thing an experiment names."""
    return tuple(_TABLE)


def register(kind: str, name: str, target: str) -> None:
    """Adds a user's own `module:attribute` under `name`, from a module given with `--module=PATH`.

    Raises:
      ValueError: when the name is taken by something else.
    """
    if _TABLE[kind].get(name, target) != target:
        raise ValueError(f"{kind} {name!r} is already {_TABLE[kind][name]}")
    _TABLE[kind][name] = target


def check(kind: str, name: object, where: str) -> str:
    """Returns `name` if the table has it; imports nothing.

    Raises:
      ExperimentError: for an unknown name, with the nearest known one.
    """
    if not isinstance(name, str) or name not in _TABLE[kind]:
        raise ExperimentError(where, f"there is no {kind} {name!r}; {suggest(str(name), _TABLE[kind])}")
    return name


def load(kind: str, name: str, where: str = "") -> Any:
    """Imports and returns what `name` stands for."""
    return imported(_TABLE[kind][check(kind, name, where or kind)])


def imported(target: str) -> Any:
    """Imports and returns a `module:attribute`."""
    module, attribute = target.split(":")
    return getattr(importlib.import_module(module), attribute)


def options(kind: str, name: str) -> type:
    """The dataclass of options that `name` stands for, or that its table of values is for."""
    entry = load(kind, name)
    return entry.options if isinstance(entry, Preset) else entry


def suggest(name: str, known: Iterable[str]) -> str:
    """Half a sentence for an error: the nearest known name, or all of them."""
    known = list(known)
    near = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {near[0]!r}?" if near else f"it must be one of {', '.join(known)}"
