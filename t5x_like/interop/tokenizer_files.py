"""Tokenizer files of Hugging Face folders as the one file that a vocabulary here is, and back."""

import json
from collections.abc import Mapping
from typing import Any

from t5x_like.data.byte_vocabulary import ByteVocabulary
from t5x_like.data.sentencepiece_vocabulary import SentencePieceVocabulary
from t5x_like.data.vocabulary import Vocabulary
from t5x_like.errors import UserError

_SENTENCEPIECE = ("tokenizer.model", "spiece.model", "sentencepiece.bpe.model")


def vocabulary(found: Mapping[str, bytes], where: str) -> bytes | None:
    """The file of a folder that makes texts ids; None where it has no tokenizer.

    Args:
      found: the folder's small files.
      where: what errors call the folder.

    Raises:
      UserError: where files are no tokenizer.
    """
    if "tokenizer.json" in found:
        return found["tokenizer.json"]
    for name in _SENTENCEPIECE:
        if name in found:
            return found[name]
    try:
        if "vocab.txt" in found:
            return _word_pieces(found)
        if "vocab.json" in found and "merges.txt" in found:
            return _byte_pairs(found)
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"the tokenizer files of {where} cannot be read ({error}); give a tokenizer.json") from None
    return None


def folder(vocabulary: Vocabulary) -> dict[str, bytes]:
    """The files that make a vocabulary a tokenizer there, by name."""
    if isinstance(vocabulary, ByteVocabulary):
        config = {"tokenizer_class": "ByT5Tokenizer", "extra_ids": vocabulary.sentinels}
        return {"tokenizer_config.json": json.dumps(config).encode()}
    content = vocabulary.model
    if isinstance(vocabulary, SentencePieceVocabulary):
        converted = _unigram(content)
        if converted is None:
            return {"tokenizer.model": content}
        content = converted
    tokenizer = _library().Tokenizer.from_buffer(content)
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": tokenizer.id_to_token(vocabulary.eos_id)}
    return {"tokenizer.json": content, "tokenizer_config.json": json.dumps(config).encode()}


def _unigram(content: bytes) -> bytes | None:
    """A unigram model of SentencePiece's (Kudo 2018) as a `tokenizer.json`; None for a model of another kind."""
    from sentencepiece import sentencepiece_model_pb2

    library = _library()
    described: Any = sentencepiece_model_pb2  # made at run time, from a description
    model = described.ModelProto.FromString(content)
    trainer, rules = model.trainer_spec, model.normalizer_spec
    if trainer.model_type != trainer.UNIGRAM or rules.remove_extra_whitespaces or trainer.treat_whitespace_as_suffix:
        return None
    pieces = [(piece.piece, piece.score) for piece in model.pieces]
    unigram = library.models.Unigram(pieces, unk_id=trainer.unk_id, byte_fallback=trainer.byte_fallback)
    tokenizer = library.Tokenizer(unigram)
    if rules.precompiled_charsmap:
        tokenizer.normalizer = library.normalizers.Precompiled(rules.precompiled_charsmap)
    # Texts are not cut at spaces first: some pieces are several of them.
    prefixed = "always" if rules.add_dummy_prefix else "never"
    tokenizer.pre_tokenizer = library.pre_tokenizers.Metaspace("▁", prepend_scheme=prefixed, split=False)
    steps = [library.decoders.Replace("▁", " "), library.decoders.ByteFallback(), library.decoders.Fuse()]
    strip = [library.decoders.Strip(" ", 1, 0)] if rules.add_dummy_prefix else []
    tokenizer.decoder = library.decoders.Sequence([*steps, *strip])
    kinds = [(piece.piece, piece.type) for piece in model.pieces]
    tokenizer.add_special_tokens([piece for piece, kind in kinds if kind == described.ModelProto.SentencePiece.CONTROL])
    tokenizer.add_tokens([piece for piece, kind in kinds if kind == described.ModelProto.SentencePiece.USER_DEFINED])
    return tokenizer.to_str().encode()


