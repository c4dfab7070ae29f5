"""Parquet for Hugging Face: what is exported is read by `datasets`, and comes back the same to the byte."""

import json
import shutil
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import load_dataset
from huggingface_hub import DatasetCard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from runner.cli.main import app
from runner.dataset import huggingface as exchange
from runner.dataset import huggingface as parquet
from runner.dataset.folder import DatasetFolder
from runner.dataset.huggingface import export_dataset, import_dataset
from runner.dataset.publish import publishing
from runner.errors import DataError, RequirementError
from runner.records import Entity, Sample, Segment


def content(path):
    return {str(file.relative_to(path)): file.read_bytes() for file in path.rglob("*") if file.is_file()}


def test_there_and_back(folder, heard, tmp_path):
    (folder / "left_out.jsonl").write_text('{"id": "x", "reason": "y"}\n')
    assert export_dataset(folder, tmp_path / "export", heard) == {"train": 3, "test": 1}
    assert heard.done[-1] == (4, 4)
    told = import_dataset(str(tmp_path / "export"), tmp_path / "back", heard)
    before = DatasetFolder(folder)
    assert told["fingerprint"] == before.info(before.splits()).fingerprint
    assert content(tmp_path / "back") == content(folder)
    assert heard.warnings == []


def test_what_datasets_reads(folder, heard, tmp_path):
    export_dataset(folder, tmp_path / "export", heard)
    read = load_dataset(str(tmp_path / "export"), cache_dir=str(tmp_path / "cache"))
    assert {split: len(rows) for split, rows in read.items()} == {"train": 3, "test": 1}
    row, sample = read["train"][1], DatasetFolder(folder).load("train")[1]
    assert (row["id"], row["text"], row["summary"]) == (sample.id, sample.text, None)
    assert [(each["label"], each["text"]) for each in row["entities"]] == [("person", "Ada"), ("location", "Rome")]
    assert row["image"].size == (8, 8)
    assert row["segments"][0]["image"].size == (4, 3)
    assert (row["segments"][0]["letter"], row["segments"][0]["box"]) == ("a", [0, 0, 4, 3])


def test_the_card_s_header_names_the_files(folder, heard, tmp_path):
    export_dataset(folder, tmp_path / "export", heard)
    read = DatasetCard.load(tmp_path / "export" / "README.md").data.to_dict()
    files = read["configs"][0]["data_files"]
    assert [(each["split"], each["path"]) for each in files] == [
        ("train", "data/train-*.parquet"),
        ("test", "data/test-*.parquet"),
    ]


def test_many_files_and_row_groups(folder, heard, tmp_path, monkeypatch):
    monkeypatch.setattr(parquet, "ROWS", 1)
    monkeypatch.setattr(parquet, "SHARD", 1)
    export_dataset(folder, tmp_path / "export", heard)
    names = sorted(each.name for each in (tmp_path / "export" / "data").iterdir())
    assert names == ["test-00000-of-00001.parquet", *(f"train-{number:05}-of-00003.parquet" for number in range(3))]
    import_dataset(str(tmp_path / "export"), tmp_path / "back", heard)
    assert [each.id for each in DatasetFolder(tmp_path / "back").load("train")] == ["s1", "s2", "s3"]


words = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)


@settings(max_examples=8, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.tuples(words, st.none() | words, st.lists(words, max_size=3), st.booleans()), min_size=1, max_size=5)
)
def test_any_text_comes_back(tmp_path_factory, heard, drawn):
    place = tmp_path_factory.mktemp("exchange")
    with publishing(place / "set") as unfinished:
        picture = unfinished.images / "one.png"
        picture.write_bytes(b"a picture that samples share")

        def sample(number, text, summary, entities, pictured):
            segments = (Segment("a", None, text, (0, 0, 1, 2)),) if entities else ()
            named = tuple(Entity("person", each) for each in entities)
            return Sample(f"s{number}", text, picture if pictured else None, summary, named, segments)

        samples = [sample(number, *each) for number, each in enumerate(drawn)]
        unfinished.describe("any", ["person"], {"train": samples, "test": []}, {"é": "ü"}, "cc-by-4.0")
    export_dataset(place / "set", place / "export", heard)
    told = import_dataset(str(place / "export"), place / "back", heard)
    before = content(place / "set")
    if not any(sample.image for sample in samples):
        del before["images/one.png"]
    assert content(place / "back") == before
    assert told["license"] == "cc-by-4.0"


