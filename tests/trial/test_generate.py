"""What a plugin of the stage `generator` returns is stored only if it can be read again."""

import json
from contextlib import suppress
from types import SimpleNamespace
from unittest.mock import Mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import runner.trial.generate as generate_module
from plugins.adapter.pfa import PromptFormatAdapter
from plugins.adapter.pfa_prompt import PfaOptions
from runner.errors import StepError
from runner.records import Completion, Rendered, TextPart, replace_lone_surrogates
from runner.regime import Regime
from runner.spec.regime_section import RegimeOptions
from runner.trial.generate import _row, _stored_answers, generate
from runner.trial.run_directory_and_events import RunDirectory


@given(st.text(st.characters(codec=None)), st.booleans())
def test_text_with_half_characters_can_be_read_again(output, finished):
    row = _row(Completion("s", output, finished))
    assert json.loads(json.dumps(row, ensure_ascii=False).encode()) == row
    assert row["output"] == replace_lone_surrogates(output)


@pytest.mark.parametrize(("output", "finished"), [(5, True), (None, True), (["Ada"], True), ("Ada", None)])
def test_answer_that_is_not_text_names_the_sample(output, finished):
    with pytest.raises(StepError, match=r"generator: sample s: the plugin returned .* The answer is not stored"):
        _row(Completion("s", output, finished))


@given(st.lists(st.binary(max_size=12).map(lambda line: line.replace(b"\n", b""))))
def test_stored_lines_of_any_content_are_read_or_counted(tmp_path_factory, lines):
    file = tmp_path_factory.mktemp("run") / "answers.jsonl"
    good = json.dumps({"id": "s", "output": "Ada", "finished": True}).encode()
    file.write_bytes(b"\n".join([*lines, good, b'{"id": "cut']))
    reporter = Mock()
    assert _stored_answers(file, reporter) == {"s": json.loads(good)}
    assert reporter.warn.called == bool(lines)


ONE_PASS = Regime(RegimeOptions(), None, 0)
IDS = [f"s{place}" for place in range(7)]
PIPELINE = {"ner": ["summary"], "match": ["summary", "ner"]}
PIPED = Regime(
    RegimeOptions(prompts="per_task", pipeline=PIPELINE), PromptFormatAdapter(PfaOptions(), ["person", "other"]), 0
)
TASK_PROMPTS = [
    Rendered(f"{name}/{task}", (TextPart(f"{task} of {name}"),), task=task) for name in IDS for task in PIPED.tasks
]


class _Generator:
    """Answers each prompt with its id, and keeps what it was asked; `stop_at` is the id at which it fails."""

    def __init__(self, stop_at=None):
        self.asked, self.shown, self.stop_at = [], {}, stop_at

    def generate(self, weights, prompts, done, reporter):
        for prompt in prompts:
            self.shown[prompt.id] = prompt.prompt
            if prompt.id in done:
                continue
            if prompt.id == self.stop_at:
                raise StepError("lost")
            self.asked.append(prompt.id)
            yield Completion(prompt.id, f"answer to {prompt.id}", finished=True)


@pytest.fixture
def worker(tmp_path, monkeypatch):
    """Run the step as one worker of a group, and return its generator."""

    def run(rank, num_workers, generator):
        monkeypatch.setenv("RANK", str(rank))
        monkeypatch.setenv("WORLD_SIZE", str(num_workers))
        context = Mock(run=RunDirectory(tmp_path), generator=generator, regime=ONE_PASS)
        context.samples.return_value = [SimpleNamespace(id=name) for name in IDS]
        context.test_prompts = [Rendered(name, ()) for name in IDS]
        context.reporter.return_value.stop_requested.return_value = False
        generate(context)
        return generator.asked

    return run


def _predictions(folder):
    return [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]


EXPECTED = [{"id": name, "output": f"answer to {name}", "finished": True} for name in IDS]


@pytest.mark.parametrize("num_workers", [1, 2, 3, 8])
def test_workers_answer_equal_shares_and_the_main_one_joins_them(worker, tmp_path, num_workers):
    shares = [worker(rank, num_workers, _Generator()) for rank in reversed(range(num_workers))]
    assert sorted(name for share in shares for name in share) == IDS
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
    assert _predictions(tmp_path) == EXPECTED
    assert not list(tmp_path.glob(".predictions*"))


