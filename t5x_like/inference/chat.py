"""Chat templates: messages as one prompt, by a template in Jinja as Hugging Face's `tokenizer_config.json` has it."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from t5x_like.errors import UserError

# Of a model that came without one.
PLAIN = """\
{% for m in messages %}{{ m.role }}: {{ m.content }}
{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}"""


class ChatTemplate:
    """A function from messages to a prompt. The template is sandboxed: it reaches nothing but what it is given."""

    def __init__(self, source: str = PLAIN, special: Mapping[str, str] | None = None) -> None:
        """Compiles a template.

        Args:
          source: of the template.
          special: the texts of special tokens by their names in `tokenizer_config.json`, such as `bos_token`.

        Raises:
          UserError: for a template that is no Jinja.
        """
        from jinja2 import TemplateError
        from jinja2.sandbox import ImmutableSandboxedEnvironment

        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
        environment.globals["raise_exception"] = _refuse
        environment.filters["tojson"] = lambda value, **options: json.dumps(value, ensure_ascii=False, **options)
        self._special = dict(special or {})
        try:
            self._template = environment.from_string(source)
        except TemplateError as error:
            raise UserError(f"the chat template cannot be read ({error}); give one in Jinja") from None

    def __call__(self, messages: Sequence[Mapping[str, str]], *, add_generation_prompt: bool = True) -> str:
        """The prompt of messages, each with `role` and `content`.

        Raises:
          UserError: where the template refuses them.
        """
        from jinja2 import TemplateError

        given: dict[str, Any] = {**self._special, "messages": messages, "add_generation_prompt": add_generation_prompt}
        try:
            return self._template.render(**given)
        except (TemplateError, TypeError, ValueError) as error:
            raise UserError(f"the chat template refuses these messages ({error})") from None


def from_file(content: str, name: str) -> ChatTemplate:
    """The template in a `tokenizer_config.json`, or in a file that holds nothing else.

    Raises:
      UserError: where there is none.
    """
    if not name.endswith(".json"):
        return ChatTemplate(content)
    try:
        config = json.loads(content)
    except ValueError as error:
        raise UserError(f"{name} is no JSON ({error})") from None
    source = config.get("chat_template") if isinstance(config, dict) else None
    if isinstance(source, list):  # several by name
        source = next((each.get("template") for each in source if each.get("name") == "default"), None)
    if not isinstance(source, str):
        raise UserError(f"{name} has no chat_template; give a file with one")
    special = {key: _text(value) for key, value in config.items() if key.endswith("_token")}
    return ChatTemplate(source, {key: text for key, text in special.items() if text})


def _text(token: Any) -> str:
    return token.get("content", "") if isinstance(token, dict) else token if isinstance(token, str) else ""


def _refuse(message: str) -> None:
    from jinja2 import TemplateError

    raise TemplateError(message)
