"""Unusual values of specs and metrics are stored once: in SQLite, on a server, in PostgreSQL."""

import json
import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mlflow import MlflowClient
from mlflow.utils.validation import _validate_param_name
from servers import Server, postgres

from plugins.tracker.mlflow import MlflowTracker
from plugins.tracker.mlflow_content import description, storable_text, valid_key
from plugins.tracker.mlflow_options import MlflowOptions
from runner.stages import DatasetInfo, TrackedRun

LONG = "x" * 20_000
ODD = {
    "long": LONG,
    "empty": "",
    "nul": "a\x00b",
    "half": "\ud83d",
    "emoji 🙂/ключ": "🙂\n'\"\\%",
    "a?": 1,
    "a*": 2,
    "a_": 3,
    "k" * 300: "one",
    "k" * 300 + "l": "other",
    "none": None,
    "many": list(range(5000)),
}


SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("server", "postgresql")]


@pytest.fixture(params=["sqlite", *SLOW])
def store(request, tmp_path, monkeypatch):
    """The URI of a store, and the folder of all runs."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/m.db", tmp_path / "runs"
    elif request.param == "server":
        server = Server(tmp_path)
        server.start()
        yield server.uri, tmp_path / "runs"
        server.kill()
    else:
        monkeypatch.setenv("PGPASSWORD", "p%w/d")
        with postgres() as uri:
            yield uri, tmp_path / "runs"


def run_of(folder, parameters):
    run_dir = folder / "demo" / "trial-01234567"
    run_dir.mkdir(parents=True)
    for name in ("spec.yaml", "plan.json", "events.jsonl"):
        (run_dir / name).write_text(json.dumps({"long": LONG}))
    dataset = DatasetInfo("mmre", "/data/é", "f" * 64, ("person",), {"train": 7, "test": 3})
    return TrackedRun(
        "demo", run_dir.name, "0" * 64, run_dir, parameters, dataset, run_dir / "spec.yaml", non_default=ODD
    )


def told(kind, step, second, **values):
    return {"time": f"2026-11-23T10:00:{second:02}.500+00:00", "kind": kind, "step": step, "values": values}


def test_unusual_values_are_stored_and_repeated_events_are_not_duplicated(store):
    uri, folder = store
    run = run_of(folder, {**ODD, **{f"group.{number}": number for number in range(2000)}})
    events = [
        told("metrics", 1, 1, loss=math.nan, grad=math.inf, odd=-math.inf, **{"f1/a?": 0.1, "f1/a*": 0.2}),
        told("system", 5, 5, cpu_utilization_percentage=12.5),
        told("metrics", None, 9, result=math.nan, other=math.inf),
    ]
    for _ in range(2):
        tracker = MlflowTracker(MlflowOptions(uri=uri), folder)
        run_id = tracker.start(run)
        tracker.log_events(events)
        tracker.log_events(events)
        tracker.log_events([told("metrics", None, 30, result=math.nan, other=math.inf)])
        tracker.finish("finished")
    client = MlflowClient(tracking_uri=uri.replace("postgresql:", "postgresql+psycopg2:"))
    assert len(client.search_runs([client.get_experiment_by_name("demo").experiment_id])) == 1
    data = client.get_run(run_id).data
    assert len(data.params) == 2000 + len(ODD), "no two became one"
    assert data.params["long"] == "x" * 5999 + "…" and data.params["empty"] == ""
    assert data.params["nul"] == "a\ufffdb" and data.params["half"] == "\ufffd"
    assert sorted(value for key, value in data.params.items() if key.startswith("a_")) == ["1", "2", "3"]
    assert data.params["group.1999"] == "1999"
    assert len(data.metrics) == 8 and math.isnan(data.metrics["loss"])
    assert data.metrics["grad"] == -data.metrics["odd"] > 1e308
    assert data.metrics["system/cpu_utilization_percentage"] == 12.5
    for key in data.metrics:
        assert len(client.get_metric_history(run_id, key)) == 1, key
    names = [entry.path for entry in client.list_artifacts(run_id)]
    assert sorted(names) == ["events.jsonl", "plan.json", "spec.yaml"]
    assert len(client.get_run(run_id).inputs.dataset_inputs) == 2


@given(st.lists(st.text(max_size=300), unique=True))
def test_converted_names_are_valid_and_distinct(names):
    fitted = [valid_key(name) for name in names]
    assert len(set(fitted)) == len(names)
    for key in fitted:
        _validate_param_name(key)
        assert len(key) <= 250


@given(st.text(st.characters(), max_size=60))
def test_converted_texts_can_be_stored_everywhere(text):
    fitted = storable_text(text, 50)
    assert len(fitted) <= 50 and "\x00" not in fitted
    fitted.encode()


@given(st.text(max_size=60))
def test_values_in_a_description_are_code_in_one_cell(value):
    row = description({"a": value}, {"a"}).splitlines()[4]
    cell = row.removeprefix("| `a` | ").removesuffix(" |")
    assert row == f"| `a` | {cell} |"
    shown = " ".join(value.replace("\x00", "").split())
    if not shown:
        return
    fence = re.match("`+", cell)[0]
    inside = cell[len(fence) : -len(fence)]
    assert cell == fence + inside + fence
    assert fence not in re.findall("`+", inside), "no run of backticks in the value ends the code"
    assert not re.search(r"(?<!\\)\|", inside)


@pytest.mark.parametrize(
    "value", ["[x](https://a.example)", "![x](https://a.example/p.png)", "<img src=x>", "**x**", "a``b`"]
)
def test_markdown_and_html_in_a_value_are_shown_as_text(value):
    cell = description({"a": value}, {"a"}).splitlines()[4].split(" | ", 1)[1]
    assert re.fullmatch(r"(`+) ?(.*?) ?\1 \|", cell)[2] == value


def test_a_description_lists_the_non_default_settings_within_the_limit():
    told = description({"seed": 1, "trainer.epochs": 3, "a|b": "x|y\nz"}, {"trainer.epochs", "a|b"})
    assert (
        told.splitlines()[2:]
        == ["| setting | value |", "|---|---|", "| `trainer.epochs` | `3` |", "| `a\\|b` | `x\\|y z` |"][:4]
    )
    many = {f"path.{number}": "v" * 300 for number in range(500)}
    assert len(description(many, set(many))) <= 8000
