"""A report as a page, of a step compiled for GPUs' shapes by this machine's own compiler, and as a browser shows it."""

import html
import json
import re

import jax
import matplotlib.image
import numpy as np
import pytest
import tiny

from t5x_like.__main__ import main
from t5x_like.errors import UserError
from t5x_like.parallel import topologies
from t5x_like.preflight import build, fit, page, report

HOSTILE = "<script>alert(1)</script>"
MODEL = {"family": "llama", "layers": 2, "embed": 32, "heads": 2, "kv_heads": 2, "head_dim": 16, "mlp": 64}


def experiment(name="small", **model):
    values = {
        "name": name,
        "steps": 100,
        "model": {**MODEL, "vocab_size": 64, **model},
        "data": {"sequence_length": 16, "batch_size": 8, "lanes": 1},
        "optimizer": {"name": "adamw"},
        "parallelism": {"fsdp": 4},
    }
    return tiny.from_flat(values)


@pytest.fixture(scope="module")
def figures():
    return report.report(build.build(experiment(HOSTILE), topologies.parse("h200:4"), jax.devices()[:4]))


def test_a_gpus_report_has_the_figures_of_a_tpus(figures):
    assert figures["time"]["method"] == "roofline"
    assert figures["topology"] == "h200:4" and figures["chips"] == 4
    terms = figures["time"]
    assert figures["estimated_step_seconds"] == pytest.approx(
        terms["scheduled_seconds"] + terms["kernel_seconds"] + terms["exposed_collective_seconds"]
    )
    assert terms["scheduled_seconds"] > 0 and figures["collectives"]
    assert {item["hosts"] for item in figures["collectives"]} == {1}
    assert figures["ideal_step_seconds"] == pytest.approx(figures["run"]["flops"] / 100 / 4 / 989.4e12)
    assert "_".join(figures["run"]["prices_sources"]["watts"].split()[:2]) == "the_maker's"


def test_what_a_gpu_has_no_room_for_is_said_with_what_would_fit(monkeypatch):
    topology = topologies.parse("h200:4")
    monkeypatch.setattr(build.memory, "peak_bytes", lambda compiled: topology.chip.usable_hbm_bytes + 5)
    with pytest.raises(fit.DoesNotFitError, match=r"of h200:4 and does not fit in the 113,548,197,888 .* by 5 bytes"):
        build.build(experiment(), topology, jax.devices()[:4])


def test_what_is_proposed_for_gpus_are_gpus():
    large = experiment(embed=16384, mlp=65536, heads=128, kv_heads=128, head_dim=128, layers=128, vocab_size=32000)
    shapes = fit.proposal(large, topologies.parse("h200:8"), 12 * 400 * 10**9, 4 * 400 * 10**9)
    assert re.search(r"--topology=h200:\d+x8 --config\.parallelism\.fsdp=\d+", shapes)


def test_the_page_says_what_the_report_does_and_runs_nothing(figures):
    text = page.build({**figures, "problems": ["something is wrong"], "fits": False})
    assert HOSTILE not in text and html.escape(HOSTILE) in text
    assert "default-src 'none'" in text and "script-src" not in text
    plain = re.sub(r"<[^>]*>", " ", text)
    chip = figures["per_chip"]
    for expected in ("something is wrong", "Does not fit", f"of {chip['hbm_bytes'] / 2**30:.2f} GiB", "h200:4", "fsdp"):
        assert expected in plain
    widths = [float(width) for width in re.findall(r"width: ([\d.]+)%; background", text)]
    assert sum(widths[:6]) == pytest.approx(100 * chip["peak_bytes"] / chip["hbm_bytes"], abs=0.01)
    assert text.count("<tr>") >= len(figures["collectives"])


def test_a_page_of_little_has_no_holes(figures):
    text = page.build({**figures, "collectives": [], "oversized_tensors": [], "slices": 2})
    assert "2 × h200:4" in text and text.count("<td>none</td>") == 2


def test_a_search_has_no_page(capsys):
    arguments = ["--config=configs/llama_1b.py", "--topology=v5e:2x2", "--search", "--page=x.html"]
    assert main(["preflight", *arguments]) == 2
    assert "a search has no page" in capsys.readouterr().err


def test_a_page_that_cannot_be_written_is_one_sentence(figures, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written|cannot write"):
        page.write(figures, f"{tmp_path}/file/page.html")


PROBE = """<script>
document.body.dataset.found = JSON.stringify({
  overflow: document.documentElement.scrollWidth - innerWidth,
  sections: [...document.querySelectorAll("section")].map((section) => [section.id, section.clientHeight]),
  bars: [...document.querySelectorAll(".track")].map((bar) => bar.getBoundingClientRect().width),
  outside: [...document.querySelectorAll(".figure")].filter((box) => box.scrollWidth > box.clientWidth + 1).length,
});
</script></body>"""


@pytest.mark.parametrize("width", [1280, 500])
def test_a_browser_lays_it_out(browser, figures, tmp_path, width):
    text = page.build({**figures, "name": "small"})
    text = text.replace("style-src", "script-src 'unsafe-inline'; style-src").replace("</body>", PROBE)
    (tmp_path / "page.html").write_text(text)
    dom, log = browser(tmp_path / "page.html", "--dump-dom", f"--window-size={width},900")
    assert "CONSOLE" not in log, log
    found = json.loads(html.unescape(dom.split('data-found="', 1)[1].split('"', 1)[0]))
    assert found["overflow"] <= 0 and found["outside"] == 0
    assert [name for name, height in found["sections"] if height > 60] == [
        "summary",
        "memory",
        "time",
        "collectives",
        "tensors",
        "run",
    ]
    assert len(found["bars"]) == 5 and min(found["bars"]) > 100


def test_a_picture_of_it(browser, figures, tmp_path):
    page.write({**figures, "per_chip": {**figures["per_chip"], "activations_bytes": 50 << 30}}, f"{tmp_path}/page.html")
    picture = tmp_path / "page.png"
    browser(tmp_path / "page.html", f"--screenshot={picture}", "--window-size=1280,1400")
    pixels = np.round(255 * matplotlib.image.imread(picture)[..., :3]).astype(int)

    def near(colour):
        return np.abs(pixels - colour).max(axis=-1) <= 3

    assert near((106, 79, 179)).sum() > 10_000, "activations fill half of the memory's bar"
    assert near((11, 107, 138)).sum() > 10_000, "what is scheduled is most of the step"
    assert 0.1 < near((246, 246, 243)).mean() < 0.8
