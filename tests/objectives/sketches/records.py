"""Small records with something to learn, for each kind of objective."""

import numpy as np

VOCABULARY = 32


def documents(count: int = 24, length: int = 8) -> list[dict]:
    """Runs of counting numbers, of unequal length: what follows is easy to learn."""
    rng = np.random.default_rng(0)
    records = []
    for _ in range(count):
        tokens = (2 + np.arange(rng.integers(2, length + 1)) + rng.integers(20)) % VOCABULARY
        records.append({"tokens": tokens.astype(np.int32), "previous": np.roll(tokens, 1).astype(np.int32)})
        records[-1]["previous"][0] = 0
    return records


def shorter_documents() -> list[dict]:
    """Short enough for a row of eight with what an objective adds; their tokens leave room for special ones."""
    found = documents(length=5)
    return [{name: tokens % 20 + 5 for name, tokens in record.items()} for record in found]


def sentences() -> list[dict]:
    """Short texts whose words are counted up; with another of them each, as the pipeline gives it."""
    found = shorter_documents()
    for number, record in enumerate(found):
        record |= {"start": 0, "another": {"tokens": found[number - 1]["tokens"], "start": 0}}
    return found


def completions() -> list[dict]:
    """A text cut in two."""
    found = documents()
    for record in found:
        record["inputs"], record["targets"] = np.split(record["tokens"], [len(record["tokens"]) // 2])
    return found


def preferences(count: int = 8) -> list[dict]:
    """A prompt, an answer of high tokens and one of low tokens."""
    rng = np.random.default_rng(1)

    def draw(low, high):
        return rng.integers(low, high, rng.integers(1, 5)).astype(np.int32)

    return [{"prompt": draw(1, 32), "chosen": draw(20, 32), "rejected": draw(1, 12)} for _ in range(count)]


def pictures(count: int = 8, size: int = 8) -> list[dict]:
    """Slanted waves with a caption that names slant and wavelength: float32 [size, size, 1]."""
    rng = np.random.default_rng(2)
    y, x = np.mgrid[:size, :size]
    records = []
    for number in range(count):
        slant, wavelength = number % 4, 3 + number % 5
        wave = np.sin((x + slant * y) * 2 * np.pi / wavelength) + 0.1 * rng.normal(size=(size, size))
        caption = np.array([1 + slant, 8 + wavelength, 3][: 2 + number % 2], np.int32)
        records.append({"image": wave[..., None].astype(np.float32), "caption": caption})
    return records
