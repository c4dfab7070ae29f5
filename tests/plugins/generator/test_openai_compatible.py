"""Requests to a local server, and the handling of its answers, refusals and failures."""

import asyncio
import base64
import gc
import gzip
import io
import json
import threading
import time
from urllib.parse import urlsplit

import httpx2
import pytest
from chat_server import completion, drip, failure, question, serving, stall
from hypothesis import given
from hypothesis import strategies as st
from openai import AsyncOpenAI
from PIL import Image
from pydantic import ValidationError

from plugins.generator.openai_compatible import OpenAICompatibleGenerator
from plugins.servers.openai_generator_and_annotator_options import OpenAIGeneratorOptions
from runner.errors import DataError, RequirementError, StepError
from runner.records import ImagePart, Rendered, TextPart
from runner.stages import StopRequestedError

KEY = "sk-very-secret"


@pytest.fixture(autouse=True)
def key(monkeypatch):
    monkeypatch.setenv("CHAT_KEY", KEY)


@pytest.fixture
def ask(recorder):
    """A function that asks a server; its reporter is kept as `ask.reporter`, its answers as `ask.answers`."""

    def ask(server, prompts, done=(), reporter=None, **options):
        ask.reporter, ask.answers = reporter or recorder(), []
        given = {"model": "m", "base_url": server.url, "api_key_env": "CHAT_KEY", "max_retries": 2, **options}
        generator = OpenAICompatibleGenerator(OpenAIGeneratorOptions(**given))
        for answer in generator.generate(None, prompts, frozenset(done), ask.reporter):
            ask.answers.append(answer)
        return {answer.id: answer for answer in ask.answers}

    return ask


def texts(number):
    return [Rendered(f"s{place}", (TextPart(f"Question {place}"),)) for place in range(number)]


def echo(body, before):
    return completion(question(body).replace("Question", "Answer"))


def test_every_prompt_is_answered_once_with_limited_concurrency(ask):
    gate = threading.Barrier(3, timeout=20)

    def together(body, before):
        gate.wait()
        return echo(body, before)

    with serving(together) as server:
        answers = ask(server, texts(9), concurrency=3)
    assert {key: answer.output for key, answer in answers.items()} == {f"s{n}": f"Answer {n}" for n in range(9)}
    assert all(answer.finished for answer in answers.values())
    assert len(server.requests) == 9
    assert server.max_concurrent == 3
    assert ask.reporter.shown[0][:2] == (0, 9)
    assert ask.reporter.shown[-1][:2] == (9, 9)
    assert ask.reporter.shown[-1][2]["samples_per_second"] > 0


def test_request_has_prompt_images_and_solved_examples(ask, draw):
    picture, photo = draw(8, 6, "a.png", "RGB"), draw(4, 2, "b.jpg")
    solved = Rendered("e", (ImagePart(photo), TextPart("Solved?")), "Yes: {'a': \"it's\"}")
    prompt = Rendered("s", (TextPart("a:"), ImagePart(picture), TextPart("Who? <|im_end|>")), examples=(solved,))
    with serving(lambda body, before: completion("Ada")) as server:
        ask(server, [prompt], max_new_tokens=77)
    (body,) = server.requests
    assert server.authorizations == [f"Bearer {KEY}"]
    shown, answered, asked = body.pop("messages")
    assert body == {"model": "m", "temperature": 0.0, "max_tokens": 77}
    assert (shown["role"], answered, asked["role"]) == (
        "user",
        {"role": "assistant", "content": "Yes: {'a': \"it's\"}"},
        "user",
    )
    assert asked["content"][0] == {"type": "text", "text": "a:"}
    assert asked["content"][2] == {"type": "text", "text": "Who? <|im_end|>"}
    assert inlined(asked["content"][1]) == ("image/png", picture.read_bytes())
    assert inlined(shown["content"][0]) == ("image/jpeg", photo.read_bytes())


def inlined(part):
    assert part["type"] == "image_url"
    kind, _, content = part["image_url"]["url"].removeprefix("data:").partition(";base64,")
    return kind, base64.b64decode(content)


