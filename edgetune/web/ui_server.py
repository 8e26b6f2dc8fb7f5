"""The server of the page: one address of this machine, a token, and nothing from other hosts."""

from __future__ import annotations

import hmac
import os
import secrets
import signal
import warnings
from http.cookies import CookieError, SimpleCookie
from pathlib import Path
from urllib.parse import parse_qs

from edgetune.utils.cache import private_folder
from edgetune.utils.listener import open_listener
from edgetune.web.run_process import PRIVATE, RunProcesses

HOST = "127.0.0.1"
ONLY_FROM_HERE = "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; frame-ancestors 'none'"
"""Keeps the page from loading anything from another host, and others from framing it."""
STOP_S = 3

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read when Gradio is imported
warnings.filterwarnings("ignore", module="gradio")  # deprecations of what it uses, at each request

import uvicorn  # noqa: E402
from fastapi import FastAPI  # noqa: E402
from gradio import mount_gradio_app  # noqa: E402
from starlette.datastructures import Headers, MutableHeaders  # noqa: E402
from starlette.responses import PlainTextResponse, RedirectResponse  # noqa: E402
from starlette.types import ASGIApp, Message, Receive, Scope, Send  # noqa: E402

from edgetune.web.ui_page import CSS, MAX_UPLOAD_MB, THEME, make_page  # noqa: E402


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
            return
        if scope["type"] != "http":
            return
        headers, query = Headers(scope=scope), parse_qs(scope["query_string"].decode("latin-1"))
        given = query.get("token", [""])[0]
        if given and self._is_right(given):
            answer = RedirectResponse(scope["path"], 303)  # the token leaves the address bar
            answer.set_cookie(self._cookie, self._token, httponly=True, samesite="lax")
            await answer(scope, receive, guarded_send)
        elif given or not self._is_right(self._cookie_of(headers)):
            fault = "wrong" if given else "missing"
            sentence = f"The token is {fault}; open the address that `edgetune ui` printed."
            await PlainTextResponse(sentence, 401)(scope, receive, guarded_send)
        elif int(headers.get("content-length", "0") or 0) > (MAX_UPLOAD_MB + 1) << 20:
            sentence = f"The file has more than {MAX_UPLOAD_MB:,} MB; give its path instead."
            await PlainTextResponse(sentence, 413)(scope, receive, guarded_send)
        else:
            await self._app(scope, receive, guarded_send)

    def _is_right(self, token: str) -> bool:
        return hmac.compare_digest(token.encode(), self._token.encode())

    def _cookie_of(self, headers: Headers) -> str:
        try:
            found = SimpleCookie(headers.get("cookie", "")).get(self._cookie)
        except CookieError:
            return ""
        return "" if found is None else found.value


def run_page(runs: Path, port: int, cache_dir: Path | None) -> None:
    """Serve the page until Ctrl-C; runs that it started go on.

    Args:
        runs: folder of the run folders.
        port: 0: any that is free.
        cache_dir: where tokens and artifacts are kept.

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
        app = mount_gradio_app(
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
