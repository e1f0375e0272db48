"""Rendering of web pages: one file each, which loads nothing from elsewhere."""

import pathlib
from typing import Any

import jinja2
from etils import epath
from markupsafe import Markup

from t5x_like.io import files
from t5x_like.telemetry.charts import compact
from t5x_like.telemetry.progress import format_number

_STYLE = pathlib.Path(__file__).with_name("report.css")


def render(template: pathlib.Path, **values: Any) -> str:
    """A page as HTML text.

    Args:
      template: Jinja's, with the filters `compact`, `number` and `markup`, and the variable `style`: every page's CSS.
      **values: its other variables; those that are callable can be called.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(template.parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"compact": compact, "number": format_number, "markup": Markup}
    return environment.get_template(template.name).render(style=Markup(_STYLE.read_text()), **values)


def write(page: str, output: epath.Path) -> epath.Path:
    """Writes a page and gives where it is.

    Raises:
      UserError: when the file cannot be written.
    """
    files.write(output, page.encode("utf-8", "replace"))
    return output
