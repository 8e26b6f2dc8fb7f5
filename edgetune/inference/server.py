"""A finished run over HTTP: `POST /predict`, `GET /health`, `GET /metrics`, and the API page `/docs`."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import ipaddress
import signal
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import uvicorn
from fastapi import Depends, FastAPI, HTTPException, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from fastapi_offline import FastAPIOffline
from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
)
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from edgetune.data.token_format import text_or_pair
from edgetune.inference.batching import Answers, QueueFullError, ReloadingRun, RequestQueue, Text
from edgetune.inference.saved_run import Prediction
from edgetune.utils.errors import UsageError
from edgetune.utils.listener import open_listener
from edgetune.utils.parsing import is_encodable
from edgetune.utils.sanitize import brief
from edgetune.utils.version import __version__

MAX_BODY = 1 << 20
"""Bytes of a request's body."""
MAX_DISCARDED = 64 * MAX_BODY
"""Bytes of a larger body that are still received, and discarded, before the request is refused."""
STOP_S = 30
"""Seconds that requests may still take after SIGTERM."""
ONLY_FROM_HERE = "default-src 'self' 'unsafe-inline' data:"
"""Keeps the API page from loading anything from another host."""

BEARER = HTTPBearer(auto_error=False)


def _check_encodable(text: str) -> str:
    if not is_encodable(text):
        raise ValueError("the text has a character without a UTF-8 form")
    return text


EncodableText = Annotated[str, AfterValidator(_check_encodable)]


class TextPair(BaseModel, extra="forbid"):
    """A sentence pair."""

    text: EncodableText
    text_pair: EncodableText


class PredictRequest(BaseModel):
    """Either `text` (with `text_pair` where the run was trained on pairs) or `texts`."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"text": "the battery died in a day"}]}
    )

    text: EncodableText | None = None
    text_pair: EncodableText | None = None
    texts: list[EncodableText | TextPair] | None = Field(None, min_length=1)
    all: bool = Field(False, description="Also return the probability of every class.")

    @model_validator(mode="after")
    def _check_one_of_both(self) -> PredictRequest:
        if (self.text is None) == (self.texts is None):
            raise ValueError("give either text or texts")
        if self.text is None and self.text_pair is not None:
            raise ValueError('give pairs in texts as {"text": …, "text_pair": …}')
        return self

    def inputs(self) -> list[Text]:
        """Return the texts as the model takes them."""
        if self.text is not None:
            return [text_or_pair(self.text, self.text_pair)]
        return [text if isinstance(text, str) else (text.text, text.text_pair) for text in self.texts or ()]


class Answer(BaseModel):
    """Prediction for one text; without a label and a probability where the text is empty.

    Where a text may have several labels, `labels` and the `probabilities` of these are in place of both.
    """

    label: str | None = None
    probability: float | None = None
    labels: list[str] | None = None
    probabilities: dict[str, float] | None = None


class AnswerList(BaseModel):
    """Predictions for `texts`, in their order."""

    predictions: list[Answer]


class Problem(BaseModel):
    """Why there is no answer, in a sentence."""

    detail: str


class ServerMetrics:
    """What `/metrics` shows, in Prometheus' format."""

    def __init__(self, queue: RequestQueue, run: ReloadingRun) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        status = "Requests to /predict by HTTP status."
        self.requests = Counter("edgetune_requests", status, ["status"], registry=registry)
        seconds = "Seconds from request to answer of /predict."
        self.seconds = Histogram("edgetune_request_seconds", seconds, registry=registry)
        sizes = (1, 2, 4, 8, 16, 32, 64, 128, 256)
        self.batch_texts = Histogram(
            "edgetune_batch_texts", "Texts predicted together.", buckets=sizes, registry=registry
        )
        waiting = Gauge("edgetune_queue_texts", "Texts that wait or are predicted.", registry=registry)
        waiting.set_function(lambda: queue.n_texts)
        reloads = Gauge("edgetune_reloads", "How often a new run was loaded.", registry=registry)
        reloads.set_function(lambda: run.n_reloads)


