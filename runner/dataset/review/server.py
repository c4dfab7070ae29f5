"""Serves the review page and its images."""

from __future__ import annotations

import secrets
import socket
from importlib.resources import files
from pathlib import Path

from fastapi import HTTPException
from nicegui import app, ui
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.responses import FileResponse

from runner.dataset.review.access import AccessMiddleware
from runner.dataset.review.components import MAIN_IMAGE
from runner.dataset.review.queue import ReviewItem, ReviewQueue
from runner.dataset.review.review_page import ReviewPage
from runner.dataset.review.session import Session
from runner.errors import RequirementError
from runner.redaction import is_loopback

LOOPBACK_NAMES = ("localhost", "127.0.0.1", "[::1]")
"""Host names of this machine as browsers send them."""
RECONNECT_SECONDS = 30
"""How long the server keeps a page whose connection is lost; after that, the page reloads."""
GRACE_SECONDS = 2
"""How long open pages may delay the shutdown."""


def check_port_free(host: str, port: int) -> None:
    """Check that the server can listen on an address and a port.

    Raises:
        RequirementError: The port is in use, or the address does not belong to this machine.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        with socket.socket(family, socket.SOCK_STREAM) as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            trial.bind((host, port))
    except OSError as error:
        raise RequirementError(
            f"{host}:{port}: the server cannot listen here ({error.strerror}). Choose another --port"
        ) from error


def serve_review(review: ReviewQueue, *, host: str, port: int, token: str, reviewer: str, next_step: str) -> None:
    """Serve the page until the process is interrupted.

    Args:
        review: The queue.
        host: The address to listen on.
        port: A free port.
        token: What the address of the page must contain; see `AccessMiddleware`.
        reviewer: The name of the reviewer if the address of a page has none.
        next_step: What to do after the review.
    """
    # Browsers cache images for as long as this process runs: the next process uses another path.
    image_path = f"/pictures/{secrets.token_urlsafe(8)}"
    index_of = {id(item): index for index, item in enumerate(review.review_items)}

    def image_url(item: ReviewItem, name: str) -> str:
        return f"{image_path}/{index_of[id(item)]}/{name}"

    @app.get(f"{image_path}/{{index}}/{{name}}")
    def image(index: int, name: str) -> FileResponse:
        path = find_image(review, index, name)
        if path is None:
            raise HTTPException(404, "no such image")
        return FileResponse(path, headers={"Cache-Control": "private, max-age=86400, immutable"})

    default_reviewer = reviewer

    @ui.page("/", title=f"{review.name}: review")
    def page(reviewer: str = "", show: str = "", flag: str = "", sample: str = "") -> None:
        review.catch_up()
        session = Session(review, reviewer or default_reviewer, state_filter=show, flag_filter=flag, start=sample)
        ReviewPage(review, session, image_url, next_step)

    app.add_middleware(AccessMiddleware, token=token, port=port)
    if is_loopback(host):
        # Requests under another host name are rejected, which prevents DNS rebinding by other web pages.
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=[*LOOPBACK_NAMES, host])
    resources = files("runner.dataset.review")
    ui.add_css(resources.joinpath("page.css").read_text(encoding="utf-8"), shared=True)
    script = resources.joinpath("page.js").read_text(encoding="utf-8")
    ui.add_head_html(f"<script>{script}</script>", shared=True)
    ui.run(
        host=host,
        port=port,
        dark=None,
        favicon="🔎",
        reload=False,
        show=False,
        show_welcome_message=False,
        tailwind=False,
        reconnect_timeout=RECONNECT_SECONDS,
        timeout_graceful_shutdown=GRACE_SECONDS,
    )


def find_image(review: ReviewQueue, index: int, name: str) -> Path | None:
    """Find an image by the index of its sample and its name, so that URLs contain no paths.

    Returns:
        The path; None if there is no such image, or it is outside the data set.
    """
    if not 0 <= index < len(review.review_items):
        return None
    sample = review.review_items[index].sample
    paths = {segment.letter: segment.image for segment in sample.segments} | {MAIN_IMAGE: sample.image}
    path = paths.get(name)
    if path is None or not path.is_file() or not path.resolve().is_relative_to(review.image_root.resolve()):
        return None
    return path
