"""Hugging Face's form of a family: its `config.json` as options here and back, and names of its tensors.

Every entry of a `config.json` is one that a rule of the family translates, or one that changes nothing computed. Any
other stops the translation and is named: nothing is guessed. An option here that the format has no entry for must have
the value that reading gives back, which `write_model` proves by reading what it wrote.
"""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from t5x_like import registry
from t5x_like.errors import ExperimentError, UserError
from t5x_like.models.config_rules import Config as Config
from t5x_like.models.config_rules import ConfigRule as ConfigRule
from t5x_like.models.config_rules import Derived as Derived
from t5x_like.models.config_rules import Field as Field
from t5x_like.models.config_rules import Fixed as Fixed
from t5x_like.models.config_rules import Translation as Translation
from t5x_like.models.config_rules import option as option
from t5x_like.models.names import Entry
from t5x_like.sections import Choice, choose, flatten, plain

# Entries that change nothing that a model computes from tokens: bookkeeping, first values, training, generation.
NEUTRAL = frozenset(
    [
        "_name_or_path",
        "_attn_implementation",
        "_commit_hash",
        "architectures",
        "model_type",
        "transformers_version",
        "torch_dtype",
        "dtype",
        "use_cache",
        "initializer_range",
        "initializer_factor",
        "pretraining_tp",
        "is_encoder_decoder",
        "bos_token_id",
        "eos_token_id",
        "pad_token_id",
        "sep_token_id",
        "cls_token_id",
        "unk_token_id",
        "mask_token_id",
        "decoder_start_token_id",
        "forced_bos_token_id",
        "forced_eos_token_id",
        "task_specific_params",
        "id2label",
        "label2id",
        "num_labels",
        "problem_type",
        "finetuning_task",
        "classifier_dropout",
        "gradient_checkpointing",
        "output_attentions",
        "output_hidden_states",
        "return_dict",
        "return_dict_in_generate",
        "tokenizer_class",
        "prefix",
        "max_length",
        "min_length",
        "do_sample",
        "early_stopping",
        "num_beams",
        "num_beam_groups",
        "diversity_penalty",
        "temperature",
        "top_k",
        "top_p",
        "typical_p",
        "repetition_penalty",
        "length_penalty",
        "no_repeat_ngram_size",
        "encoder_no_repeat_ngram_size",
        "bad_words_ids",
        "num_return_sequences",
        "output_scores",
        "remove_invalid_values",
        "exponential_decay_length_penalty",
        "suppress_tokens",
        "begin_suppress_tokens",
        "torchscript",
        "tf_legacy_loss",
        "use_bfloat16",
        "chunk_size_feed_forward",
        "pruned_heads",
        "auto_map",
        "is_llama_config",
        "tie_encoder_decoder",
    ]
)
# Entries of every file that turn a model into another one where they have another value.
_BASE = {"is_decoder": False, "add_cross_attention": False}


# --- A family's form --------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class HuggingFace:
    """Hugging Face's form of a family.

    Attributes:
      model_type: in `config.json`.
      architectures: class names in `config.json`, and the options by which they differ, by dotted path below `model`;
        the first is meant where none is given.
      config: rules for all other entries.
      tensors: a function from a model's options to its entries.
      when: values of entries that tell this family from others of the same `model_type`.
      neutral: entries beside `NEUTRAL` that change nothing computed here, and what is written for them.
      ignored: patterns of tensors that hold nothing learned, such as masks.
      prefix: what the names of all tensors but the head's begin with; files of models without a head lack it.
    """

    model_type: str
    architectures: Mapping[str, Mapping[str, Any]]
    config: tuple[ConfigRule, ...]
    tensors: Callable[[Any], Iterable[Entry]]
    when: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    neutral: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    ignored: tuple[str, ...] = ()
    prefix: str = ""

    def read_config(self, config: Config, accepted: Iterable[str] = ()) -> dict[str, Any]:
        """A `config.json` as options here, by dotted path below `model`.

        Args:
          config: the parsed file.
          accepted: entries that may be passed over though nothing is known of them.

        Raises:
          UserError: naming the first entry that cannot be translated.
        """
        ruled = {key for rule in self.config for key in rule.keys}
        known = ruled | {*self.neutral, *NEUTRAL, *accepted}
        for key, value in config.items():
            if key in _BASE and key not in known and value == _BASE[key]:
                continue
            if key not in known and value is not None:
                raise UserError(
                    f"config.json has {key}={value!r}, which may change what the model computes and means nothing to"
                    f" the family here; {registry.suggest(key, sorted(ruled))}, or pass it over with --accept={key}"
                )
        given = config.get("architectures") or [next(iter(self.architectures))]
        if given[0] not in self.architectures:
            problem = registry.suggest(str(given[0]), self.architectures)
            raise UserError(f"config.json has the architecture {given[0]!r} of {self.model_type!r}; {problem}")
        options = dict(self.architectures[given[0]])
        for rule in self.config:
            options |= rule.read(config)
        return options

    def write_config(self, model: Any) -> dict[str, Any]:
        """A model's options as a `config.json`.

        Raises:
          UserError: naming an option that the format has no entry for.
        """
        fitting = [
            name
            for name, options in self.architectures.items()
            if all(option(model, path) == value for path, value in options.items())
        ]
        if not fitting:
            raise UserError(f"model.head={model.head.name!r} is of no {self.model_type} model of Hugging Face's")
        written: dict[str, Any] = {"architectures": fitting[:1], "model_type": self.model_type}
        for rule in self.config:
            written |= rule.write(model)
        written |= {key: value for key, value in self.neutral.items() if value is not None}
        return written