def exported(folder, heard, tmp_path):
    export_dataset(folder, tmp_path / "export", heard)
    return tmp_path / "export"


def changed(export, change):
    """Change the first row of the training split."""
    file = next((export / "data").glob("train-*"))
    rows = pq.read_table(file).to_pylist()
    change(rows[0])
    pq.write_table(pa.Table.from_pylist(rows, schema=parquet.FEATURES.arrow_schema), file)


def test_what_was_changed_is_told(folder, heard, tmp_path):
    export = exported(folder, heard, tmp_path)
    changed(export, lambda row: row.update(text="else"))
    told = import_dataset(str(export), tmp_path / "back", heard)
    assert "its content is not what its dataset.json was written for" in heard.warnings[0]
    assert told["fingerprint"] != json.loads((export / "dataset.json").read_text())["fingerprint"]


BROKEN = {
    "a picture outside": (lambda row: row["image"].update(path="../1.png"), "is in no folder"),
    "a picture anywhere": (lambda row: row["image"].update(path="/etc/passwd"), "is in no folder"),
    "a picture in place of a split": (lambda row: row["image"].update(path="test.jsonl"), "is in no folder"),
    "no name": (lambda row: row["image"].update(path=None), "sample s1: lacks a value"),
    "no bytes": (lambda row: row["image"].update(bytes=None), "sample s1: lacks a value"),
    "no text": (lambda row: row.update(text=None), "sample s1: lacks a value"),
    "no label": (lambda row: row["entities"][0].update(label=None), "sample s1: lacks a value"),
    "no segments": (lambda row: row.update(segments=None), "sample s1: lacks a value"),
    "one name for two": (lambda row: row["image"].update(path="images/2.png"), "another picture is called"),
    "an unknown label": (lambda row: row["entities"][0].update(label="pet"), "'pet' is none of person, location"),
    "a double id": (lambda row: row.update(id="s2"), "the id 's2' stands in an earlier line"),
    "a box inside out": (lambda row: row["segments"][0].update(box=[4, 0, 0, 3]), "is not left, top, right, bottom"),
}


@pytest.mark.parametrize(("change", "message"), BROKEN.values(), ids=BROKEN)
def test_a_broken_row_is_refused_and_leaves_nothing(folder, heard, tmp_path, change, message):
    export = exported(folder, heard, tmp_path)
    changed(export, change)
    with pytest.raises(DataError, match=message):
        import_dataset(str(export), tmp_path / "back", heard)
    assert not (tmp_path / "back").exists()


def test_broken_files_are_named(folder, heard, tmp_path):
    export = exported(folder, heard, tmp_path)
    file = next((export / "data").glob("test-*"))
    pq.write_table(pa.table({"id": ["x"], "other": [1]}), file)
    with pytest.raises(DataError, match=r"test-00000-of-00001\.parquet: is not as `runner export` writes it"):
        import_dataset(str(export), tmp_path / "back", heard)
    file.write_bytes(b"PAR1")
    with pytest.raises(DataError, match=r"test-00000-of-00001\.parquet: is not as"):
        import_dataset(str(export), tmp_path / "back", heard)
    file.unlink()
    with pytest.raises(DataError, match=r"holds no test-….parquet"):
        import_dataset(str(export), tmp_path / "back", heard)
    shutil.rmtree(export / "data")
    with pytest.raises(DataError, match=r"holds no data/ with Parquet files"):
        import_dataset(str(export), tmp_path / "back", heard)


