"""The generator `vllm`, tested with a stand-in for the package: its calls, and the error if vLLM is missing."""

import importlib.util
import sys
from types import ModuleType, SimpleNamespace

import pytest

from plugins.generator.generator_options import VllmOptions
from plugins.generator.vllm import CHUNK_SIZE, VllmGenerator
from runner.errors import RequirementError
from runner.records import ImagePart, Rendered, TextPart
from runner.stages import StopRequestedError


@pytest.fixture
def calls(monkeypatch):
    """A module in the place of vLLM that keeps what it was called with."""
    calls = SimpleNamespace(engine=None, sampling=None, chats=[])

    class LLM:
        def __init__(self, **settings):
            calls.engine = settings

        def chat(self, messages, sampling_params, use_tqdm):
            calls.chats.append(messages)
            texts = [turns[-1]["content"][-1]["text"] for turns in messages]
            ends = ["length" if text.endswith("3") else "stop" for text in texts]
            return [
                SimpleNamespace(outputs=[SimpleNamespace(text=text.replace("q", "Q"), finish_reason=end)])
                for text, end in zip(texts, ends, strict=True)
            ]

    module = ModuleType("vllm")
    module.__spec__ = importlib.util.spec_from_loader("vllm", None)
    module.LLM = LLM
    module.SamplingParams = lambda **settings: setattr(calls, "sampling", settings)
    monkeypatch.setitem(sys.modules, "vllm", module)
    return calls


@pytest.mark.skipif(importlib.util.find_spec("vllm") is not None, reason="vLLM is installed here")
def test_missing_vllm_error_names_the_extra():
    with pytest.raises(RequirementError, match=r"pip install 'mmre-runner\[vllm\]'"):
        VllmGenerator(VllmOptions())


def test_vllm_loads_the_folder_and_decodes_greedily(calls, recorder, held, draw):
    picture = ImagePart(draw(8, 6))
    prompts = [Rendered(f"s{n}", (*[picture] * (n % 4), TextPart(f"q{n}"))) for n in range(5)]
    reporter = recorder()
    generator = VllmGenerator(VllmOptions(max_new_tokens=9, tensor_parallel_size=2, gpu_memory_utilization=0.5))
    answers = list(generator.generate(held(None, "folder/model"), prompts, frozenset({"s0"}), reporter))
    assert [(each.id, each.output, each.finished) for each in answers] == [
        ("s1", "Q1", True), ("s2", "Q2", True), ("s3", "Q3", False), ("s4", "Q4", True),
    ]  # fmt: skip
    assert calls.engine == {
        "model": "folder/model",
        "tensor_parallel_size": 2,
        "gpu_memory_utilization": 0.5,
        "limit_mm_per_prompt": {"image": 3},
    }
    assert calls.sampling == {"temperature": 0.0, "max_tokens": 9}
    assert [part["type"] for part in calls.chats[0][1][0]["content"]] == ["image_url", "image_url", "text"]
    assert (reporter.shown[0][:2], reporter.shown[-1][:2]) == ((1, 5), (5, 5))


def test_prompts_are_sent_in_chunks(calls, recorder, held):
    prompts = [Rendered(f"s{n}", (TextPart("q"),)) for n in range(CHUNK_SIZE + 2)]
    answers = list(VllmGenerator(VllmOptions()).generate(held(None), prompts, frozenset(), recorder()))
    assert len(answers) == CHUNK_SIZE + 2
    assert [len(chat) for chat in calls.chats] == [CHUNK_SIZE, 2]


@pytest.mark.parametrize(
    ("thinking", "outputs"), [("cut", ["Q0", ""]), ("flag", ["<think>so?</think>Q0", "<think>Q1"])]
)
def test_reasoning_is_cut_or_told(calls, recorder, held, thinking, outputs):
    reporter = recorder()
    prompts = [Rendered("s0", (TextPart("<think>so?</think>q0"),)), Rendered("s1", (TextPart("<think>q1"),))]
    answers = list(VllmGenerator(VllmOptions(thinking=thinking)).generate(held(None), prompts, frozenset(), reporter))
    assert [answer.output for answer in answers] == outputs
    [warning] = reporter.warnings
    assert warning.startswith(
        "vLLM: 1 of 2 answers have no text" if thinking == "cut" else "vLLM: 2 of 2 answers begin"
    )


def test_empty_answers_are_told_if_the_generation_is_stopped(calls, recorder, held):
    prompts = [Rendered(f"s{n}", (TextPart(" "),)) for n in range(CHUNK_SIZE + 2)]
    reporter = recorder(stop_after=1)
    with pytest.raises(StopRequestedError):
        list(VllmGenerator(VllmOptions()).generate(held(None), prompts, frozenset(), reporter))
    [warning] = reporter.warnings
    assert f"{CHUNK_SIZE} of {CHUNK_SIZE} answers have no text" in warning