# --- Models -----------------------------------------------------------------------------------------------------------

# Options that change nothing that a trained model computes in evaluation.
_TRAINING = ("family", "size", "dropout", "dropout_inside", "init_std", "embedding_std", "residual_init")
_COMPUTATION = ("dtype", "quantization", "balance_loss", "z_loss")


def read_model(config: Config, accepted: Iterable[str] = ()) -> Any:
    """The model of a `config.json`.

    Args:
      config: the parsed file.
      accepted: entries that may be passed over though nothing is known of them.

    Raises:
      UserError: for a model that no family here is, suggesting one; and for an entry that cannot be translated.
    """
    family, form = _family_of(config)
    nested: dict[str, Any] = {}
    try:
        options = form.read_config(config, accepted)
    except (TypeError, ValueError, KeyError, AttributeError, ArithmeticError) as error:
        raise UserError(f"config.json holds what no {form.model_type!r} model has ({error!r})") from error
    for path, value in options.items():
        section = nested
        *sections, last = path.split(".")
        for name in sections:
            section = section.setdefault(name, {})
        section[last] = value
    try:
        return choose(Choice("model", family, "family"), {**nested, "family": family}, "model")
    except ExperimentError as error:
        raise UserError(f"config.json makes no model: {error}") from error


def write_model(model: Any) -> dict[str, Any]:
    """The `config.json` of a model; reading it gives the same model.

    Raises:
      UserError: naming an option that the format has no entry for.
    """
    preset = registry.load("model", model.family)
    form = preset.hugging_face if isinstance(preset, registry.Preset) else None
    if form is None:
        raise UserError(f"model.family={model.family!r} has no form in Hugging Face's format")
    try:
        written = form.write_config(model)
    except AttributeError as error:  # a part of another kind, without the options that the family's has
        kind = getattr(error.obj, "name", None)
        part = next((path for path, value in _choices(model) if value == kind), "family")
        raise UserError(f"model.{part}={kind!r} has no words in Hugging Face's {form.model_type!r}") from error
    there, here = described(read_model(written)), described(model)
    for path, value in here.items():
        if path in there and there[path] == value:
            continue
        raise UserError(
            f"model.{path}={value!r} cannot be said in Hugging Face's config.json of {form.model_type!r}, where it is"
            f" {there.get(path)!r}"
        )
    return written


def described(model: Any) -> dict[str, Any]:
    """The options by dotted path that decide what a trained model computes, those of layers for each layer."""
    values = plain(model)
    for name in ("encoder", "decoder"):
        stack = getattr(model, name, None)
        if stack is not None:
            layers = {str(number): plain(layer) for number, layer in enumerate(stack.every_layer)}
            values[name] = {**values[name], "layer": layers, "pattern": None, "leading": None}
    passed = {*_TRAINING, *_COMPUTATION}
    return {path: value for path, value in flatten(values).items() if path.split(".")[-1] not in passed}


def _choices(model: Any) -> Iterator[tuple[str, str]]:
    """The parts of a model that are chosen by name: dotted path and name."""
    for path, value in flatten(plain(model)).items():
        if path.endswith(".name"):
            yield path.removesuffix(".name"), value


def _family_of(config: Config) -> tuple[str, HuggingFace]:
    kind, forms = config.get("model_type"), dict(_forms())
    ours = {name: form for name, form in forms.items() if form.model_type == kind}
    if not ours:
        known = registry.suggest(str(kind), {form.model_type for form in forms.values()})
        raise UserError(f"config.json has model_type={kind!r}, which no family here is; {known}")
    for name, form in ours.items():
        if all(config.get(key) == value for key, value in form.when.items()):
            return name, form
    key = next(iter(next(iter(ours.values())).when))
    known = " or ".join(repr(form.when[key]) for form in ours.values())
    raise UserError(
        f"config.json of {kind!r} has {key}={config.get(key)!r}, which no family here is; it must be {known}"
    )


def _forms() -> Iterator[tuple[str, HuggingFace]]:
    """The families that have a form of Hugging Face's, by their names in the registry."""
    for name in registry.names("model"):
        entry = registry.load("model", name)
        if isinstance(entry, registry.Preset) and entry.hugging_face is not None:
            yield name, entry.hugging_face
