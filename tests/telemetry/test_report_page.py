"""The report's text: what is in it, what is missing and said to be, and that it loads and runs nothing."""

import html.parser
import json
import re
import subprocess
import sys

import pytest
from etils import epath
from long_run import HOSTILE, PROMPTS, write_run

from t5x_like import migrations
from t5x_like.errors import UserError
from t5x_like.telemetry.report import build_report, write_report

ALL_FILES = (
    "metrics.jsonl",
    "samples.jsonl",
    "experiment.json",
    "environment.json",
    "parameters.json",
    "summary.json",
)


class Page(html.parser.HTMLParser):
    """A page's elements, and its text without scripts and styles."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.words, self._inside = [], [], None
        self.feed(text)
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        self._inside = tag if tag in ("script", "style") else None

    def handle_endtag(self, tag):
        self._inside = None

    def handle_data(self, data):
        if self._inside is None:
            self.words.append(data)

    def ids(self, tag):
        return [attributes.get("id") for name, attributes in self.elements if name == tag]


@pytest.fixture(scope="module")
def whole(tmp_path_factory, real_run):
    """The report of a finished run with everything in it, as text."""
    workdir = epath.Path(tmp_path_factory.mktemp("run"))
    write_run(workdir, real_run)
    return build_report(workdir)


@pytest.fixture
def workdir(tmp_path, real_run):
    """A finished run with all its files and one metric, which is quickly drawn."""
    workdir = epath.Path(tmp_path / "run")
    write_run(workdir, real_run)
    (workdir / "metrics.jsonl").write_text("")
    log(workdir, 720, {"train/loss": 3.5})
    return workdir


def log(workdir, step, metrics):
    with (workdir / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"step": step} | metrics) + "\n")


def test_a_finished_run(whole, real_run):
    page = Page(whole)
    assert page.ids("section") == ["summary", "curves", "samples", "experiment", "parameters", "environment"]
    assert "Finished · 720 of 720 steps" in page.text
    for number in ("1.419", "3.833", "92.2k", "4 min 51 s", "5,061", "132G"):
        assert number in page.text
    charts = [attributes for tag, attributes in page.elements if tag == "figure"]
    assert len(charts) > 6
    assert sum(tag == "svg" for tag, _ in page.elements) == len(charts)
    for title in ("Loss", "Bits per byte", "Learning rate", "Gradient norm", "Throughput", "Waiting for data"):
        assert title in page.text
    assert all(prompt in page.text for prompt in PROMPTS)
    assert "Not in this report" not in page.text
    experiment, environment, parameters = (
        json.loads((real_run / f"{name}.json").read_text()) for name in ("experiment", "environment", "parameters")
    )
    assert all(key in page.text for key in (*migrations.upgrade(experiment), *environment))
    assert experiment["data"]["task"]["path"] in page.text
    total = sum(row["count"] for row in parameters)
    assert f"{total:,}" in page.text
    for row in parameters:
        assert row["path"] in page.text and " × ".join(map(str, row["shape"])) in page.text
    matrices = sum(row["count"] for row in parameters if row["kind"] == "matrix")
    assert f"matrix {matrices:,} ({100 * matrices / total:.3g}%)" in page.text


def test_hovering_has_the_values_of_every_series(workdir):
    for step in range(721, 1620):
        log(workdir, step, {"train/loss": 4 - step / 1000})
    log(workdir, 1000, {"validation/loss": 3.25})
    page = Page(build_report(workdir))
    figure = next(attributes for tag, attributes in page.elements if tag == "figure")
    (train_steps, train_values), validation = json.loads(figure["data-series"])
    assert len(train_steps) == len(train_values) == 450, "900 points are thinned out to at most 600"
    assert (train_steps[1], train_values[1]) == (722, "3.278")
    assert validation == [[1000], ["3.25"]]
    assert figure["data-last"] == "1619"


def test_samples_are_grouped_by_prompt_latest_first(whole):
    samples = whole[whole.index('id="samples"') : whole.index('id="experiment"')]
    assert samples.count("<article") == len(PROMPTS)
    first = samples[: samples.index("</article>")]
    assert re.findall(r"step ([\d,]+)", first) == ["720", "640", "480", "320", "160", "0"]
    assert "5 earlier" in first and first.count('<span class="prompt">Fellow citizens</span>') == 6


@pytest.mark.parametrize("text", ["We must go on", " go on"])
def test_a_prompt_stands_before_its_continuation_once(workdir, text):
    (workdir / "samples.jsonl").write_text(json.dumps({"step": 1, "prompt": "We must", "text": text}))
    assert '<blockquote><span class="prompt">We must</span> go on</blockquote>' in build_report(workdir)


def test_a_sample_is_text_whatever_it_holds(whole):
    page = Page(whole)
    assert HOSTILE in page.text
    assert sum(tag == "script" for tag, _ in page.elements) == 1
    assert not any(tag == "img" or name.startswith("on") for tag, found in page.elements for name in found)


def test_names_and_values_are_text_too(workdir):
    bad = '"><script>x</script>'
    (workdir / "experiment.json").write_text(json.dumps({"name": bad, bad: {bad: [bad, None]}}))
    (workdir / "parameters.json").write_text(
        json.dumps([{"path": bad, "shape": [], "dtype": bad, "axes": [None], "kind": bad, "count": 1}])
    )
    log(workdir, 9, {f"train/{bad}": 1.0, f"{bad}/loss": 2.0})
    page = Page(build_report(workdir))
    assert sum(tag == "script" for tag, _ in page.elements) == 1
    assert page.text.count(bad) >= 8


def test_what_is_trained_is_told_from_what_is_not(workdir):
    rows = json.loads((workdir / "parameters.json").read_text())
    assert {row.pop("role") for row in rows} == {"trained"}
    (workdir / "parameters.json").write_text(json.dumps(rows))  # as earlier versions wrote it
    assert "trained parameters" not in build_report(workdir) and "<th>role</th>" not in build_report(workdir)
    first, *others = rows
    told = [{**first, "role": "trained"}, *({**row, "role": "frozen"} for row in others)]
    (workdir / "parameters.json").write_text(json.dumps(told))
    page = build_report(workdir)
    total = sum(row["count"] for row in rows)
    assert "trained parameters" in page and f"trained {first['count']:,} ({100 * first['count'] / total:.3g}%)" in page
    assert page.count("<td>frozen</td>") == len(others) and page.count("<td>trained</td>") == 1


def test_the_page_loads_nothing(whole):
    page = Page(whole)
    for tag, attributes in page.elements:
        assert tag not in ("iframe", "object", "embed", "base", "form", "image")
        assert "src" not in attributes
        reference = attributes.get("href", "#")
        assert reference.startswith("#") or (tag, reference) == ("link", "data:,")
    assert not re.search(r"https?:|@import|url\((?!#)", whole)
    policy = next(found["content"] for tag, found in page.elements if found.get("http-equiv"))
    assert policy.startswith("default-src 'none';") and "unsafe-inline" not in policy.split("script-src")[1]


@pytest.mark.parametrize("missing", ALL_FILES)
def test_any_file_may_be_missing(workdir, missing):
    (workdir / missing).unlink()
    page = Page(build_report(workdir))
    notice = page.text[page.text.index("Not in this report") :][:200]
    assert missing in notice
    assert not any(other in notice for other in ALL_FILES if other != missing)


@pytest.mark.parametrize("alone", ALL_FILES)
def test_any_file_alone_makes_a_report(workdir, alone):
    for name in ALL_FILES:
        if name != alone:
            (workdir / name).unlink()
    page = Page(build_report(workdir))
    assert "summary" in page.ids("section")
    assert all(name in page.text for name in ALL_FILES if name != alone)


def test_a_run_that_goes_on_says_how_it_stands(workdir):
    (workdir / "metrics.jsonl").write_text("")
    (workdir / "summary.json").unlink()
    log(workdir, 200, {"train/loss": 3.75})
    page = Page(build_report(workdir))
    assert "Running or interrupted · 200 of 720 steps" in page.text
    assert "summary.json the run has not finished" in page.text
    assert "Training tokens 25.6k".lower() in page.text.lower() and "3.75" in page.text


def test_a_summary_of_an_earlier_end_is_not_taken_for_the_run(workdir):
    (workdir / "experiment.json").write_text(
        json.dumps(json.loads((workdir / "experiment.json").read_text()) | {"steps": 900})
    )
    log(workdir, 800, {"train/loss": 3.4, "validation/bits_per_byte": 1.2345})
    page = Page(build_report(workdir))
    assert "Running or interrupted · 800 of 900 steps" in page.text
    assert "summary.json it tells of step 720, and the run has gone on since" in page.text
    assert "1.234" in page.text and "1.419" not in page.text


@pytest.mark.parametrize("damage", ["", '{"name": "qui', "[]", "\x00\x00"])
def test_a_file_that_was_cut_off_counts_as_missing(workdir, damage):
    (workdir / "experiment.json").write_text(damage)
    page = Page(build_report(workdir))
    assert "experiment.json it was cut off while it was written" in page.text


def test_model_flops_utilisation_is_shown_where_the_peak_is_known(workdir):
    log(workdir, 720, {"train/mfu": 0.4321})
    assert "Model flops utilisation 43.2 %".lower() in Page(build_report(workdir)).text.lower()


def test_a_workdir_that_is_not_there_or_holds_no_run(tmp_path):
    with pytest.raises(UserError, match="there is no directory .*nowhere; give the workdir of a training run"):
        build_report(epath.Path(tmp_path / "nowhere"))
    with pytest.raises(UserError, match="holds no run"):
        build_report(epath.Path(tmp_path))


def test_the_report_is_the_same_every_time_and_replaces_itself(workdir):
    path = write_report(workdir)
    assert path == workdir / "report.html"
    first = path.read_bytes()
    assert write_report(workdir).read_bytes() == first


def test_a_page_that_cannot_be_written_is_one_sentence(workdir):
    with pytest.raises(UserError, match=r"metrics\.jsonl.* cannot be written"):
        write_report(workdir, workdir / "metrics.jsonl" / "report.html")


def test_a_report_needs_neither_jax_nor_tensorflow():
    code = "import sys, t5x_like.telemetry.report; print(sorted({'jax', 'tensorflow', 'flax'} & set(sys.modules)))"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "[]"
