"""Turns what pydantic finds into problems with a place and a suggestion."""

from __future__ import annotations

from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from runner.errors import Problem, SpecPath
from runner.registry import nearest
from runner.spec.tree import Mark, Tree
from runner.stages import descriptions


def problems_of(error: ValidationError, model: type[BaseModel], tree: Tree, above: SpecPath) -> list[Problem]:
    """List the problems of a validation error.

    Args:
        error: From `model.model_validate`.
        model: Whose fields are the valid names.
        tree: Where the values were written.
        above: The place in the spec that was validated.
    """
    return [_problem(details, model, tree, above) for details in error.errors(include_url=False)]


def _problem(details: Any, model: type[BaseModel], tree: Tree, above: SpecPath) -> Problem:
    path = _in_tree((*above, *details["loc"]), tree, keep_last=details["type"] == "missing")
    mark = tree.mark(path) or Mark("spec")
    return mark.problem(_message(details, model, len(above)), path)


def _in_tree(path: SpecPath, tree: Tree, *, keep_last: bool) -> SpecPath:
    """Leave out the parts that pydantic adds for unions and tagged types; a missing key is kept."""
    known: SpecPath = ()
    for part in path:
        if (*known, part) in tree.marks:
            known = (*known, part)
    return (*known, path[-1]) if keep_last and path and known[-1:] != path[-1:] else known


def _message(details: Any, model: type[BaseModel], depth: int) -> str:
    kind, location, given = details["type"], details["loc"], details.get("input")
    if kind == "extra_forbidden":
        return f"unknown key {str(location[-1])!r}{nearest(str(location[-1]), _names(model, location[:-1]))}"
    if kind == "missing":
        return f"is missing{_described(model, location)}"
    if kind in {"literal_error", "enum"}:
        expected = [part.strip("' ") for part in details["ctx"]["expected"].replace(" or ", ",").split(",")]
        return f"{given!r} is not valid{nearest(str(given), expected)}"
    if kind == "union_tag_invalid":
        tags = [part.strip("' ") for part in details["ctx"]["expected_tags"].split(",")]
        return f"{details['ctx']['tag']!r} is not valid{nearest(details['ctx']['tag'], tags)}"
    if kind == "union_tag_not_found":
        return "needs a `type` that says which it is, such as {type: random}"
    message = details["msg"].removeprefix("Value error, ").removeprefix("Assertion failed, ")
    lowered = message[:1].lower() + message[1:]
    shown = given is not None and not isinstance(given, dict | list) and kind != "value_error"
    return f"{lowered}, not {_short(given)}" if shown else lowered


def _short(value: Any) -> str:
    text = repr(str(value) if isinstance(value, str) else value)
    return text if len(text) <= 60 else text[:57] + "…"


def _names(model: type[BaseModel], location: tuple[Any, ...]) -> list[str]:
    """The valid keys at a place: the fields of the model that a validation of `model` meets there."""
    found = _model_at(model, location)
    return list(found.model_fields) if found else []


def _described(model: type[BaseModel], location: tuple[Any, ...]) -> str:
    owner = _model_at(model, location[:-1])
    told = descriptions(owner).get(str(location[-1])) if owner else None
    return f": {told}" if told else ""


def _model_at(model: type[BaseModel], location: tuple[Any, ...]) -> type[BaseModel] | None:
    if not location:
        return model
    field = model.model_fields.get(str(location[0]))
    if field is None:
        return None
    rest = location[1:]
    models = _models_in(field.annotation)
    by_name = [each for each in models if rest and rest[0] in {each.__name__, *_tags(each)}]
    if by_name:
        return _model_at(by_name[0], rest[1:])
    for each in models:
        # A key or an index of a container stands between the field and the model inside it.
        found = _model_at(each, rest) or (_model_at(each, rest[1:]) if rest else None)
        if found is not None:
            return found
    return None


def _tags(model: type[BaseModel]) -> tuple[Any, ...]:
    """What `type` may say where the model is one of several."""
    field = model.model_fields.get("type")
    return get_args(field.annotation) if field else ()


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [found for each in get_args(annotation) for found in _models_in(each)]
