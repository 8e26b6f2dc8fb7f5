"""Requests a second and latency of `edgetune serve`, under twice the sustainable load too, and its memory.

A run of a few steps, as speed does not depend on training. The clients are threads of this process on the
same machine, one text a request: one that also predicts every text in its own process, in turn; then 1, 8 and
32 that ask again as soon as they are answered; then requests at a fixed rate, twice the best of those.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import itertools
import json
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import psutil
from common import finetune, rows_file

from edgetune.data.demo import demo_rows
from edgetune.inference.saved_run import load_run

CLIENTS = (1, 8, 32)
SECONDS, OVERLOAD_S = 10.0, 10.0
QUEUE = 64  # texts that wait at most; so few, for the overload to fill it on a slow machine too
MOST_OPEN = 4 * QUEUE  # requests at once under overload
N_TEXTS = 500

Reply = tuple[int, float]  # status, milliseconds


def main(arguments: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        run = arguments.run or scratch / "run"
        if arguments.run is None:
            data = arguments.data or str(rows_file(None, arguments.rows, scratch))
            finetune(data, "--max-steps", "10", "--out", str(run), cache=scratch / "cache")
        texts = [text for text, _ in demo_rows(N_TEXTS, seed=1)]
        with _served(run) as (process, port):
            _compare(run, port, texts)
            _measure(process, port, texts)


def _compare(run: Path, port: int, texts: list[str]) -> None:
    """Print milliseconds a text of a prediction in this process and of a request, made in turn."""
    opened, ask, until_s = load_run(run), _asker(port, texts), time.perf_counter() + SECONDS
    pairs = []
    for text in itertools.cycle(texts):
        started_s = time.perf_counter()
        if started_s > until_s:
            break
        next(opened.predict_all([text]))
        pairs.append((1000 * (time.perf_counter() - started_s), ask()[1]))
    own, served = np.median(pairs[1:], axis=0)  # the first opens the model
    print(
        f"a text at a time, in process {own:.1f} ms, served {served:.1f} ms (medians of {len(pairs) - 1:,})"
    )


@contextlib.contextmanager
def _served(run: Path) -> Iterator[tuple[psutil.Process, int]]:
    command = [sys.executable, "-m", "edgetune", "serve", str(run), "--port", "0", "--queue", str(QUEUE)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            found = re.search(r"http://[\d.]+:(\d+)", server.stdout.readline())
            assert found is not None
            yield psutil.Process(server.pid), int(found.group(1))
        finally:
            server.terminate()
    print(f"exit code after SIGTERM: {server.returncode}")


def _asker(port: int, texts: list[str]) -> Callable[[], Reply]:
    """Return a function that asks for the next text, over a connection for each thread that stays open."""
    local, bodies = threading.local(), itertools.cycle([json.dumps({"text": text}) for text in texts])

    def ask() -> Reply:
        if not hasattr(local, "connection"):
            local.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        started_s = time.perf_counter()
        local.connection.request("POST", "/predict", next(bodies), {"Content-Type": "application/json"})
        reply = local.connection.getresponse()
        reply.read()
        return reply.status, 1000 * (time.perf_counter() - started_s)

    return ask


def _measure(process: psutil.Process, port: int, texts: list[str]) -> None:
    ask, best = _asker(port, texts), 0.0
    ask()
    rss_mb = [process.memory_info().rss / 2**20]
    print(f"{'load':<28} {'answers/s':>9} {'p50 ms':>8} {'p99 ms':>8}  statuses")
    for n_clients in CLIENTS:
        best = max(best, _print(f"{n_clients} clients", *_closed_loop(ask, n_clients)))
    rss_mb.append(process.memory_info().rss / 2**20)
    for _ in range(2):
        _print(f"2 x {best:.0f} = {2 * best:.0f} requests/s", *_open_loop(ask, 2 * best))
        rss_mb.append(process.memory_info().rss / 2**20)
    shown = ", ".join(f"{mb:.0f}" for mb in rss_mb)
    print(f"server's memory at start, before the overload, after it, after it once more: {shown} MiB")


def _closed_loop(ask: Callable[[], Reply], n_clients: int) -> tuple[list[Reply], float]:
    """Return replies and seconds."""
    started_s = time.perf_counter()

    def client(number: int) -> list[Reply]:
        replies = []
        while time.perf_counter() < started_s + SECONDS:
            replies.append(ask())
        return replies

    with ThreadPoolExecutor(n_clients) as pool:
        replies = [reply for replies in pool.map(client, range(n_clients)) for reply in replies]
    return replies, time.perf_counter() - started_s


def _open_loop(ask: Callable[[], Reply], per_second: float) -> tuple[list[Reply], float]:
    """Ask at a fixed rate, however long the answers take; return replies and seconds until the last."""
    started_s = time.perf_counter()
    with ThreadPoolExecutor(MOST_OPEN) as pool:
        asked = []
        for number in range(int(OVERLOAD_S * per_second)):
            time.sleep(max(0.0, started_s + number / per_second - time.perf_counter()))
            asked.append(pool.submit(ask))
        replies = [one.result() for one in asked]
    return replies, time.perf_counter() - started_s


def _print(load: str, replies: list[Reply], seconds: float) -> float:
    """Print a row; return the answers a second."""
    took_ms = [ms for status, ms in replies if status == 200]
    p50, p99 = np.percentile(took_ms, [50, 99])
    statuses = ", ".join(f"{n:,} x {status}" for status, n in sorted(Counter(s for s, _ in replies).items()))
    print(f"{load:<28} {len(took_ms) / seconds:9.1f} {p50:8.1f} {p99:8.1f}  {statuses}", flush=True)
    return len(took_ms) / seconds
