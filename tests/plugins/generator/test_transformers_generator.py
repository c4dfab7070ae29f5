"""Answers do not depend on the other prompts of a batch."""

import threading
from collections import Counter
from functools import wraps
from pathlib import Path

import pytest
import torch
from torch._dynamo.testing import CompileCounter
from torch.overrides import TorchFunctionMode

from plugins.generator import transformers as plugin
from plugins.generator.decoding import continuous_batching as decoding
from plugins.generator.decoding.continuous_batching import supports_continuous_batching
from plugins.generator.decoding.encoded_prompts import EncodedPrompts
from plugins.generator.decoding.greedy import GreedyDecoder
from plugins.generator.generator_options import TransformersOptions
from plugins.generator.transformers import MAX_ROWS, TransformersGenerator, rows_in_memory
from runner.errors import DataError
from runner.records import ImagePart, Rendered
from runner.stages import StopRequestedError

WAYS = pytest.mark.parametrize("continuous_batching", [True, False], ids=["refilling", "batches"])


@pytest.fixture(scope="module")
def model(build_smoke):
    return build_smoke(seed=5)


@pytest.fixture
def generate(model, prompts, recorder, held):
    """A function that answers; its reporter is kept as `generate.reporter`."""

    def generate(asked=prompts, done=(), reporter=None, **options):
        generate.reporter = reporter or recorder()
        generator = TransformersGenerator(TransformersOptions(**{"max_new_tokens": 12, "batch_size": 5, **options}))
        return list(generator.generate(held(model), asked, frozenset(done), generate.reporter))

    return generate


@pytest.fixture
def ends(model, prompts, monkeypatch):
    """Let tokens that the model writes end its answers, so that they end at different places."""
    decoder = GreedyDecoder(model, lambda prompt, length: 12)
    written = [decoder.generate_batch(_batch(decoder, prompt))[0].tokens for prompt in prompts]
    shared = Counter(token for tokens in written for token in {*tokens[1:]} - {tokens[0]})
    stops = sorted({*model.stop_token_ids, *sorted(token for token, count in shared.items() if count < 4)[::4]})
    monkeypatch.setattr(model, "stop_token_ids", stops)
    return stops


def _batch(decoder, *prompts):
    return decoder.make_batch([(prompt, decoder.model.encode(prompt)) for prompt in prompts])


def by_id(answers):
    return {answer.id: answer for answer in answers}


@WAYS
def test_every_prompt_is_answered_once(prompts, generate, continuous_batching):
    answers = generate(continuous_batching=continuous_batching)
    assert sorted(answer.id for answer in answers) == sorted(prompt.id for prompt in prompts)
    assert generate.reporter.shown[0][:2] == (0, 12)
    assert generate.reporter.shown[-1][:2] == (12, 12)
    assert generate.reporter.shown[-1][2]["samples_per_second"] > 0
    assert not generate.reporter.warnings


def test_long_prompts_come_first(model, prompts, generate):
    answers = generate(continuous_batching=False)
    lengths = {prompt.id: model.count(prompt) for prompt in prompts}
    order = [lengths[answer.id].text + lengths[answer.id].image for answer in answers]
    assert order == sorted(order, reverse=True)


@WAYS
@pytest.mark.parametrize("batch_size", [2, 5, 64])
def test_answer_does_not_depend_on_the_batch(generate, ends, continuous_batching, batch_size):
    alone = by_id(generate(batch_size=1))
    assert len({len(answer.output) for answer in alone.values()}) > 3
    assert {answer.finished for answer in alone.values()} == {True, False}
    assert by_id(generate(batch_size=batch_size, continuous_batching=continuous_batching)) == alone


@WAYS
def test_resumed_generation_answers_only_missing_prompts(generate, ends, continuous_batching):
    whole = by_id(generate(continuous_batching=continuous_batching))
    done = [*whole][:7]
    resumed = by_id(generate(done=done, continuous_batching=continuous_batching))
    assert resumed == {key: answer for key, answer in whole.items() if key not in done}
    assert generate.reporter.shown[0][:2] == (7, 12)


def test_model_is_not_loaded_if_all_prompts_are_answered(prompts, recorder):
    generator = TransformersGenerator(TransformersOptions())
    assert list(generator.generate(None, prompts, frozenset(prompt.id for prompt in prompts), recorder())) == []


def test_batches_are_the_same_after_an_interruption(model, generate, monkeypatch):
    sizes, collate = [], model.collate
    monkeypatch.setattr(
        model, "collate", lambda batch, padding_side: sizes.append(len(batch)) or collate(batch, padding_side)
    )
    first = [answer.id for answer in generate(continuous_batching=False)][:3]
    assert len(generate(done=first, continuous_batching=False)) == 9
    assert sizes == [5, 5, 2] * 2
    generate(done=[answer.id for answer in generate(continuous_batching=False)][:10], continuous_batching=False)
    assert sizes[6:] == [5, 5, 2, 2], "a batch that is done is not computed again"


