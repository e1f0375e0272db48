"""The files of a run: exact over a kill and a resume, valid JSON whatever is measured, on a disk or an object store."""

import errno
import io
import json
import math
import os

import pytest
from etils import epath
from etils.epath import gpath

from t5x_like.errors import UserError
from t5x_like.telemetry.writer import MetricsWriter, read_metrics, read_samples


def write_steps(workdir, steps, *, resume_step=None, tensorboard=False):
    writer = MetricsWriter(workdir, tensorboard=tensorboard, resume_step=resume_step)
    for step in steps:
        writer.write(step, {"train/loss": 10 / step, "train/learning_rate": 0.5})
        writer.write_text(step, {"samples/To be": f"text {step}"})
    return writer


@pytest.fixture
def workdir(tmp_path):
    return epath.Path(tmp_path / "run")


def test_lines_are_json_objects_with_stable_keys(workdir):
    writer = MetricsWriter(workdir, tensorboard=False, resume_step=None)
    writer.write(10, {"train/loss": 2.5, "b": 3, "a": 1.0})
    assert (workdir / "metrics.jsonl").read_text() == '{"step": 10, "a": 1.0, "b": 3, "train/loss": 2.5}\n'
    writer.close()
    writer.close()


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_null(workdir, value):
    writer = MetricsWriter(workdir, tensorboard=True, resume_step=None)
    writer.write(1, {"train/loss": value})
    writer.close()
    assert (workdir / "metrics.jsonl").read_text() == '{"step": 1, "train/loss": null}\n'


def test_samples_keep_prompt_and_text_whole(workdir):
    text = 'line\u2028 <b>"\ud800\n\x00'
    writer = MetricsWriter(workdir, tensorboard=False, resume_step=None)
    writer.write_text(5, {"samples/and/or": text, "samples/": "no prompt"})
    writer.close()
    assert read_samples(workdir) == [
        {"step": 5, "prompt": "and/or", "text": text},
        {"step": 5, "prompt": "", "text": "no prompt"},
    ]
    with pytest.raises(ValueError, match="PREFIX/PROMPT"):
        writer.write_text(5, {"no prefix": text})


@pytest.mark.parametrize("torn", [b"", b'{"step": 9, "tra', b'{"step": 9, "train/loss": 1}', b'{"step', b"[1]\n"])
@pytest.mark.parametrize("name", ["metrics.jsonl", "samples.jsonl"])
def test_a_killed_and_resumed_run_leaves_the_lines_of_an_uninterrupted_one(tmp_path, name, torn):
    whole, killed = epath.Path(tmp_path / "whole"), epath.Path(tmp_path / "killed")
    write_steps(whole, range(1, 13)).close()
    writer = write_steps(killed, range(1, 9))  # not closed: the process is gone
    with open(killed / name, "ab") as file:
        file.write(torn)
    write_steps(killed, range(6, 13), resume_step=5).close()
    del writer
    assert (killed / name).read_bytes() == (whole / name).read_bytes()
    assert not list(killed.glob("*.new"))


def test_a_fresh_start_removes_what_was_there(workdir):
    write_steps(workdir, range(1, 5)).close()
    write_steps(workdir, range(1, 3)).close()
    assert [line["step"] for line in read_metrics(workdir)] == [1, 2]


def test_resuming_before_anything_was_written(workdir):
    write_steps(workdir, [6], resume_step=5).close()
    assert [line["step"] for line in read_metrics(workdir)] == [6]


def test_reading_a_workdir_without_files(workdir):
    assert read_metrics(workdir) == read_samples(workdir) == []


def test_a_line_is_in_the_file_before_anything_is_flushed(workdir):
    writer = write_steps(workdir, [1, 2])
    assert [line["step"] for line in read_metrics(workdir)] == [1, 2]
    writer.close()


