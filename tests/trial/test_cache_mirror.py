"""Storages share complete entries through a mirror, and damaged entries are removed from it."""

import json
import os
from pathlib import Path
from uuid import uuid4

import fsspec
import pytest

from runner.errors import RequirementError
from runner.spec.experiment_spec import ComputeOptions
from runner.stages import LocatedStr
from runner.trial.cache_and_mirror import Cache, MirrorError
from runner.trial.cache_entry import DESCRIPTION, DamagedEntryError, InvalidEntryError

KEY = "0123456789ab" * 5


@pytest.fixture
def bucket(monkeypatch):
    """A local S3 server; the URI of a bucket on it."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    for name, value in {
        "AWS_ACCESS_KEY_ID": "someone",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_ENDPOINT_URL_S3": f"http://{host}:{port}",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    # fsspec caches clients by their arguments, which do not include the server's port.
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    name = f"bucket-{uuid4().hex}"
    fsspec.filesystem("s3").mkdir(name)
    yield f"s3://{name}/some/folder"
    server.stop()
    fsspec.get_filesystem_class("s3").clear_instance_cache()


@pytest.fixture(params=["memory", "file", pytest.param("s3", marks=pytest.mark.slow)])
def uri(request, tmp_path):
    """The URI of an empty mirror."""
    if request.param == "s3":
        return request.getfixturevalue("bucket")
    return f"memory://{uuid4().hex}/cache" if request.param == "memory" else f"file://{tmp_path / 'mirror'}"


@pytest.fixture
def caches(uri, tmp_path):
    """The caches of two storages that share a mirror."""
    return [Cache.open(uri, tmp_path / name) for name in ("one", "other")]


def publish(cache, tmp_path, text="weights"):
    (tmp_path / "model").mkdir(exist_ok=True)
    (tmp_path / "model" / f"{text}.bin").write_text(text)
    entry = cache.entry("trained", KEY)
    entry.folder.parent.mkdir(parents=True, exist_ok=True)
    cache.publish(entry, {"model": tmp_path / "model"}, "x/trial-1", "run-1")


def fetched(cache):
    entry = cache.entry("trained", KEY)
    entry.folder.parent.mkdir(parents=True, exist_ok=True)
    cache.fetch(entry)
    return entry


def test_an_entry_of_one_storage_is_found_by_another(caches, tmp_path):
    assert fetched(caches[1]).read_description() is None
    publish(caches[0], tmp_path)
    description = fetched(caches[1]).link_into(tmp_path / "taken")
    assert description == caches[0].entry("trained", KEY).read_description()
    assert (tmp_path / "taken" / "model" / "weights.bin").read_text() == "weights"
    assert [each["key"] for each in caches[1].mirror.descriptions(pytest.fail)] == [KEY]
    assert not list(caches[1].root.glob("*/.*unfinished*"))


def test_an_incomplete_upload_is_not_visible(caches, tmp_path, monkeypatch):
    mirror = caches[0].mirror
    files = mirror._files
    with monkeypatch.context() as patched:
        patched.setattr(files, "pipe_file", lambda *args: (_ for _ in ()).throw(ConnectionError("cut off")))
        with pytest.raises(MirrorError, match="cut off"):
            publish(caches[0], tmp_path)
    assert fetched(caches[1]).read_description() is None
    # The local entry exists, and the second attempt uploads it.
    publish(caches[0], tmp_path)
    assert fetched(caches[1]).read_description() is not None


def test_a_damaged_file_is_named_and_the_entry_removed(caches, tmp_path):
    publish(caches[0], tmp_path)
    mirror = caches[0].mirror
    [weights] = [path for path in mirror._files.find(mirror._root) if path.endswith("weights.bin")]
    mirror._files.pipe_file(weights, b"spoilt")
    with pytest.raises(DamagedEntryError, match=r"model/weights\.bin"):
        fetched(caches[1])
    assert list(mirror.descriptions(pytest.fail)) == []
    assert fetched(caches[1]).read_description() is None
    mirror.upload(caches[0].entry("trained", KEY))
    assert fetched(caches[1]).read_description() is not None


@pytest.mark.parametrize("name", ["../outside", "/tmp/outside", "model/../../outside"])
def test_an_entry_that_names_files_outside_itself_is_neither_fetched_nor_removed(caches, tmp_path, name):
    publish(caches[0], tmp_path)
    mirror, entry = caches[0].mirror, caches[0].entry("trained", KEY)
    path = mirror._path_of(entry, DESCRIPTION)
    description = json.loads(mirror._files.cat_file(path))
    written = json.dumps({**description, "files": {name: description["files"]["model/weights.bin"]}}).encode()
    mirror._files.pipe_file(path, written)
    with pytest.raises(InvalidEntryError, match=f"{name}.*inside the entry"):
        fetched(caches[1])
    assert mirror._files.cat_file(path) == written
    assert not list(tmp_path.rglob("outside"))


def test_a_link_in_an_entry_is_not_uploaded(caches, tmp_path):
    entry = caches[0].entry("trained", KEY)
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "weights.bin").write_text("weights")
    entry.folder.parent.mkdir(parents=True)
    entry.publish({"model": tmp_path / "model"}, "x/trial-1", "run-1")
    (entry.folder / "model").rename(tmp_path / "private")
    (entry.folder / "model").symlink_to(tmp_path / "private")
    with pytest.raises(InvalidEntryError, match="through a link"):
        caches[0].mirror.upload(entry)
    assert caches[0].mirror.read_description(entry) is None


def test_simultaneous_uploads_do_not_mix_their_files(caches, tmp_path):
    publish(caches[0], tmp_path)
    entry = caches[0].entry("trained", KEY)
    first = caches[0].mirror.read_description(entry)
    caches[0].mirror._files.rm(caches[0].mirror._path_of(entry, DESCRIPTION))
    publish(caches[1], tmp_path, "others")
    entry.remove()
    caches[0].fetch(entry)
    assert set(entry.read_description()["files"]) == {"model/weights.bin", "model/others.bin"}
    assert caches[0].mirror.read_description(entry)["upload"] != first["upload"]


def test_a_uri_without_a_client_is_refused(tmp_path):
    with pytest.raises(RequirementError, match=r"compute\.cache: nowhere://x"):
        Cache.open("nowhere://x", tmp_path)


def test_a_folder_is_not_a_mirror(tmp_path):
    assert Cache.open(None, tmp_path) == Cache(tmp_path / ".cache")
    assert Cache.open(str(tmp_path / "shared"), tmp_path) == Cache(Path(tmp_path / "shared"))


@pytest.mark.parametrize(
    ("written", "expected"),
    [("../shared", "{above}/shared"), ("/shared", "/shared"), ("s3://bucket/x", "s3://bucket/x")],
)
def test_a_folder_is_relative_to_its_spec_and_a_uri_is_unchanged(tmp_path, written, expected):
    folder = tmp_path / "specs"
    folder.mkdir()
    cache = ComputeOptions.model_validate({"cache": LocatedStr(written, folder)}).cache
    assert cache == expected.format(above=tmp_path)
    assert type(cache) is str
    assert ComputeOptions.model_validate({"cache": cache}).cache == cache


@pytest.mark.slow
def test_an_unreachable_server_gives_a_one_line_error(bucket, tmp_path, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    cache = Cache.open(bucket, tmp_path)
    with pytest.raises(MirrorError) as caught:
        fetched(cache)
    assert "\n" not in str(caught.value)
    assert os.environ["AWS_SECRET_ACCESS_KEY"] not in str(caught.value)


@pytest.mark.slow
def test_a_misspelt_bucket_is_not_created(bucket, tmp_path):
    cache = Cache.open("s3://no-such-bucket/x", tmp_path)
    with pytest.raises(OSError, match="bucket does not exist"):
        publish(cache, tmp_path)
    assert not fsspec.filesystem("s3").exists("no-such-bucket")
