"""The text of an HTML page, by Resiliparse (Bevendorff et al. 2018, "Elastic ChatNoir").

The main content is taken, without navigation and boilerplate.
"""

import re

from resiliparse.extract.html2text import extract_plain_text
from resiliparse.parse.encoding import bytes_to_str, detect_encoding, map_encoding_to_html5

# Finding the main content takes time with the square of the nesting (0.3 s at 4,000, minutes at 200,000); what is
# nested deeper than any page that people read is taken whole, which takes linear time.
_DEEPEST = 1000
_TAG = re.compile(r"<(/?)([a-zA-Z][^\s/>]*)")
# Never nested in themselves: they have no end tag, or end where the next one begins.
_FLAT = frozenset(
    ("area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "track", "wbr")
)
_FLAT |= {"p", "li", "dt", "dd", "option", "tr", "td", "th", "thead", "tbody"}


def page_text(page: bytes, charset: str | None = None) -> str:
    """The text of a page.

    Args:
      page: the HTML as it was sent.
      charset: what the server said the encoding is. Otherwise it is UTF-8 if the page decodes so, or else what the
        page says or its bytes suggest. What does not decode becomes U+FFFD, as in a browser.
    """
    encoding = map_encoding_to_html5(charset, fallback_utf8=False) if charset else None
    if encoding is None:
        encoding = "utf-8" if _is_utf8(page) else detect_encoding(page, from_html_meta=True) or "utf-8"
    html = bytes_to_str(page, encoding, errors="replace", fallback_encodings=())
    return extract_plain_text(
        html,
        preserve_formatting=True,
        main_content=_depth(html) <= _DEEPEST,
        list_bullets=False,
        alt_texts=False,
        links=False,
        form_fields=False,
        noscript=False,
        comments=False,
        hidden_elements=False,
    )


def _is_utf8(page: bytes) -> bool:
    """Whether it decodes; few other texts do, and the detector takes a short one for another encoding."""
    try:
        page.decode()
    except UnicodeDecodeError:
        return False
    return True


def _depth(html: str) -> int:
    """The deepest nesting of tags; 0 for a page with too few tags to be deep."""
    depth = deepest = 0
    if html.count("<") > _DEEPEST:
        for ends, name in _TAG.findall(html):
            if name.lower() not in _FLAT:
                depth = max(depth - 1, 0) if ends else depth + 1
                deepest = max(deepest, depth)
    return deepest
