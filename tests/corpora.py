"""The same documents in every format that t5x_like reads without TensorFlow."""

import gzip
import io
import json

import pyarrow as pa
import pyarrow.parquet as pq
import zstandard
from array_record.python.array_record_module import ArrayRecordWriter
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

# No blank line and no space at an end, so that every format gives them back as they are.
DOCUMENTS = ["The first document.\nIt has two lines.", "zwei — zwölf 😀", "third"]

ROWS = 2  # of a Parquet row group


def json_lines(texts, field="text"):
    return "".join(json.dumps({"year": 1, field: text}, ensure_ascii=False) + "\n" for text in texts).encode()


def one_text(texts):
    (text,) = texts
    return text.encode()


def blocks(texts):
    return "\n\n\n".join(texts).encode() + b"\n"


def parquet(texts):
    stream = io.BytesIO()
    pq.write_table(pa.table({"id": range(len(texts)), "text": texts}), stream, row_group_size=ROWS)
    return stream.getvalue()


def warc_record(kind, content, **headers):
    lines = [b"WARC/1.0", f"WARC-Type: {kind}".encode(), b"WARC-Record-ID: <urn:uuid:0>"]
    headers.setdefault("Content-Length", str(len(content)))
    lines += [f"{key.replace('_', '-')}: {value}".encode() for key, value in headers.items()]
    return b"\r\n".join(lines) + b"\r\n\r\n" + content + b"\r\n\r\n"


def wet_records(texts):
    yield warc_record("warcinfo", b"software: none\r\n", Content_Type="application/warc-fields")
    for text in texts:
        yield warc_record("conversion", text.encode(), Content_Type="text/plain")


def wet(texts):
    """A member a record, as Common Crawl has it."""
    return b"".join(map(gzip.compress, wet_records(texts)))


def answer(body, kind="text/html; charset=utf-8", status="200 OK", **headers):
    lines = [
        f"HTTP/1.1 {status}",
        f"Content-Type: {kind}",
        *(f"{k.replace('_', '-')}: {v}" for k, v in headers.items()),
    ]
    content = "\r\n".join(lines).encode() + b"\r\n\r\n" + body
    return warc_record("response", content, Content_Type="application/http; msgtype=response")


def page(text):
    lines = text.replace("\n", "<br>")
    return f"<html><head><title>T</title></head><body><article><p>{lines}</p></article></body></html>".encode()


def warc(texts):
    request = warc_record("request", b"GET / HTTP/1.1\r\n\r\n", Content_Type="application/http; msgtype=request")
    return b"".join(gzip.compress(request) + gzip.compress(answer(page(text))) for text in texts)


def array_record(path, records):
    writer = ArrayRecordWriter(str(path), "group_size:1")
    for record in records:
        writer.write(record)
    writer.close()


def example_message():
    """`tf.train.Example` by Google's protobuf, without TensorFlow."""
    file = descriptor_pb2.FileDescriptorProto(name="example.proto", package="t", syntax="proto3")

    def message(name, *fields, parent=None):
        made = (parent.nested_type if parent else file.message_type).add(name=name)
        for number, (field, repeated, kind) in enumerate(fields, 1):
            label = 3 if repeated else 1
            if isinstance(kind, str):
                made.field.add(name=field, number=number, label=label, type=11, type_name=kind)
            else:
                made.field.add(name=field, number=number, label=label, type=kind)
        return made

    message("BytesList", ("value", True, 12))
    message("FloatList", ("value", True, 2))
    message("Int64List", ("value", True, 3))
    message(
        "Feature",
        ("bytes_list", False, ".t.BytesList"),
        ("float_list", False, ".t.FloatList"),
        ("int64_list", False, ".t.Int64List"),
    )
    features = message("Features", ("feature", True, ".t.Features.FeatureEntry"))
    entry = message("FeatureEntry", ("key", False, 9), ("value", False, ".t.Feature"), parent=features)
    entry.options.map_entry = True
    message("Example", ("features", False, ".t.Features"))
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("t.Example"))


EXAMPLE = example_message()


def example(**features):
    """A serialised Example of lists of bytes, floats or integers."""
    made = EXAMPLE()
    for name, values in features.items():
        feature = made.features.feature[name]
        for lists, kind in ((feature.bytes_list, bytes), (feature.float_list, float), (feature.int64_list, int)):
            if isinstance(values[0], kind):
                lists.value.extend(values)
    return made.SerializeToString(deterministic=True)


# name of the format here -> (file name, its options, texts -> content); ArrayRecord writes its files itself.
WRITERS = {
    "jsonl": ("a.jsonl", {}, json_lines),
    "jsonl.gz": ("a.jsonl.gz", {}, lambda texts: gzip.compress(json_lines(texts))),
    "jsonl.zst": ("a.json.zst", {}, lambda texts: zstandard.compress(json_lines(texts))),
    "nested": (
        "a.jsonl",
        {"field": "meta.text"},
        lambda texts: b"".join(json.dumps({"meta": {"text": text}}).encode() + b"\n" for text in texts),
    ),
    "blocks": ("a.txt", {"unit": "block"}, blocks),
    "blocks.gz": ("a.txt.gz", {"unit": "block"}, lambda texts: gzip.compress(blocks(texts))),
    "parquet": ("a.parquet", {}, parquet),
    "wet": ("a.warc.wet.gz", {}, wet),
    "warc": ("a.warc.gz", {}, warc),
    "array_record": ("a.array_record-00000-of-00001", {}, lambda texts: [text.encode() for text in texts]),
    "array_record of JSON": (
        "a.array_record",
        {},
        lambda texts: [json.dumps({"text": text}).encode() for text in texts],
    ),
    "array_record of examples": (
        "a.array_record",
        {},
        lambda texts: [example(id=[7], text=[text.encode()], score=[0.5]) for text in texts],
    ),
}
RANDOM_ACCESS = ("parquet", "array_record", "array_record of JSON", "array_record of examples")


def write(directory, name, texts=tuple(DOCUMENTS)):
    """Writes `texts` in one of the formats; returns the file and the options that read it."""
    file, options, content = WRITERS[name]
    made = content(list(texts))
    if isinstance(made, list):
        array_record(directory / file, made)
    else:
        (directory / file).write_bytes(made)
    return directory / file, dict(options)
