"""Which environment variables go to which address is listed, and keys of other services are warned about."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.preflight.sent_variables import _doubt, find_sent_variables
from runner.spec.dataset_spec import DatasetSpec
from runner.spec.load import load, load_spec

SPEC = """\
name: served
data: {type: synthetic, path: data, train: 40, test: 6}
adapter: {type: pfa, tasks: [ner]}
model: none
trainer: none
generator: {type: openai_compatible, model: m, base_url: "https://models.example/v1", api_key_env: CHAT_KEY}
metrics: [{type: ner_f1}]
tracker: {type: mlflow}
"""
BUILD = """\
name: built
source: {type: json_lines, path: "${env:CORPUS}"}
annotator: {type: openai_compatible, model: m, prompt: "What is ${env:AWS_SESSION_TOKEN}?"}
output: out
"""


@pytest.fixture
def sent(tmp_path):
    def sent(text, *overrides, kind=None):
        (tmp_path / "spec.yaml").write_text(text)
        file = tmp_path / "spec.yaml"
        return find_sent_variables(load(file, kind, overrides) if kind else load_spec(file, overrides))

    return sent


def test_the_key_of_a_server_is_listed_with_its_address(sent):
    [variable] = sent(SPEC)
    assert variable.as_json() == {
        "path": "generator",
        "variable": "CHAT_KEY",
        "address": "https://models.example/v1",
        "warning": None,
    }
    assert "CHAT_KEY (generator) is sent to https://models.example/v1" in str(variable)
    assert sent(SPEC, "generator.api_key_env=null") == []


@pytest.mark.parametrize(
    ("name", "address", "warns"),
    [
        ("AWS_SECRET_ACCESS_KEY", "https://models.example/v1", True),
        ("HF_TOKEN", "https://models.example/v1", True),
        ("HF_TOKEN", "https://router.huggingface.co/v1", False),
        ("OPENAI_API_KEY", "https://api.openai.com/v1", False),
        ("OPENAI_API_KEY", "https://api.openai.com.example/v1", True),
        ("OPENAI_API_KEY", "https://notopenai.com/v1", True),
        ("openai_api_key", "http://127.0.0.1:8000/v1", True),
        ("PGPASSWORD", "https://models.example/v1", True),
        ("MLFLOW_TRACKING_TOKEN", "https://models.example/v1", True),
        ("CHAT_KEY", "https://models.example/v1", False),
        ("VLLM_BEARER", "https://models.example/v1", False),
        ("HOME", "https://models.example/v1", True),
        ("DATABASE_URL", "https://models.example/v1", True),
        ("CHAT_KEY", "http://models.example/v1", True),
        ("CHAT_KEY", "http://localhost:8000/v1", False),
        ("CHAT_KEY", "http://[::1]:8000/v1", False),
    ],
)
def test_a_key_of_another_service_or_an_open_connection_is_warned_about(sent, name, address, warns):
    [variable] = sent(SPEC, f"generator.api_key_env={name}", f"generator.base_url={address}")
    assert bool(variable.warning) == warns


@given(st.text(max_size=30), st.sampled_from(["http", "https"]))
def test_any_host_has_an_answer(host, scheme):
    assert _doubt("CHAT_KEY", f"{scheme}://host/{host}") is None or scheme == "http"


def test_variables_in_prompts_and_paths(sent, monkeypatch):
    monkeypatch.setenv("CORPUS", "corpus.jsonl")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "secret")
    monkeypatch.setenv("HF_TOKEN", "secret")
    key, prompt = sent(BUILD, kind=DatasetSpec)
    assert (key.variable, key.warning) == ("OPENAI_API_KEY", None)
    assert (prompt.path, prompt.address) == ("annotator.prompt", "https://api.openai.com/v1")
    assert "does not belong into a spec" in prompt.warning
    _, stored = sent(SPEC, "name=a") + sent(SPEC.replace("path: data", 'path: "${env:HF_TOKEN}"'))[1:]
    assert (stored.path, stored.address) == ("data.path", None)
    assert "is stored in plans" in str(stored)


def test_every_arm_and_value_of_a_sweep_is_covered(sent):
    sweep = """\
sweep:
  arms: {here: {}, there: {generator.base_url: "https://other.example/v1"}}
  space: {generator.api_key_env: {choice: [CHAT_KEY, GITHUB_TOKEN]}}
  search: {type: grid}
"""
    found = {(variable.variable, variable.address) for variable in sent(SPEC + sweep)}
    assert found == {
        (name, f"https://{host}.example/v1") for name in ("CHAT_KEY", "GITHUB_TOKEN") for host in ("models", "other")
    }


def test_credentials_of_a_tracker_are_listed_if_they_are_set(sent, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_USERNAME", raising=False)
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "secret")
    text = SPEC.replace("{type: mlflow}", '{type: mlflow, uri: "https://tracker.example"}')
    assert [(found.variable, found.address) for found in sent(text)] == [
        ("CHAT_KEY", "https://models.example/v1"),
        ("MLFLOW_TRACKING_TOKEN", "https://tracker.example"),
    ]


def test_a_tracker_gets_the_variables_of_all_sections(sent, monkeypatch):
    """Every option of a plan is a parameter in the tracker."""
    monkeypatch.setenv("CORPUS", "data")
    monkeypatch.setenv("MODEL", "m")
    text = SPEC.replace("{type: mlflow}", '{type: mlflow, uri: "https://tracker.example"}')
    text = text.replace("path: data", 'path: "${env:CORPUS}"').replace("model: m,", 'model: "${env:MODEL}",')
    found = {(variable.path, variable.variable, variable.address) for variable in sent(text)}
    assert found == {
        ("generator", "CHAT_KEY", "https://models.example/v1"),
        ("data.path", "CORPUS", "https://tracker.example"),
        ("generator.model", "MODEL", "https://models.example/v1"),
        ("generator.model", "MODEL", "https://tracker.example"),
    }
