"""`runner evaluate`: outputs of any model against targets or a data set, with the values of the metric libraries."""

import gzip
import json
import math
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu
from rouge_score.rouge_scorer import RougeScorer

from runner.errors import DataError, RunnerError, SpecError
from runner.evaluate_answer_file import EvaluateOptions, evaluate
from runner.files import other_format

NINE = {"rel": 0, "abs": 1e-9}
PAPER = (
    "rouge1",
    "rouge2",
    "rougeL",
    "bleu",
    "ner_precision",
    "ner_recall",
    "ner_f1",
    "image_entity_accuracy",
)


class Silent:
    def progress(self, done, total, **shown):
        pass


def answer(summary, pairs, mapping):
    return f"Task 1 Answer: {summary}\nTask 2 Answer:\nNER:\n{pairs}\nimage entities pair{mapping}"


# Three tweets. The second reference holds an entity with a colon, the third no entity and no segment.
TARGETS = {
    "1": answer("the cat is on a mat", ":person;Jan Taminiau:other;VOGUE", "{'a': 'Jan Taminiau', 'b': 'VOGUE'}"),
    "2": answer("two dogs run slowly", ":other;Star Wars: Rogue One:location;Rome", "{'a': 'Star Wars: Rogue One'}"),
    "3": answer("nobody is here at all", "", "{}"),
}
OUTPUTS = {
    "1": answer("the cat sat on a mat", ":person;Jan Taminiau:person;VOGUE", "{'a': 'Jan Taminiau', 'b': 'Jan'}"),
    "2": answer("two dogs running fast", ":other;Star Wars: Rogue One", "{'a': 'Star Wars: Rogue One'"),
    "3": answer("nobody is here at all", ":other;nobody", "{}"),
}


@pytest.fixture
def write(tmp_path):
    def write(name, field, texts):
        path = tmp_path / name
        path.write_text("".join(json.dumps({"id": key, field: text}) + "\n" for key, text in texts.items()))
        return path

    return write


@pytest.fixture
def files(write):
    return {"predictions": write("p.jsonl", "output", OUTPUTS), "references": write("r.jsonl", "target", TARGETS)}


@pytest.fixture
def dataset(tmp_path):
    """A data set of one split without its pictures."""
    folder = tmp_path / "data"
    folder.mkdir()
    told = {"name": "x", "labels": ["person", "other", "event"], "num_samples": {"test": 2, "dev": 1}}
    (folder / "dataset.json").write_text(json.dumps(told))
    rows = [
        {
            "id": "1",
            "text": "Ann at The Ball : Live",
            "image": "images/1.jpg",
            "summary": None,
            "entities": [{"label": "person", "text": "Ann"}, {"label": "event", "text": "The  Ball : Live"}],
            "segments": [{"letter": "a", "image": "segments/1-a.jpg", "entity": "Ann", "box": [0, 0, 1, 1]}],
        },
        {"id": "2", "text": "Bo", "image": "images/2.jpg", "summary": None, "entities": [], "segments": []},
    ]
    (folder / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "dev.jsonl").write_text(json.dumps({**rows[1], "id": "9", "summary": "A dog."}) + "\n")
    return folder


def score(files, **options):
    return evaluate(EvaluateOptions(**{**files, **options}), Silent()).as_json()


