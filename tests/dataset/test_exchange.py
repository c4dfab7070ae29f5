"""Parquet for Hugging Face: `datasets` reads an export, and an import restores identical files."""

import json
import os
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
from runner.dataset.folder_reader import DatasetFolder
from runner.dataset.folder_writer import publish_atomically
from runner.dataset.huggingface import export_dataset, import_dataset
from runner.errors import DataError, RequirementError
from runner.records import Entity, Sample, Segment, is_blank


def content(path):
    return {str(file.relative_to(path)): file.read_bytes() for file in path.rglob("*") if file.is_file()}


def test_import_restores_an_export(folder, reporter, tmp_path):
    (folder / "left_out.jsonl").write_text('{"id": "x", "reason": "y"}\n')
    assert export_dataset(folder, tmp_path / "export", reporter) == {"train": 3, "test": 1}
    assert reporter.done[-1] == (4, 4)
    told = import_dataset(str(tmp_path / "export"), tmp_path / "back", reporter)
    before = DatasetFolder(folder)
    assert told["fingerprint"] == before.info(before.load_splits()).fingerprint
    assert content(tmp_path / "back") == content(folder)
    assert reporter.warnings == []


def test_datasets_reads_an_export(folder, reporter, tmp_path):
    export_dataset(folder, tmp_path / "export", reporter)
    read = load_dataset(str(tmp_path / "export"), cache_dir=str(tmp_path / "cache"))
    assert {split: len(rows) for split, rows in read.items()} == {"train": 3, "test": 1}
    row, sample = read["train"][1], DatasetFolder(folder).load("train")[1]
    assert (row["id"], row["text"], row["summary"]) == (sample.id, sample.text, None)
    assert [(each["label"], each["text"]) for each in row["entities"]] == [("person", "Ada"), ("location", "Rome")]
    assert row["image"].size == (8, 8)
    assert row["segments"][0]["image"].size == (4, 3)
    assert (row["segments"][0]["letter"], row["segments"][0]["box"]) == ("a", [0, 0, 4, 3])


def test_the_card_s_header_names_the_files(folder, reporter, tmp_path):
    export_dataset(folder, tmp_path / "export", reporter)
    read = DatasetCard.load(tmp_path / "export" / "README.md").data.to_dict()
    files = read["configs"][0]["data_files"]
    assert [(each["split"], each["path"]) for each in files] == [
        ("train", "data/train-*.parquet"),
        ("test", "data/test-*.parquet"),
    ]


def test_many_files_and_row_groups(folder, reporter, tmp_path, monkeypatch):
    monkeypatch.setattr(parquet, "ROW_GROUP_SIZE", 1)
    monkeypatch.setattr(parquet, "MAX_SHARD_BYTES", 1)
    export_dataset(folder, tmp_path / "export", reporter)
    names = sorted(each.name for each in (tmp_path / "export" / "data").iterdir())
    assert names == ["test-00000-of-00001.parquet", *(f"train-{number:05}-of-00003.parquet" for number in range(3))]
    import_dataset(str(tmp_path / "export"), tmp_path / "back", reporter)
    assert [each.id for each in DatasetFolder(tmp_path / "back").load("train")] == ["s1", "s2", "s3"]


words = st.text(st.characters(exclude_categories=["Cs"]), max_size=12).filter(lambda text: not is_blank(text))


@settings(max_examples=8, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.tuples(st.just("") | words, st.none() | words, st.lists(words, max_size=3), st.booleans()),
        min_size=1,
        max_size=5,
    )
)
def test_any_text_is_preserved(tmp_path_factory, reporter, drawn):
    place = tmp_path_factory.mktemp("exchange")
    with publish_atomically(place / "set") as unfinished:
        picture = unfinished.images / "one.png"
        picture.write_bytes(b"a picture that samples share")

        def sample(number, text, summary, entities, pictured):
            segments = (Segment("a", None, entities[0], (0, 0, 1, 2)),) if entities else ()
            named = tuple(Entity("person", each) for each in entities)
            return Sample(f"s{number}", text, picture if pictured else None, summary, named, segments)

        samples = [sample(number, *each) for number, each in enumerate(drawn)]
        unfinished.write_dataset("any", ["person"], {"train": samples, "test": []}, {"é": "ü"}, "cc-by-4.0")
    export_dataset(place / "set", place / "export", reporter)
    told = import_dataset(str(place / "export"), place / "back", reporter)
    before = content(place / "set")
    if not any(sample.image for sample in samples):
        del before["images/one.png"]
    assert content(place / "back") == before
    assert told["license"] == "cc-by-4.0"


