"""Pages as text: what is read of them, in which encoding, and that no page takes long."""

import time

import pytest

from t5x_like.data.sources.html import page_text

ARTICLE = "<h1>Title</h1>" + "".join(f"<p>Paragraph {i} has some <b>bold</b> words in it.</p>" for i in range(5))


def test_the_main_content_is_kept_and_the_rest_left_out():
    page = (
        "<html><head><title>t</title><style>p {color: red}</style></head><body>"
        "<nav><a href='/'>Home</a><a href='/x'>Contact</a></nav><script>var x = 1;</script>"
        f"<main>{ARTICLE}</main><footer>Imprint</footer></body></html>"
    )
    text = page_text(page.encode())
    assert text.split("\n\n") == ["Title", *(f"Paragraph {i} has some bold words in it." for i in range(5))]


@pytest.mark.parametrize(
    ("page", "charset", "text"),
    [
        ("<p>café</p>".encode(), None, "café"),
        ("<p>café</p>".encode("latin-1"), "iso-8859-1", "café"),
        ("<p>café</p>".encode("latin-1"), "ISO-8859-1", "café"),
        ('<meta charset="windows-1251"><p>привет</p>'.encode("cp1251"), None, "привет"),
        ("<p>caf\u00e9</p>".encode(), "no such charset", "café"),
        (b"<p>a\xff</p>", "utf-8", "a\ufffd"),
        (b"", None, ""),
        (b"no tag at all", None, "no tag at all"),
    ],
)
def test_encodings(page, charset, text):
    assert page_text(page, charset) == text


@pytest.mark.parametrize("tag", ["<div>", "<b><i>", "<table><tr><td>", "<p>", "<ul><li>", "<span><a>"])
def test_no_nesting_takes_long(tag):
    begin = time.process_time()
    assert "deep" in page_text((tag * 100_000 + "deep").encode())
    assert time.process_time() - begin < 20  # seconds; unbounded it takes minutes
