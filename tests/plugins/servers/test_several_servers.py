"""Several equal servers share the prompts; requests to this machine use no proxy."""

import threading

import pytest
from chat_server import completion, failure, question, serving

from plugins.servers.chat import ChatServer
from plugins.servers.openai_generator_and_annotator_options import ChatServerOptions
from runner.errors import StepError
from runner.records import Rendered, TextPart


def prompts(number):
    return [Rendered(f"s{place}", (TextPart(f"Question {place}"),)) for place in range(number)]


def client(*servers, **options):
    given = ChatServerOptions(model="m", base_url=servers[0].url, api_key_env=None, **options)
    return ChatServer(given, "generator", {}, expected=1, urls=[server.url for server in servers], key="secret")


def test_two_servers_answer_at_the_same_time_and_get_the_key(recorder):
    gate = threading.Barrier(4, timeout=20)

    def together(body, before):
        gate.wait()  # two requests to each of two servers
        return completion(question(body))

    with serving(together) as first, serving(together) as second:
        replies = list(client(first, second, concurrency=2).complete(prompts(8), recorder()))
    assert sorted(reply.id for reply in replies) == [f"s{place}" for place in range(8)]
    assert len(first.requests) == len(second.requests) == 4
    assert first.max_concurrent == second.max_concurrent == 2
    assert set(first.authorizations + second.authorizations) == {"Bearer secret"}


def test_an_error_names_the_server_that_failed(recorder):
    with (
        serving(lambda body, before: completion("yes")) as first,
        serving(lambda body, before: failure(400, "too long")) as second,
        pytest.raises(StepError, match=second.url),
    ):
        list(client(first, second, concurrency=1).complete(prompts(4), recorder()))


@pytest.mark.parametrize("variable", ["HTTP_PROXY", "http_proxy", "ALL_PROXY"])
def test_requests_to_this_machine_use_no_proxy(recorder, monkeypatch, variable):
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(variable, "http://127.0.0.1:9")
    with serving(lambda body, before: completion("yes")) as server:
        replies = list(client(server, max_retries=0).complete(prompts(1), recorder()))
    assert [reply.text for reply in replies] == ["yes"]