def test_a_full_disk_is_one_sentence(workdir, monkeypatch):
    writer = write_steps(workdir, [1])

    def no_space(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", no_space)
        with pytest.raises(UserError, match=r"metrics\.jsonl cannot be written \(No space left on device\)"):
            writer.write(2, {"train/loss": 1.0})
    writer.close()
    assert [line["step"] for line in read_metrics(workdir)] == [1]


def test_short_writes_are_completed(workdir, monkeypatch):
    write = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: write(descriptor, data[:7]))
    write_steps(workdir, [1, 2]).close()
    assert [line["train/loss"] for line in read_metrics(workdir)] == [10.0, 5.0]


def scalar_events(directory):
    """(step, tag, value) of every scalar, and the steps at which TensorBoard is told to forget, file by file."""
    from tensorboardX.proto.event_pb2 import Event

    points, purges = [], []
    for file in sorted(directory.glob("events.out.tfevents.*"), key=lambda path: path.name.rsplit("_", 1)[1]):
        data = file.read_bytes()
        while data:  # TFRecord: length, its checksum, payload, its checksum
            length = int.from_bytes(data[:8], "little")
            event = Event.FromString(data[12 : 12 + length])
            data = data[16 + length :]
            if event.HasField("session_log"):
                purges.append(event.step)
            for value in event.summary.value:
                if value.WhichOneof("value") == "simple_value":
                    points.append((event.step, value.tag, value.simple_value))
    return points, purges


def test_tensorboard_has_the_points_and_forgets_what_a_resume_repeats(workdir):
    write_steps(workdir, [1, 2], tensorboard=True).close()
    write_steps(workdir, [2, 3], tensorboard=True, resume_step=1).close()
    points, purges = scalar_events(workdir / "tensorboard")
    assert [point for point in points if point[1] == "train/loss"] == [
        (1, "train/loss", 10.0),
        (2, "train/loss", 5.0),
        (2, "train/loss", 5.0),
        (3, "train/loss", pytest.approx(10 / 3)),
    ]
    assert purges == [0, 2]


class ObjectStore:
    """Whole objects by address: reading and replacing them is all it can do."""

    def __init__(self):
        self.objects = {}
        self.writes = 0

    def exists(self, path):
        return any(name == str(path) or name.startswith(f"{path}/") for name in self.objects)

    def glob(self, pattern):
        prefix = str(pattern).partition("*")[0]
        return [name for name in self.objects if name.startswith(prefix)]

    def open(self, path, mode):
        assert mode in ("rb", "wb"), f"{mode} needs more than whole objects"
        if mode == "rb":
            return io.BytesIO(self.objects[str(path)])
        store, address = self, str(path)

        class Upload(io.BytesIO):
            def close(self):
                if not self.closed:
                    store.objects[address] = self.getvalue()
                    store.writes += 1
                super().close()

        return Upload()


@pytest.fixture
def store(monkeypatch):
    store = ObjectStore()
    disk = gpath._PREFIX_TO_BACKEND[None]
    monkeypatch.setattr(gpath._GPath, "_backend", property(lambda path: store if path._uri_scheme else disk))
    return store


@pytest.mark.parametrize("scheme", ["gs", "s3"])
def test_an_object_store_gets_whole_files_at_a_flush(store, scheme):
    workdir = epath.Path(f"{scheme}://bucket/run")
    writer = write_steps(workdir, [1, 2], tensorboard=True)
    assert not store.objects
    writer.flush()
    assert [line["step"] for line in read_metrics(workdir)] == [1, 2]
    writes = store.writes
    writer.write(3, {"train/loss": 1.0})
    writer.close()
    assert [line["step"] for line in read_metrics(workdir)] == [1, 2, 3]
    assert store.writes == writes + 2, "the samples did not change, so only metrics and events are uploaded again"

    write_steps(workdir, [2], tensorboard=True, resume_step=1).close()
    assert [line["step"] for line in read_metrics(workdir)] == [1, 2]
    points, purges = scalar_events(workdir / "tensorboard")
    assert len(points) == 2 * 2 + 1 + 2 and purges == [0, 2]
    assert all(json.loads(line) for line in store.objects[f"{scheme}://bucket/run/metrics.jsonl"].splitlines())
