"""`t5x_like serve` as a real process: many clients at once, streaming, refusals, a client that leaves, and a stop."""

import concurrent.futures
import contextlib
import http.client
import json
import re
import signal
import socket
import threading
import urllib.error
import urllib.request

import pytest

CLIENTS, TOKENS = 100, 12


@pytest.fixture(scope="module")
def run(tmp_path_factory, hasty_environment):
    """A run of the tiny model, and the program."""
    from runs import Program

    directory = tmp_path_factory.mktemp("serve")
    made = Program(directory, hasty_environment)
    made.train(directory / "tiny", "--config.steps=3", "--config.evaluators={}", "--config.checkpoint.best_metric=")
    return made


@contextlib.contextmanager
def serving(program, *flags):
    """A server, and its address; it is stopped at the end if it still runs."""
    process = program.start("serve", f"--checkpoint={program.directory / 'tiny'}", "--port=0", "--context=64", *flags)
    try:
        lines = []
        for line in process.stderr:
            lines.append(line)
            if found := re.search(r"serving tiny at (http://[\d.:]+)/v1", line):
                break
        else:
            raise AssertionError("".join(lines))
        yield process, found[1]
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def post(address, body, path="/v1/completions"):
    """The status and the JSON of an answer."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    request = urllib.request.Request(address + path, data, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=120) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def completion(number, **options):
    return {"prompt": f"Question {number} of {number % 7}", "max_tokens": TOKENS, "temperature": 0, **options}


def test_many_clients_get_the_offline_answers_and_a_stop_lets_them_finish(run):
    prompts = [completion(number)["prompt"] for number in range(CLIENTS)]
    (run.directory / "prompts.jsonl").write_text("\n".join(map(json.dumps, prompts)))
    out, _ = run.run(
        "generate",
        f"--checkpoint={run.directory / 'tiny'}",
        "--prompts=prompts.jsonl",
        f"--tokens={TOKENS}",
        "--temperature=0",
        "--json-lines",
    )
    offline = [json.loads(line)["text"] for line in out.splitlines()]
    sampled, _ = run.run(
        "generate", f"--checkpoint={run.directory / 'tiny'}", f"--prompt={prompts[0]}", f"--tokens={TOKENS}",
        "--temperature=1.0", "--top-p=0.9", "--seed=7", "--json-lines",
    )  # fmt: skip
    with serving(run) as (process, address):
        assert json.load(urllib.request.urlopen(f"{address}/v1/models"))["data"][0]["id"] == "tiny"
        with concurrent.futures.ThreadPoolExecutor(CLIENTS) as clients:
            answers = list(clients.map(lambda number: post(address, completion(number)), range(CLIENTS)))
        assert [status for status, _ in answers] == [200] * CLIENTS
        assert [answer["choices"][0]["text"] for _, answer in answers] == offline
        usage = answers[0][1]["usage"]
        assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"] > TOKENS
        # Options of its own, among others, with the same random numbers as offline.
        _, answer = post(address, completion(0, temperature=1.0, top_p=0.9, seed=7))
        assert answer["choices"][0]["text"] == json.loads(sampled)["text"]

        # What has begun when the server is told to stop is answered; nothing new is.
        began = [threading.Event() for _ in range(8)]
        with concurrent.futures.ThreadPoolExecutor(8) as clients:
            last = [clients.submit(_streamed, address, completion(i, max_tokens=30), began[i]) for i in range(8)]
            assert all(each.wait(120) for each in began)
            process.send_signal(signal.SIGTERM)
            texts = [each.result() for each in last]
        assert process.wait(60) == 0
        assert all(text.startswith(expected) for text, expected in zip(texts, offline, strict=False))
        with pytest.raises(urllib.error.URLError):
            post(address, completion(0))


def _streamed(address, body, began=None):
    """The text of a streamed answer, whose last event says so."""
    request = urllib.request.Request(f"{address}/v1/completions", json.dumps({**body, "stream": True}).encode())
    text, finish = "", None
    with urllib.request.urlopen(request, timeout=120) as answer:
        for line in answer:
            if began:
                began.set()
            if not line.startswith(b"data: "):
                continue
            if line.strip() == b"data: [DONE]":
                assert finish in ("stop", "length")
                return text
            [choice] = json.loads(line.removeprefix(b"data: "))["choices"]
            assert finish is None
            text, finish = text + choice["text"], choice["finish_reason"]
    raise AssertionError("the stream ended before its last event")


def test_the_endpoints_of_one_server(run):
    template = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}<assistant>"
    (run.directory / "tokenizer_config.json").write_text(json.dumps({"chat_template": template}))
    with serving(run, "--chat-template=tokenizer_config.json", "--rows=2", "--queue=8") as (_, address):
        _, whole = post(address, completion(3, logprobs=2))
        [choice] = whole["choices"]
        assert _streamed(address, completion(3)) == choice["text"]
        told = choice["logprobs"]
        assert len(told["tokens"]) == len(told["token_logprobs"]) == TOKENS == len(told["top_logprobs"])
        assert all(
            value == max(top.values()) for value, top in zip(told["token_logprobs"], told["top_logprobs"], strict=True)
        )

        # Several prompts and choices, a stop string, a chat by its template.
        body = {"prompt": ["one", "two"], "n": 2, "max_tokens": 4, "seed": 1}
        _, several = post(address, body)
        assert [each["index"] for each in several["choices"]] == [0, 1, 2, 3]
        stop = choice["text"][2:5]
        _, stopped = post(address, completion(3, stop=[stop]))
        assert stopped["choices"][0]["text"] == choice["text"].split(stop)[0]
        assert stopped["choices"][0]["finish_reason"] == "stop"
        messages = [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": [{"type": "text", "text": "Why?"}]},
        ]
        _, chat = post(
            address, {"messages": messages, "max_tokens": 5, "temperature": 0, "logprobs": True}, "/v1/chat/completions"
        )
        written = {"prompt": "<system>Be brief.<user>Why?<assistant>", "max_tokens": 5, "temperature": 0}
        _, same = post(address, written)
        [choice] = chat["choices"]
        assert choice["message"] == {"role": "assistant", "content": same["choices"][0]["text"]}
        assert len(choice["logprobs"]["content"]) == 5 and chat["object"] == "chat.completion"

        # Refusals are one sentence with a status of the client's.
        for body, path, status, sentence in [
            (b"{", "/v1/completions", 400, "the body is no JSON"),
            ([1], "/v1/completions", 400, "must be a JSON object"),
            ({"prompts": "a"}, "/v1/completions", 400, "did you mean 'prompt'?"),
            (completion(1, max_tokens=10_000), "/v1/completions", 400, "exceed the context of 64"),
            ({"prompt": "long " * 500}, "/v1/completions", 400, "exceed the context of 64"),
            ({"prompt": [[1, 10**6]]}, "/v1/completions", 400, "the vocabulary has 0 to"),
            (completion(1, temperature=-1), "/v1/completions", 400, "temperature is -1"),
            (completion(1, logprobs=50), "/v1/completions", 400, "from 0 to 5"),
            ({"messages": []}, "/v1/chat/completions", 400, "give at least one"),
            ({}, "/v1/complete", 404, "there are /v1/completions"),
            ({"prompt": ["a"] * 9}, "/v1/completions", 429, "wait already"),
        ]:
            found, answer = post(address, body, path)
            assert found == status and sentence in answer["error"]["message"], (body, found, answer)
            assert "\n" not in answer["error"]["message"]

        # A client that goes away frees its rows: with two rows, five such and one that waits.
        host, port = address.removeprefix("http://").split(":")
        for _ in range(5):
            gone = http.client.HTTPConnection(host, int(port))
            gone.request("POST", "/v1/completions", json.dumps({"prompt": "x", "max_tokens": 40, "stream": True}))
            gone.sock.shutdown(socket.SHUT_RDWR)
            gone.close()
        assert post(address, completion(2))[0] == 200
        _, err = run.run("serve", f"--checkpoint={run.directory / 'tiny'}", f"--port={port}", status=2)
        assert f"cannot listen at 127.0.0.1:{port} (Address already in use); choose another" in err
