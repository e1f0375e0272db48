"""Tokenizers in GGUF metadata as vocabularies: BPE of bytes as a `tokenizer.json`, Llama's as a SentencePiece model."""

from collections.abc import Mapping
from typing import Any

from t5x_like.errors import UserError
from t5x_like.interop.foreign import Generation
from t5x_like.registry import suggest

_KEY = "tokenizer.ggml"
_CONTROL, _USER_DEFINED = 3, 4  # kinds of token, ggml's numbers

# Regular expressions by which texts are cut before merges, by the names of llama.cpp's `llama_vocab_pre_type`. Where
# there are several, each cuts what the one before has left.
_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_QWEN2 = _LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
_CUTS: Mapping[str, tuple[str, ...]] = {
    "gpt-2": (_GPT2,),
    "smollm": (r"\p{N}", _GPT2),
    "starcoder": (r"\p{N}", _GPT2),
    "refact": (r"\p{N}", _GPT2),
    "command-r": (r"\p{N}", _GPT2),
    "olmo": (_GPT2,),
    "llama-bpe": (_LLAMA3,),
    "llama3": (_LLAMA3,),
    "qwen2": (_QWEN2,),
}


def vocabulary(metadata: Mapping[str, Any], where: str) -> bytes | None:
    """The file of a file's tokenizer; None where it has none.

    Args:
      metadata: of the file.
      where: what errors call it.

    Raises:
      UserError: for a kind of tokenizer that is not known here.
    """
    kind = metadata.get(f"{_KEY}.model")
    if kind is None:
        return None
    try:
        if kind == "gpt2":
            return _byte_pairs(metadata, where)
        if kind == "llama":
            return _sentence_pieces(metadata)
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"the tokenizer of {where} cannot be read ({error!r}); convert the file anew") from None
    raise UserError(f"{where} has a tokenizer {kind!r}; {suggest(str(kind), ['gpt2', 'llama'])}")


def generation(metadata: Mapping[str, Any]) -> Generation:
    """The ids that a text begins and ends with."""
    # Llama's is put in front unless the file says otherwise; BPE's is not.
    usual = metadata.get(f"{_KEY}.model") == "llama"
    begins = metadata.get(f"{_KEY}.add_bos_token", usual) and f"{_KEY}.bos_token_id" in metadata
    return Generation(
        begin=(metadata[f"{_KEY}.bos_token_id"],) if begins else (), end=metadata.get(f"{_KEY}.eos_token_id", -1)
    )


def _byte_pairs(metadata: Mapping[str, Any], where: str) -> bytes:
    library = _library()
    named = metadata.get(f"{_KEY}.pre", "gpt-2")
    if named not in _CUTS:
        raise UserError(f"{where} cuts texts as {named!r} does; {suggest(str(named), _CUTS)}")
    tokens, kinds = metadata[f"{_KEY}.tokens"], metadata[f"{_KEY}.token_type"]
    pairs = [tuple(merge.split(" ")) for merge in metadata[f"{_KEY}.merges"]]
    pieces = {token: number for number, token in enumerate(tokens)}
    tokenizer = library.Tokenizer(library.models.BPE(pieces, pairs, ignore_merges=named in ("llama-bpe", "llama3")))
    cuts = [library.pre_tokenizers.Split(library.Regex(pattern), "isolated", invert=False) for pattern in _CUTS[named]]
    bytes_ = library.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = library.pre_tokenizers.Sequence([*cuts, bytes_])
    tokenizer.decoder = library.decoders.ByteLevel()
    special = [token for token, kind in zip(tokens, kinds, strict=True) if kind == _CONTROL]
    tokenizer.add_special_tokens(special)
    tokenizer.add_tokens([token for token, kind in zip(tokens, kinds, strict=True) if kind == _USER_DEFINED])
    return tokenizer.to_str().encode()


def _sentence_pieces(metadata: Mapping[str, Any]) -> bytes:
    """Kinds of pieces have the same numbers in both formats."""
    from sentencepiece import sentencepiece_model_pb2

    library: Any = sentencepiece_model_pb2  # made at run time, from a description
    model = library.ModelProto()
    tokens, kinds = metadata[f"{_KEY}.tokens"], metadata[f"{_KEY}.token_type"]
    for token, score, kind in zip(tokens, metadata[f"{_KEY}.scores"], kinds, strict=True):
        model.pieces.add(piece=token, score=score, type=kind)
    trainer, normalizer = model.trainer_spec, model.normalizer_spec
    trainer.model_type, trainer.vocab_size, trainer.byte_fallback = trainer.BPE, len(tokens), True
    trainer.unk_id = metadata.get(f"{_KEY}.unknown_token_id", 0)
    trainer.bos_id, trainer.eos_id = (metadata.get(f"{_KEY}.{name}_token_id", -1) for name in ("bos", "eos"))
    trainer.pad_id = metadata.get(f"{_KEY}.padding_token_id", -1)
    normalizer.name, normalizer.remove_extra_whitespaces = "identity", False
    normalizer.add_dummy_prefix = metadata.get(f"{_KEY}.add_space_prefix", True)
    return model.SerializeToString()


def _library() -> Any:
    try:
        import tokenizers
        import tokenizers.decoders
        import tokenizers.models
        import tokenizers.pre_tokenizers
    except ModuleNotFoundError:
        advice = "pip install 't5x_like[huggingface]'"
        raise UserError(f"this tokenizer needs the package tokenizers; {advice}") from None
    return tokenizers