def test_finished_row_takes_the_next_prompt(model, prompts, generate, ends, monkeypatch):
    """Refilling runs the model on fewer rows in all than batches do, which wait for their longest answer."""

    def rows_run(**options):
        seen = []
        forward = model.module.forward

        @wraps(forward)
        def counted(*args, **given):
            seen.append(len(given["input_ids"]))
            return forward(*args, **given)

        with monkeypatch.context() as patched:
            patched.setattr(model.module, "forward", counted)
            generate(**options)
        return sum(seen)

    assert rows_run(continuous_batching=True) < rows_run(continuous_batching=False)


def test_an_answer_ends_before_its_stop_token(model, prompts, generate, monkeypatch):
    cut = by_id(generate(continuous_batching=False))
    assert not any(answer.finished for answer in cut.values())
    prompt = next(prompt for prompt in prompts if cut[prompt.id].output)
    ids = model._tokenizer(cut[prompt.id].output, add_special_tokens=False)["input_ids"]
    monkeypatch.setattr(model, "stop_token_ids", [ids[0]])
    for continuous_batching in (True, False):
        (answer,) = generate([prompt], continuous_batching=continuous_batching)
        assert (answer.output, answer.finished) == ("", True)


@WAYS
def test_the_checkpoints_own_generation_settings_do_not_interfere(model, generate, monkeypatch, continuous_batching):
    plain = generate(continuous_batching=continuous_batching)
    settings = model.module.generation_config
    for name, value in {"do_sample": True, "repetition_penalty": 1.5, "temperature": 0.7}.items():
        monkeypatch.setattr(settings, name, value)
    assert generate(continuous_batching=continuous_batching) == plain


@WAYS
def test_stop_request_keeps_completed_answers(model, prompts, recorder, held, ends, continuous_batching):
    reporter = recorder(stop_after=5)
    generator = TransformersGenerator(
        TransformersOptions(max_new_tokens=12, batch_size=5, continuous_batching=continuous_batching)
    )
    answers = []
    with pytest.raises(StopRequestedError):
        answers.extend(generator.generate(held(model), prompts, frozenset(), reporter))
    assert 5 <= reporter.shown[-1][0] < 12


@WAYS
def test_answer_is_limited_by_the_model_context(model, prompts, generate, monkeypatch, continuous_batching):
    """The room left for an answer is what the context holds less the prompt."""
    lengths = {prompt.id: len(model.encode(prompt)["input_ids"]) for prompt in prompts}
    longest = max(lengths.values())
    whole = {prompt.id: tokens for prompt, tokens in _tokens(model, prompts, 12)}
    monkeypatch.setattr(model, "context_length", longest + 3)
    for answer in generate(continuous_batching=continuous_batching):
        room = min(12, longest + 3 - lengths[answer.id])
        assert answer.output == model.decode(whole[answer.id][:room])
        assert not answer.finished
    monkeypatch.setattr(model, "context_length", longest)
    with pytest.raises(
        DataError, match=f"prompt of {longest} tokens leaves no room for an answer .* context of {longest}"
    ):
        generate(continuous_batching=continuous_batching)


def _tokens(model, prompts, limit):
    decoder = GreedyDecoder(model, lambda prompt, length: limit)
    outputs = (decoder.generate_batch(_batch(decoder, prompt)) for prompt in prompts)
    return [(written.prompt, written.tokens) for output in outputs for written in output]


def test_model_without_continuous_batching_is_answered_in_batches(model, generate, ends, monkeypatch):
    """A family whose later tokens depend on something that refilling does not tell it is found out and told."""
    alone = by_id(generate(batch_size=1))
    forward = model.module.forward

    @wraps(forward)
    def wayward(*args, **given):
        # Positions that come without the axes of images, as from refilling, are understood otherwise.
        if given["position_ids"].ndim == 2:
            given["position_ids"] = given["position_ids"] + 7
        return forward(*args, **given)

    monkeypatch.setattr(model.module, "forward", wayward)
    assert by_id(generate()) == alone
    assert "Qwen2_5_VLForConditionalGeneration does not support continuous batching" in generate.reporter.warnings[0]


def test_sliding_window_cache_does_not_support_continuous_batching(build_smoke, prompts):
    model = build_smoke(seed=5)
    decoder = GreedyDecoder(model, lambda prompt, length: 12)
    assert supports_continuous_batching(decoder, [prompts[0], prompts[5]])
    text = model.module.config.get_text_config()
    text.layer_types, text.sliding_window = ["full_attention", "sliding_attention"], 4
    model.module.model.language_model.has_sliding_layers = True
    assert not supports_continuous_batching(decoder, [prompts[0], prompts[5]])


def test_bfloat16_model_supports_continuous_batching(build_smoke, prompts):
    model = build_smoke(seed=5)
    model.module.to(torch.bfloat16)
    decoder = GreedyDecoder(model, lambda prompt, length: 12)
    assert supports_continuous_batching(decoder, [prompts[0], prompts[5]])


