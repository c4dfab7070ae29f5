"""`runner evaluate --spec`: answers with boxes, in the frame of the spec's model."""

import json

import pytest

from plugins.data.data_options import SyntheticOptions
from plugins.data.synthetic import SyntheticData
from runner.cli.main import main
from runner.errors import DataError, SpecError
from runner.evaluate_answer_file import EvaluateOptions, evaluate
from runner.resolved_plan import create_adapter, plan_json, resolve
from runner.spec.load import load_spec
from tests.test_box_frame_of_plan import BOXES, LABELS
from tests.test_resolved_plan import Quiet

LARGE = ("model.min_pixels=9216", "model.max_pixels=9216")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("data")
    SyntheticData(SyntheticOptions(path=path, train=8, test=6)).prepare(Quiet())
    [made] = [each for each in path.iterdir() if each.is_dir()]
    return made


@pytest.fixture
def prepare(tmp_path, folder):
    """Write a spec, and the answers of a model that is right; return both files."""

    def prepare(*overrides):
        file = tmp_path / "boxes.yaml"
        file.write_text(BOXES.replace("type: ner_f1", "type: gmner_f1").format(data=folder.parent))
        spec = load_spec(file, overrides).spec
        data = SyntheticData(SyntheticOptions(path=folder.parent, train=8, test=6))
        data.prepare(Quiet())
        targets = {each.id: create_adapter(spec, LABELS).render_training(each).target for each in data.load("test")}
        answers = tmp_path / "predictions.jsonl"
        answers.write_text("".join(json.dumps({"id": key, "output": text}) + "\n" for key, text in targets.items()))
        plan = tmp_path / "plan.json"
        plan.write_text(plan_json(resolve(spec, Quiet()).spec))
        return answers, file, plan

    return prepare


@pytest.mark.parametrize("overrides", [(), LARGE, ("adapter.frame=thousand",)])
def test_answers_are_read_in_the_frame_of_a_plan(prepare, folder, overrides):
    answers, _, plan = prepare(*overrides)
    evaluation = evaluate(EvaluateOptions(answers, folder, spec=plan), Quiet())
    assert evaluation.tasks == ["gmner"]
    assert evaluation.metrics["gmner_f1"] == 1.0
    assert list(evaluation.rows[0]["reference"]["grounded"][0]) == ["label", "text", "boxes"]


def test_in_another_frame_boxes_are_wrong(prepare, folder):
    answers, spec, _ = prepare(*LARGE)
    names = ("gmner_f1", "mner_f1", "box_accuracy", "ner_f1")
    metrics = evaluate(EvaluateOptions(answers, folder, metrics=names, spec=spec), Quiet()).metrics
    assert (metrics["mner_f1"], metrics["ner_f1"]) == (1.0, 1.0)
    assert metrics["gmner_f1"] < 0.6
    assert metrics["box_accuracy"] < 0.2


def test_targets_are_read_as_answers(prepare, tmp_path):
    _, spec, _ = prepare()
    for name, key, box in (("found", "output", "[0,0,10,10]"), ("right", "target", "[0,0,10,12]")):
        (tmp_path / name).write_text(json.dumps({"id": "1", key: f"Ann|person|{box}\nRome|location|None"}) + "\n")
    got = evaluate(EvaluateOptions(tmp_path / "found", tmp_path / "right", spec=spec), Quiet())
    assert got.metrics["gmner_f1"] == 1.0


def test_options_that_contradict_the_spec_are_refused(prepare, folder, tmp_path):
    answers, spec, _ = prepare()
    with pytest.raises(SpecError, match=r"--parse: .* says how answers are parsed"):
        evaluate(EvaluateOptions(answers, folder, parse="lossless", spec=spec), Quiet())
    with pytest.raises(SpecError, match="did you mean 'gmner'"):
        evaluate(EvaluateOptions(answers, folder, tasks=["ner"], spec=spec), Quiet())
    (tmp_path / "right").write_text(json.dumps({"id": "1", "target": "Task 1 Answer: A cat."}) + "\n")
    (tmp_path / "found").write_text(json.dumps({"id": "1", "output": "None"}) + "\n")
    with pytest.raises(DataError, match="none of the tasks gmner"):
        evaluate(EvaluateOptions(tmp_path / "found", tmp_path / "right", spec=spec), Quiet())


def test_the_command_takes_the_spec(prepare, folder, capsys, monkeypatch):
    answers, _, plan = prepare()
    arguments = ["evaluate", "--predictions", answers, "--references", folder, "--spec", plan, "--json"]
    monkeypatch.setattr("sys.argv", ["runner", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code in {0, None}
    assert json.loads(capsys.readouterr().out)["metrics"]["gmner_f1"] == 1.0
