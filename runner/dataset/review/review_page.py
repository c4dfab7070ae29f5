"""The review page: layout, keyboard shortcuts and buttons."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from urllib.parse import urlencode

from nicegui import ui
from nicegui.events import GenericEventArguments

from runner.dataset.review.components import ImageUrl, render_empty, render_progress, render_sample
from runner.dataset.review.queue import STATE_FILTERS, ReviewQueue, StateFilter
from runner.dataset.review.session import ANY_FLAG, CONFLICT_MESSAGE, NO_FLAG_FILTER, Session
from runner.errors import DataError

BOX_ACTION = "box:"
"""The beginning of the action that flags a box; the letter of the box follows."""
POLL_SECONDS = 1.0
"""How often a page checks for decisions of others."""

_HIDE, _SHOW = '<span class="hide-boxes">Hide boxes</span>', '<span class="show-boxes">Show boxes</span>'
BOXES_LABEL = f'<span class="boxes-label">{_HIDE}{_SHOW}</span>'
"""Both labels of the button for boxes; page.css shows the one that applies, and the width stays the same."""

BUTTONS: tuple[tuple[str, str, str, str], ...] = (
    ("backward", "Back", "←", "flat"),
    ("reject", "Reject", "R", "outline"),
    ("edit", "Edit", "E", "outline"),
    ("accept", "Accept", "A", "unelevated"),
    ("forward", "Next", "→", "flat"),
    ("undo", "Undo", "U", "flat"),
    ("boxes", BOXES_LABEL, "B", "flat"),
    ("help", "Help", "?", "flat"),
)
"""The action, label, key and style of each button at the bottom."""
EDITING_BUTTONS: tuple[tuple[str, str, str, str], ...] = (
    ("cancel", "Cancel", "Esc", "flat"),
    ("save", "Save and accept", "Ctrl Enter", "unelevated"),
    ("boxes", BOXES_LABEL, "", "flat"),
)
"""The buttons that replace them while a summary is edited; B types a letter then."""

HELP: tuple[tuple[str, str], ...] = (
    ("A", "accept the current summary and go to the next sample"),
    ("E", "edit the summary; Ctrl Enter saves and accepts it, Esc cancels"),
    ("R", "reject the sample: it will not be in the data set"),
    ("U", "undo your last decision; repeat to undo earlier ones (also Ctrl Z)"),
    ("→ J", "go to the next sample"),
    ("← K", "go to the previous sample"),
    ("N", "show undecided samples"),
    ("B", "hide or show the boxes on the image"),
    ("1 … 9", "flag the first, second … box as wrong, or take the flag back; a click on the box does the same"),
    ("?", "show this help"),
)


class ReviewPage:
    """The page in one browser tab."""

    def __init__(self, review: ReviewQueue, session: Session, image_url: ImageUrl, next_step: str) -> None:
        """Create the elements of the page.

        Args:
            review: The queue, shared by all pages.
            session: The session of this page.
            image_url: Returns the URLs of images.
            next_step: What to do after the review.
        """
        self._review, self._session, self._image_url, self._next_step = review, session, image_url, next_step
        self._num_lines_shown = -1
        self._actions: Mapping[str, Callable[[], str | None]] = {
            "accept": session.accept,
            "reject": session.reject,
            "undo": session.undo,
            "forward": lambda: None if session.forward() else "This is the last sample.",
            "backward": lambda: None if session.backward() else "This is the first sample.",
            "edit": self._open_editor,
            "undecided": lambda: session.set_filters("undecided", NO_FLAG_FILTER),
            "help": self._show_help,
        }
        self._add_header()
        with ui.element("main").classes("columns"):
            self._image = ui.html(sanitize=False, tag="section").classes("image-column")
            with ui.element("section").classes("text-column"):
                with ui.element("div").classes("summary-area"):
                    self._summary = ui.html(sanitize=False)
                    self._editor = ui.textarea().props("outlined autogrow aria-label=Summary").classes("editor")
                self._details = ui.html(sanitize=False)
        self._buttons, self._editing_buttons = _add_buttons(BUTTONS), _add_buttons(EDITING_BUTTONS)
        self._show_editor(None)
        self._help = _add_help()
        ui.on("review", self._handle_action)
        ui.timer(POLL_SECONDS, self._poll)
        self._refresh()

    def _add_header(self) -> None:
        with ui.element("header").classes("top"):
            ui.label(self._review.name).classes("title")
            reviewer = ui.label(self._session.reviewer).classes("muted")
            reviewer.tooltip("The reviewer. To change it, add ?reviewer=NAME to the address.")
            select = "dense outlined options-dense"
            self._state_select = ui.select({}, label="State", on_change=self._apply_filters).props(select)
            self._flag_select = ui.select({}, label="Flag", on_change=self._apply_filters).props(select)
            self._progress = ui.html(sanitize=False).classes("grow")

    def _handle_action(self, event: GenericEventArguments) -> None:
        """Carry out the action of a key or a button, unless the page has changed since the browser sent it."""
        args: Mapping[str, Any] = event.args
        action, is_editing = str(args.get("action")), self._editor.visible
        try:
            self._review.catch_up()
            if args.get("version") != self._session.version:
                message = CONFLICT_MESSAGE if args.get("sample") == self._sample_id else None
            elif is_editing:
                message = self._close_editor(action, str(args.get("text")))
            elif action.startswith(BOX_ACTION):
                message = self._session.toggle_box(action.removeprefix(BOX_ACTION))
            else:
                message = self._actions[action]() if action in self._actions else None
        except DataError as error:
            message = str(error)
        if message is not None:
            ui.notify(message, position="top", type="warning")
        self._refresh()

    def _close_editor(self, action: str, text: str) -> str | None:
        if action not in ("save", "cancel"):
            return "Save or cancel the edit first."
        sample_id = self._sample_id
        message = self._session.edit(text) if action == "save" else None
        if message is None:
            self._show_editor(None)
            ui.run_javascript(f"reviewDiscardDraft({json.dumps(sample_id)})")
        else:
            ui.run_javascript("editor()?.focus()")
        return message

    def _open_editor(self) -> str | None:
        if self._session.current is None:
            return "There is no sample to edit."
        self._show_editor(self._session.summary or "")
        ui.run_javascript("setTimeout(reviewRestoreDraft)")
        return None

    def _show_editor(self, text: str | None) -> None:
        """Show the editor with a text in place of the summary and the buttons; None hides it."""
        self._editor.set_value(text or "")
        for element in (self._editor, self._editing_buttons):
            element.set_visibility(text is not None)
        for element in (self._summary, self._buttons):
            element.set_visibility(text is None)

    def _show_help(self) -> None:
        self._help.open()

    def _apply_filters(self) -> None:
        """Apply the values of the selections, unless `_update_selections` has set them."""
        selected = (self._state_select.value, self._flag_select.value)
        if selected != (self._session.state_filter, self._session.flag_filter) and None not in selected:
            self._session.set_filters(*selected)
            ui.run_javascript("document.activeElement?.blur()")
            self._refresh()

    def _poll(self) -> None:
        try:
            self._review.catch_up()
        except DataError as error:
            ui.notify(str(error), position="top", type="negative")
        if self._review.num_lines != self._num_lines_shown:
            self._refresh()

    @property
    def _sample_id(self) -> str:
        current = self._session.current
        return "" if current is None else current.sample.id

    def _refresh(self) -> None:
        if self._session.current is None:
            self._session.forward()  # Another reviewer may have undone a decision.
        counts = self._review.count_states()
        self._num_lines_shown = self._review.num_lines
        self._progress.set_content(render_progress(self._session, counts))
        if self._session.current is None:
            self._image.set_content(render_empty(self._session, counts, self._next_step))
            self._summary.set_content("")
            self._details.set_content("")
        else:
            html = render_sample(self._session, self._image_url)
            self._image.set_content(html.image)
            self._summary.set_content(html.summary)
            self._details.set_content(html.details)
        self._update_selections(counts)
        self._update_address()

    def _update_selections(self, counts: Mapping[StateFilter, int]) -> None:
        states = {state: f"{state} ({counts[state]:,})" for state in STATE_FILTERS}
        flags = {NO_FLAG_FILTER: "any or none"}
        flags |= {flag: f"{flag} ({number:,})" for flag, number in self._review.flags.items()}
        if self._review.flags:
            flags[ANY_FLAG] = "any flag"
        # The last flag of this kind may have been taken back.
        flags.setdefault(self._session.flag_filter, f"{self._session.flag_filter} (0)")
        self._state_select.set_options(states, value=self._session.state_filter)
        self._flag_select.set_options(flags, value=self._session.flag_filter)

    def _update_address(self) -> None:
        """Store the reviewer, the filters and the sample in the address, so that a reload restores them."""
        session = self._session
        parameters = {
            "reviewer": session.reviewer,
            "show": session.state_filter,
            "flag": session.flag_filter,
            "sample": self._sample_id,
        }
        address = "?" + urlencode({name: value for name, value in parameters.items() if value})
        ui.run_javascript(f"reviewUpdateAddress({json.dumps(address)})")


def _add_buttons(buttons: Sequence[tuple[str, str, str, str]]) -> ui.element:
    with ui.element("nav").classes("actions") as nav:
        for action, label, key, style in buttons:
            # No colour of NiceGUI's: none of them is readable in both light and dark mode.
            button = ui.button(color=None).props(f"no-caps {style}").classes(f"action {action}")
            with button.on("click", js_handler=f"(event) => reviewAction('{action}', event)"):
                ui.html(label + (f"<kbd>{key}</kbd>" if key else ""), sanitize=False, tag="span")
    return nav


def _add_help() -> ui.dialog:
    rows = "".join(
        f"<tr><td>{' '.join(f'<kbd>{key}</kbd>' for key in keys.split())}</td><td>{effect}</td></tr>"
        for keys, effect in HELP
    )
    with ui.dialog() as dialog, ui.card().classes("key-list"):
        ui.html(f"<table>{rows}</table>", sanitize=False)
        ui.label("Every decision is saved to disk before the next sample appears. Closing the page loses nothing.")
    return dialog
