"""`t5x_like report`, and the page as a real browser shows it."""

import base64
import hashlib
import json

import matplotlib.image
import numpy as np
import pytest
from etils import epath
from long_run import HOSTILE, write_run

from t5x_like.__main__ import main

# Run in the page: measures what is laid out, points at the middle of the first chart, and leaves what it found.
PROBE = """
const plot = document.querySelector(".plot"), box = plot.getBoundingClientRect();
const figure = plot.closest("figure"), text = (name) => figure.querySelector(name).textContent;
const latest = text(".value");
const middle = {clientX: box.left + box.width / 2, clientY: box.top};
const point = (kind) => plot.dispatchEvent(new PointerEvent(kind, middle));
point("pointermove");
const found = {
  sections: [...document.querySelectorAll("section")].map((section) => [section.id, section.clientHeight]),
  charts: [...document.querySelectorAll("#curves > .charts svg")].map((svg) => svg.getBoundingClientRect().width),
  lines: [...document.querySelectorAll("#curves > .charts svg path")].filter(
    (path) => path.getTotalLength() > 100 && getComputedStyle(path).stroke === "rgb(11, 107, 138)").length,
  overflow: document.documentElement.scrollWidth - innerWidth,
  pointed: text(".step"), value: text(".value"), latest,
  samples: [...document.querySelectorAll("blockquote")].map((quote) => quote.textContent),
  intruders: document.querySelectorAll("blockquote script, blockquote img").length,
};
point("pointerleave");
found.restored = text(".value") === latest && text(".step") === "";
document.body.dataset.found = JSON.stringify(found);
"""


@pytest.fixture(scope="module")
def report(tmp_path_factory, real_run):
    """The report of a run, as the command writes it."""
    workdir = epath.Path(tmp_path_factory.mktemp("run"))
    write_run(workdir, real_run)
    assert main(["report", str(workdir)]) == 0
    return workdir / "report.html"


def with_probe(report):
    """The page with `PROBE` added, let through by the page's own policy."""
    text = report.read_text()
    digest = base64.b64encode(hashlib.sha256(PROBE.encode()).digest()).decode()
    assert "script-src 'sha256-" in text
    text = text.replace("script-src '", f"script-src 'sha256-{digest}' '", 1)
    page = report.with_name("probed.html")
    page.write_text(text.replace("</body>", f"<script>{PROBE}</script></body>"))
    return page


@pytest.mark.parametrize("width", [1280, 500])
def test_a_browser_lays_out_the_curves_and_answers_the_pointer(browser, report, width):
    page = with_probe(report)
    dom, log = browser(page, "--dump-dom", f"--window-size={width},900")
    assert "CONSOLE" not in log, log
    found = json.loads(_attribute(dom, "data-found"))
    assert [name for name, height in found["sections"] if height > 100] == [
        "summary",
        "curves",
        "samples",
        "experiment",
        "parameters",
        "environment",
    ]
    assert len(found["charts"]) == 6 and min(found["charts"]) > 350
    assert found["lines"] >= 5
    assert found["overflow"] <= 0
    assert found["pointed"] in ("step 320", "step 330", "step 340") and found["value"] != found["latest"]
    assert found["restored"]
    assert any(HOSTILE in sample for sample in found["samples"]) and found["intruders"] == 0


def test_the_log_would_tell(browser, report):
    """What the test above relies on: a page that reaches out, or whose script fails, leaves a line in the log."""
    page = report.with_name("reaching.html")
    page.write_text(report.read_text().replace("</body>", "<img src='https://example.com/x.png'></body>"))
    _, log = browser(page, "--dump-dom")
    assert "CONSOLE" in log and "Content Security Policy" in log


@pytest.mark.parametrize(
    ("flags", "paper", "series"),
    [((), (246, 246, 243), (11, 107, 138)), (("--force-dark-mode",), (18, 21, 26), (98, 195, 228))],
    ids=["light", "dark"],
)
def test_a_picture_of_the_page(browser, report, tmp_path, flags, paper, series):
    picture = tmp_path / "report.png"
    browser(report, f"--screenshot={picture}", "--window-size=1280,2400", *flags)
    pixels = np.round(255 * matplotlib.image.imread(picture)[..., :3]).astype(int)
    assert pixels.shape == (2400, 1280, 3)

    def near(colour):
        return np.abs(pixels - colour).max(axis=-1) <= 3

    assert 0.1 < near(paper).mean() < 0.8, "the page's background, around its cards"
    curves = near(series)[560:1500]
    assert curves.sum() > 3000, "curves are drawn in their colour"
    assert curves[:, :640].any() and curves[:, 640:].any(), "in two columns"
    brightness = pixels.mean(axis=-1)
    ink = (np.abs(brightness - np.median(brightness, axis=1, keepdims=True)) > 60).any(axis=1)
    assert min(band.mean() for band in np.array_split(ink, 8)) > 0.15, "the page is filled from top to bottom"


def _attribute(dom, name):
    from html import unescape

    value = dom.split(f'{name}="', 1)[1].split('"', 1)[0]
    return unescape(value)


def test_the_command_says_where_the_report_is(tmp_path, capsys, real_run):
    write_run(epath.Path(tmp_path), real_run)
    assert main(["report", str(tmp_path)]) == 0
    assert capsys.readouterr().out == f"the report is {tmp_path}/report.html\n"
    assert main(["report", str(tmp_path), "--json", f"--output={tmp_path}/elsewhere/page.html"]) == 0
    assert json.loads(capsys.readouterr().out) == {"report": f"{tmp_path}/elsewhere/page.html"}
    assert (tmp_path / "elsewhere" / "page.html").read_bytes() == (tmp_path / "report.html").read_bytes()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["{}/nowhere"], "there is no directory {}/nowhere; give the workdir of a training run"),
        (["{}"], "{} holds no run"),
        (["{}", "--outptu=x"], "report does not know '--outptu=x'"),
    ],
)
def test_what_the_user_can_mend_is_one_sentence(tmp_path, capsys, arguments, sentence):
    assert main(["report", *(argument.format(tmp_path) for argument in arguments)]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith(f"error: {sentence.format(tmp_path)}") and shown.err.count("\n") == 1