def test_algorithm_1_by_hand(files):
    told = score(files)
    # Whole entities: 1 + 1 right of 4 predicted and 4 right; segments: 1 + 1 of 3.
    got = told["metrics"]
    assert got["ner_precision"] == pytest.approx(2 / 4, **NINE)
    assert got["ner_recall"] == pytest.approx(2 / 4, **NINE)
    assert got["ner_f1"] == pytest.approx(1 / 2, **NINE)
    assert got["image_entity_accuracy"] == pytest.approx(2 / 3, **NINE)
    # The published rule cuts "Star Wars" off on both sides, and reads no mapping without its bracket.
    assert got["published/ner_f1"] == pytest.approx(1 / 2, **NINE)
    assert got["published/image_entity_accuracy"] == pytest.approx(1 / 3, **NINE)
    # "cat", "is", "on" …: 5 of 6 words, 3 of 5 bigrams; "two dog run": 3 of 4, 2 of 3; the third is whole.
    assert got["rouge1"] == pytest.approx((5 / 6 + 3 / 4 + 1) / 3, **NINE)
    assert got["rouge2"] == pytest.approx((3 / 5 + 2 / 3 + 1) / 3, **NINE)
    assert got["rougeL"] == pytest.approx((5 / 6 + 3 / 4 + 1) / 3, **NINE)
    # "two dogs" is 2 of 4 words and 1 of 3 bigrams; an order without a match counts 0.1.
    bleu = (5 / 6 * 3 / 5 * 1 / 4 * 0.1 / 3) ** 0.25, (2 / 4 * 1 / 3 * 0.1 / 2 * 0.1 / 1) ** 0.25, 1
    assert got["bleu"] == pytest.approx(sum(bleu) / 3, **NINE)
    assert got["published/bleu"] == got["bleu"]
    assert told["parse"] == {"clean": 2, "repaired": 1, "malformed": 0}
    assert told["other_parse"] == {"published": {"clean": 2, "repaired": 0, "malformed": 1}}
    assert (told["num_samples"], told["mode"], told["tasks"]) == (3, "lossless", ["summary", "ner", "match"])
    assert set(got) == {*PAPER, *(f"published/{name}" for name in PAPER)}


def test_values_equal_direct_calls_of_the_libraries(files):
    got = score(files)["metrics"]
    summaries = [
        [text.partition("Task 1 Answer:")[2].partition("Task 2 Answer:")[0].strip() for text in (OUTPUTS[key], target)]
        for key, target in TARGETS.items()
    ]
    scorer = RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=True)
    for name in ("rouge1", "rouge2", "rougeL"):
        direct = [scorer.score(right, predicted)[name].fmeasure for predicted, right in summaries]
        assert got[name] == pytest.approx(math.fsum(direct) / 3, **NINE)
    smoothing = SmoothingFunction().method1
    direct = [
        sentence_bleu([right.split()], predicted.split(), smoothing_function=smoothing)
        for predicted, right in summaries
    ]
    assert got["bleu"] == pytest.approx(math.fsum(direct) / 3, **NINE)


def test_chosen_parse_mode_comes_first(files):
    lossless, published = score(files), score(files, parse="published")
    assert published["mode"] == "published"
    assert published["parse"] == lossless["other_parse"]["published"]
    assert published["metrics"]["ner_f1"] == lossless["metrics"]["published/ner_f1"]
    assert published["metrics"]["lossless/image_entity_accuracy"] == lossless["metrics"]["image_entity_accuracy"]


def test_data_set_fields_are_references_and_its_labels_are_known(write, dataset):
    outputs = {"1": "NER:\n:person;Ann:event;The Ball : Live\nimage entities pair{'a': 'Ann'}", "2": "NER:\n"}
    got = score({"predictions": write("p.jsonl", "output", outputs), "references": dataset})
    assert got["tasks"] == ["ner", "match"]
    assert got["labels"] == ["person", "other", "event"]
    assert got["metrics"]["ner_f1"] == 1
    assert got["metrics"]["image_entity_accuracy"] == 1
    # Read as published, "The Ball" is not what the data set says.
    assert got["metrics"]["published/ner_f1"] == pytest.approx(1 / 2, **NINE)
    assert got["metrics"]["rouge1"] is None and got["metrics"]["bleu"] is None


def test_another_split_of_a_data_set(write, dataset):
    predictions = write("p.jsonl", "output", {"9": "Task 1 Answer: A dog."})
    got = score({"predictions": predictions, "references": dataset, "split": "dev"})
    assert got["tasks"] == ["summary"]
    assert got["metrics"]["rouge1"] == 1
    assert got["metrics"]["ner_f1"] is None
    with pytest.raises(DataError, match=r"there is no split 'train'\. Available splits: test, dev"):
        score({"predictions": predictions, "references": dataset, "split": "train"})


def test_labels_option_applies_without_a_data_set(write):
    files = {
        "predictions": write("p.jsonl", "output", {"1": "NER:\n:positive;sad :x"}),
        "references": write("r.jsonl", "target", {"1": "NER:\n:positive;sad :x"}),
    }
    with pytest.raises(DataError, match=r"r.jsonl:1: the target cannot be read: no label-entity pair can be parsed"):
        score(files)
    got = score(files, labels=["neutral", "positive"], metrics=["ner_f1_by_label"])
    assert got["metrics"]["ner_f1/positive"] == 1
    assert got["parse"]["clean"] == 0 and got["parse"]["repaired"] == 1  # 'Task 2 Answer:' is not there.