def exported(folder, reporter, tmp_path):
    export_dataset(folder, tmp_path / "export", reporter)
    return tmp_path / "export"


def changed(export, change):
    """Change the first row of the training split."""
    file = next((export / "data").glob("train-*"))
    rows = pq.read_table(file).to_pylist()
    change(rows[0])
    pq.write_table(pa.Table.from_pylist(rows, schema=parquet.FEATURES.arrow_schema), file)


def test_changed_content_is_reported(folder, reporter, tmp_path):
    export = exported(folder, reporter, tmp_path)
    changed(export, lambda row: row.update(text="else"))
    told = import_dataset(str(export), tmp_path / "back", reporter)
    assert "the content does not match the fingerprint in its dataset.json" in reporter.warnings[0]
    assert told["fingerprint"] != json.loads((export / "dataset.json").read_text())["fingerprint"]


INVALID = {
    "a picture outside": (lambda row: row["image"].update(path="../1.png"), "is not in a subfolder"),
    "a picture anywhere": (lambda row: row["image"].update(path="/etc/passwd"), "is not in a subfolder"),
    "a picture in place of a split": (lambda row: row["image"].update(path="test.jsonl"), "is not in a subfolder"),
    "no name": (lambda row: row["image"].update(path=None), "sample s1: a value is missing"),
    "no bytes": (lambda row: row["image"].update(bytes=None), "sample s1: a value is missing"),
    "no text": (lambda row: row.update(text=None), "sample s1: a value is missing"),
    "no label": (lambda row: row["entities"][0].update(label=None), "sample s1: a value is missing"),
    "no segments": (lambda row: row.update(segments=None), "sample s1: a value is missing"),
    "one name for two": (lambda row: row["image"].update(path="images/2.png"), "another image has the name"),
    "an unknown label": (
        lambda row: row["entities"][0].update(label="pet"),
        "'pet' is unknown. Known labels: person, location",
    ),
    "a double id": (lambda row: row.update(id="s2"), "the id 's2' occurs in an earlier line"),
    "a box inside out": (
        lambda row: row["segments"][0].update(box=[4, 0, 0, 3]),
        r"should be \[left, top, right, bottom\]",
    ),
}


INVALID |= {
    f"the path {name[:20]!r}": (lambda row, name=name: row["image"].update(path=name), message)
    for name, message in {
        "images/" + "a" * 300: "cannot be a file of the data set: .*File name too long",
        "images/a\0b": "cannot be a file of the data set",
        "images/2.png/1.png": "cannot be a file of the data set: .*Is a directory",
        "segments/../../1.png": "is not in a subfolder",
        "train.jsonl/1.png": "is not in a subfolder",
    }.items()
}


@pytest.mark.parametrize(("change", "message"), INVALID.values(), ids=INVALID)
def test_invalid_row_is_rejected_and_leaves_nothing(folder, reporter, tmp_path, change, message):
    export = exported(folder, reporter, tmp_path)
    changed(export, change)
    with pytest.raises(DataError, match=message):
        import_dataset(str(export), tmp_path / "back", reporter)
    assert not (tmp_path / "back").exists()


def test_invalid_files_are_reported(folder, reporter, tmp_path):
    export = exported(folder, reporter, tmp_path)
    file = next((export / "data").glob("test-*"))
    pq.write_table(pa.table({"id": ["x"], "other": [1]}), file)
    with pytest.raises(
        DataError, match=r"test-00000-of-00001\.parquet: is not a Parquet file written by `runner export`"
    ):
        import_dataset(str(export), tmp_path / "back", reporter)
    file.write_bytes(b"PAR1")
    with pytest.raises(DataError, match=r"test-00000-of-00001\.parquet: is not a Parquet file"):
        import_dataset(str(export), tmp_path / "back", reporter)
    file.unlink()
    with pytest.raises(DataError, match=r"test-….parquet is missing"):
        import_dataset(str(export), tmp_path / "back", reporter)
    shutil.rmtree(export / "data")
    with pytest.raises(DataError, match=r"no folder data/ with Parquet files"):
        import_dataset(str(export), tmp_path / "back", reporter)


