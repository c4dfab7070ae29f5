"""Serves the review page and its images."""

from __future__ import annotations

import ipaddress
import secrets
import socket
from importlib.resources import files
from pathlib import Path

from fastapi import HTTPException
from nicegui import app, ui
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.responses import FileResponse

from runner.dataset.review.components import MAIN
from runner.dataset.review.queue import Candidate, ReviewQueue
from runner.dataset.review.review_page import ReviewPage
from runner.dataset.review.session import Session
from runner.errors import RequirementError

LOOPBACK_NAMES = ("localhost", "127.0.0.1", "[::1]")
"""As browsers say them."""
RECONNECT_SECONDS = 30
"""How long a page is waited for whose connection broke, or whose machine is busy, before it has to begin anew."""
GRACE_SECONDS = 2
"""How long pages that are open may hold up the end."""


def is_loopback(host: str) -> bool:
    """Whether an address is reached from this machine alone."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def refuse_taken(host: str, port: int) -> None:
    """Check that the page can be served there.

    Raises:
        UnmetError: The port is taken, or the address is not one of this machine.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        with socket.socket(family, socket.SOCK_STREAM) as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            trial.bind((host, port))
    except OSError as error:
        raise RequirementError(
            f"{host}:{port}: cannot be listened on ({error.strerror}); choose another --port"
        ) from error


def serve_review(review: ReviewQueue, *, host: str, port: int, who: str, then: str) -> None:
    """Serve until it is interrupted.

    Args:
        review: What is reviewed.
        host: The address to listen on.
        port: The port; it is free.
        who: The reviewer, where a page's address names none.
        then: What is to be done when all is decided.
    """
    # Pictures are immutable for a browser as long as this process lives: another one serves them elsewhere.
    served = f"/pictures/{secrets.token_urlsafe(8)}"
    numbers = {id(candidate): number for number, candidate in enumerate(review.candidates)}

    def url(candidate: Candidate, name: str) -> str:
        return f"{served}/{numbers[id(candidate)]}/{name}"

    @app.get(f"{served}/{{number}}/{{name}}")
    def picture(number: int, name: str) -> FileResponse:
        path = picture_path(review, number, name)
        if path is None:
            raise HTTPException(404, "no such picture")
        return FileResponse(path, headers={"Cache-Control": "private, max-age=86400, immutable"})

    @ui.page("/", title=f"{review.name}: review")
    def page(reviewer: str = "", show: str = "", flag: str = "", sample: str = "") -> None:
        review.log.catch_up()
        ReviewPage(review, Session(review, reviewer or who, show=show, flag=flag, start=sample), url, then)

    if is_loopback(host):
        # A page of a stranger whose name leads here is not answered.
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=[*LOOPBACK_NAMES, host])
    here = files("runner.dataset.review")
    ui.add_css(here.joinpath("page.css").read_text(encoding="utf-8"), shared=True)
    ui.add_head_html(f"<script>{here.joinpath('page.js').read_text(encoding='utf-8')}</script>", shared=True)
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


def picture_path(review: ReviewQueue, number: int, name: str) -> Path | None:
    """Find a picture by what it shows, so that no address holds a path; None unless it lies in the data set."""
    if not 0 <= number < len(review.candidates):
        return None
    sample = review.candidates[number].sample
    named = {segment.letter: segment.image for segment in sample.segments} | {MAIN: sample.image}
    path = named.get(name)
    inside = path is not None and path.is_file() and path.resolve().is_relative_to(review.pictures.resolve())
    return path if inside else None