def test_labels_that_differ_from_the_data_set_are_refused(write, dataset):
    predictions = write("p.jsonl", "output", {"1": "", "2": ""})
    files = {"predictions": predictions, "references": dataset}
    assert score(files, labels=["event", "other", "person"])["num_samples"] == 2
    with pytest.raises(SpecError, match=r"--labels: .* has labels of its own: person, other, event"):
        score(files, labels=["person"])


@pytest.mark.parametrize(
    ("targets", "tasks"),
    [
        ({"1": "Task 1 Answer: THE WINNER: Ann\n"}, ["summary"]),
        ({"1": "Task 1 Answer: THE WINNER: Ann\nTask 2 Answer:\nimage entities pair{}"}, ["summary", "match"]),
        ({"1": "NER:\n:person;Ann", "2": "image entities pair{}"}, ["ner", "match"]),
    ],
)
def test_tasks_are_inferred_from_targets(write, targets, tasks):
    files = {"predictions": write("p.jsonl", "output", targets), "references": write("r.jsonl", "target", targets)}
    assert score(files)["tasks"] == tasks


def test_tasks_can_be_named(files):
    got = score(files, tasks=["ner"])
    assert got["metrics"]["rouge1"] is None
    assert got["metrics"]["image_entity_accuracy"] is None
    assert got["metrics"]["ner_f1"] == pytest.approx(1 / 2, **NINE)


def test_missing_output_is_an_empty_answer_with_allow_missing(files, write):
    files["predictions"] = write("p.jsonl", "output", {key: OUTPUTS[key] for key in "12"})
    with pytest.raises(DataError, match=r"no output for 1 of 3 references, for example the id '3' \(.*r.jsonl:3\)"):
        score(files)
    got = score(files, allow_missing=True)
    assert (got["num_samples"], got["num_missing"]) == (3, 1)
    assert got["parse"]["malformed"] == 1
    assert got["metrics"]["rouge1"] == pytest.approx((5 / 6 + 3 / 4) / 3, **NINE)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ('{"id": "x", "output": ""}', r"p.jsonl:4: the id 'x' is not among the 3 references"),
        ('{"id": "2", "output": ""}', r"p.jsonl:4: the id '2' already occurs at .*p.jsonl:2"),
        ('{"id": 2, "output": ""}', r"p.jsonl:4: 'id' is not text: 2"),
        ('{"id": "4"}', r"p.jsonl:4: the key 'output' is missing"),
        ('{"id": "4", "output": null}', r"p.jsonl:4: 'output' is not text: None"),
        ('["4"]', r"p.jsonl:4: is not a JSON object"),
        ("{", r"p.jsonl:4: is not JSON"),
        ("[" * 100_000, r"p.jsonl:4: is nested too deeply"),
        (b"\xff", r"p.jsonl:4: is not UTF-8 text: byte 0xff; save the file as UTF-8"),
        ("9" * 5000, r"p.jsonl:4: has a number with too many digits"),
    ],
)
def test_invalid_lines_are_named(files, line, says):
    with files["predictions"].open("ab") as file:
        file.write(line if isinstance(line, bytes) else line.encode())
    with pytest.raises(DataError, match=says):
        score(files)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"tasks": ["nerr"]}, "--tasks: 'nerr' is not valid; did you mean 'ner'"),
        ({"tasks": ["ner", "summary"]}, r"--tasks: .*\[summary, ner\]"),
        ({"parse": "strict"}, "--parse: 'strict' is not valid; valid: lossless, published"),
        ({"metrics": ["rogue"]}, "--metrics: no metric plugin 'rogue'; did you mean 'rouge'"),
        ({"metrics": []}, "--metrics: name at least one"),
        ({"labels": ["a:b"]}, "the label 'a:b' cannot be read back"),
        ({"split": "test"}, "--split: .*r.jsonl is a file and has no splits; omit --split"),
    ],
)
def test_invalid_options_are_named(files, options, says):
    with pytest.raises(RunnerError, match=says) as caught:
        score(files, **options)
    assert caught.value.exit_status == 2