def beginning(content: bytes | None) -> tuple[int, ...]:
    """The ids that a tokenizer puts before a text, such as Llama's <s>; none where it puts none."""
    if content is None or not content.lstrip().startswith(b"{"):
        return ()
    tokenizer = _library().Tokenizer.from_buffer(content)
    bare = tokenizer.encode("a", add_special_tokens=False).ids
    whole = tokenizer.encode("a", add_special_tokens=True).ids
    for start in range(len(whole) - len(bare) + 1):
        if whole[start : start + len(bare)] == bare:
            return tuple(whole[:start])
    return ()


def mask_id(content: bytes | None) -> int:
    """The id that stands for what is hidden; 0 where a tokenizer has none."""
    if content is None or not content.lstrip().startswith(b"{"):
        return 0
    ids = map(_library().Tokenizer.from_buffer(content).token_to_id, ("[MASK]", "<mask>"))
    return next((number for number in ids if number is not None), 0)


def _word_pieces(found: Mapping[str, bytes]) -> bytes:
    """BERT's tokenizer (Devlin et al. 2019, appendix A.2) from its list of pieces."""
    library = _library()
    options = _options(found)
    pieces = {piece: number for number, piece in enumerate(found["vocab.txt"].decode().splitlines())}
    unknown = options.get("unk_token", "[UNK]")
    tokenizer = library.Tokenizer(library.models.WordPiece(pieces, unk_token=unknown, max_input_chars_per_word=100))
    lowercase = options.get("do_lower_case", True)
    tokenizer.normalizer = library.normalizers.BertNormalizer(
        lowercase=lowercase,
        handle_chinese_chars=options.get("tokenize_chinese_chars", True),
        strip_accents=options.get("strip_accents"),
    )
    tokenizer.pre_tokenizer = library.pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = library.decoders.WordPiece()
    first, last = options.get("cls_token", "[CLS]"), options.get("sep_token", "[SEP]")
    tokenizer.post_processor = library.processors.TemplateProcessing(
        single=f"{first} $A {last}",
        pair=f"{first} $A {last} $B:1 {last}:1",
        special_tokens=[(first, pieces[first]), (last, pieces[last])],
    )
    special = [options.get(f"{name}_token", f"[{name.upper()}]") for name in ("pad", "unk", "cls", "sep", "mask")]
    tokenizer.add_special_tokens([name for name in special if name in pieces])
    return tokenizer.to_str().encode()


def _byte_pairs(found: Mapping[str, bytes]) -> bytes:
    """GPT-2's tokenizer (Radford et al. 2019, section 2.2) from its pieces and merges."""
    library = _library()
    options = _options(found)
    lines = found["merges.txt"].decode().splitlines()
    pairs = [tuple(line.split(" ")) for line in lines if line and not line.startswith("#version")]
    tokenizer = library.Tokenizer(library.models.BPE(json.loads(found["vocab.json"]), pairs))
    prefixed = options.get("add_prefix_space", False)
    tokenizer.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=prefixed)
    tokenizer.decoder = library.decoders.ByteLevel()
    added = json.loads(found.get("added_tokens.json", b"{}"))
    end = _name(options.get("eos_token", "<|endoftext|>"))
    tokenizer.add_special_tokens([end, *sorted(added, key=added.get)])
    return tokenizer.to_str().encode()


def _options(found: Mapping[str, bytes]) -> dict[str, Any]:
    options = json.loads(found.get("tokenizer_config.json", b"{}"))
    return {key: _name(value) for key, value in options.items()}


def _name(token: Any) -> Any:
    """A special token's text, which files give by itself or with its properties."""
    return token["content"] if isinstance(token, dict) and "content" in token else token


def _library() -> Any:
    try:
        import tokenizers
        import tokenizers.decoders
        import tokenizers.models
        import tokenizers.normalizers
        import tokenizers.pre_tokenizers
        import tokenizers.processors
    except ModuleNotFoundError:
        raise UserError(
            "a tokenizer of Hugging Face's needs the package tokenizers; pip install 't5x_like[huggingface]'"
        ) from None
    return tokenizers
