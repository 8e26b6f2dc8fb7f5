"""The page and its server: one address of this machine, a token, and nothing from other hosts."""

from __future__ import annotations

import hmac
import os
import secrets
import signal
import warnings
from pathlib import Path
from typing import Any

from edgetune.utils.cache import private_folder
from edgetune.utils.listener import open_listener
from edgetune.web.run_process import PRIVATE, RunProcesses

HOST = "127.0.0.1"
ONLY_FROM_HERE = "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; frame-ancestors 'none'"
"""Keeps the page from loading anything from another host, and others from framing it."""
STOP_S = 3

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read when Gradio is imported
warnings.filterwarnings("ignore", module="gradio")  # deprecations of what it uses, at each request

import gradio as gr  # noqa: E402
import uvicorn  # noqa: E402
from fastapi import FastAPI  # noqa: E402
from starlette.datastructures import MutableHeaders  # noqa: E402
from starlette.requests import Request  # noqa: E402
from starlette.responses import PlainTextResponse, RedirectResponse  # noqa: E402
from starlette.types import ASGIApp, Message, Receive, Scope, Send  # noqa: E402

from edgetune.web.result_tabs import mend_tab, models_tab, results_tab, try_tab  # noqa: E402
from edgetune.web.train_tabs import MAX_UPLOAD_MB, data_tab, train_tab  # noqa: E402

REFRESH_S = 3.0
THEME = gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]).set(
    block_info_text_color="*neutral_600",
    block_info_text_color_dark="*neutral_300",
    button_primary_background_fill="*primary_700",
    button_primary_background_fill_dark="*primary_700",
    button_primary_background_fill_hover="*primary_800",
    button_primary_background_fill_hover_dark="*primary_800",
)
CSS = """
.scroll { overflow-x: auto; margin: .5rem 0 1rem; }
.scroll :is(table, thead, tbody, tr) { border: 0 !important; }
.scroll table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
.scroll caption { text-align: left; font-weight: 600; padding-bottom: .3rem; }
.scroll th, .scroll td {
  padding: .25rem .6rem; text-align: left; vertical-align: top;
  border: 0 !important; border-bottom: 1px solid var(--border-color-primary) !important;
}
.scroll tbody th { font-weight: normal; }
.scroll td { overflow-wrap: break-word; }
.scroll tbody td:last-child { overflow-wrap: anywhere; min-width: 6rem; }
.scroll .n, .scroll .n button { text-align: right; white-space: nowrap; }
.scroll button {
  font: inherit; color: inherit; width: 100%; min-width: 2.5rem; padding: .1rem .4rem; cursor: pointer;
}
.bar { display: inline-block; height: .7em; background: var(--color-accent); }
.wrong, .note, .said { border-left: 4px solid var(--color-accent); padding: .5rem .9rem; }
.wrong, .note { border-color: #c2410c; background: var(--block-background-fill); }
.none { font-style: italic; }
mark { padding: 0 .15em; border-radius: 3px; color: inherit; }
:focus-visible { outline: 3px solid var(--color-accent); outline-offset: 2px; }
"""


def make_page(runs: RunProcesses, cache_dir: Path | None) -> gr.Blocks:
    """Return the page: a run chosen above the tabs."""
    with gr.Blocks(title="edgetune", analytics_enabled=False) as page:
        gr.Markdown("# edgetune\nTrain a text classifier on this machine. Nothing leaves it.")
        info = "Train, Results, Mend and Try show it."
        run = gr.Dropdown(label="Run", info=info, choices=[], interactive=True)
        with gr.Tabs():
            with gr.Tab("Data"):
                *data, name = data_tab(runs, cache_dir)
            with gr.Tab("Train"):
                train_tab(runs, cache_dir, data, name, run)
            with gr.Tab("Results") as results:
                results_tab(runs, run, results)
            with gr.Tab("Mend"):
                mend_tab(runs, run, [*data, name])
            with gr.Tab("Try"):
                try_tab(runs, run)
            with gr.Tab("Models") as models:
                models_tab(runs, models)

        listed = gr.State([])

        def find_runs(chosen: str | None, listed: list[str]) -> Any:
            names = runs.names()
            if set(names) == set(listed):  # an update would close the open list
                return gr.skip(), gr.skip()
            if chosen:  # also where its folder is gone, which the tabs say
                return gr.update(choices=list(dict.fromkeys([*names, chosen]))), names
            return gr.update(choices=names, value=next(iter(names), None)), names

        for event in (page.load, gr.Timer(REFRESH_S).tick):
            event(find_runs, [run, listed], [run, listed], show_progress="hidden")
    return page


class TokenGuard:
    """Lets in who opened the address with its token, which a cookie then stands for."""

    def __init__(self, app: ASGIApp, token: str, port: int) -> None:
        self._app, self._token, self._cookie = app, token, f"edgetune_ui_{port}"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def guarded_send(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers["content-security-policy"] = ONLY_FROM_HERE
                headers["referrer-policy"] = "no-referrer"
            await send(message)

        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        if scope["type"] != "http":
            return
        request = Request(scope)
        given = request.query_params.get("token", "")
        if given and self._is_right(given):
            answer = RedirectResponse(scope["path"], 303)  # the token leaves the address bar
            answer.set_cookie(self._cookie, self._token, httponly=True, samesite="lax")
            await answer(scope, receive, guarded_send)
        elif given or not self._is_right(request.cookies.get(self._cookie, "")):
            fault = "wrong" if given else "missing"
            sentence = f"The token is {fault}; open the address that `edgetune ui` printed."
            await PlainTextResponse(sentence, 401)(scope, receive, guarded_send)
        elif int(request.headers.get("content-length", "0") or 0) > (MAX_UPLOAD_MB + 1) << 20:
            sentence = f"The file has more than {MAX_UPLOAD_MB:,} MB; give its path instead."
            await PlainTextResponse(sentence, 413)(scope, receive, guarded_send)
        else:
            await self._app(scope, receive, guarded_send)

    def _is_right(self, token: str) -> bool:
        return hmac.compare_digest(token.encode(), self._token.encode())


def run_page(runs: Path, port: int, cache_dir: Path | None) -> None:
    """Serve the page until Ctrl-C, on any free port if it is 0; runs that it started go on.

    Raises:
        ResourceError: the port is taken.
        OSError: the folder cannot be made.
    """
    with open_listener(HOST, port) as listener:
        number = listener.getsockname()[1]
        processes = RunProcesses(runs, cache_dir)
        uploads = runs.resolve() / PRIVATE / "uploads"
        private_folder(uploads)
        os.environ["GRADIO_TEMP_DIR"] = str(uploads)  # dropped files stay: runs are resumed from them
        app = gr.mount_gradio_app(
            FastAPI(openapi_url=None),
            make_page(processes, cache_dir),
            path="/",
            server_name=HOST,
            server_port=number,
            footer_links=[],
            max_file_size=MAX_UPLOAD_MB << 20,
            ssr_mode=False,
            theme=THEME,
            css=CSS,
        )
        token = secrets.token_urlsafe(16)
        config = uvicorn.Config(
            TokenGuard(app, token, number),
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=STOP_S,
        )
        server = uvicorn.Server(config)
        for kind in (signal.SIGINT, signal.SIGTERM):  # uvicorn raises what it caught again, when it is done
            signal.signal(kind, server.handle_exit)
        print(f"Open http://{HOST}:{number}/?token={token} in a browser. Stop with Ctrl-C.", flush=True)
        server.run(sockets=[listener])
