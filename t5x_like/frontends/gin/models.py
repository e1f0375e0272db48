"""Translation of T5X's models and networks to `model`, `objective` and the choice of tokens when decoding."""

from collections.abc import Mapping
from typing import Any

from t5x_like.frontends.gin.calls import PAGE, Call
from t5x_like.frontends.gin.optimizers import optimizer
from t5x_like.frontends.gin.translation import GinTranslation

ENCODER_DECODER = "t5x.models.EncoderDecoderModel"
DECODER_ONLY = "t5x.models.DecoderOnlyModel"
_NETWORK = "t5x.examples.network"
_VOCABULARIES = ("seqio.SentencePieceVocabulary", "seqio.ByteVocabulary", "seqio.PassThroughVocabulary")
_NORMALIZATION = {
    "NUM_REAL_TARGET_TOKENS": "real_target_tokens",
    "NUM_TOTAL_TARGET_TOKENS": "total_target_tokens",
    "AVERAGE_PER_SEQUENCE": "per_sequence",
}
# T5X's `mlp_activations`: one, or one and what it is multiplied by.
_ACTIVATIONS = {"gelu": "gelu", "relu": "relu", "silu": "silu", "swish": "silu"}
_REMAT = {"none": "none", None: "none", "minimal": "save_dots", "full": "full"}


def model(to: GinTranslation, run: Call) -> Call | None:
    """Translates `model` of a run: the network, the loss, and the optimizer it is defined with.

    Returns:
      The model's call; None for the name of one of our families.
    """
    found = run["model"]
    if isinstance(found, str):
        to.field(run, "model", "model.family")
        return None
    call = to.begin(found, ENCODER_DECODER, DECODER_ONLY, of=run, argument="model")
    to.note(run, "model", f"@{call.short}")
    if call.name == ENCODER_DECODER:
        _network(to, call, _encoder_decoder)
        vocabularies: tuple[str, ...] = ("input_vocabulary", "output_vocabulary")
        to.only(call, {"default_decoder_params": ((None,), "bind predict_batch_with_aux.num_decodes")})
    else:
        _network(to, call, _decoder_only)
        vocabularies = ("vocabulary",)
        to.note(call, "inputs_bidirectional_attention", "decides the objective")
    for argument in vocabularies:
        vocabulary = to.begin(call[argument], *_VOCABULARIES, of=call, argument=argument)
        to.harmless(vocabulary, dict.fromkeys(vocabulary.arguments, "a task's own vocabulary is taken, and compared"))
        to.note(call, argument, "compared with the task's when the run begins")
    to.only(call, {"feature_converter_cls": ((None,), "the objective makes the features")})
    to.note(call, "decode_fn", "nothing is predicted")
    _loss(to, call)
    optimizer(to, call)
    return call


def vocabulary_of(call: Call) -> tuple[str, int] | None:
    """The file and the extra ids of a model's SentencePiece vocabulary; None for another one."""
    found = call["output_vocabulary" if call.name == ENCODER_DECODER else "vocabulary"]
    if found.name != _VOCABULARIES[0]:
        return None
    return found["sentencepiece_model_file"], found["extra_ids"] or 0


def decoding(to: GinTranslation, call: Call, predict: Call) -> dict[str, Any]:
    """How predictions are chosen, as fields of an evaluator or an inference job.

    Args:
      to: where the fates are kept.
      call: the model.
      predict: its `predict_batch_with_aux`.
    """
    to.begin(predict, predict.name)
    count = predict["num_decodes"]
    to.note(predict, "num_decodes", f"{count} of each example")
    to.note(predict, "return_all_decodes", "all are written, the best last" if predict["return_all_decodes"] else "one")
    if "prompt_with_targets" in predict.arguments:
        to.only(predict, {"prompt_with_targets": ((False,), "a decoder begins with nothing before it")})
    function = to.begin(
        call["decode_fn"], "t5x.decoding.beam_search", "t5x.decoding.temperature_sample", of=call, argument="decode_fn"
    )
    to.note(call, "decode_fn", f"@{function.short}")
    if function.name.endswith("beam_search"):
        limits = {"max_decode_len": ((None,), ""), "max_decode_step": ((-1,), ""), "min_log_prob": ((-1e7,), "")}
        reason = "a prediction is as long as the targets at most"
        to.only(function, {name: (values, reason) for name, (values, _) in limits.items()})
        to.note(function, "alpha", "the exponent of the length penalty")
        return {"beams": count, "length_penalty": function["alpha"], "all": predict["return_all_decodes"]}
    reason = "tokens are sampled as the options say"
    to.only(
        function,
        {
            "max_decode_steps": ((None,), reason),
            "max_decode_steps_hard_limit": ((None,), reason),
            "state_callback_fn": ((None,), reason),
            "logit_callback_fn": ((None,), reason),
        },
    )
    if function["topk"] and function["topp"]:
        raise function.error("topp", "T5X takes either topk or topp; set the other one to 0")
    for argument, fate in {
        "temperature": "divides the logits",
        "topk": "the likeliest tokens that are kept",
        "topp": "the probability of the tokens that are kept",
        "rescale_log_probs": "of several samples, which is the best",
    }.items():
        to.note(function, argument, fate)
    return {
        "samples": count,
        "temperature": float(function["temperature"]),
        "top_k": function["topk"],
        "top_p": function["topp"] or 1.0,
        "rescaled": function["rescale_log_probs"],
        "all": predict["return_all_decodes"],
    }