class _RequestGuard:
    """Limits the body of a request, and notes status and seconds of `/predict`."""

    def __init__(self, app: ASGIApp, metrics: ServerMetrics) -> None:
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        n_bytes, started_s = 0, time.perf_counter()

        async def limited() -> Message:
            nonlocal n_bytes
            message = await receive()
            n_bytes += len(message.get("body", b""))
            while MAX_BODY < n_bytes < MAX_DISCARDED and message.get("more_body"):
                message = await receive()  # a client that is still sending would not read the answer
                n_bytes += len(message.get("body", b""))
            if n_bytes > MAX_BODY:
                raise HTTPException(
                    413, f"The body has more than {MAX_BODY:,} bytes; send fewer texts at once."
                )
            return message

        async def noted(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"].append((b"content-security-policy", ONLY_FROM_HERE.encode()))
                if scope["path"] == "/predict":
                    self._metrics.requests.labels(message["status"]).inc()
                    self._metrics.seconds.observe(time.perf_counter() - started_s)
            await send(message)

        await self._app(scope, limited, noted)


def create_app(run: ReloadingRun, token: str | None, max_waiting: int) -> FastAPI:
    """Build the web application, where `max_waiting` texts may wait; clients must send the token, if any."""

    def predict_batch(requests: Sequence[Sequence[Text]]) -> list[Answers]:
        metrics.batch_texts.observe(sum(map(len, requests)))
        return run.predict(requests)

    queue = RequestQueue(predict_batch, max_waiting)
    metrics = ServerMetrics(queue, run)

    @contextlib.asynccontextmanager
    async def working(app: FastAPI) -> AsyncIterator[None]:
        worker = asyncio.create_task(queue.work())
        yield
        worker.cancel()

    app = FastAPIOffline(
        redoc_url=None,
        title=f"edgetune serve {run.folder.name}",
        version=__version__,
        lifespan=working,
        swagger_ui_parameters={"validatorUrl": None},  # the default sends the schema to swagger.io
    )
    app.add_middleware(_RequestGuard, metrics=metrics)

    async def check_token(given: Annotated[HTTPAuthorizationCredentials | None, Depends(BEARER)]) -> None:
        sent = b"" if given is None else given.credentials.encode("latin-1")
        if token is not None and not hmac.compare_digest(sent, token.encode()):
            raise HTTPException(
                401,
                "The token is missing or wrong; send the header Authorization: Bearer TOKEN.",
                {"WWW-Authenticate": "Bearer"},
            )

    statuses = (401, 413, 422, 503)
    problems: dict[int | str, dict[str, Any]] = {status: {"model": Problem} for status in statuses}
    guarded = [Depends(check_token)]

    @app.post("/predict", dependencies=guarded, responses=problems, response_model_exclude_unset=True)
    async def predict(request: PredictRequest) -> Answer | AnswerList:
        """Classify one text (`text`), or several (`texts`)."""
        texts = request.inputs()
        if len(texts) > max_waiting:
            raise HTTPException(413, f"{len(texts):,} texts are more than the {max_waiting:,} of a request.")
        try:
            found = await queue.submit(texts)
        except QueueFullError:
            raise HTTPException(
                503, "The queue is full; try again in a second.", {"Retry-After": "1"}
            ) from None
        except UsageError as error:
            raise HTTPException(422, str(error)) from None
        answers = [_answer(prediction, request.all) for prediction in found]
        return AnswerList(predictions=answers) if request.text is None else answers[0]

    @app.get("/health")
    async def health() -> dict[str, str]:
        """Say that the server answers."""
        return {"status": "ok"}

    @app.get("/metrics", dependencies=guarded, response_class=Response)
    async def show_metrics() -> Response:
        """Return counters and times in Prometheus' text format."""
        return Response(generate_latest(metrics.registry), media_type=CONTENT_TYPE_LATEST)

    @app.exception_handler(RequestValidationError)
    async def say_what_is_invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        where = next((name for name in first["loc"][1:] if isinstance(name, str)), "body")
        reason = f"{brief(where)}: {first['msg'].removeprefix('Value error, ')}"
        example = 'send JSON such as {"text": "…"} as application/json'
        return JSONResponse({"detail": f"The request is invalid ({reason}); {example}."}, 422)

    return app


def _answer(prediction: Prediction, all_classes: bool) -> Answer:
    label, several, shares = prediction.label, prediction.labels, prediction.probabilities
    if several is not None:
        chosen = shares if all_classes else several
        return Answer(labels=list(several), probabilities={name: shares[name] for name in chosen})
    answer = Answer(label=label, probability=None if label is None else prediction.probability)
    if all_classes:
        answer.probabilities = shares
    return answer


def serve(folder: Path, host: str, port: int, token: str | None, max_waiting: int) -> None:
    """Serve a run until SIGTERM or SIGINT; requests that were accepted are answered first.

    Port 0 is any that is free. Clients must send the token, which any host but this machine needs; at most
    `max_waiting` texts wait.

    Raises:
        UsageError: the host is not this machine alone and there is no token, or the token is empty.
        ResourceError: the port cannot be listened on.
        RunError: there is no usable run in the folder.
    """
    if token == "":
        raise UsageError("The token is empty; choose one that cannot be guessed.")
    if token is None and not _is_loopback(host):
        raise UsageError(
            f"--host {brief(host)} can be reached from other machines; choose a token that clients must "
            "send: --token TOKEN, or EDGETUNE_TOKEN in the environment."
        )
    with open_listener(host, port) as listener:
        app = create_app(ReloadingRun(folder), token, max_waiting)
        config = uvicorn.Config(
            app, log_config=None, access_log=False, server_header=False, timeout_graceful_shutdown=STOP_S
        )
        server = uvicorn.Server(config)
        for number in (signal.SIGINT, signal.SIGTERM):  # uvicorn raises what it caught again, when it is done
            signal.signal(number, server.handle_exit)
        address = f"http://{f'[{host}]' if ':' in host else host}:{listener.getsockname()[1]}"
        print(f"Serving {brief(folder)} on {address} (API: {address}/docs). Stop with Ctrl-C.", flush=True)
        server.run(sockets=[listener])


def _is_loopback(host: str) -> bool:
    """Return whether only this machine reaches an address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
