"""Sound: formats and rates, log-mel frames against a plain transform, broken recordings and texts."""

import io
import re

import numpy as np
import pytest
import soundfile
from corpora import example
from media import FORMATS, shard, sound_bytes, sound_samples, tfrecord

from t5x_like.data.records.audio import AudioTask, decode_sound, resample
from t5x_like.data.records.raw import UndecodableError
from t5x_like.data.records.sound import CropSound, LogMel, log_mel, mel_filters
from t5x_like.data.tasks import SplitRule
from t5x_like.errors import ExperimentError

RNG = np.random.default_rng(0)
ALL = {"splits": {"train": SplitRule(), "validation": SplitRule()}}


@pytest.mark.parametrize("ending", ["wav", "flac", "ogg"])
def test_recordings_are_decoded(ending):
    values = decode_sound(sound_bytes(9, ending), 8000, 60)
    assert values.dtype == np.float32 and values.shape == (2000,)
    np.testing.assert_allclose(values, sound_samples(9), atol=0.02 if ending == "ogg" else 1e-4)


def test_channels_are_averaged_and_rates_made_alike():
    stream = io.BytesIO()
    soundfile.write(stream, np.stack([np.full(800, 0.5), np.full(800, -0.1)], 1), 8000, format="WAV")
    np.testing.assert_allclose(decode_sound(stream.getvalue(), 8000, 60), 0.2, atol=1e-4)
    tone = np.sin(2 * np.pi * 440 * np.arange(8000) / 8000).astype(np.float32)
    doubled = resample(tone, 8000, 16000)
    expected = np.sin(2 * np.pi * 440 * np.arange(16000) / 16000)
    assert doubled.dtype == np.float32 and len(doubled) == 16000
    np.testing.assert_allclose(doubled[500:-500], expected[500:-500], atol=5e-3)
    assert len(decode_sound(sound_bytes(0, rate=44100, count=4410), 16000, 60)) == 1600


def whole():
    return sound_bytes(3)


def never_closed():
    """The header of a recording that a program was stopped in, which says 0 or the largest size."""
    content = bytearray(whole())
    place = content.index(b"data") + 4
    content[place : place + 4] = b"\xff\xff\xff\xff"
    return bytes(content)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "Error opening"),
        (b"<html>404</html>", "Format not recognised"),
        (whole()[:-1000], "^it is cut short$"),
        (sound_bytes(3, "flac")[:-900], ""),
        (sound_bytes(3, count=0), "^it holds no sample$"),
        (sound_bytes(3, rate=100), "^it lasts 20 seconds, more than data.task.max_seconds$"),
    ],
    ids=["empty", "page", "cut WAV", "cut FLAC", "silent", "long"],
)
def test_what_is_no_whole_recording_is_said(content, problem):
    with pytest.raises(UndecodableError, match=problem or "."):
        decode_sound(content, 8000, 10)


def test_samples_that_are_no_numbers_are_said():
    stream = io.BytesIO()
    soundfile.write(stream, np.array([0, np.nan, 1], np.float32), 8000, format="WAV", subtype="FLOAT")
    with pytest.raises(UndecodableError, match="^it holds samples that are no numbers$"):
        decode_sound(stream.getvalue(), 8000, 10)


def test_a_recording_that_was_never_closed_is_read():
    assert len(decode_sound(never_closed(), 8000, 10**6)) == 2000