@pytest.mark.parametrize("suffix", ["bmp", "jpg"])
def test_rotated_or_unsupported_image_is_sent_as_png(ask, tmp_path, suffix):
    turned = Image.new("RGB", (8, 6), "red")
    turned.putpixel((0, 0), (0, 0, 255))
    exif = Image.Exif()
    if suffix == "jpg":
        exif[0x0112] = 6
    turned.save(tmp_path / f"p.{suffix}", exif=exif)
    with serving(lambda body, before: completion("")) as server:
        ask(server, [Rendered("s", (ImagePart(tmp_path / f"p.{suffix}"),))])
    kind, content = inlined(server.requests[0]["messages"][0]["content"][0])
    assert kind == "image/png"
    with Image.open(io.BytesIO(content)) as sent:
        assert sent.size == ((6, 8) if suffix == "jpg" else (8, 6))


def test_unreadable_image_error_names_the_sample(ask, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"no picture")
    with serving(echo) as server, pytest.raises(DataError, match=r"sample s: image .*broken\.png cannot be used"):
        ask(server, [Rendered("s", (ImagePart(tmp_path / "broken.png"),))])
    assert server.requests == []


@pytest.mark.parametrize(
    ("reply", "output", "finished"),
    [
        (completion("half an ans", "length"), "half an ans", False),
        (completion(None), "", True),
        (completion("", "content_filter"), "", True),
        (completion("<think>no</think>", "content_filter"), "", True),
        (completion("ends in \u2028 and  "), "ends in \u2028 and  ", True),
        (failure(400, "not this picture", "content_policy_violation"), "", True),
    ],
)
def test_truncated_empty_and_refused_answers_are_kept(ask, reply, output, finished):
    with serving(lambda body, before: reply) as server:
        (answer,) = ask(server, texts(1)).values()
    assert (answer.output, answer.finished) == (output, finished)
    assert bool(ask.reporter.warnings) == (not output)
    assert all("s0" in warning for warning in ask.reporter.warnings)


@pytest.mark.parametrize("status", [429, 500, 503])
def test_transient_failures_are_retried(ask, status):
    with serving(lambda body, before: failure(status) if before < 2 else echo(body, before)) as server:
        answers = ask(server, texts(3), concurrency=2)
    assert len(answers) == 3
    assert len(server.requests) == 9


def test_stalled_request_is_retried(ask):
    with serving(lambda body, before: stall(6, echo(body, 0)) if not before else echo(body, 1)) as server:
        answers = ask(server, texts(2), timeout=2)
    assert len(answers) == 2
    assert len(server.requests) == 4


@pytest.mark.parametrize(
    ("reply", "kind", "told"),
    [
        (failure(500, f"broke on {KEY}"), StepError, "failed: .*broke on \\*\\*\\*"),
        (failure(429, "slow down"), StepError, "limits the rate after 2 retries: .*slow down.*lower the concurrency"),
        (failure(404, "no model m"), StepError, "failed: .*no model m"),
        (failure(401, f"bad key {KEY}"), RequirementError, "refused the key in CHAT_KEY: .*bad key \\*\\*\\*"),
        ((200, {"hello": "there"}, {}), StepError, "answered without a completion.*`/v1` included"),
    ],
)
def test_permanent_failure_keeps_answers_and_can_be_resumed(ask, reply, kind, told):
    with serving(lambda body, before: reply if "4" in question(body) else echo(body, before)) as server:
        with pytest.raises(kind, match=told) as caught:
            ask(server, texts(9), concurrency=1)
        assert KEY not in str(caught.value)
        assert [answer.id for answer in ask.answers] == ["s0", "s1", "s2", "s3"]
    with serving(echo) as server:
        rest = ask(server, texts(9), done=["s0", "s1", "s2", "s3"])
    assert set(rest) == {"s4", "s5", "s6", "s7", "s8"}
    assert len(server.requests) == 5


def test_unreachable_server_is_an_error(ask):
    with serving(echo) as server:
        pass
    with pytest.raises(StepError, match=r"sample s\d: http://127\.0\.0\.1:\d+/v1 cannot be reached"):
        ask(server, texts(9), max_retries=0)


def test_one_of_several_simultaneous_failures_is_reported(ask, caplog, monkeypatch):
    close = AsyncOpenAI.close

    async def late(client):
        await asyncio.sleep(0.5)  # long enough for the others to fail meanwhile
        await close(client)

    monkeypatch.setattr(AsyncOpenAI, "close", late)
    broken = serving(lambda body, before: stall(0.02 * int(question(body)[-1]), failure(500)))
    with broken as server, pytest.raises(StepError):
        ask(server, texts(9), max_retries=0, concurrency=9)
    gc.collect()  # asyncio tells of failures that nobody heard when it forgets them.
    assert caplog.text == ""


