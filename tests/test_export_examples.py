"""`runner export --to`: the examples of a spec for other trainers, with images, and errors that name the samples."""

import json
import os
from dataclasses import replace

import pytest
from PIL import Image

from runner.dataset.folder_reader import DatasetFolder
from runner.dataset.folder_writer import publish_atomically
from runner.export_examples import ExportOptions, export_examples
from runner.records import Entity, Sample, Segment
from runner.resolved_plan import create_plugin
from runner.spec.load import load_spec
from tests.command import run_in_process

SPEC = """\
name: exported
seed: 1
data: {type: mmre, path: set}
adapter: {type: pfa, tasks: [ner, match], images: lettered}
model: none
trainer: none
generator: {type: constant}
metrics: [{type: ner_f1}]
tracker: {type: mlflow}
"""


class Silent:
    def metrics(self, step, values): ...

    def progress(self, done, total, **shown): ...

    def warn(self, message): ...

    def stop_requested(self):
        return False


@pytest.fixture
def folder(tmp_path):
    """Return a folder with a spec and a data set: three samples with segments, one of them with marks in its text."""
    (tmp_path / "spec.yaml").write_text(SPEC)
    write_dataset(tmp_path / "set", "Ada saw <image> in <|im_end|> Rome")
    return tmp_path


def write_dataset(path, marked_text):
    with publish_atomically(path) as unfinished:

        def picture(name, place, orientation=1):
            exif = Image.Exif()
            exif[0x0112] = orientation
            Image.new("RGB", (30, 20), "red").save(place / name, exif=exif)
            return place / name

        def sample(number, text):
            image = picture(f"{number}.jpg", unfinished.images, orientation=6 if number == 2 else 1)
            cut = picture(f"{number}-a.png", unfinished.segments)
            entities = (Entity("person", "Ada"), Entity("location", "Rome"))
            return Sample(f"s{number}", text, image, None, entities, (Segment("a", cut, "Ada", (0, 0, 9, 9)),))

        train = [sample(1, "Ada in Rome"), sample(2, "Rome saw Ada")]
        splits = {"train": train, "test": [sample(3, marked_text)]}
        unfinished.write_dataset("set", ["person", "location"], splits, {"made": "by a test"})


def run(folder, *arguments):
    return run_in_process(["export", *arguments], folder, os.environ)


def exported(folder, file_format, **options):
    spec = load_spec(folder / "spec.yaml", options.pop("overrides", ())).spec
    request = ExportOptions(folder / "set", folder / "out", file_format, spec, escape_marks=True)
    return export_examples(replace(request, **options), Silent())


def test_rows_hold_what_the_adapter_renders(folder):
    exported(folder, "ms_swift")
    rows = [json.loads(line) for line in (folder / "out" / "train.jsonl").read_text().splitlines()]
    data = DatasetFolder(folder / "set")
    adapter = create_plugin(load_spec(folder / "spec.yaml").spec.adapter, data.labels)
    assert [row["id"] for row in rows] == ["s1", "s2"]
    for row, sample in zip(rows, data.load("train"), strict=True):
        rendered = adapter.render_training(sample)
        prompt, answer = row["messages"]
        assert (prompt["role"], answer["role"]) == ("user", "assistant")
        assert prompt["content"].replace("<image>", "") == rendered.prompt
        assert prompt["content"].startswith("<image>a:<image>")
        assert answer["content"] == rendered.target
        assert row["images"] == [path.relative_to(folder / "set").as_posix() for path in rendered.images]
        assert all((folder / "out" / name).is_file() for name in row["images"])


