"""Files of prompts: a prompt a line, as JSON lines or as text."""

import json
import sys
from collections.abc import Sequence

from t5x_like.data.sources import read_bytes
from t5x_like.errors import UserError

FLAG = "--prompts"
ENDINGS = (".jsonl", ".ndjson", ".json")


def read(path: str) -> list[str]:
    """The prompts in a file.

    Args:
      path: on a disk or an object store, or `-` for standard input. By its ending it holds JSON lines, each a string or
        an object with the field `prompt`; any other file holds text. Lines of white space alone are passed over.

    Raises:
      UserError: when there is no file, or it has no prompt, or for the first line that is none.
    """
    content = sys.stdin.buffer.read() if path == "-" else read_bytes(path, FLAG)
    prompts = parse(content, path, as_json=path.lower().endswith(ENDINGS))
    if not prompts:
        raise UserError(f"{FLAG}: {path} has no prompt; give a file with a prompt a line")
    return prompts


def parse(content: bytes, path: str, *, as_json: bool) -> list[str]:
    """The prompts in the content of a file; see `read`."""
    prompts = []
    for number, line in enumerate(content.removeprefix(b"\xef\xbb\xbf").split(b"\n"), 1):
        try:
            text = line.decode()
        except UnicodeDecodeError as error:
            raise _wrong(path, number, f"is not UTF-8, from its byte {error.start + 1} on; convert the file") from None
        if text.strip():
            prompts.append(_from_json(text, path, number) if as_json else text.removesuffix("\r"))
    return prompts


def require_text(prompts: Sequence[str]) -> None:
    """Raises UserError for the first prompt that has no UTF-8, such as bytes of another encoding on a command line."""
    for number, prompt in enumerate(prompts, 1):
        try:
            prompt.encode()
        except UnicodeEncodeError as error:
            raise UserError(
                f"prompt {number} is not UTF-8, from its character {error.start + 1} on; convert it to UTF-8"
            ) from None


def _from_json(text: str, path: str, number: int) -> str:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        problem = getattr(error, "msg", "it is nested too deeply")
        raise _wrong(path, number, f'is no JSON ({problem}); write a line such as {{"prompt": "…"}}') from None
    prompt = value.get("prompt") if isinstance(value, dict) else value
    if not isinstance(prompt, str):
        raise _wrong(path, number, "has no text; write a string, or an object with the field prompt, a string")
    if any("\ud800" <= character <= "\udfff" for character in prompt):
        raise _wrong(path, number, "has half of a surrogate pair, which is no character; write the whole character")
    return prompt


def _wrong(path: str, number: int, problem: str) -> UserError:
    return UserError(f"{FLAG}: line {number} of {path} {problem}")
