"""Summaries from a local server: requests, token usage, flags and the token budget."""

import json
from itertools import islice

import pytest
from chat_server import completion, failure, question, serving
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from pydantic import ValidationError

from plugins.annotator.openai_compatible import OpenAICompatibleAnnotator, TokenBudget, is_refusal
from plugins.servers.openai_generator_and_annotator_options import OpenAIAnnotatorOptions
from runner.errors import RequirementError, StepError
from runner.records import Sample
from runner.stages import Annotation, TokenUsage

NOTHING = TokenUsage()
FINE = "Two people stand in front of a wall and hold up a cup."


@pytest.fixture
def samples(tmp_path):
    def make(number):
        for place in range(number):
            Image.new("RGB", (8, 6), (place, 0, 0)).save(tmp_path / f"{place}.png")
        return [Sample(f"s{place}", "text", tmp_path / f"{place}.png", None, (), ()) for place in range(number)]

    return make


@pytest.fixture
def annotate(recorder):
    """A function that asks a server about samples and gathers what comes, even before an error."""

    def annotate(server, samples, taken=NOTHING, **options):
        annotator = made(server.url, **options)
        annotate.found = {}
        for each in annotator.annotate(iter(samples), taken, recorder()):
            annotate.found[each.id] = each
        return annotate.found

    return annotate


def made(url="http://127.0.0.1:1/v1", **options):
    return OpenAICompatibleAnnotator(
        OpenAIAnnotatorOptions(model="m", base_url=url, **{"api_key_env": None, "max_retries": 1, **options})
    )


def answer(text, ending="stop", refusal=None):
    return Annotation("s", text, ending, refusal, TokenUsage(), {}, {})


def test_default_prompt_follows_the_image(annotate, samples):
    with serving(lambda body, before: completion(FINE, tokens=(70, 12))) as server:
        found = annotate(server, samples(1))
    (body,) = server.requests
    [turn] = body.pop("messages")
    assert [part["type"] for part in turn["content"]] == ["image_url", "text"]
    assert question({"messages": [turn]}) == "What is in this image?"
    assert body == {"model": "m", "temperature": 0.0, "max_tokens": 300}
    assert found["s0"] == Annotation(
        "s0", FINE, "stop", None, TokenUsage(70, 12), {"answered_by": "m"}, {"server_id": "c"}
    )


def test_missing_token_usage_is_estimated(annotate, samples):
    with serving(lambda body, before: completion(FINE)) as server:
        found = annotate(server, samples(1), tokens_per_image=100, prompt="Eight123")
    assert found["s0"].tokens == TokenUsage(102, 14)


def test_request_identity_has_prompt_and_parameters(samples):
    (sample,) = samples(1)
    before = made().request(sample)
    same = made("http://127.0.0.1:2/v1", concurrency=2, words={"min": 1}, token_budget=5, requests_per_minute=3)
    assert same.request(sample) == before
    for changed in ({"prompt": "What?"}, {"temperature": 1.0}, {"max_new_tokens": 9}):
        assert made(**changed).request(sample) != before


@pytest.mark.parametrize(
    "text",
    [
        "I'm sorry, but I can't help with that.",
        "I’m sorry, I can’t identify people in images.",
        "Sorry, I cannot assist with this request.",
        "I can't identify who is in this picture, but it shows a stage.",
        "I cannot provide a description.",
        "I am unable to see the image.",
        "As an AI, I do not look at pictures.",
        "Unfortunately, I was given no picture.",
    ],
)
def test_refusal_is_detected_by_its_beginning(text):
    assert is_refusal(answer(text))
    assert made().flags(answer(text)) == ("refused",)


@pytest.mark.parametrize(
    "text", [FINE, "A sorry sight: a wall.", "The text reads: I can't help myself.", "", "We see a can."]
)
def test_summary_is_not_a_refusal(text):
    assert not is_refusal(answer(text))


def test_server_refusals_are_recorded_as_answers(annotate, samples):
    replies = [
        completion("", "content_filter"),
        completion(None, refusal="I will not."),
        failure(400, "no", "content_policy_violation"),
    ]
    with serving(lambda body, before: replies[len(server.requests) - 1]) as server:
        found = annotate(server, samples(3), concurrency=1)
    assert [each.refusal for each in found.values()] == [None, "I will not.", None]
    assert all(made().flags(each) == ("refused",) and made().summary(each) is None for each in found.values())


@given(st.integers(0, 120), st.integers(0, 60), st.integers(60, 120))
def test_summaries_are_flagged_by_their_number_of_words(number, least, most):
    flags = made(words={"min": least, "max": most}).flags(answer(" \n".join(["word"] * number)))
    assert ("fewer words than expected" in flags) == (number < least)
    assert ("more words than expected" in flags) == (number > most)


def test_the_papers_bounds_are_the_default():
    flagged = [number for number in range(120) if made().flags(answer("word " * number))]
    assert flagged == [*range(10), *range(98, 120)]


def test_truncated_answer_is_flagged():
    assert made().flags(answer(FINE, "length")) == ("cut off",)


def test_a_summary_is_one_line():
    assert made().summary(answer(" Two\n\npeople \t stand. ")) == "Two people stand."


