import pytest

from plugins.generator.transformers import TransformersGenerator
from plugins.generator.transformers_options import TransformersOptions
from runner.records import Rendered
from runner.stages import StopRequestedError


@pytest.fixture(scope="module")
def model(build_smoke):
    return build_smoke(seed=5)


@pytest.fixture(scope="module")
def prompts(colour_samples):
    return [Rendered(sample.id, sample.content) for sample in colour_samples]


def _generate(model, prompts, reporter, done=frozenset(), **options):
    generator = TransformersGenerator(TransformersOptions(**{"max_new_tokens": 6, "batch_size": 5, **options}))
    return list(generator.generate(model, prompts, frozenset(done), reporter))


def test_every_prompt_is_answered_once_longest_first(model, prompts, recorder):
    reporter = recorder()
    answers = _generate(model, prompts, reporter)
    assert sorted(answer.id for answer in answers) == sorted(prompt.id for prompt in prompts)
    lengths = {prompt.id: model.count(prompt) for prompt in prompts}
    order = [lengths[answer.id].text + lengths[answer.id].image for answer in answers]
    assert order == sorted(order, reverse=True)
    assert reporter.shown[0][:2] == (0, 12)
    assert reporter.shown[-1][:2] == (12, 12)
    assert reporter.shown[-1][2]["samples_per_second"] > 0


def test_an_answer_is_the_same_alone_in_a_batch_and_after_an_interruption(model, prompts, recorder):
    whole = {answer.id: answer for answer in _generate(model, prompts, recorder())}
    alone = {answer.id: answer for answer in _generate(model, prompts, recorder(), batch_size=1)}
    assert whole == alone
    done = [*whole][:7]
    resumed = {answer.id: answer for answer in _generate(model, prompts, recorder(), done=done)}
    assert resumed == {key: answer for key, answer in whole.items() if key not in done}


def test_batches_that_are_done_are_not_computed_again(model, prompts, recorder):
    first = [answer.id for answer in _generate(model, prompts, recorder())][:10]
    reporter = recorder()
    _generate(model, prompts, reporter, done=first)
    assert [done for done, _, _ in reporter.shown] == [10, 12]


def test_batches_are_the_same_after_an_interruption(model, prompts, recorder, monkeypatch):
    sizes, collate = [], model.collate
    monkeypatch.setattr(
        model, "collate", lambda batch, padding_side: sizes.append(len(batch)) or collate(batch, padding_side)
    )
    first = [answer.id for answer in _generate(model, prompts, recorder())][:3]
    assert len(_generate(model, prompts, recorder(), done=first)) == 9
    assert sizes == [5, 5, 2] * 2


def test_an_answer_ends_before_its_stop_token(model, prompts, recorder, monkeypatch):
    cut = {answer.id: answer for answer in _generate(model, prompts, recorder())}
    assert not any(answer.finished for answer in cut.values())
    prompt = next(prompt for prompt in prompts if cut[prompt.id].output)
    ids = model._tokenizer(cut[prompt.id].output, add_special_tokens=False)["input_ids"]
    monkeypatch.setattr(model, "stop_token_ids", [ids[0]])
    (answer,) = _generate(model, [prompt], recorder())
    assert (answer.output, answer.finished) == ("", True)


def test_the_checkpoints_own_generation_settings_do_not_interfere(model, prompts, recorder):
    plain = _generate(model, prompts, recorder())
    settings = model.module.generation_config
    before = (settings.do_sample, settings.repetition_penalty, settings.temperature)
    settings.do_sample, settings.repetition_penalty, settings.temperature = True, 1.5, 0.7
    try:
        assert _generate(model, prompts, recorder()) == plain
    finally:
        settings.do_sample, settings.repetition_penalty, settings.temperature = before


def test_a_stop_comes_between_batches(model, prompts, recorder):
    reporter = recorder(stop_after=5)
    generator = TransformersGenerator(TransformersOptions(max_new_tokens=2, batch_size=5))
    answers = []
    with pytest.raises(StopRequestedError):
        answers.extend(generator.generate(model, prompts, frozenset(), reporter))
    assert reporter.shown[-1][0] == 5
