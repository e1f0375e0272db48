"""The HTTP server: routes, queue, streaming, errors, start and stop."""

import asyncio
import contextlib
import json
import signal
import socket
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import jax

from t5x_like.errors import UserError, explain
from t5x_like.inference.chat import ChatTemplate
from t5x_like.inference.continuous import ContinuousBatch, Running, Written
from t5x_like.inference.sampling import row_keys
from t5x_like.inference.serving import requests
from t5x_like.inference.serving.answers import AnswerPiece, ChatFormat, CompletionFormat, Continuation
from t5x_like.inference.serving.worker import BatchWorker, FullError, StoppingError, Submission
from t5x_like.inference.text import TextGenerator
from t5x_like.program import State

MOST_BYTES = 8 << 20  # of a request's body


@dataclass(frozen=True)
class ServerOptions:
    """Options of the server.

    Attributes:
      host: address to listen at.
      port: 0 for any that is free.
      model: the name under which the model is listed.
      rows: sequences that are written at once.
      queue: sequences that may wait for a row.
      context: the longest prompt with its continuation, in tokens.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    model: str = "model"
    rows: int = 16
    queue: int = 1024
    context: int = 2048


class Service:
    """The model behind the routes: from requests to sequences, and back."""

    def __init__(self, generator: TextGenerator, state: State, template: ChatTemplate, options: ServerOptions) -> None:
        """Loads the weights."""
        self.generator, self.template, self.options = generator, template, options
        weights = generator.engine.load(state)
        self.batch = ContinuousBatch(generator.engine, weights, rows=options.rows, context=options.context)
        self.worker = BatchWorker(self.batch, queue_size=options.queue)

    def choices(self, wanted: requests.Completion) -> list[Continuation]:
        """The sequences of a request, those of one prompt together.

        Raises:
          UserError: for a prompt that is too long, or has ids that the vocabulary has not.
        """
        texts = [self._ids(prompt, number) for number, prompt in enumerate(wanted.prompts)]
        keys = row_keys(jax.random.key(wanted.seed), len(texts) * wanted.choices)
        found = []
        for number, ids in enumerate(texts):
            read = self.generator.read(ids)
            tokens = self._room(len(read), wanted, number)
            for choice in range(wanted.choices):
                sequence = Running(read, tokens, wanted.sampling, keys[number * wanted.choices + choice])
                before = () if self.generator.engine.encoder else ids
                found.append(Continuation(self.generator, sequence, wanted.stops, wanted.alternatives, before))
        return found

    def _ids(self, prompt: requests.Prompt, number: int) -> list[int]:
        vocabulary = self.generator.vocabulary
        if isinstance(prompt, str):
            try:
                prompt.encode()
            except UnicodeEncodeError:
                raise UserError(f"prompt {number + 1} has half of a surrogate pair, which is no character") from None
            return list(vocabulary.encode(prompt))
        wrong = [id_ for id_ in prompt if not 0 <= id_ < vocabulary.size]
        if wrong:
            raise UserError(f"prompt {number + 1} has the id {wrong[0]}; the vocabulary has 0 to {vocabulary.size - 1}")
        return prompt

    def _room(self, length: int, wanted: requests.Completion, number: int) -> int:
        context = self.batch.context
        room = context if self.generator.engine.encoder else context + 1 - length  # the last token is not read
        least = 1 if wanted.clipped else wanted.tokens
        if length > context or least > room:
            raise UserError(
                f"prompt {number + 1} has {length} tokens, which with {least} new ones exceed the context of {context};"
                f" send a shorter one, or ask for at most {max(0, room)} with max_tokens"
            )
        return min(wanted.tokens, room)


class _Request:
    """One request under way: its choices, and a queue from the worker's thread to this loop."""

    def __init__(self, service: Service, wanted: requests.Completion) -> None:
        self.choices = service.choices(wanted)
        self._loop, self._events = asyncio.get_running_loop(), asyncio.Queue[tuple[int, AnswerPiece | Exception]]()
        self.job = Submission([choice.sequence for choice in self.choices], self._tell)
        service.worker.submit(self.job)

    def _tell(self, number: int, written: Written | Exception) -> None:
        event = written if isinstance(written, Exception) else self.choices[number].take(written)
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody listens
            self._loop.call_soon_threadsafe(self._events.put_nowait, (number, event))

    async def pieces(self) -> AsyncIterator[tuple[int, AnswerPiece]]:
        """Pieces as they come, until all choices have ended; leaving the loop cancels the rest."""
        left = len(self.choices)
        try:
            while left:
                number, event = await self._events.get()
                if isinstance(event, Exception):
                    raise event
                left -= event.finish is not None
                yield number, event
        finally:
            self.job.cancelled.set()

    def usage(self) -> dict[str, int]:
        """Counts of tokens."""
        read = sum(len(choice.sequence.prompt) for choice in self.choices)
        written = sum(choice.tokens for choice in self.choices)
        return {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}