def test_log_mel_frames_are_those_of_a_plain_transform():
    samples = RNG.normal(size=1700).astype(np.float32)
    window, hop, mels = 64, 20, 12
    found = log_mel(samples, 8000, window=window, hop=hop, mels=mels)
    assert found.shape == (1 + 1700 // hop, mels) and found.dtype == np.float32
    padded = np.pad(samples.astype(np.float64), window // 2, mode="reflect")
    filters = mel_filters(8000, window, mels)
    for frame in (0, 1, 40, 85):
        part = padded[frame * hop : frame * hop + window]
        hann = [0.5 - 0.5 * np.cos(2 * np.pi * n / window) for n in range(window)]
        spectrum = [
            sum(part[n] * hann[n] * np.exp(-2j * np.pi * k * n / window) for n in range(window))
            for k in range(window // 2 + 1)
        ]
        expected = np.log(np.maximum(np.abs(spectrum) ** 2 @ filters, 1e-10))
        np.testing.assert_allclose(found[frame], expected, rtol=1e-5, atol=1e-5)


def test_mel_filters_have_unit_area_and_slaneys_edges():
    filters = mel_filters(16000, 4096, 40)
    widths = 16000 / 4096
    np.testing.assert_allclose(filters[:, 5:].sum(0) * widths, 1, atol=0.02)
    peaks = np.argmax(filters, 0) * widths
    assert (np.diff(peaks) > 0).all()
    linear = np.diff(peaks[peaks < 950])
    assert linear.max() - linear.min() <= 2 * widths, "equally wide below 1 kHz"
    ratios = peaks[peaks > 1200][1:] / peaks[peaks > 1200][:-1]
    assert ratios.std() < 0.01, "equally wide in octaves above"


def test_a_tone_is_in_its_band():
    tone = np.sin(2 * np.pi * 1000 * np.arange(16000) / 16000).astype(np.float32)
    frames = LogMel()(tone, RNG)
    middle = np.argmax(mel_filters(16000, 400, 80)[25])  # 1000 Hz is the 25th of 40 Hz each
    assert frames.shape == (101, 80) and np.argmax(frames[50]) == middle
    assert LogMel()(np.zeros(3, np.float32), RNG).shape == (1, 80)
    assert LogMel()(np.zeros(0, np.float32), RNG).max() == np.float32(np.log(1e-10))


def test_crops():
    samples = np.arange(100, dtype=np.float32)
    begins = {int(CropSound(samples=90)(samples, RNG)[0]) for _ in range(300)}
    assert begins == set(range(11))
    assert CropSound(samples=90, random=False)(samples, RNG)[0] == 0
    assert len(CropSound(samples=200)(samples, RNG)) == 100


@pytest.mark.parametrize("kind", FORMATS)
def test_log_mel_records_from_every_format(tmp_path, kind):
    contents = [sound_bytes(n, "flac") for n in range(9)]
    path = FORMATS[kind](tmp_path, contents, "flac")
    options = {"transforms": (CropSound(samples=800), LogMel(sample_rate=8000, window=200, hop=80, mels=20))}
    source = AudioTask(path=str(path), sample_rate=8000, **options, **ALL).open("train").records(1)
    (record,) = source.read(8, np.random.default_rng(1))
    (again,) = source.read(8, np.random.default_rng(1))
    assert record["audio"].shape == (11, 20) and record["label"] == 2
    assert np.array_equal(record["audio"], again["audio"])


def test_samples_as_tfds_keeps_them_and_transcripts(tmp_path):
    integers = (sound_samples(30) * 32768).astype(np.int64)
    file = tfrecord(tmp_path / "a.tfrecord", [example(speech=integers.tolist(), text=["größer".encode()])])
    task = AudioTask(path=str(file), field="speech", transcript="text", tokenizer="bytes", sample_rate=8000, **ALL)
    (record,) = task.open("train").records(1).read(0, RNG)
    np.testing.assert_allclose(record["audio"], sound_samples(30), atol=1e-4)
    assert bytes(record["transcript"][:-1].astype(np.uint8) - 3).decode() == "größer"


def test_a_broken_recording_names_its_key(tmp_path):
    file = shard(tmp_path / "a.tar", [("good", {"wav": whole()}), ("bad", {"wav": whole()[:-1000]})])
    source = AudioTask(path=str(file), sample_rate=8000, **ALL).open("train").records(1)
    assert len(source.read(0, RNG)[0]["audio"]) == 2000
    with pytest.raises(
        ExperimentError, match=rf"^data.task.on_error: bad in {re.escape(str(file))} cannot be decoded: it"
    ):
        source.read(1, RNG)
