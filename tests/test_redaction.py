"""Passwords are removed from URLs, and nothing else is changed."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.redaction import has_password, redact_passwords, without_api_keys, worker_environment

SECRET = st.text("abcXYZ019%@:;.,+-_~!$&()*=?#[]{}|^`", min_size=12)


@pytest.mark.parametrize(
    ("text", "redacted"),
    [
        ("postgresql://ann:s3cret@db:5432/mlflow", "postgresql://ann@db:5432/mlflow"),
        ("postgresql+psycopg2://ann:p@ss@db/mlflow", "postgresql+psycopg2://ann@db/mlflow"),
        ("postgresql://db/mlflow?user=ann&password=s3cret&x=1", "postgresql://db/mlflow?user=ann&password=&x=1"),
        ("https://ann:s3cret@host/path", "https://host/path"),
        ("https://dapi123@host", "https://host"),
        ("two: http://a:b@c and mysql://d:e@f/g.", "two: http://c and mysql://d@f/g."),
        ("sqlite:////tmp/a@b/mlflow.db", "sqlite:////tmp/a@b/mlflow.db"),
        ("s3://bucket/a@b", "s3://bucket/a@b"),
        (
            "mail ann@example.org at 10:30, see http://host:5000/@ann",
            "mail ann@example.org at 10:30, see http://host:5000/@ann",
        ),
    ],
)
def test_passwords_are_removed_and_other_text_is_unchanged(text, redacted):
    assert redact_passwords(text) == redacted
    assert redact_passwords(redacted) == redacted
    assert has_password(text) == (text != redacted)


@given(SECRET, st.sampled_from(["http", "postgresql", "mysql+pymysql"]), st.text())
def test_json_of_a_plan_contains_no_secret(secret, scheme, other):
    text = json.dumps({"uri": f"{scheme}://ann:{secret}@host/db", "other": other})
    redacted = json.loads(redact_passwords(text))
    assert secret not in redacted["uri"]
    assert redacted["uri"] == ("http://host/db" if scheme == "http" else f"{scheme}://ann@host/db")


def test_worker_environment_has_cloud_credentials_only_if_needed():
    environment = {
        "PATH": "/bin",
        "HF_TOKEN": "t",
        "OPENAI_API_KEY": "k",
        "MLFLOW_TRACKING_USERNAME": "ann",
        "MLFLOW_TRACKING_PASSWORD": "secret",
        "MLFLOW_TRACKING_TOKEN": "secret",
        "PGPASSWORD": "secret",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "MLFLOW_S3_ENDPOINT_URL": "http://minio",
    }
    assert set(worker_environment(environment, with_cloud=False)) == {"PATH", "HF_TOKEN"}
    names = set(worker_environment(environment, with_cloud=True))
    assert names == {"PATH", "HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "MLFLOW_S3_ENDPOINT_URL"}


def test_worker_environment_has_the_api_keys_that_are_needed():
    """A variable that a spec names is kept, whatever it is called; keys of other services are removed."""
    removed = {"OPENAI_API_KEY", "WANDB_API_KEY", "GROQ_APIKEY", "CHAT_KEY", "SOME_API_TOKEN", "Other_Api_Key_2"}
    kept = {"PATH", "HF_TOKEN", "TOKENIZERS_PARALLELISM", "KEYBOARD", "XDG_CACHE_HOME", "RAY_AUTH_TOKEN"}
    environment = dict.fromkeys(removed | kept, "k")
    assert set(worker_environment(environment, with_cloud=False)) == kept
    with_key = worker_environment(environment, with_cloud=False, keys=["CHAT_KEY"])
    assert set(with_key) == kept | {"CHAT_KEY"}
    assert set(without_api_keys({**environment, "MLFLOW_FLASK_SERVER_SECRET_KEY": "k"})) == {
        *kept, "MLFLOW_FLASK_SERVER_SECRET_KEY",
    }  # fmt: skip


@pytest.mark.parametrize("text", ["x" * 1_000_000, "a://" * 250_000, "a://" + "b" * 1_000_000, "a:" * 500_000])
def test_long_line_takes_linear_time(text):
    assert redact_passwords(text) == text