def _loss(to: GinTranslation, call: Call) -> None:
    """The terms of the loss, and what divides it."""
    to.field(call, "z_loss", "objective.z_loss")
    to.field(call, "label_smoothing", "objective.label_smoothing")
    factor = call["loss_normalizing_factor"]
    if isinstance(factor, str) and factor.upper() not in _NORMALIZATION:
        problem = f"{factor!r} is neither a number, None nor one of {', '.join(_NORMALIZATION)}"
        raise call.error("loss_normalizing_factor", problem)
    value = _NORMALIZATION[factor.upper()] if isinstance(factor, str) else 1.0 if factor is None else float(factor)
    to.field(call, "loss_normalizing_factor", "objective.normalization", value)


def _network(to: GinTranslation, call: Call, translate: Any) -> None:
    wrapper, config = {
        _encoder_decoder: ("Transformer", "T5Config"),
        _decoder_only: ("DecoderWrapper", "TransformerConfig"),
    }[translate]
    module = to.begin(call["module"], f"{_NETWORK}.{wrapper}", of=call, argument="module")
    to.note(call, "module", f"@{module.short}")
    options = to.begin(module["config"], f"{_NETWORK}.{config}", of=module, argument="config")
    to.note(module, "config", f"@{options.short}")
    translate(to, options)
    for argument, path in {
        "vocab_size": "model.vocab_size",
        "dtype": "model.dtype",
        "emb_dim": "model.embed",
        "dropout_rate": "model.dropout",
    }.items():
        to.field(options, argument, path)
    head = {"name": "tied", "rescaled": True} if options["logits_via_embedding"] else {"name": "untied"}
    to.field(options, "logits_via_embedding", "model.head", head)


def _encoder_decoder(to: GinTranslation, options: Call) -> None:
    """T5's encoder and decoder."""
    to.set("model", {"family": "t5" if options["logits_via_embedding"] else "t5_1_1"}, options.label)
    for stack in ("encoder", "decoder"):
        _stack(to, options, stack, f"num_{stack}_layers")
    to.harmless(options, {"float32_attention_logits": "scores are always float32", "param_scan_axis": "of the layout"})
    policy = options["remat_policy"]
    if policy not in _REMAT:
        raise options.error("remat_policy", f"{policy!r} is not known; it must be 'none', 'minimal' or 'full'")
    to.field(options, "remat_policy", "parallelism.remat", _REMAT[policy])
    to.field(options, "scan_layers", "parallelism.scan_layers", bool(options["scan_layers"]))


def _decoder_only(to: GinTranslation, options: Call) -> None:
    """T5's decoder by itself: relative distances, RMSNorm, products that are not scaled."""
    to.set("model", {"family": "t5_decoder"}, options.label)
    _stack(to, options, "decoder", "num_layers")


def _stack(to: GinTranslation, options: Call, stack: str, layers: str) -> None:
    to.field(options, layers, f"model.{stack}.layers")
    activations = options["mlp_activations"]
    names = (activations,) if isinstance(activations, str) else tuple(activations)
    gated = len(names) == 2 and names[1] == "linear"
    if not names or names[0] not in _ACTIVATIONS or not (gated or len(names) == 1):
        known = ", ".join(f"('{name}',), ('{name}', 'linear')" for name in _ACTIVATIONS)
        raise options.error("mlp_activations", f"{names!r} is not here; these are: {known} ({PAGE})")
    layer: Mapping[str, Any] = {
        "attention": {name: options[key] for name, key in _ATTENTION.items()},
        "feed_forward": {"hidden": options["mlp_dim"], "activation": _ACTIVATIONS[names[0]], "gated": gated},
    }
    to.set(f"model.{stack}.layer", layer, options.label)
    for argument in ("num_heads", "head_dim"):
        to.note(options, argument, "model.*.layer.attention")
    for argument in ("mlp_dim", "mlp_activations"):
        to.note(options, argument, "model.*.layer.feed_forward")


_ATTENTION = {"heads": "num_heads", "kv_heads": "num_heads", "head_dim": "head_dim"}
