"""A folder is replaced only if it holds the same data set and nothing else, or if --replace is given."""

import shutil

import pytest

from runner.dataset.folder_reader import DatasetFolder
from runner.dataset.folder_writer import NewContent, publish_atomically
from runner.dataset.huggingface import export_dataset, import_dataset
from runner.errors import DataError
from runner.records import Sample

SPEC = """\
name: {name}
source: {{type: gmner, path: gmner}}
crop: {{unusable_images: skip}}
split: official
leaks: warn
output: {output}
"""


def content(path):
    return {str(file.relative_to(path)): file.read_bytes() for file in path.rglob("*") if file.is_file()}


def publish(path, text, new=None, provenance=None):
    with publish_atomically(path, new) as writer:
        writer.write_dataset("n", ["person"], {"train": [Sample("a", text, None, None, (), ())]}, provenance or {})


@pytest.fixture
def earlier(tmp_path):
    publish(tmp_path / "set", "first", provenance={"source": "corpus"})
    return tmp_path / "set"


def text_of(path):
    return DatasetFolder(path).load("train")[0].text


@pytest.mark.parametrize(
    ("new", "message"),
    [
        (NewContent("other"), "holds the data set 'n', and the new one is 'other'.*--replace"),
        (NewContent("n", "elsewhere"), "of another source .*'corpus'.*'elsewhere'.*--replace"),
    ],
)
def test_another_data_set_is_replaced_only_on_request(earlier, new, message):
    before = content(earlier)
    with pytest.raises(DataError, match=message):
        publish(earlier, "second", new)
    assert content(earlier) == before
    publish(earlier, "second", NewContent(new.name, new.source, replace=True))
    assert text_of(earlier) == "second"


@pytest.mark.parametrize("new", [NewContent("n"), NewContent("n", "corpus")])
def test_the_same_data_set_is_replaced(earlier, new):
    publish(earlier, "second", new)
    assert text_of(earlier) == "second"


@pytest.mark.parametrize(
    "name", ["notes.txt", "images/mine.png", ".hidden", "own/deep/file", "other.jsonl", "data/x.csv"]
)
def test_files_of_the_user_are_deleted_only_on_request(earlier, name):
    (earlier / name).parent.mkdir(parents=True, exist_ok=True)
    (earlier / name).write_text("mine")
    with pytest.raises(DataError, match=f"not part of the data set, such as {name}"):
        publish(earlier, "second", NewContent("n"))
    assert (earlier / name).read_text() == "mine"
    publish(earlier, "second", NewContent("n", replace=True))
    assert not (earlier / name).exists()


@pytest.mark.parametrize("damage", ["", "[]", "{}", None])
def test_a_folder_whose_description_is_damaged_is_replaced_only_on_request(earlier, damage):
    (earlier / "dataset.json").write_text(damage or "")
    with pytest.raises(DataError, match="--replace"):
        publish(earlier, "second", NewContent("n"))
    publish(earlier, "second", NewContent("n", replace=True))


def test_a_damaged_split_does_not_end_the_check(earlier):
    (earlier / "train.jsonl").write_text('{"image": 3}\n[1]\n{"segments": [4]}\n{"cut')
    publish(earlier, "second", NewContent("n"))
    assert text_of(earlier) == "second"


def test_import_and_export_replace_the_same_data_set_and_refuse_another(folder, reporter, tmp_path, earlier):
    export, target = tmp_path / "export", tmp_path / "back"
    for _ in range(2):
        export_dataset(folder, export, reporter)
        import_dataset(str(export), target, reporter)
    with pytest.raises(DataError, match=r"holds the data set 'n'.*--replace"):
        import_dataset(str(export), earlier, reporter)
    with pytest.raises(DataError, match=r"holds the data set 'tiny'.*--replace"):
        export_dataset(earlier, export, reporter)
    (export / "data" / "notes.txt").write_text("mine")
    with pytest.raises(DataError, match=r"such as data/notes\.txt"):
        export_dataset(folder, export, reporter)
    import_dataset(str(export), earlier, reporter, replace=True)
    export_dataset(folder, export, reporter, replace=True)
    assert sorted(sample.id for sample in DatasetFolder(earlier).load("train")) == ["s1", "s2", "s3"]


def test_the_commands_refuse_and_replace(workplace, corpus):
    corpus.good("1")
    for name in ("first", "second"):
        (workplace.folder / f"{name}.yaml").write_text(SPEC.format(name=name, output="made"))
    assert workplace.run("build", "first.yaml").returncode == 0
    before = content(workplace.folder / "made")
    refused = workplace.run("build", "second.yaml")
    assert (refused.returncode, "--replace" in refused.stderr) == (2, True)
    assert content(workplace.folder / "made") == before
    assert workplace.run("build", "first.yaml").returncode == 0
    assert workplace.run("build", "second.yaml", "--replace").returncode == 0
    assert workplace.run("export", "made", "export").returncode == 0
    shutil.rmtree(workplace.folder / "made")
    assert workplace.run("import", "export", "made").returncode == 0
    assert workplace.run("import", "export", "made").returncode == 0
    assert workplace.run("build", "first.yaml").returncode == 2