def test_references_without_tasks_or_samples_are_refused(files, write, tmp_path):
    files["references"] = write("r.jsonl", "target", {key: "Hello." for key in TARGETS})
    with pytest.raises(DataError, match="answer none of the tasks summary, ner and match"):
        score(files)
    with pytest.raises(DataError, match="holds no samples"):
        score({**files, "references": write("r.jsonl", "target", {})})
    with pytest.raises(DataError, match="no such file"):
        score({**files, "references": tmp_path / "none.jsonl"})


def test_files_may_contain_a_byte_order_mark_and_lone_surrogates(files):
    text = files["predictions"].read_text()
    files["predictions"].write_bytes(b"\xef\xbb\xbf" + text.replace("here at", "\\ud83d at").encode() + b"\r\n\n")
    assert score(files)["metrics"]["rouge1"] < 1


CODE = """
import sys
sys.argv = ["runner", "evaluate", *sys.argv[1:]]
from runner.cli.main import main
try:
    main()
finally:
    print({"torch", "transformers", "ray", "mlflow", "accelerate"} & sys.modules.keys(), file=sys.stderr)
"""


def test_command_prints_json_writes_scores_and_imports_nothing_heavy(files, tmp_path):
    arguments = ["--predictions", files["predictions"], "--references", files["references"], "--json"]
    command = [sys.executable, "-c", CODE, *map(str, arguments), "--scores", str(tmp_path / "s.jsonl")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stderr.splitlines()[-1] == "set()"
    assert json.loads(done.stdout) == score(files)
    rows = [json.loads(line) for line in (tmp_path / "s.jsonl").read_text().splitlines()]
    assert [row["id"] for row in rows] == ["1", "2", "3"]
    assert rows[0]["counts"]["ner_f1"] == {"predicted": 2, "reference": 2, "matched": 1}
    assert rows[1]["published"]["ending"] == "malformed"


def test_command_prints_a_table_and_errors_without_a_traceback(files, workplace):
    done = workplace.run("evaluate", "--predictions", files["predictions"], "--references", files["references"])
    assert done.returncode == 0
    assert "parsed as lossless" in done.stdout and "parsed as published" in done.stdout
    row = next(line for line in done.stdout.splitlines() if "image_entity_accuracy" in line)
    assert "0.6667" in row and "0.3333" in row
    done = workplace.run("evaluate", "--predictions", files["references"], "--references", files["references"])
    assert done.returncode == 2
    assert "r.jsonl:1: the key 'output' is missing" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "given",
    [
        ["--metrics", "bleu", "--metrics", "ner_f1"],
        ["--metrics", "bleu,ner_f1"],
        ["--metrics", "bleu, ner_f1", "--metrics", "bleu"],
    ],
)
def test_options_that_take_a_list_can_be_repeated(files, workplace, given):
    arguments = ["--predictions", files["predictions"], "--references", files["references"], "--json"]
    tasks = ["--tasks", "summary", "--tasks", "ner"]
    labels = ["--labels", "person,other", "--labels", "location"]
    told = json.loads(workplace.run("evaluate", *arguments, *given, *tasks, *labels).stdout)
    assert told["tasks"] == ["summary", "ner"]
    assert told["labels"] == ["person", "other", "location"]
    names = {name for name in told["metrics"] if "/" not in name}
    assert names == {"bleu", "ner_precision", "ner_recall", "ner_f1"}
    assert told["metrics"]["bleu"] == score(files)["metrics"]["bleu"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (":politician;Ada", "':politician;' is not a known label (location, organization, other, person)"),
        (":Person;Ada", "':Person;' is not a known label"),
        (": person;Ada", "': person;' is not a known label"),
        (":person ;Ada", "':person ;' is not a known label"),
        (":event;Pride:other;Rome", "text before the first label-entity pair ignored; ':event;' is not a known label"),
        ("person;Ada", "no label-entity pair can be parsed"),
        ("Ada (person)", "no label-entity pair can be parsed"),
        (":person;Ada\nimage entities pair: a is Ada", "no image-entity mapping can be parsed"),
        (":person;Ada\nimage entities pair{'a': 'Ada', 'b': 'Bo", "1 unfinished item(s) of the image-entity mapping"),
        (":person;Ada\nimage entities pair{'a': ' '}", "the entity of a letter is empty in the image-entity mapping"),
        (":person;\u200b", "an entity of a pair holds only invisible characters"),
        ("\uff1aperson\uff1bAda", "no label-entity pair can be parsed"),
    ],
)
@pytest.mark.parametrize("output", ["", "NER:\n:person;Bo", "anything"])
def test_references_that_cannot_be_read_are_refused(write, workplace, text, says, output):
    """Otherwise they would count as empty, and an empty or unreadable answer would have an F1 of 1."""
    good = {"0": "NER:\n:person;Bo\nimage entities pair{}"}
    predictions = write("p.jsonl", "output", {"0": output, "1": output})
    references = write("r.jsonl", "target", {**good, "1": f"Task 2 Answer:\nNER:\n{text}"})
    done = workplace.run("evaluate", "--predictions", predictions, "--references", references, "--json")
    assert (done.returncode, done.stdout) == (2, "")
    assert "r.jsonl:2: the target cannot be read: " in done.stderr and says in done.stderr
    if ":politician;" in text:
        done = workplace.run(
            "evaluate",
            "--predictions",
            predictions,
            "--references",
            references,
            "--json",
            "--labels",
            "person,politician",
        )
        assert done.returncode == 0 and json.loads(done.stdout)["metrics"]["ner_f1"] < 1


