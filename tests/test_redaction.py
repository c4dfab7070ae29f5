"""Passwords are removed from URLs, and nothing else is changed."""

import json
import re
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import make_url

from runner.redaction import (
    has_password,
    redact_override,
    redact_passwords,
    redact_tree,
    redact_value,
    redact_yaml,
    without_api_keys,
    worker_environment,
)

SECRET = st.text("abcXYZ019%@:;.,+-_~!$&()*=?#[]{}|^`", min_size=12)
DATABASE_SECRET = st.text("abcXYZ019%:;.,+-_~!$&()*=?#[]{}|^`/'\"\\ <>", min_size=12)
"""SQLAlchemy ends a password at an `@`, which must be escaped; anything else may be in it."""


@pytest.mark.parametrize(
    ("text", "redacted"),
    [
        ("postgresql://ann:s3cret@db:5432/mlflow", "postgresql://ann@db:5432/mlflow"),
        ("postgresql+psycopg2://ann:p@ss@db/mlflow", "postgresql+psycopg2://ann@db/mlflow"),
        ("postgresql://db/mlflow?user=ann&password=s3cret&x=1", "postgresql://db/mlflow?user=ann&password=&x=1"),
        ("https://ann:s3cret@host/path", "https://host/path"),
        ("https://dapi123@host", "https://host"),
        ("two: http://a:b@c and mysql://d:e@f/g.", "two: http://c and mysql://d@f/g."),
        ("postgresql://ann:p/a's@db/mlflow", "postgresql://ann@db/mlflow"),
        ("postgresql://ann@example.org:p/a@db/mlflow", "postgresql://ann@example.org@db/mlflow"),
        ("https://ann:p/a's@host/path", "https://host/path"),
        ("https://[::1]:5000/@ann", "https://[::1]:5000/@ann"),
        ("https://host/x?Token=abc'/d&y=1", "https://host/x?Token=&y=1"),
        ("https://account.example/x?sv=1&sig=abc%2F", "https://account.example/x?sv=1&sig="),
        (
            "postgresql:///mlflow?host=/run&user=ann&password=s'3/cret",
            "postgresql:///mlflow?host=/run&user=ann&password=",
        ),
        (
            "mssql+pyodbc:///?odbc_connect=DRIVER%3D%7BODBC+18%7D%3BUID%3Dann%3BPWD%3D%7Bs%3B%7D%7D3%7D%3BServer%3Ddb",
            "mssql+pyodbc:///?odbc_connect=DRIVER%3D%7BODBC+18%7D%3BUID%3Dann%3BPWD%3D%3BServer%3Ddb",
        ),
        ("Driver={ODBC 18};Server=db;UID=ann;PWD={s;}}3'/ cret};x=1", "Driver={ODBC 18};Server=db;UID=ann;PWD=;x=1"),
        ("Driver={ODBC 18};UID=ann;pwd = s3cret", "Driver={ODBC 18};UID=ann;pwd = "),
        ("if password == given: return 1; x = 2", "if password == given: return 1; x = 2"),
        ("sqlite:////tmp/a@b/mlflow.db", "sqlite:////tmp/a@b/mlflow.db"),
        ("s3://bucket/a@b", "s3://bucket/a@b"),
        (
            "mail ann@example.org at 10:30, see http://host:5000/@ann",
            "mail ann@example.org at 10:30, see http://host:5000/@ann",
        ),
    ],
)
def test_passwords_are_removed_and_other_text_is_unchanged(text, redacted):
    assert redact_value(text) == redacted
    assert redact_value(redacted) == redacted
    assert has_password(text) == (text != redacted)
    if not re.search(r"[;'] ?", text):
        assert redact_passwords(f"see {text} there") == f"see {redacted} there"


@given(SECRET, st.sampled_from(["http", "postgresql", "mysql+pymysql"]), st.text())
def test_json_of_a_plan_contains_no_secret(secret, scheme, other):
    redacted = redact_tree({"uri": f"{scheme}://ann:{secret}@host/db", "other": [other]})
    assert secret not in redacted["uri"]
    assert redacted["uri"] == ("http://host/db" if scheme == "http" else f"{scheme}://ann@host/db")