def test_nothing_else_is_written_over(folder, heard, tmp_path):
    export = exported(folder, heard, tmp_path)
    before = content(folder)
    with pytest.raises(DataError, match="is there already and is no export"):
        export_dataset(folder, folder, heard)
    with pytest.raises(DataError, match="is an export; name another place"):
        import_dataset(str(export), export, heard)
    assert content(folder) == before
    again = content(export)
    export_dataset(folder, export, heard)
    assert content(export) == again


def test_a_split_that_leads_out_is_refused(folder, heard, tmp_path):
    export = exported(folder, heard, tmp_path)
    described = json.loads((export / "dataset.json").read_text())
    (export / "dataset.json").write_text(json.dumps(described | {"num_samples": {"../../train": 3}}))
    with pytest.raises(DataError, match=r"takes no split called '\.\./\.\./train'"):
        import_dataset(str(export), tmp_path / "back", heard)


def test_a_picture_that_could_not_come_back_is_refused(folder, heard, tmp_path):
    (folder / "images" / "1.png").rename(folder / "1.png")
    lines = (folder / "train.jsonl").read_text().replace("images/1.png", "1.png")
    (folder / "train.jsonl").write_text(lines)
    with pytest.raises(DataError, match=r"sample s1: the picture '1\.png' is in no folder of the data set"):
        export_dataset(folder, tmp_path / "export", heard)
    assert not (tmp_path / "export").exists()


def test_an_export_in_place_of_a_data_set_says_what_makes_one(folder, heard, tmp_path):
    with pytest.raises(DataError, match=r"train\.jsonl: missing.* this is an export: `runner import"):
        DatasetFolder(exported(folder, heard, tmp_path)).splits()


def test_without_datasets_the_command_says_what_to_install(folder, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "runner.dataset.huggingface", None)
    monkeypatch.delattr("runner.dataset.huggingface")
    done = CliRunner().invoke(app, ["export", str(folder), str(tmp_path / "export")])
    assert isinstance(done.exception, RequirementError)
    assert "pip install 'mmre-runner[hub]'" in str(done.exception)


def test_a_split_that_hugging_face_does_not_take(folder, heard, tmp_path):
    described = json.loads((folder / "dataset.json").read_text())
    described["num_samples"] = {"train": 3, "test-1": 1}
    (folder / "dataset.json").write_text(json.dumps(described))
    (folder / "test.jsonl").rename(folder / "test-1.jsonl")
    with pytest.raises(DataError, match="takes no split called 'test-1'"):
        export_dataset(folder, tmp_path / "export", heard)


def test_a_name_on_the_hub(folder, heard, tmp_path, monkeypatch):
    export = exported(folder, heard, tmp_path)
    monkeypatch.setattr(exchange, "snapshot_download", lambda name, repo_type: str(export))
    assert import_dataset("somebody/tiny", tmp_path / "back", heard)["name"] == "tiny"

    def away(name, repo_type):
        raise OSError("no route\nto the hub")

    monkeypatch.setattr(exchange, "snapshot_download", away)
    with pytest.raises(RequirementError, match=r"'somebody/tiny' is no folder here, and .* \(no route\)"):
        import_dataset("somebody/tiny", tmp_path / "back", heard)


def test_the_commands(folder, tmp_path):
    def run(*arguments):
        done = CliRunner().invoke(app, [str(each) for each in arguments])
        assert done.exit_code == 0, done.output
        return done.stdout

    told = json.loads(run("export", folder, tmp_path / "export", "--json"))
    assert told == {"path": str(tmp_path / "export"), "num_samples": {"train": 3, "test": 1}}
    fingerprint = json.loads((folder / "dataset.json").read_text())["fingerprint"]
    assert f"fingerprint: {fingerprint}" in run("import", tmp_path / "export", tmp_path / "back")
    assert "samples: train 3, test 1" in run("export", tmp_path / "back", tmp_path / "again")