@given(
    cuts=st.lists(st.tuples(st.integers(1, 4), st.lists(st.sampled_from([None, *IDS]), min_size=4, max_size=4))),
)
@settings(max_examples=40, deadline=None)
def test_no_answer_is_lost_or_asked_for_twice_whatever_the_number_of_workers(tmp_path_factory, cuts):
    folder, asked = tmp_path_factory.mktemp("run"), []

    def run(rank, num_workers, generator):
        context = Mock(run=RunDirectory(folder), generator=generator, regime=ONE_PASS)
        context.samples.return_value = [SimpleNamespace(id=name) for name in IDS]
        context.test_prompts = [Rendered(name, ()) for name in IDS]
        context.reporter.return_value.stop_requested.return_value = False
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("RANK", str(rank))
            patch.setenv("WORLD_SIZE", str(num_workers))
            with suppress(StepError):
                generate(context)
            asked.extend(generator.asked)

    for num_workers, stops in cuts:  # launches that were cut short
        for rank in range(1, num_workers):
            run(rank, num_workers, _Generator(stops[rank]))
    run(0, 1, _Generator())
    assert sorted(asked) == IDS
    assert _predictions(folder) == EXPECTED


@given(
    cuts=st.lists(
        st.tuples(
            st.integers(1, 4),
            st.lists(st.sampled_from([None, *(prompt.id for prompt in TASK_PROMPTS)]), min_size=4, max_size=4),
        ),
        max_size=4,
    )
)
@settings(max_examples=25, deadline=None)
def test_a_pipeline_that_was_cut_short_asks_nothing_twice_and_shows_all_predictions(tmp_path_factory, cuts):
    folder, asked, shown = tmp_path_factory.mktemp("run"), [], {}

    def run(rank, num_workers, generator):
        context = Mock(run=RunDirectory(folder), generator=generator, regime=PIPED)
        context.samples.return_value = [SimpleNamespace(id=name) for name in IDS]
        context.test_prompts = TASK_PROMPTS
        context.reporter.return_value.stop_requested.return_value = False
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("RANK", str(rank))
            patch.setenv("WORLD_SIZE", str(num_workers))
            with suppress(StepError):
                generate(context)
            asked.extend(generator.asked)
            shown.update(generator.shown)

    for num_workers, stops in cuts:
        for rank in range(1, num_workers):
            run(rank, num_workers, _Generator(stops[rank]))
    run(0, 1, _Generator())
    assert sorted(asked) == sorted(prompt.id for prompt in TASK_PROMPTS)
    for name in IDS:
        assert shown[f"{name}/summary"] == f"summary of {name}"
        assert shown[f"{name}/ner"].endswith(f"\nSummary of the image: answer to {name}/summary")
        assert shown[f"{name}/match"].endswith(
            f"\nSummary of the image: answer to {name}/summary\nLabel-entities pairs: answer to {name}/ner"
        )
    answers = {name: {task: f"answer to {name}/{task}" for task in PIPED.tasks} for name in IDS}
    assert _predictions(folder) == [
        {"id": name, "output": "\n".join(outputs.values()), "finished": True, "outputs": outputs}
        for name, outputs in answers.items()
    ]


def test_the_main_worker_waits_until_the_others_have_answered(worker, tmp_path, monkeypatch):
    naps = []

    def nap(seconds):
        naps.append(seconds)
        if len(naps) == 3:
            rows = "".join(json.dumps(row) + "\n" for row in EXPECTED[1::2])
            (tmp_path / ".predictions-1.jsonl").write_text(rows)

    monkeypatch.setattr(generate_module.time, "sleep", nap)
    assert worker(0, 2, _Generator()) == IDS[::2]
    assert len(naps) == 3
    assert _predictions(tmp_path) == EXPECTED


def test_a_worker_whose_generator_leaves_out_a_sample_fails(worker):
    generator = Mock(asked=[])
    generator.generate.return_value = iter([Completion("s1", "", finished=True)])
    with pytest.raises(StepError, match=r"do not match the test split: 2 ids differ, such as 's3'"):
        worker(1, 2, generator)
