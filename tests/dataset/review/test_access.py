"""The review page answers requests with its token, whatever else a browser or another program sends."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from runner.dataset.review.access import NO_TOKEN, OTHER_ORIGIN, AccessMiddleware

TOKEN, PORT = "to-ken_1", 8321
COOKIE = f"runner-review-{PORT}={TOKEN}"


@pytest.fixture(scope="module")
def client():
    page = Starlette(routes=[Route("/", lambda request: PlainTextResponse("page"))])
    return TestClient(AccessMiddleware(page, TOKEN, PORT), base_url=f"http://localhost:{PORT}")


def answer(client, **headers):
    client.cookies.clear()
    return client.get("/", headers=headers).text


@pytest.mark.parametrize(
    "other",
    [
        'prefs={"a": 1, "b": [2]}',
        "greeting=hello world",
        "nameless",
        "a[b]=1",
        "me@here=1",
        'quote="x',
        "path=/",
        "=",
        "",
    ],
)
def test_cookies_of_other_servers_on_this_machine_do_not_hide_the_token(client, other):
    for cookies in (f"{other}; {COOKIE}", f"{COOKIE}; {other}"):
        assert answer(client, cookie=cookies) == "page"
    assert answer(client, cookie=other) == NO_TOKEN


@given(st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=30))
def test_only_the_own_origin_is_answered(client, origin):
    assert answer(client, cookie=COOKIE, origin=origin) == OTHER_ORIGIN
    assert answer(client, cookie=COOKIE, origin=f"http://{origin}") == OTHER_ORIGIN


@pytest.mark.parametrize(
    "origin", ["null", "http://[", "http://[x]", "http://other:8321", "http://localhost:8321@other"]
)
def test_another_origin_is_refused(client, origin):
    assert answer(client, cookie=COOKIE, origin=origin) == OTHER_ORIGIN


def test_the_own_origin_is_answered(client):
    assert answer(client, cookie=COOKIE, origin=f"http://localhost:{PORT}") == "page"
