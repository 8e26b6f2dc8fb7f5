"""Predict requests that arrive together as one batch, with a run that is opened again when it is replaced."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from edgetune.inference.saved_run import BATCH_SIZE, Prediction, load_run
from edgetune.run_files.run_folder import ENSEMBLE
from edgetune.utils.errors import EdgetuneError, UsageError
from edgetune.utils.sanitize import one_line

Text = str | tuple[str, str]
Answers = list[Prediction] | UsageError
"""Predictions of one request's texts, or why the request cannot be answered."""

SUMMARY = "summary.json"  # a run writes it last, and removes it first where it is trained again
WATCHED = (SUMMARY, "onnx/model.onnx", "model/model.safetensors", f"{ENSEMBLE}/ensemble.json")


class ReloadingRun:
    """A run that is opened again once a new one is complete at the same path; for one thread.

    Attributes:
        n_reloads: how often that happened.
    """

    def __init__(self, folder: Path) -> None:
        """Open the run and predict one text, so that nothing is left to be read from the folder.

        Raises:
            RunError: there is no usable run in it.
        """
        self.folder = folder
        self.n_reloads = 0
        self._seen = _file_stamps(folder)
        self._load()

    def _load(self) -> None:
        run = load_run(self.folder)
        next(run.predict_all([("a", "a") if run.takes_pairs else "a"]))
        self._run, self._takes_pairs = run, run.takes_pairs

    def _reload_if_replaced(self) -> None:
        stamps = _file_stamps(self.folder)
        if stamps == self._seen:
            return
        self._seen = stamps
        try:
            if stamps is None:
                raise UsageError(f"{self.folder / SUMMARY} is missing.")
            self._load()
            self.n_reloads += 1
        except (EdgetuneError, OSError) as error:
            print(f"edgetune: {one_line(error)} The model loaded before stays in use.", file=sys.stderr)

    def predict(self, requests: Sequence[Sequence[Text]]) -> list[Answers]:
        """Predict the texts of several requests as one batch; an empty text gets no label.

        Returns:
            For each request its predictions, or an error if it has single texts for a run of pairs or the
            other way round.
        """
        self._reload_if_replaced()
        problems = [self._problem(texts) for texts in requests]
        pairs = list(zip(requests, problems, strict=True))
        found = self._run.predict_all(text for texts, problem in pairs if problem is None for text in texts)
        return [problem or [next(found) for _ in texts] for texts, problem in pairs]

    def _problem(self, texts: Sequence[Text]) -> UsageError | None:
        if self._takes_pairs is None or all(isinstance(text, tuple) == self._takes_pairs for text in texts):
            return None
        if self._takes_pairs:
            return UsageError("The run was trained on pairs of texts; send text_pair beside text.")
        return UsageError("The run was trained on single texts; leave out text_pair.")


def _file_stamps(folder: Path) -> list[tuple[int, int, int] | None] | None:
    """Return stamps of the files that tell runs apart; None where no finished run is there."""
    stamps = [_stamp(folder / name) for name in WATCHED]
    return None if stamps[0] is None else stamps


def _stamp(path: Path) -> tuple[int, int, int] | None:
    """Return inode, time of change and size."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size


class QueueFullError(Exception):
    """There are too many texts in the queue to take more."""


class RequestQueue:
    """Requests that wait, at most `max_texts` texts of them; those that wait together are one batch.

    Attributes:
        n_texts: texts that wait or are being predicted.
    """

    def __init__(self, predict: Callable[[Sequence[Sequence[Text]]], list[Answers]], max_texts: int) -> None:
        """Use `work` to answer what is submitted; `predict` answers a batch of requests in a thread."""
        self.n_texts = 0
        self._predict, self._max_texts = predict, max_texts
        self._waiting: asyncio.Queue[tuple[Sequence[Text], asyncio.Future[list[Prediction]]]] = (
            asyncio.Queue()
        )

    async def submit(self, texts: Sequence[Text]) -> list[Prediction]:
        """Wait for the predictions of one request.

        Raises:
            QueueFullError: the texts do not fit into the queue.
            UsageError: the run cannot answer such texts.
        """
        if self.n_texts + len(texts) > self._max_texts:
            raise QueueFullError
        answer: asyncio.Future[list[Prediction]] = asyncio.get_running_loop().create_future()
        self.n_texts += len(texts)
        self._waiting.put_nowait((texts, answer))
        return await answer

    async def work(self) -> None:
        """Answer requests until cancelled; a batch takes whole requests until it has `BATCH_SIZE` texts."""
        while True:
            batch = [await self._waiting.get()]
            while not self._waiting.empty() and sum(len(texts) for texts, _ in batch) < BATCH_SIZE:
                batch.append(self._waiting.get_nowait())
            requests = [texts for texts, _ in batch]
            found: Sequence[Answers | Exception]
            try:
                found = await asyncio.to_thread(self._predict, requests)
            except Exception as error:  # whoever asked gets it; the next batch may be fine
                found = [error] * len(batch)
            self.n_texts -= sum(map(len, requests))
            for (_, answer), value in zip(batch, found, strict=True):
                if answer.done():  # the request was cancelled
                    continue
                if isinstance(value, Exception):
                    answer.set_exception(value)
                else:
                    answer.set_result(value)
