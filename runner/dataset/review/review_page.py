"""The review page: layout, keyboard shortcuts and buttons."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from urllib.parse import urlencode

from nicegui import ui
from nicegui.events import GenericEventArguments

from runner.dataset.review.components import PictureUrl, empty_component, progress_component, sample_components
from runner.dataset.review.queue import SHOWS, ReviewQueue
from runner.dataset.review.session import ANY_FLAG, ANY_SAMPLE, OVERTAKEN, Session
from runner.errors import DataError

LOOK_SECONDS = 1.0
"""How often a page looks whether others have decided something."""

BUTTONS: tuple[tuple[str, str, str, str], ...] = (
    ("backward", "Back", "←", "flat"),
    ("reject", "Reject", "R", "outline"),
    ("edit", "Edit", "E", "outline"),
    ("accept", "Accept", "A", "unelevated"),
    ("forward", "Next", "→", "flat"),
    ("undo", "Undo", "U", "flat"),
    ("help", "Help", "?", "flat"),
)
"""Action, words, key and shape of the buttons below."""
EDITING: tuple[tuple[str, str, str, str], ...] = (
    ("cancel", "Cancel", "Esc", "flat"),
    ("save", "Save and accept", "Ctrl Enter", "unelevated"),
)
"""What stands in their place while a summary is edited."""

HELP: tuple[tuple[str, str], ...] = (
    ("A", "accept the summary as it stands, and go on"),
    ("E", "edit it; Ctrl Enter saves and accepts, Esc leaves it as it was"),
    ("R", "reject: the sample is not wanted"),
    ("U", "undo your last decision, as often as you like (also Ctrl Z)"),
    ("→ J", "the next sample"),
    ("← K", "the sample before"),
    ("N", "go through what is undecided"),
    ("B", "hide the boxes on the picture, and show them again"),
    ("?", "this help"),
)


class ReviewPage:
    """One browser tab."""

    def __init__(self, review: ReviewQueue, session: Session, url: PictureUrl, then: str) -> None:
        """Lay the page out.

        Args:
            review: Shared by all pages.
            session: This page's own.
            url: Where pictures are served.
            then: What is to be done when all is decided.
        """
        self._review, self._session, self._url, self._then = review, session, url, then
        self._seen_lines = -1
        self._actions: Mapping[str, Callable[[], str | None]] = {
            "accept": session.accept,
            "reject": session.reject,
            "undo": session.undo,
            "forward": lambda: None if session.forward() else "this is the last one",
            "backward": lambda: None if session.backward() else "this is the first one",
            "edit": self._open_editor,
            "undecided": lambda: self._filter("undecided", ANY_SAMPLE),
            "help": self._show_help,
        }
        self._lay_out_top()
        with ui.element("main").classes("sheet"):
            self._picture = ui.html(sanitize=False, tag="section").classes("look")
            with ui.element("section").classes("read"):
                self._lay_out_words()
                self._details = ui.html(sanitize=False)
        self._keys, self._editing_keys = _keys(BUTTONS), _keys(EDITING)
        self._edit(None)
        self._help = _help()
        ui.on("review", self._act)
        ui.timer(LOOK_SECONDS, self._look)
        self._refresh()

    def _lay_out_top(self) -> None:
        with ui.element("header").classes("top"):
            ui.label(self._review.name).classes("title")
            ui.label(self._session.who).classes("faint").tooltip("the reviewer: another one is ?reviewer=NAME")
            self._show = ui.select({}, label="show", on_change=self._choose).props("dense outlined options-dense")
            self._flag = ui.select({}, label="flag", on_change=self._choose).props("dense outlined options-dense")
            self._progress = ui.html(sanitize=False).classes("grow")

    def _lay_out_words(self) -> None:
        with ui.element("div").classes("words"):
            self._summary = ui.html(sanitize=False)
            self._editor = ui.textarea().props("outlined autogrow aria-label=Summary").classes("editor")

    def _act(self, event: GenericEventArguments) -> None:
        """Do what a key or a button asks, if what it was meant for still stands there."""
        told: Mapping[str, Any] = event.args
        action, is_editing = str(told.get("action")), self._editor.visible
        try:
            self._review.log.catch_up()
            if told.get("mark") != self._session.mark:
                said = OVERTAKEN if told.get("sample") == self._sample else None
            elif is_editing:
                said = self._end_edit(action, str(told.get("text")))
            else:
                said = self._actions[action]() if action in self._actions else None
        except DataError as error:
            said = str(error)
        if said is not None:
            ui.notify(said, position="top", type="warning")
        self._refresh()

    def _end_edit(self, action: str, text: str) -> str | None:
        if action not in ("save", "cancel"):
            return "save or cancel the edit first"
        sample = self._sample
        said = self._session.edit(text) if action == "save" else None
        if said is None:
            self._edit(None)
            ui.run_javascript(f"reviewDone({json.dumps(sample)})")
        else:
            ui.run_javascript("editor()?.focus()")
        return said

    def _open_editor(self) -> str | None:
        if self._session.current is None:
            return "there is nothing to edit here"
        self._edit(self._session.summary or "")
        ui.run_javascript("setTimeout(reviewEdit)")
        return None

    def _edit(self, text: str | None) -> None:
        """Put the editor with a text in the place of the summary, and its keys in that of the others; None: back."""
        self._editor.set_value(text or "")
        for element in (self._editor, self._editing_keys):
            element.set_visibility(text is not None)
        for element in (self._summary, self._keys):
            element.set_visibility(text is None)

    def _show_help(self) -> None:
        self._help.open()

    def _choose(self) -> None:
        """Take over what the selections say, unless it is what this page has just told them itself."""
        chosen = (self._show.value, self._flag.value)
        if chosen != (self._session.show, self._session.flag) and None not in chosen:
            self._filter(*chosen)
            ui.run_javascript("document.activeElement?.blur()")
            self._refresh()

    def _filter(self, show: Any, flag: str) -> None:
        self._session.filter(show, flag)

    def _look(self) -> None:
        try:
            self._review.log.catch_up()
        except DataError as error:
            ui.notify(str(error), position="top", type="negative")
        if self._review.log.num_lines != self._seen_lines:
            self._refresh()

    @property
    def _sample(self) -> str:
        current = self._session.current
        return "" if current is None else current.sample.id

    def _refresh(self) -> None:
        if self._session.current is None:
            self._session.forward()  # Others may have taken a decision back.
        states = self._review.states()
        self._seen_lines = self._review.log.num_lines
        self._progress.set_content(progress_component(self._session, states))
        if self._session.current is None:
            self._picture.set_content(empty_component(self._session, states, self._then))
            self._summary.set_content("")
            self._details.set_content("")
        else:
            pieces = sample_components(self._session, self._url)
            self._picture.set_content(pieces.picture)
            self._summary.set_content(pieces.summary)
            self._details.set_content(pieces.details)
        self._tell_filters(states)
        self._tell_address()

    def _tell_filters(self, states: Mapping[Any, int]) -> None:
        flags = {ANY_SAMPLE: "with or without", **{flag: f"{flag} ({n:,})" for flag, n in self._review.flags.items()}}
        if self._review.flags:
            flags[ANY_FLAG] = "any flag"
        self._show.set_options({show: f"{show} ({states[show]:,})" for show in SHOWS}, value=self._session.show)
        self._flag.set_options(flags, value=self._session.flag)

    def _tell_address(self) -> None:
        """Keep in the address what a reload begins with."""
        session = self._session
        told = {"reviewer": session.who, "show": session.show, "flag": session.flag, "sample": self._sample}
        address = "?" + urlencode({key: value for key, value in told.items() if value})
        ui.run_javascript(f"reviewAt({json.dumps(address)})")


def _keys(buttons: Sequence[tuple[str, str, str, str]]) -> ui.element:
    with ui.element("nav").classes("keys") as keys:
        for button in buttons:
            _button(*button)
    return keys


def _button(action: str, words: str, key: str, shape: str) -> None:
    # Without a colour of the library's own, none of which is readable on light and dark alike.
    button = ui.button(words, color=None).props(f"no-caps {shape}").classes(f"act {action}")
    with button.on("click", js_handler=f"(event) => reviewAct('{action}', event)"):
        ui.html(f"<kbd>{key}</kbd>", sanitize=False, tag="span")


def _help() -> ui.dialog:
    rows = "".join(
        f"<tr><td>{' '.join(f'<kbd>{key}</kbd>' for key in keys.split())}</td><td>{does}</td></tr>"
        for keys, does in HELP
    )
    with ui.dialog() as dialog, ui.card().classes("key-list"):
        ui.html(f"<table>{rows}</table>", sanitize=False)
        ui.label("Every decision is on the disk before the next sample is shown. Closing the page loses nothing.")
    return dialog