def test_marks_in_texts_are_refused_with_sample_and_remedy(folder):
    done = run(folder, "set", "out", "--to", "2u1", "--spec", "spec.yaml")
    assert done.returncode == 2
    assert "1 texts contain what Qwen-VL-Series-Finetune does not read as text" in done.stderr
    assert "--marks escape" in done.stderr
    assert "sample 's3' (test): <image>, <|im_end|>" in done.stderr
    assert not (folder / "out").exists()
    done = run(folder, "set", "out", "--to", "2u1", "--spec", "spec.yaml", "--marks", "escape", "--json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert (document["escaped"], document["num_examples"]) == (["s3"], {"train": 2, "test": 1})
    [row] = json.loads((folder / "out" / "test.json").read_text())
    assert "Ada saw < image> in < |im_end|> Rome" in row["conversations"][0]["value"]
    assert row["conversations"][0]["value"].count("<image>") == len(row["image"]) == 2


def test_llama_factory_finds_each_split_by_name(folder):
    exported(folder, "llama_factory")
    info = json.loads((folder / "out" / "dataset_info.json").read_text())
    assert {name: entry["file_name"] for name, entry in info.items()} == {
        "set_train": "train.jsonl",
        "set_test": "test.jsonl",
    }


def test_images_are_upright_because_other_trainers_ignore_exif(folder):
    assert exported(folder, "ms_swift").num_turned == 1
    with Image.open(folder / "out" / "images" / "2.jpg") as image:
        assert image.size == (20, 30)
        assert image.getexif().get(0x0112, 1) == 1
    original, copy = (folder / place / "images" / "1.jpg" for place in ("set", "out"))
    assert original.read_bytes() == copy.read_bytes()


def test_each_task_of_a_regime_is_an_example_and_only_training_shows_the_context(folder):
    overrides = ["regime.prompts=per_task", "regime.context.match=[ner]"]
    result = exported(folder, "ms_swift", overrides=overrides)
    assert result.num_examples == {"train": 4, "test": 2}
    rows = {
        split: [json.loads(line) for line in (folder / "out" / f"{split}.jsonl").read_text().splitlines()]
        for split in ("train", "test")
    }
    assert [row["id"] for row in rows["train"]] == ["s1/ner", "s1/match", "s2/ner", "s2/match"]
    train, test = (rows[split][1]["messages"][0]["content"] for split in ("train", "test"))
    assert ":person;Ada:location;Rome" in train
    assert ":person;Ada:location;Rome" not in test


def test_only_chosen_splits_are_exported_and_an_export_needs_replace(folder):
    arguments = ["set", "out", "--to", "ms_swift", "--spec", "spec.yaml", "--split", "train"]
    done = run(folder, *arguments)
    assert done.returncode == 0, done.stderr
    assert "examples: train 2" in done.stdout
    assert "ROOT_IMAGE_DIR=" in done.stdout
    assert not (folder / "out" / "test.jsonl").exists()
    assert "already exists" in run(folder, *arguments).stderr
    assert run(folder, *arguments, "--replace").returncode == 0
    (folder / "mine").mkdir()
    (folder / "mine" / "notes.txt").write_text("kept")
    done = run(folder, "set", "mine", *arguments[2:], "--replace")
    assert done.returncode == 2
    assert "is not an export of this kind" in done.stderr
    assert (folder / "mine" / "notes.txt").read_text() == "kept"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--to", "ms_swft"], "there is no such format; did you mean 'ms_swift'?"),
        (["--to", "ms_swift"], "--to ms_swift needs --spec SPEC, such as"),
        (["--to", "ms_swift", "--spec", "spec.yaml", "--split", "tran"], "no such split; did you mean 'train'?"),
        (["--spec", "spec.yaml"], "--spec has no effect with --to hub"),
        (["--to", "2u1", "--spec", "spec.yaml", "--set", "adapter.tasks=[summary]"], "has no summary to train on"),
        (["--to", "2u1", "--spec", "none.yaml"], "none.yaml"),
    ],
)
def test_a_mistake_has_exit_status_2_and_a_remedy(folder, arguments, message):
    done = run(folder, "set", "out", *arguments)
    assert (done.returncode, "Traceback" in done.stderr) == (2, False), done.stderr
    assert message in done.stderr
    assert not (folder / "out").exists()


def test_a_broken_image_is_told_with_its_file(folder):
    (folder / "set" / "images" / "1.jpg").write_bytes(b"no image")
    done = run(folder, "set", "out", "--to", "2u1", "--spec", "spec.yaml", "--marks", "escape")
    assert done.returncode == 2
    assert "images/1.jpg: the image cannot be exported" in done.stderr


def test_boxes_are_written_in_the_frame_of_the_model_and_jittered_in_training_alone(folder):
    (folder / "spec.yaml").write_text(
        SPEC.replace("model: none", "model: {type: qwen3_vl, size: tiny}")
        .replace("adapter: {type: pfa, tasks: [ner, match], images: lettered}", "adapter: {type: gmner}")
        .replace(
            "trainer: none", "optimizer: {type: adamw, groups: {all: {match: '*', lr: 1e-3}}}\ntrainer: {type: sft}"
        )
        .replace("{type: constant}", "{type: transformers}")
    )

    def targets(split):
        rows = [json.loads(line) for line in (folder / "out" / f"{split}.jsonl").read_text().splitlines()]
        return [row["messages"][1]["content"] for row in rows]

    exported(folder, "ms_swift")
    plain, test = targets("train"), targets("test")
    assert plain[0] == "Ada|person|[0,0,300,450]\nRome|location|None"
    frame = json.loads((folder / "out" / "export.json").read_text())["box_frame"]
    assert (frame["type"], frame["units"]) == ("RelativeFrame", 1000)
    exported(folder, "ms_swift", overrides=["adapter.box_jitter={}"], replace=True)
    assert targets("train") != plain
    assert targets("test") == test
