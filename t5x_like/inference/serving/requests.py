"""Requests in OpenAI's format: parsed, checked, and refused in one sentence.

Their reference: https://platform.openai.com/docs/api-reference/completions and /chat.
"""

import dataclasses
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from t5x_like import registry
from t5x_like.errors import UserError
from t5x_like.inference.continuous import ALTERNATIVES
from t5x_like.inference.sampling import Sampling

Prompt = str | list[int]
SEED_BELOW = 1 << 32

_SAMPLING = ("temperature", "top_p", "top_k", "min_p", "n", "seed", "stop")
_BOTH = ("model", "max_tokens", *_SAMPLING, "stream", "logprobs", "user")
_IGNORED = ("stream_options",)
# Options with which the answer is the same as without, at these values.
_NEUTRAL: Mapping[str, Any] = {
    "presence_penalty": 0,
    "frequency_penalty": 0,
    "logit_bias": {},
    "best_of": 1,
    "suffix": "",
    "echo": False,
}


@dataclass(frozen=True)
class Completion:
    """A request to continue texts.

    Attributes:
      prompts: texts, or ids as the vocabulary spells them.
      tokens: how many to write at most after each.
      clipped: whether they are fewer where the context has no room for as many, since the client did not ask for any.
      sampling: how they are chosen.
      seed: of the random choices; choice i of prompt j has key number j · choices + i.
      choices: how many continuations of each prompt.
      stops: texts that end a continuation.
      stream: whether pieces are sent while they are written.
      alternatives: log-probabilities of how many of the likeliest tokens are told; None for no log-probabilities.
    """

    prompts: tuple[Prompt, ...]
    tokens: int
    sampling: Sampling
    seed: int
    clipped: bool = False
    choices: int = 1
    stops: tuple[str, ...] = ()
    stream: bool = False
    alternatives: int | None = None


def completion(body: Any) -> Completion:
    """A request of `/v1/completions`.

    Raises:
      UserError: for whatever it has that cannot be.
    """
    values = _Fields(body, (*_BOTH, "prompt"))
    logprobs = values.whole("logprobs", None, 0, ALTERNATIVES)
    return Completion(
        prompts=_prompts(values.get("prompt", "")),
        alternatives=logprobs,
        **_common(values, 16),
    )


def chat(body: Any) -> tuple[list[dict[str, str]], Completion]:
    """A request of `/v1/chat/completions`: the messages, and the rest with no prompts yet.

    Raises:
      UserError: for whatever it has that cannot be.
    """
    values = _Fields(body, (*_BOTH, "messages", "top_logprobs", "max_completion_tokens"))
    messages = values.get("messages", None)
    if not isinstance(messages, list) or not messages:
        raise UserError("messages is no list of messages; give at least one, such as {'role': 'user', 'content': '…'}")
    checked = [_message(message, number) for number, message in enumerate(messages)]
    top = values.whole("top_logprobs", 0, 0, ALTERNATIVES)
    if values.get("max_completion_tokens", None) is not None:
        values.values["max_tokens"] = values.values["max_completion_tokens"]
    wanted = values.flag("logprobs")
    return checked, Completion(prompts=(), alternatives=top if wanted else None, **_common(values, 256))


def with_prompts(wanted: Completion, prompts: tuple[Prompt, ...]) -> Completion:
    """A request with its prompts, which a chat template made."""
    return dataclasses.replace(wanted, prompts=prompts)


def _common(values: "_Fields", default_tokens: int) -> dict[str, Any]:
    sampling = Sampling(
        values.number("temperature", 1.0),
        values.whole("top_k", 0, 0, 1 << 30) or 0,
        values.number("top_p", 1.0),
        values.number("min_p", 0.0),
    )
    stops = values.get("stop", None) or []
    stops = [stops] if isinstance(stops, str) else stops
    if not isinstance(stops, list) or not all(isinstance(stop, str) and stop for stop in stops):
        raise UserError(f"stop is {stops!r}; it must be a text, or a list of texts, none of them empty")
    return {
        "tokens": values.whole("max_tokens", default_tokens, 1, 1 << 30),
        "clipped": values.get("max_tokens", None) is None,
        "sampling": sampling,
        "seed": values.whole("seed", secrets.randbelow(SEED_BELOW), 0, SEED_BELOW - 1),
        "choices": values.whole("n", 1, 1, 128),
        "stops": tuple(stops),
        "stream": values.flag("stream"),
    }


class _Fields:
    """The fields of a body, checked one by one."""

    def __init__(self, body: Any, known: tuple[str, ...]) -> None:
        if not isinstance(body, dict):
            raise UserError(f"the body is {type(body).__name__}; it must be a JSON object")
        for key, value in body.items():
            if key in _NEUTRAL and value not in (None, _NEUTRAL[key]):
                raise UserError(f"{key} is {value!r}, which this server does not do; leave it out")
            if key not in (*known, *_IGNORED, *_NEUTRAL):
                raise UserError(f"there is no field {key!r}; {registry.suggest(key, known)}")
        self.values = dict(body)

    def get(self, name: str, default: Any) -> Any:
        value = self.values.get(name)
        return default if value is None else value

    def flag(self, name: str) -> bool:
        value = self.get(name, False)
        if not isinstance(value, bool):
            raise UserError(f"{name} is {value!r}; it must be true or false")
        return value

    def number(self, name: str, default: float) -> float:
        value = self.get(name, default)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise UserError(f"{name} is {value!r}; it must be a number")
        return float(value)

    def whole(self, name: str, default: int | None, least: int, most: int) -> Any:
        value = self.get(name, default)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise UserError(f"{name} is {value!r}; it must be a whole number from {least} to {most}")
        return value


def _prompts(given: Any) -> tuple[Prompt, ...]:
    if isinstance(given, str) or _are_ids(given):
        given = [given]
    if not isinstance(given, list) or not given or not all(isinstance(p, str) or _are_ids(p) for p in given):
        raise UserError(
            "prompt is neither a text, a list of texts, a list of ids nor a list of those; give one of them"
        )
    return tuple(given)


def _are_ids(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(type(item) is int for item in value)


def _message(message: Any, number: int) -> dict[str, str]:
    if not isinstance(message, dict) or not isinstance(message.get("role"), str):
        raise UserError(f"messages[{number}] is {message!r}; it must be an object with a role and a content")
    content = message.get("content", "")
    if isinstance(content, list):  # parts, of which texts are understood
        parts = [part.get("text") for part in content if isinstance(part, dict) and part.get("type") == "text"]
        if len(parts) < len(content) or not all(isinstance(part, str) for part in parts):
            raise UserError(f"messages[{number}].content has a part that is no text; this server reads texts")
        content = "".join(map(str, parts))
    if not isinstance(content, str):
        raise UserError(f"messages[{number}].content is {content!r}; it must be a text")
    return {"role": message["role"], "content": content}
