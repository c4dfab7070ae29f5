"""Passwords in addresses go nowhere, and nothing else is changed."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.secrets import for_workers, holds_password, without_passwords

SECRET = st.text("abcXYZ019%@:;.,+-_~!$&()*=?#[]{}|^`", min_size=12)


@pytest.mark.parametrize(
    ("written", "kept"),
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
def test_passwords_are_left_out_and_the_rest_stays(written, kept):
    assert without_passwords(written) == kept
    assert without_passwords(kept) == kept
    assert holds_password(written) == (written != kept)


@given(SECRET, st.sampled_from(["http", "postgresql", "mysql+pymysql"]), st.text())
def test_no_secret_survives_in_the_json_of_a_plan(secret, scheme, other):
    told = json.dumps({"uri": f"{scheme}://ann:{secret}@host/db", "other": other})
    shown = json.loads(without_passwords(told))
    assert secret not in shown["uri"]
    assert shown["uri"] == ("http://host/db" if scheme == "http" else f"{scheme}://ann@host/db")


def test_workers_get_no_keys_to_the_tracker_and_those_to_objects_where_they_need_them():
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
    assert set(for_workers(environment, with_cloud=False)) == {"PATH", "HF_TOKEN", "OPENAI_API_KEY"}
    kept = set(for_workers(environment, with_cloud=True))
    assert kept == {"PATH", "HF_TOKEN", "OPENAI_API_KEY", "AWS_SECRET_ACCESS_KEY", "MLFLOW_S3_ENDPOINT_URL"}


@pytest.mark.parametrize("text", ["x" * 1_000_000, "a://" * 250_000, "a://" + "b" * 1_000_000, "a:" * 500_000])
def test_a_long_line_is_read_in_time_that_grows_with_its_length(text):
    assert without_passwords(text) == text