class _Waits(TorchFunctionMode):
    """Counts the calls that would wait for a GPU."""

    NAMES = frozenset({"item", "tolist", "__bool__", "__int__", "__float__", "nonzero"})

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_function__(self, function, types, arguments=(), told=None):
        if getattr(function, "__name__", "") in self.NAMES:
            self.names.append(function.__name__)
        return function(*arguments, **(told or {}))


def test_decoding_a_token_waits_for_the_device_once(model, prompts, generate, monkeypatch):
    step, seen = decoding.KVCacheSlots.step, []

    def counted(slots, *arguments, **told):
        with _Waits() as waits:
            logits = step(slots, *arguments, **told)
        seen.append(waits.names)
        return logits

    monkeypatch.setattr(decoding.KVCacheSlots, "step", counted)
    generate()
    assert len(seen) > 12
    assert not any(seen[1:])  # beside `tolist` of the tokens; the first step tests whether the model supports it


@pytest.mark.parametrize("batch_size", [3, 5])
def test_a_compiled_step_always_has_the_same_shapes_and_gives_the_same_answers(
    model, prompts, generate, ends, monkeypatch, batch_size
):
    plain = by_id(generate(batch_size=batch_size))
    shapes, compiled = [], []

    def compile(function, **told):
        compiled.append(told)

        def forward(**inputs):
            keys = [layer.keys for layer in inputs["past_key_values"].layers]
            tensors = [value for value in inputs.values() if isinstance(value, torch.Tensor)]
            shapes.append([tensor.shape for tensor in [*tensors, *keys]])
            return function(**inputs)

        return forward

    monkeypatch.setattr(decoding.torch, "compile", compile)
    assert by_id(generate(batch_size=batch_size, compile=True)) == plain
    assert compiled == [{"dynamic": False, "mode": "reduce-overhead"}]
    assert len(shapes) > 12
    assert all(shape == shapes[0] for shape in shapes)
    assert shapes[0][0][0] == batch_size


@pytest.mark.slow
def test_torch_traces_a_step_once(model, prompts, generate, ends, monkeypatch):
    plain = by_id(generate())
    compile, counter = torch.compile, CompileCounter()
    monkeypatch.setattr(
        decoding.torch, "compile", lambda function, dynamic, mode: compile(function, dynamic=dynamic, backend=counter)
    )
    torch._dynamo.reset()
    assert by_id(generate(compile=True)) == plain
    assert 1 <= counter.frame_count <= 4


def test_rows_follow_the_memory_and_the_longest_prompt(model):
    text = model.module.config.get_text_config()
    key_value_size = 2 * text.num_hidden_layers * text.hidden_size  # as many heads of keys as of queries
    row = 100 * 4 * (key_value_size + 3 * text.intermediate_size)
    assert rows_in_memory(model.module, 100, int(10.5 * row / 0.6)) == 10
    assert rows_in_memory(model.module, 200, int(10.5 * row / 0.6)) == 5
    assert rows_in_memory(model.module, 100, 0) == 1
    assert rows_in_memory(model.module, 100, 10**12) == MAX_ROWS


def test_an_automatic_batch_size_is_computed_and_recorded(model, prompts, generate, ends, monkeypatch):
    plain = by_id(generate(batch_size=3))
    asked = []
    monkeypatch.setattr(plugin, "rows_in_memory", lambda module, tokens, free: asked.append((tokens, free)) or 3)
    assert by_id(generate(batch_size="auto")) == plain
    lengths = [model.count(prompt) for prompt in prompts]
    [(tokens, free)] = asked
    assert tokens == max(length.text + length.image for length in lengths) + 12
    assert free > 10**8
    assert (0, {"generate/batch_size": 3}) in generate.reporter.recorded


def test_prompts_are_encoded_ahead_in_order(model, prompts):
    with EncodedPrompts(model, prompts, 3) as encoded:
        taken = []
        while encoded:
            taken += encoded.take(2)
            assert len(encoded) + len(taken) == len(prompts)
        assert encoded.take(1) == []
    for (prompt, features), expected in zip(taken, prompts, strict=True):
        assert prompt is expected
        assert all(features[name].equal(value) for name, value in model.encode(expected).items())


def test_the_thread_waits_while_the_tokenizer_is_used(model, prompts, monkeypatch):
    begun, encode = threading.Event(), model.encode
    monkeypatch.setattr(model, "encode", lambda prompt: (begun.set(), encode(prompt))[1])
    with EncodedPrompts(model, prompts, 2) as encoded:
        encoded.take(1)
        with encoded.paused():
            begun.clear()
            assert not begun.wait(0.2)
        assert begun.wait(20) or len(encoded.take(11)) == 11


def test_a_prompt_that_cannot_be_encoded_is_named_when_it_is_due(model, prompts, generate):
    broken = Rendered("broken", (ImagePart(Path("missing.png")),))
    with (
        pytest.raises(DataError, match=r"sample broken: image missing\.png cannot be used"),
        EncodedPrompts(model, [prompts[0], broken], 2) as encoded,
    ):
        assert encoded.take(1)[0][0] is prompts[0]
        encoded.take(1)