@given(DATABASE_SECRET, st.sampled_from(["postgresql", "mysql+pymysql", "mssql+pyodbc"]))
def test_what_sqlalchemy_takes_for_the_password_is_removed(secret, scheme):
    text = f"{scheme}://ann:{secret}@host/db"
    assert make_url(text).password == unquote(secret)
    redacted = redact_value(text)
    assert redacted == f"{scheme}://ann@host/db"
    assert make_url(redacted).password is None


@given(st.text(min_size=1).filter(lambda secret: secret.strip()), st.sampled_from(["password", "PWD", "token"]))
def test_passwords_in_the_query_of_an_address_are_removed(secret, name):
    text = f"postgresql://db/mlflow?{urlencode({'user': 'ann', name: secret, 'x': '1'})}"
    assert dict(parse_qsl(urlsplit(text).query))[name] == secret
    redacted = redact_value(text)
    assert dict(parse_qsl(urlsplit(redacted).query)) == {"user": "ann", "x": "1"}
    assert redact_passwords(f"cannot open {text}: no") == f"cannot open {redacted}: no"


@given(SECRET.filter(lambda secret: "/" not in secret))
def test_what_urllib_takes_for_the_password_is_removed(secret):
    parts = urlsplit(redact_value(f"https://ann:{quote(secret)}@host/path"))
    assert (parts.username, parts.password, parts.hostname) == (None, None, "host")


@given(DATABASE_SECRET, st.sampled_from(["plain", "single", "double", "block", "flow"]), st.booleans())
def test_passwords_in_the_text_of_a_spec_are_removed_however_they_are_written(secret, style, with_comment):
    uri = f"postgresql://ann:{secret.strip() or 'x'}@host/db"
    written = {
        "plain": uri,
        "single": "'" + uri.replace("'", "''") + "'",
        "double": json.dumps(uri),
        "block": f"|-\n    {uri}",
        "flow": f"!!str {json.dumps(uri)}",
    }[style]
    text = f"name: é\ntracker:\n  uri: {written}\n  other: &a [1, x]\nagain: *a\n"
    try:
        values = yaml.safe_load(text)
    except yaml.YAMLError:
        return  # not a plain scalar
    if values["tracker"]["uri"] != uri:
        return  # the secret begins a comment
    redacted = redact_yaml(text)
    assert yaml.safe_load(redacted) == {**values, "tracker": {**values["tracker"], "uri": "postgresql://ann@host/db"}}


def test_passwords_in_comments_and_in_broken_specs_are_removed():
    text = "# uri: postgresql://ann:s3/cret@db/x\nname: [\n"
    assert redact_yaml(text) == "# uri: postgresql://ann@db/x\nname: [\n"


def test_passwords_in_overrides_are_removed():
    assert redact_override("tracker.uri=postgresql://a:p/'s@h/d") == "tracker.uri=postgresql://a@h/d"
    assert redact_override("trainer.epochs=1") == "trainer.epochs=1"


@pytest.mark.parametrize(
    ("text", "redacted"),
    [
        ('connect("Driver=x;PWD=s3cret;Server=db")', 'connect("Driver=x;PWD=;Server=db")'),
        ("Driver=x;PWD={a b;c}", "Driver=x;PWD="),
        ("password = ask()", "password = ask()"),
    ],
)
def test_odbc_strings_in_a_text(text, redacted):
    assert redact_passwords(text) == redacted


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


@pytest.mark.parametrize(
    "text",
    [
        *("x" * 1_000_000, "a://" * 250_000, "a://" + "b" * 1_000_000, "a:" * 500_000, "a://b:" * 100_000),
        *(";pwd={" * 5_000, "pwd={ " * 5_000, "pwd " * 200_000, ";" * 500_000, "a://?" + "x" * 500_000),
    ],
)
def test_long_line_takes_linear_time(text):
    assert redact_passwords(text) == text
