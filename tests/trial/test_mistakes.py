"""A selection of wrong answers is saved with pictures; right answers are not, and broken pictures are skipped."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image

from plugins.adapter.pfa import PromptFormatAdapter
from plugins.adapter.pfa_prompt import PfaOptions
from runner.files import read_jsonl
from runner.records import Answer, Entity, Prediction, Sample, Segment
from runner.trial import score as module
from runner.trial.run_directory_and_events import RunDirectory
from runner.trial.score import is_wrong, write_mistakes

PAIRS = frozenset({("person", "Ann")})


def answer(*, pairs=PAIRS, mapping=None, summary=None):
    return Answer(summary, pairs, mapping)


@pytest.mark.parametrize(
    ("read", "ending", "right", "wrong"),
    [
        (answer(), "clean", answer(), False),
        (answer(), "repaired", answer(), False),
        (answer(), "malformed", answer(), True),
        (answer(pairs=frozenset()), "clean", answer(), True),
        (answer(mapping={"a": "Bo"}), "clean", answer(mapping={"a": "Ann"}), True),
        (answer(summary="One."), "clean", answer(summary="Another."), False),
        (answer(pairs=None, summary="One."), "clean", answer(pairs=None, summary="Another."), True),
    ],
)
def test_is_wrong(read, ending, right, wrong):
    assert is_wrong(Prediction(read, ending), right) == wrong


@pytest.fixture
def context(tmp_path):
    """Forty samples with a picture and a segment each; the pictures of the first are broken."""
    samples = []
    for number in range(40):
        main, piece = tmp_path / f"{number}.png", tmp_path / f"{number}-a.png"
        Image.new("RGB", (400, 200), "red").save(main)
        Image.new("P", (20, 40)).save(piece)
        segments = (Segment("a", piece, "Ann", (0, 0, 9, 9)),)
        samples.append(Sample(str(number), f"Ann {number}", main, "A red one.", (Entity("person", "Ann"),), segments))
    for file in (samples[0].image, samples[0].segments[0].image):
        file.write_bytes(b"no picture")
    adapter = PromptFormatAdapter(PfaOptions(tasks=("summary", "ner", "match")), ("person",))
    return SimpleNamespace(run=RunDirectory(tmp_path / "run"), samples=lambda split: samples, adapter=adapter)


def test_wrong_answers_are_saved_with_their_pictures(context, monkeypatch):
    context.run.path.mkdir()
    samples = context.samples("test")
    references = {sample.id: context.adapter.reference(sample) for sample in samples}
    right = context.adapter.render_training(samples[0]).target
    outputs = {
        sample.id: right if sample.id in {"1", "2"} else right.replace("person;Ann", "person;Bo") for sample in samples
    }
    predictions = {name: context.adapter.parse(output, "lossless") for name, output in outputs.items()}
    monkeypatch.setattr(module, "NUM_MISTAKES", 38)
    write_mistakes(context, outputs, predictions, references)
    rows = {row["id"]: row for row in read_jsonl(Path(f"{context.run.mistakes}.jsonl"))}
    assert len(rows) == 38 and not {"1", "2"} & set(rows)
    assert rows["3"]["pairs"] == "person: Bo" and rows["3"]["right pairs"] == "person: Ann"
    assert rows["0"]["pictures"] is None
    with Image.open(context.run.path / rows["3"]["pictures"]) as picture:
        assert picture.size == (256 + 4 + 64, 128)

    monkeypatch.setattr(module, "NUM_MISTAKES", 5)
    write_mistakes(context, outputs, predictions, references)
    fewer = read_jsonl(Path(f"{context.run.mistakes}.jsonl"))
    assert len(fewer) == 5 and len(list(context.run.mistakes.iterdir())) <= 5, "files of the first call are deleted"
    assert json.dumps(fewer) == json.dumps(
        [row | {"pictures": each["pictures"]} for each in fewer for row in [rows[each["id"]]]]
    )