@pytest.mark.parametrize(
    ("text", "options", "says"),
    [
        (":person;Ada:politician;Bo", {}, "1 of 2 references may mean something else than what is read"),
        (":person;Ada: location;Rome", {}, "': location;' is not a known label"),
        (":person;Ada:Person;Bo", {}, "':Person;' is not a known label"),
        (":person;:other;Rome", {}, "1 label(s) without entity dropped"),
        (":person;Ada\uff1aother\uff1bRome", {}, "Rome' contains a known label, which starts a pair only as"),
        (":person;Ada\nother;Rome", {}, "the entity 'Ada other;Rome' contains a known label"),
        (":person;Ada, Other ; Rome", {}, "the entity 'Ada, Other ; Rome' contains a known label"),
        (":person;Ada\nimage entities pair{'A': 'Ada'}", {}, "'A' is not the letter of a segment (a … z, aa, ab …)"),
        (":politician;Ada", {"parse": "published"}, "1 of 2 references cannot be read in the parse mode lossless"),
        (":person;Ada\nimage entities pair{'a': 'Ada'}}", {}, "cannot be read in the parse mode published"),
        (None, {}, "1 of 2 references have no answer to the task ner and count as empty ones, for example "),
    ],
)
def test_doubtful_references_are_counted_in_warnings(write, workplace, text, options, says):
    targets = {
        "0": "NER:\n:person;Bo\nimage entities pair{}",
        "1": "image entities pair{}" if text is None else f"NER:\n{text}",
    }
    files = {"predictions": write("p.jsonl", "output", targets), "references": write("r.jsonl", "target", targets)}
    assert any(says in warning and "r.jsonl:2" in warning for warning in score(files, **options)["warnings"])
    arguments = [part for name, value in {**files, **options}.items() for part in (f"--{name}", value)]
    done = workplace.run("evaluate", *arguments)
    assert done.returncode == 0 and says in done.stderr.replace("\n", " ")


def test_readable_references_cause_no_warning(files):
    assert score(files)["warnings"] == []


def test_task_that_no_reference_answers_is_refused(write):
    targets = {"1": "NER:\n:person;Ada"}
    files = {"predictions": write("p.jsonl", "output", targets), "references": write("r.jsonl", "target", targets)}
    with pytest.raises(DataError, match="no reference has an answer to the task match; omit this task in --tasks"):
        score(files, tasks=["ner", "match"])


def test_task_that_no_sample_of_a_data_set_answers_is_refused(write, tmp_path):
    row = {"id": "1", "text": "Hi", "image": None, "summary": "A dog runs here.", "entities": [], "segments": []}
    description = {"name": "x", "labels": ["person"], "num_samples": {"dev": 1}}
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "dataset.json").write_text(json.dumps(description))
    (tmp_path / "set" / "dev.jsonl").write_text(json.dumps(row))
    files = {"predictions": write("p.jsonl", "output", {"1": "Task 1 Answer: x"}), "references": tmp_path / "set"}
    with pytest.raises(DataError, match="no reference has an answer to the task ner; omit this task in --tasks"):
        score(files, split="dev", tasks=["summary", "ner"])
    assert score(files, split="dev")["tasks"] == ["summary"]


