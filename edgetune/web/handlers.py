"""What all tabs share: an error becomes a sentence on the page, and every text is escaped."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import gradio as gr

from edgetune.report.page_parts import Html, tag
from edgetune.utils.errors import EdgetuneError
from edgetune.utils.files import os_error_in
from edgetune.utils.sanitize import brief


def told(text: str, failed: bool = False) -> Html:
    """Return a sentence that a screen reader reads out when it appears."""
    if not text:
        return Html("")
    return tag("p", text, class_="wrong" if failed else "said", role="alert" if failed else "status")


def handled(function: Callable[..., Any], n_outputs: int) -> Callable[..., Any]:
    """Make a handler of an event: its first output is a message, which says what went wrong.

    Args:
        function: returns the message as text, then the other outputs.
        n_outputs: how many others there are; they stay as they are where it fails.
    """

    @wraps(function)
    def handler(*values: Any) -> Any:
        try:
            message, *others = function(*values)
        except EdgetuneError as error:
            return told(str(error), failed=True), *(gr.skip() for _ in range(n_outputs))
        except Exception as error:
            if (found := os_error_in(error)) is None:  # a bug keeps its traceback, in the terminal
                raise
            sentence = f"{brief(found.filename or 'The file')}: {found.strerror}; choose another path."
            return told(sentence, failed=True), *(gr.skip() for _ in range(n_outputs))
        return told(message), *others

    return handler


def message() -> gr.HTML:
    """Return the place for a tab's messages."""
    return gr.HTML()