def test_other_folders_are_never_overwritten(folder, reporter, tmp_path):
    export = exported(folder, reporter, tmp_path)
    before = content(folder)
    with pytest.raises(DataError, match="already exists and is not an export"):
        export_dataset(folder, folder, reporter)
    with pytest.raises(DataError, match=r"is an export. Choose another path"):
        import_dataset(str(export), export, reporter)
    assert content(folder) == before
    again = content(export)
    export_dataset(folder, export, reporter)
    assert content(export) == again


def test_split_name_with_a_path_is_rejected(folder, reporter, tmp_path):
    export = exported(folder, reporter, tmp_path)
    described = json.loads((export / "dataset.json").read_text())
    (export / "dataset.json").write_text(json.dumps(described | {"num_samples": {"../../train": 3}}))
    with pytest.raises(DataError, match=r"does not accept the split name '\.\./\.\./train'"):
        import_dataset(str(export), tmp_path / "back", reporter)


def test_image_outside_a_subfolder_is_rejected(folder, reporter, tmp_path):
    (folder / "images" / "1.png").rename(folder / "1.png")
    lines = (folder / "train.jsonl").read_text().replace("images/1.png", "1.png")
    (folder / "train.jsonl").write_text(lines)
    with pytest.raises(DataError, match=r"sample s1: the image '1\.png' is not in a subfolder of the data set"):
        export_dataset(folder, tmp_path / "export", reporter)
    assert not (tmp_path / "export").exists()


def test_loading_an_export_names_the_import_command(folder, reporter, tmp_path):
    with pytest.raises(
        DataError, match=r"train\.jsonl: is missing.* This is an export: convert it with `runner import"
    ):
        DatasetFolder(exported(folder, reporter, tmp_path)).load_splits()


def test_missing_datasets_error_names_the_package(folder, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "runner.dataset.huggingface", None)
    monkeypatch.delattr("runner.dataset.huggingface")
    done = CliRunner().invoke(app, ["export", str(folder), str(tmp_path / "export")])
    assert isinstance(done.exception, RequirementError)
    assert "pip install 'mmre-runner[hub]'" in str(done.exception)


def test_split_name_that_hugging_face_rejects(folder, reporter, tmp_path):
    described = json.loads((folder / "dataset.json").read_text())
    described["num_samples"] = {"train": 3, "test-1": 1}
    (folder / "dataset.json").write_text(json.dumps(described))
    (folder / "test.jsonl").rename(folder / "test-1.jsonl")
    with pytest.raises(DataError, match="does not accept the split name 'test-1'"):
        export_dataset(folder, tmp_path / "export", reporter)


def test_import_from_the_hub(folder, reporter, tmp_path, monkeypatch):
    export = exported(folder, reporter, tmp_path)
    monkeypatch.setattr(exchange, "snapshot_download", lambda name, repo_type: str(export))
    assert import_dataset("somebody/tiny", tmp_path / "back", reporter)["name"] == "tiny"

    def away(name, repo_type):
        raise OSError("no route\nto the hub")

    monkeypatch.setattr(exchange, "snapshot_download", away)
    with pytest.raises(RequirementError, match=r"'somebody/tiny' is not a local folder .* \(no route\)"):
        import_dataset("somebody/tiny", tmp_path / "back", reporter)


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


def test_damaged_pages_and_other_suffixes(folder, reporter, tmp_path):
    export = exported(folder, reporter, tmp_path)
    for file in list((export / "data").iterdir()):
        file.rename(file.with_suffix(".PARQUET"))
    assert import_dataset(str(export), tmp_path / "back", reporter)["num_samples"] == {"train": 3, "test": 1}
    file = next((export / "data").glob("train-*"))
    content = bytearray(file.read_bytes())
    content[4:200] = bytes(196)
    file.write_bytes(content)
    with pytest.raises(DataError, match=r"PARQUET: is not a Parquet file written by `runner export`"):
        import_dataset(str(export), tmp_path / "again", reporter)
    with pytest.raises(DataError, match=r"PARQUET: is a file; name the folder that `runner export` wrote"):
        import_dataset(str(file), tmp_path / "again", reporter)


def lead_out(folder, name, tmp_path):
    private = tmp_path / "private.json"
    if (folder / name).exists():
        (folder / name).rename(private)
    else:
        private.write_text("a private note")
    (folder / name).symlink_to(private)