def application(service: Service) -> Any:
    """The ASGI application."""
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import JSONResponse, Response, StreamingResponse
    from starlette.routing import Route

    model = service.options.model

    async def completions(request: Request) -> Response:
        return await answer(request, requests.completion(await _body_of(request)), CompletionFormat(model))

    async def chat(request: Request) -> Response:
        messages, wanted = requests.chat(await _body_of(request))
        prompt = service.template(messages)
        wanted = requests.with_prompts(wanted, (prompt,))
        return await answer(request, wanted, ChatFormat(model))

    async def answer(request: Request, wanted: requests.Completion, form: CompletionFormat) -> Response:
        running = _Request(service, wanted)
        if wanted.stream:
            return StreamingResponse(_events(running, form), media_type="text/event-stream")
        pieces: list[list[AnswerPiece]] = [[] for _ in running.choices]
        async with _cancelled_on_disconnect(request, running.job):
            async for number, piece in running.pieces():
                pieces[number].append(piece)
        if not all(pieces):
            return Response(status_code=499)  # nobody is there to read it
        return JSONResponse(form.whole(pieces, running.usage()))

    async def models(_: Request) -> Response:
        return JSONResponse({"object": "list", "data": [{"id": model, "object": "model", "owned_by": "t5x_like"}]})

    async def health(_: Request) -> Response:
        return JSONResponse({"status": "ok", "waiting": service.worker.waiting})

    @contextlib.asynccontextmanager
    async def lifespan(_: Any) -> AsyncIterator[None]:
        service.worker.start()
        yield
        await asyncio.to_thread(service.worker.stop)

    full = f"{service.options.queue} sequences wait already; try again later"
    paths = "/v1/completions, /v1/chat/completions, /v1/models and /health"
    return Starlette(
        routes=[
            Route("/v1/completions", completions, methods=["POST"]),
            Route("/v1/chat/completions", chat, methods=["POST"]),
            Route("/v1/models", models),
            Route("/health", health),
        ],
        exception_handlers={
            UserError: lambda _, error: _refused(400, str(error)),
            FullError: lambda _, error: _refused(429, full, "overloaded", retry_after="1"),
            StoppingError: lambda _, error: _refused(503, "the server is stopping", "unavailable"),
            404: lambda request, _: _refused(404, f"there is no {request.url.path}; there are {paths}"),
            405: lambda request, _: _refused(405, f"{request.url.path} does not take {request.method}"),
            Exception: _failed,
        },
        lifespan=lifespan,
    )


async def _body_of(request: Any) -> Any:
    """The JSON of a request's body.

    Raises:
      UserError: where it is too long, or none.
    """
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > MOST_BYTES:
            raise UserError(f"the body has more than {MOST_BYTES >> 20} MiB; send less at a time")
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as error:
        raise UserError(f"the body is no JSON ({error})") from None


def _refused(status: int, sentence: str, kind: str = "invalid_request_error", **headers: str) -> Any:
    """An error as OpenAI's clients read it; names of headers are written with underscores."""
    from starlette.responses import JSONResponse

    content = {"error": {"message": sentence, "type": kind, "param": None, "code": None}}
    return JSONResponse(content, status_code=status, headers={k.replace("_", "-"): v for k, v in headers.items()})


async def _failed(_: Any, error: Exception) -> Any:
    """The answer to a request on which the model failed; the reason goes to the server's log."""
    print(f"error: {explain(error) or repr(error)}", file=sys.stderr, flush=True)
    return _refused(500, "the model failed on this request; see the server's log", "server_error")


async def _events(running: _Request, form: CompletionFormat) -> AsyncIterator[str]:
    """Server-sent events of a request."""
    async for number, piece in running.pieces():
        if piece.text or piece.finish or piece.log_probabilities:
            yield f"data: {json.dumps(form.part(number, piece), ensure_ascii=False)}\n\n"
    yield "data: [DONE]\n\n"


@contextlib.asynccontextmanager
async def _cancelled_on_disconnect(request: Any, job: Submission) -> AsyncIterator[None]:
    """Frees the rows of a client that goes away."""
    here = asyncio.current_task()

    async def watch() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass
        job.cancelled.set()
        if here is not None:
            here.cancel()

    watcher = asyncio.create_task(watch())
    try:
        yield
    except asyncio.CancelledError:
        if not job.cancelled.is_set():
            raise
    finally:
        watcher.cancel()


def listen(host: str, port: int) -> socket.socket:
    """A socket bound to an address.

    Raises:
      UserError: where the port is in use, or the address is none of this machine.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((host, port))
    except OSError as error:
        bound.close()
        raise UserError(f"cannot listen at {host}:{port} ({error.strerror}); choose another --host or --port") from None
    return bound


def serve(service: Service, bound: socket.socket) -> None:
    """Serves until SIGTERM or SIGINT; requests that have begun are answered first."""
    import uvicorn

    class Server(uvicorn.Server):
        @contextlib.contextmanager
        def capture_signals(self) -> Iterator[None]:
            """As uvicorn's, which would raise the signal again when all is answered: the exit status is 0 here."""
            before = {each: signal.signal(each, self.handle_exit) for each in (signal.SIGINT, signal.SIGTERM)}
            try:
                yield
            finally:
                for each, handler in before.items():
                    signal.signal(each, handler)

    bound.listen(2048)  # who comes from here on is answered, if not yet
    host, port = bound.getsockname()[:2]
    print(f"serving {service.options.model} at http://{host}:{port}/v1", file=sys.stderr, flush=True)
    config = uvicorn.Config(application(service), log_level="warning", lifespan="on", timeout_keep_alive=30)
    Server(config).run(sockets=[bound])


def warm_up(service: Service, texts: Sequence[str] = ("",)) -> None:
    """Compiles what the first request would wait for."""
    wanted = requests.Completion(tuple(texts), 2, requests.Sampling(temperature=0), seed=0)
    sequences = [choice.sequence for choice in service.choices(wanted)]
    service.batch.join(sequences)
    while not service.batch.is_idle:
        service.batch.step()