def test_metrics_that_measure_nothing_are_null_with_a_reason(write, workplace):
    targets = {key: f"Task 1 Answer: {text}" for key, text in {"1": "一只猫坐在垫子上。", "2": "两只狗。"}.items()}
    files = {"predictions": write("p.jsonl", "output", targets), "references": write("r.jsonl", "target", targets)}
    got = score(files)
    for name in ("rouge1", "rouge2", "rougeL", "bleu", "published/rouge1", "published/bleu"):
        assert got["metrics"][name] is None
    rouge, bleu = got["warnings"]
    assert rouge.startswith("ROUGE is null: it has no meaning for any of the 2 reference summaries")
    assert bleu.startswith("BLEU is null: it has no meaning for any of the 2 reference summaries")
    files["references"] = write("r.jsonl", "target", {**targets, "2": "Task 1 Answer: two dogs run there"})
    got = score(files)
    assert got["metrics"]["rouge1"] == 0 and got["metrics"]["bleu"] == pytest.approx(0.1**0.75 / 2)
    assert ["for 1 of 2 reference summaries" in warning for warning in got["warnings"]] == [True, True, False]
    done = workplace.run("evaluate", *(part for name, value in files.items() for part in (f"--{name}", value)))
    assert "warning: ROUGE has no meaning for 1 of 2 reference summaries" in done.stderr


def test_a_raw_answer_is_shown_if_all_metrics_are_0(write, workplace):
    files = {
        "predictions": write("p.jsonl", "output", dict.fromkeys(TARGETS, " \n")),
        "references": write("r.jsonl", "target", TARGETS),
    }
    [warning] = score(files)["warnings"]
    assert warning.startswith(
        "all 3 answers are malformed. For example, the answer to sample 1 is empty (parser: no 'Task"
    )
    assert str(files["predictions"]) in warning
    off = {key: answer("x y z", ":other;nothing", "{'a': 'nothing'}") for key in TARGETS}
    files["predictions"] = write("p.jsonl", "output", off)
    [warning] = score(files)["warnings"]
    assert warning.startswith('all metrics are 0. For example, the answer to sample 1 is "Task 1 Answer: x y z\\n')
    done = workplace.run("evaluate", *(part for name, value in files.items() for part in (f"--{name}", value)))
    assert "warning: all metrics are 0." in done.stderr
    files["predictions"] = write("p.jsonl", "output", OUTPUTS)
    assert score(files)["warnings"] == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (json.dumps([{"id": "1", "output": "a"}]).encode(), r"is a JSON array\. .*jq -c '\.\[\]' FILE > NEW\.jsonl"),
        (json.dumps([{"id": "1"}, {"id": "2"}], indent=2).encode(), "is a JSON array"),
        (b'\xef\xbb\xbf\n [\n{"id": "1"}]', "is a JSON array"),
        (json.dumps({"id": "1", "output": "a"}, indent=2).encode(), "is one JSON object over several lines"),
        (b"PAR1 and more", "is a Parquet file"),
        (gzip.compress(b"{}", mtime=0), "is compressed with gzip; unpack"),
        ('{"id": "1"}'.encode("utf-16"), "is UTF-16 text; save the file as UTF-8"),
    ],
)
def test_a_file_of_another_format_is_one_error_that_says_how_to_convert_it(files, content, message):
    files["predictions"].write_bytes(content)
    with pytest.raises(DataError, match=rf"^\S+p\.jsonl:1: {message}") as raised:
        evaluate(EvaluateOptions(**files), Silent())
    assert len(str(raised.value).splitlines()) == 1


@given(st.binary(max_size=60))
def test_any_head_of_a_file_has_a_format_or_none(head):
    problem = other_format(head)
    assert problem is None or "Expected: JSON lines" in problem


@given(st.lists(st.dictionaries(st.text(max_size=3), st.integers() | st.text(max_size=3), min_size=1), max_size=4))
def test_json_lines_are_no_other_format_and_arrays_are(rows):
    assert other_format("".join(json.dumps(row) + "\n" for row in rows).encode()) is None
    for indent in (None, 1):
        assert (other_format(json.dumps(rows, indent=indent).encode()) is not None) == bool(rows)