@pytest.mark.parametrize(
    ("thinking", "summary", "flags"),
    [("cut", FINE, ()), ("flag", f"<think>So?</think> {FINE}", ("contains reasoning",))],
)
def test_reasoning_in_an_answer_is_cut_or_flagged(thinking, summary, flags):
    annotator = made(thinking=thinking)
    assert annotator.summary(answer(f"<think>So?</think>\n{FINE}")) == summary
    assert annotator.flags(answer(f"<think>So?</think>\n{FINE}")) == flags
    assert ("refused" in annotator.flags(answer("<think>So?</think> I'm sorry, but no."))) == (thinking == "cut")


@pytest.mark.parametrize("text", ["", " ", "<think>So? </think>", "<think>So"])
def test_answer_without_text_is_flagged(text):
    annotator = made(words={"min": 0})
    assert annotator.flags(answer(text, "length")) == ("no text", "cut off")
    assert annotator.summary(answer(text)) is None


def test_negative_usage_does_not_extend_the_budget(annotate, samples):
    limits = {"tokens_per_image": 50, "prompt": "1234", "max_new_tokens": 49, "concurrency": 1}
    with serving(lambda body, before: completion(FINE, tokens=(-1000, -1000))) as server:
        with pytest.raises(StepError, match="budget is used up"):
            annotate(server, samples(9), token_budget=300, **limits)
        assert len(server.requests) < 9


def test_word_range_that_flags_everything_is_an_error():
    with pytest.raises(ValidationError, match="min 9 is above max 3"):
        OpenAIAnnotatorOptions(model="m", words={"min": 9, "max": 3})


def test_estimate_uses_known_token_usage():
    annotator = made(tokens_per_image=1000, max_new_tokens=50, prices={"input": 2.0, "output": 8.0}, prompt="Eight123")
    first = annotator.estimate(1000, TokenUsage(), 0)
    assert first.tokens == TokenUsage(1_002_000, 50_000)
    assert first.cost == pytest.approx(2.004 + 0.4)
    later = annotator.estimate(1000, TokenUsage(3000, 40), 10)
    assert later.tokens == TokenUsage(300_000, 50_000)
    assert made().estimate(7, TokenUsage(), 0).cost is None


@given(
    limit=st.integers(0, 5000),
    taken=st.integers(0, 2000),
    costs=st.lists(st.integers(1, 300), max_size=30),
    together=st.integers(1, 5),
)
def test_budget_is_not_exceeded_by_requests_within_their_maximum(limit, taken, costs, together):
    samples = [Sample(str(place), "", None, None, (), ()) for place in range(len(costs))]
    budget = TokenBudget(limit, TokenUsage(taken, 0), TokenUsage(200, 100), iter(samples))
    asked = 0
    while not budget.is_done:
        underway = list(islice(budget.next_affordable(), together))
        for sample in underway:
            budget.record(TokenUsage(costs[int(sample.id)], 0))
        asked += len(underway)
        if not underway:
            break
    assert budget.used == taken + sum(costs[:asked])
    assert budget.used <= max(limit, taken)
    assert asked == len(costs) or budget.used + max(200, *costs[:asked], 0) + 100 > limit


def test_used_up_budget_stops_requests_and_keeps_answers(annotate, samples):
    limits = {"tokens_per_image": 50, "prompt": "1234", "max_new_tokens": 49}
    with serving(lambda body, before: completion(FINE, tokens=(51, 9))) as server:
        with pytest.raises(StepError, match=r"budget is used up: 240 of 300.*raise annotator\.token_budget"):
            annotate(server, samples(9), token_budget=300, concurrency=2, **limits)
        assert len(annotate.found) == len(server.requests) == 4
        with pytest.raises(StepError, match="240 of 300"):
            annotate(server, samples(9)[4:], taken=TokenUsage(204, 36), token_budget=300, **limits)
        assert len(server.requests) == 4
        assert len(annotate(server, samples(9)[4:], taken=TokenUsage(204, 36), token_budget=1000, **limits)) == 5


def test_missing_key_is_an_error_before_any_request(annotate, samples, monkeypatch):
    monkeypatch.delenv("CHAT_KEY", raising=False)
    with (
        serving(lambda body, before: completion(FINE)) as server,
        pytest.raises(RequirementError, match=r"annotator: .*CHAT_KEY"),
    ):
        annotate(server, samples(1), api_key_env="CHAT_KEY")
    assert server.requests == []


def test_rate_limit_applies_to_retries(annotate, samples, monkeypatch):
    turns = []

    async def turn(pace):
        turns.append(pace.interval())

    monkeypatch.setattr("plugins.servers.chat.RateLimiter.wait", turn)
    with serving(lambda body, before: completion(FINE, tokens=(40, 20)) if before else failure(429)) as server:
        annotate(server, samples(3), concurrency=1, tokens_per_minute=60, tokens_per_image=0, max_new_tokens=59)
    assert len(turns) == len(server.requests) == 6
    assert turns == pytest.approx([60 + 5] * 2 + [(65 + 60) / 2] * 2 + [(65 + 120) / 3] * 2)


def test_the_options_are_plain_data():
    options = OpenAIAnnotatorOptions(model="m")
    assert OpenAIAnnotatorOptions.model_validate(json.loads(options.model_dump_json())) == options
    assert options.smoke() == {"type": "constant"}