@pytest.mark.parametrize("name", ["left_out.jsonl", "annotations.jsonl", "dataset.json"])
def test_an_export_does_not_follow_links_out_of_the_data_set(folder, reporter, tmp_path, name):
    lead_out(folder, name, tmp_path)
    with pytest.raises(DataError, match=f"{name}: is not a regular file, or is a link out of the folder"):
        export_dataset(folder, tmp_path / "export", reporter)
    assert not (tmp_path / "export").exists()


@pytest.mark.parametrize(
    "name", ["left_out.jsonl", "annotations.jsonl", "dataset.json", "data/test-00000-of-00001.parquet"]
)
def test_an_import_does_not_follow_links_out_of_the_export(folder, reporter, tmp_path, name):
    export = exported(folder, reporter, tmp_path)
    lead_out(export, name, tmp_path)
    with pytest.raises(DataError, match=f"{name}: is not a regular file, or is a link out of the folder"):
        import_dataset(str(export), tmp_path / "back", reporter)
    assert not (tmp_path / "back").exists()


@pytest.mark.parametrize("name", ["left_out.jsonl", "data/test-00000-of-00001.parquet"])
def test_a_pipe_in_an_export_is_not_opened(folder, reporter, tmp_path, name):
    export = exported(folder, reporter, tmp_path)
    (export / name).unlink(missing_ok=True)
    os.mkfifo(export / name)
    with pytest.raises(DataError, match=f"{name}: is not a regular file"):
        import_dataset(str(export), tmp_path / "back", reporter)


def test_a_snapshot_in_the_cache_of_the_hub_has_links_to_its_blobs(folder, reporter, tmp_path):
    (folder / "left_out.jsonl").write_text("{}\n")
    export_dataset(folder, tmp_path / "export", reporter)
    snapshot, blobs = tmp_path / "hub" / "snapshots" / "0123", tmp_path / "hub" / "blobs"
    (snapshot / "data").mkdir(parents=True)
    blobs.mkdir()
    for number, file in enumerate(file for file in (tmp_path / "export").rglob("*") if file.is_file()):
        file.rename(blobs / str(number))
        (snapshot / file.relative_to(tmp_path / "export")).symlink_to(blobs / str(number))
    import_dataset(str(snapshot), tmp_path / "back", reporter)
    assert content(tmp_path / "back") == content(folder)


def test_a_long_text_in_parquet_is_refused(folder, reporter, tmp_path, monkeypatch):
    export = exported(folder, reporter, tmp_path)
    monkeypatch.setattr(exchange, "MAX_CHARACTERS", 3)
    with pytest.raises(DataError, match=r"parquet: sample s\d: a text has \d+ characters; a text may have 3"):
        import_dataset(str(export), tmp_path / "back", reporter)


def test_a_row_group_with_too_many_values_is_refused_before_reading(folder, reporter, tmp_path, monkeypatch):
    export = exported(folder, reporter, tmp_path)
    monkeypatch.setattr(exchange, "MAX_ITEMS", 1)
    monkeypatch.setattr(pq.ParquetFile, "iter_batches", None)
    with pytest.raises(DataError, match=r"entities\S* has more than 1 values for each sample"):
        import_dataset(str(export), tmp_path / "back", reporter)


def test_few_rows_are_in_memory_at_once_if_values_are_large(folder, reporter, tmp_path, monkeypatch):
    export = exported(folder, reporter, tmp_path)
    file = export / "data" / "train-00000-of-00001.parquet"
    largest = max(pq.ParquetFile(file).metadata.row_group(0).column(i).total_uncompressed_size for i in range(3))
    sizes, read = [], pq.ParquetFile.iter_batches
    monkeypatch.setattr(
        pq.ParquetFile, "iter_batches", lambda self, size, **rest: sizes.append(size) or read(self, size, **rest)
    )
    for limit in (10**9, 10 * largest):
        monkeypatch.setattr(exchange, "MAX_BATCH_BYTES", limit)
        assert len(list(exchange.read_parquet(file))) == 3
    assert sizes[0] == 50 > sizes[1] >= 1
    monkeypatch.setattr(exchange, "MAX_BATCH_BYTES", 10)
    with pytest.raises(DataError, match="bytes in a row group"):
        list(exchange.read_parquet(file))