def test_stop_request_cancels_pending_requests(ask, recorder):
    release = threading.Event()

    def some(body, before):
        return echo(body, before) if question(body) in {"Question 0", "Question 1"} else stalled(body)

    def stalled(body):
        release.wait(20)
        return echo(body, 0)

    with serving(some) as server:
        with pytest.raises(StopRequestedError):
            ask(server, texts(9), concurrency=2, reporter=recorder(stop_after=2))
        release.set()
    assert sorted(answer.id for answer in ask.answers) == ["s0", "s1"]
    assert len(server.requests) <= 4


def test_missing_key_is_an_error_before_any_request(monkeypatch):
    monkeypatch.delenv("CHAT_KEY")
    with pytest.raises(RequirementError, match=r"CHAT_KEY is not set.*`api_key_env: null`"):
        OpenAICompatibleGenerator(OpenAIGeneratorOptions(model="m", api_key_env="CHAT_KEY"))


def test_server_without_keys_gets_no_key_from_the_environment(ask, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with serving(echo) as server:
        ask(server, texts(1), api_key_env=None)
    assert server.authorizations == ["Bearer none"]


@pytest.mark.parametrize(
    "url",
    [
        "https://me:secret@host/v1",
        "http://host/v1?key=secret",
        "host:8000/v1",
        "ftp://host",
        "",
        "http://:8000/v1",
        "http://host:port/v1",
        "http://[::1]x/v1",
        "http://[::1/v1",
        "http://[::g]/v1",
        "http://[1.2]/v1",
        "http://host/v1#fragment",
        "http://two words/v1",
        "http://two\nlines/v1",
        "https://models.example\\.openai.com/v1",
        "https://models.example%2f.openai.com/v1",
        "https://models.example;.openai.com/v1",
        "http://h\u00f6st/v1",
    ],
)
def test_base_url_must_be_plain(url):
    with pytest.raises(ValidationError, match=r"must be a URL|must not contain a user"):
        OpenAIGeneratorOptions(model="m", base_url=url)


def test_key_is_not_part_of_the_options(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    options = OpenAIGeneratorOptions(model="m")
    OpenAICompatibleGenerator(options)
    assert KEY not in json.dumps(options.model_dump(mode="json"))


def changed(**changes):
    """A completion whose message, or whose body, has other values."""
    _, body, _ = completion("Ada", tokens=(5, 1))
    body["choices"][0]["message"] |= changes.pop("message", {})
    return 200, {**body, **changes}, {}


@pytest.mark.parametrize(
    ("reply", "told"),
    [
        (changed(message={"content": 5}), "`content` is 5"),
        (changed(message={"content": {"text": "Ada"}}), "`content` is {'text': 'Ada'}"),
        (changed(message={"content": [{"type": "text", "text": 5}]}), "`content` has the part {'type': 'text'"),
        (changed(choices={"0": "Ada"}), "`choices` is {'0': 'Ada'}; a list"),
        (changed(choices=["Ada"]), "the first choice is 'Ada'"),
        (changed(choices=[]), "`choices` is empty"),
        ((200, [1], {}), "the answer is \\[1\\]"),
        ((200, b"<html>no</html>", {}), "it is not JSON .* begins with b'<html>no</html>'"),
        ((200, b"x", {"Content-Encoding": "br"}), "compressed as 'br'"),
        ((200, b"no gzip", {"Content-Encoding": "gzip"}), "cannot be unpacked"),
        ((200, b" " * 60_000, {}), "more than 50,000 bytes .max_response_bytes"),
        ((200, gzip.compress(b" " * 60_000), {"Content-Encoding": "gzip"}), "more than 50,000 bytes"),
    ],
)
def test_unreadable_answer_is_not_stored_and_others_are_kept(ask, reply, told):
    """The requests that were sent already are awaited, because they are paid for; no other one is sent."""
    gate = threading.Barrier(3, timeout=20)

    def answer(body, before):
        gate.wait()
        return reply if question(body) == "Question 1" else stall(0.3, echo(body, before))

    with serving(answer) as server:
        with pytest.raises(StepError, match=rf"generator: sample s1: .*{server.url}.*{told}.*not stored"):
            ask(server, texts(9), concurrency=3, max_response_bytes=50_000)
        assert sorted(answer.id for answer in ask.answers) == ["s0", "s2"]
        assert len(server.requests) == 3


@pytest.mark.parametrize("usage", [5, {"prompt_tokens": -5, "completion_tokens": True}, {"prompt_tokens": "7"}])
def test_answer_with_wrong_usage_is_kept_and_told(ask, usage):
    with serving(lambda body, before: changed(usage=usage)) as server:
        answers = ask(server, texts(3), tokens_per_minute=1_000_000)
    assert {answer.output for answer in answers.values()} == {"Ada"}
    [warning] = ask.reporter.warnings
    assert "3 of 3 answers report a number of tokens that cannot be right" in warning


def test_parts_halves_and_compressed_answers_are_read(ask):
    parts = [{"type": "text", "text": "A\ud83d"}, {"type": "text", "text": "da"}]
    content = gzip.compress(json.dumps(changed(message={"content": parts})[1]).encode())
    with serving(lambda body, before: (200, content, {"Content-Encoding": "gzip"})) as server:
        (answer,) = ask(server, texts(1)).values()
    assert answer.output == "A\ufffdda"
    assert "half of a character" in ask.reporter.warnings[0]


@pytest.mark.parametrize(("thinking", "output"), [("cut", "Ada"), ("flag", "<think>Who?</think>\nAda")])
def test_reasoning_is_cut_or_told(ask, thinking, output):
    with serving(lambda body, before: completion("<think>Who?</think>\nAda")) as server:
        (answer,) = ask(server, texts(1), thinking=thinking).values()
    assert answer.output == output
    assert bool(ask.reporter.warnings) == (thinking == "flag")


def test_empty_answers_are_counted(ask):
    with serving(lambda body, before: completion(None, "length") if before == 0 else echo(body, 0)) as server:
        answers = ask(server, texts(3))
    assert {answer.output for answer in answers.values()} == {""}
    [warning] = ask.reporter.warnings
    assert "3 of 3 answers have no text (finish reason 'length')" in warning
    assert "raise max_new_tokens" in warning


def test_timeout_bounds_the_whole_answer(ask):
    started = time.perf_counter()
    with serving(lambda body, before: drip(0.1, echo(body, before))) as server:
        with pytest.raises(StepError, match=r"sample s0: .* did not answer within 0\.5 seconds in any of 1 attempts"):
            ask(server, texts(1), timeout=0.5, max_retries=0)
        assert time.perf_counter() - started < 5


def test_the_wait_for_the_rate_limit_is_not_part_of_the_timeout(ask):
    with serving(echo) as server:
        assert len(ask(server, texts(3), timeout=0.5, requests_per_minute=60, max_retries=0)) == 3


def test_error_of_any_size_and_form_is_told(ask):
    body = {"error": {"message": "x" * 60_000, "code": ["content_filter"]}}
    with (
        serving(lambda _body, before: (400, body, {})) as server,
        pytest.raises(StepError, match=r"failed: ") as caught,
    ):
        ask(server, texts(1), max_response_bytes=50_000)
    assert len(str(caught.value)) < 1000
    with serving(lambda _body, before: (400, b"\x1b[31m red", {})) as server, pytest.raises(StepError) as caught:
        ask(server, texts(1))
    assert str(caught.value).isprintable()


def test_redirect_is_not_followed(ask):
    with serving(echo) as other:
        redirect = 307, b"", {"Location": f"{other.url}/chat/completions"}
        with (
            serving(lambda body, before: redirect) as server,
            pytest.raises(StepError, match="redirects to http") as caught,
        ):
            ask(server, texts(1))
    assert other.requests == []
    assert "base_url" in str(caught.value)


@pytest.mark.parametrize("key", ["two\nlines", "schlüssel", " "])
def test_key_that_no_request_can_hold_is_an_error(monkeypatch, key):
    monkeypatch.setenv("CHAT_KEY", key)
    with pytest.raises(RequirementError, match="CHAT_KEY") as caught:
        OpenAICompatibleGenerator(OpenAIGeneratorOptions(model="m", api_key_env="CHAT_KEY"))
    assert key not in str(caught.value) or not key.strip()


@given(st.text("ab.-_:/[]1%@?#\\\\ \u00fc", max_size=20))
def test_any_base_url_is_refused_or_names_one_host(rest):
    try:
        url = OpenAIGeneratorOptions(model="m", base_url=f"http://{rest}").base_url
    except ValidationError:
        return
    assert httpx2.URL(url).host == urlsplit(url).hostname.strip("[]")


@pytest.mark.parametrize("reply", [failure(400, "too long"), failure(401), (200, [1], {})])
def test_after_any_failure_sent_requests_are_awaited_and_no_more_are_sent(ask, reply):
    """A request that waits for the rate limit, or for its next attempt, is not sent any more."""
    gate = threading.Barrier(3, timeout=20)

    def answer(body, before):
        gate.wait()
        if question(body) == "Question 0":
            return reply
        return stall(0.5, failure(503, retry_after_ms="100") if question(body) == "Question 1" else echo(body, before))

    with serving(answer) as server:
        with pytest.raises((StepError, RequirementError), match=r"sample s0|refused the key"):
            ask(server, texts(9), concurrency=3)
        assert [answer.id for answer in ask.answers] == ["s2"]
        assert len(server.requests) == 3


def test_requests_that_wait_for_the_rate_limit_are_not_sent_after_a_failure(ask):
    with serving(lambda body, before: failure(400)) as server:
        with pytest.raises(StepError):
            ask(server, texts(9), concurrency=9, requests_per_minute=60)
        assert len(server.requests) == 1


@pytest.mark.parametrize("value", ["caf\u00e9", "a=b; expires=never"])
def test_headers_of_any_form_do_not_cost_an_answer(ask, value):
    _, body, _ = completion("Ada")
    headers = {"Server": value, "Set-Cookie": value, "Content-Encoding": ""}
    with serving(lambda _body, before: (200, body, headers)) as server:
        assert [answer.output for answer in ask(server, texts(1)).values()] == ["Ada"]


@pytest.mark.parametrize("charset", ["rot13", "undefined", "idna", "no-such-charset"])
def test_character_set_of_an_error_is_not_used(ask, charset):
    headers = {"Content-Type": f"text/html; charset={charset}"}
    told = pytest.raises(StepError, match="failed: Error code: 400 no such model")
    with serving(lambda body, before: (400, b"no such model", headers)) as server, told:
        ask(server, texts(1))


def test_failure_whose_content_cannot_be_unpacked_is_retried(ask):
    unreadable = 502, b"no gzip", {"Content-Encoding": "gzip", "retry-after-ms": "5"}
    with serving(lambda body, before: echo(body, 1) if before else unreadable) as server:
        assert len(ask(server, texts(1))) == 1


@pytest.mark.parametrize(
    "reply",
    [
        (200, f"Authorization: Bearer {KEY}".encode(), {}),
        (200, b"x" * 90 + KEY.encode(), {}),
        (200, {"headers": {"Authorization": f"Bearer {KEY}"}}, {}),
        (302, b"", {"Location": f"http://host/?key={KEY}"}),
        (400, f"Authorization: Bearer {KEY}".encode(), {}),
    ],
)
def test_key_that_a_server_repeats_is_not_shown(ask, reply):
    with serving(lambda body, before: reply) as server, pytest.raises(StepError) as caught:
        ask(server, texts(1))
    assert not any(KEY[:length] in str(caught.value) for length in range(6, len(KEY) + 1))


def test_only_the_key_is_sent_of_the_environment(ask, monkeypatch):
    seen = []
    monkeypatch.setenv("OPENAI_ORG_ID", "org-private")
    monkeypatch.setenv("OPENAI_PROJECT_ID", "project-private")
    monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", "X-Secret: private\nauthorization: Bearer private")
    send = httpx2.AsyncClient.send

    async def record(client, request, **arguments):
        seen.append(request)
        return await send(client, request, **arguments)

    monkeypatch.setattr(httpx2.AsyncClient, "send", record)
    with serving(lambda body, before: (*completion("Ada")[:2], {"Set-Cookie": "a=b"})) as server:
        ask(server, texts(2), concurrency=1)
    assert server.authorizations == [f"Bearer {KEY}"] * 2
    for request in seen:
        assert "private" not in str(request.headers.raw)
        assert "cookie" not in request.headers


@pytest.mark.parametrize(
    ("name", "value"),
    [("all_proxy", "ftp://127.0.0.1:1"), ("HTTP_PROXY", "ftp://127.0.0.1:1"), ("SSL_CERT_FILE", "/no/such/file")],
)
def test_environment_that_allows_no_connection_is_named(ask, monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    with serving(echo) as server, pytest.raises(RequirementError, match=rf"no connection to .* can be made: .*{name}"):
        ask(server, texts(1))


def test_cause_of_a_failed_connection_is_told(ask):
    told = pytest.raises(StepError, match=r"cannot be reached \(peer closed connection")
    with serving(lambda body, before: (200, b"{}", {"Content-Length": "50"})) as server, told:
        ask(server, texts(1), max_retries=0)
