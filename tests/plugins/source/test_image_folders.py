"""Images in several folders: found whatever the case of their suffixes, and told if two differ."""

import pytest

from plugins.source.image_folders import ImageFolders, image_folders
from runner.errors import DataError


@pytest.fixture
def tree(tmp_path):
    for name in ("one/1.jpg", "one/sub/2.PNG", "two/3.jpeg", "two/4.JPG", "two/notes.txt", "two/v1.2.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    return tmp_path


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("1", "one/1.jpg"),
        ("1.jpg", "one/1.jpg"),
        ("1.JPG", "one/1.jpg"),
        ("sub/2.png", "one/sub/2.PNG"),
        ("sub/2", "one/sub/2.PNG"),
        ("3", "two/3.jpeg"),
        ("4.jpg", "two/4.JPG"),
        ("v1.2", "two/v1.2.jpg"),
        ("v1.2.jpg", "two/v1.2.jpg"),
    ],
)
def test_find(tree, name, expected):
    assert ImageFolders([tree / "one", tree / "two"]).find(name) == tree / expected


@pytest.mark.parametrize(("name", "expected"), [("5", "5.jpg"), ("1.png", "1.png"), ("notes", "notes.jpg")])
def test_an_image_that_no_folder_has(tree, name, expected):
    assert ImageFolders([tree / "one", tree / "two"]).find(name) == tree / "one" / expected


def test_the_same_image_twice_is_found_and_different_ones_are_told(tree):
    folders = ImageFolders([tree / "one", tree / "two"])
    (tree / "two" / "1.JPG").write_text("one/1.jpg")
    assert folders.find("1") == tree / "one" / "1.jpg"
    (tree / "two" / "1.JPG").write_text("another")
    with pytest.raises(DataError, match=r"'1' exists twice with different content, as .*one/1\.jpg and .*two/1\.JPG"):
        folders.find("1")
    with pytest.raises(DataError, match="exists twice"):
        folders.find("1.jpg")


def test_check(tree):
    ImageFolders([tree / "one", tree / "two"]).check()
    (tree / "empty").mkdir()
    ImageFolders([tree / "empty"]).check()  # Each image is then reported as missing.
    with pytest.raises(DataError) as raised:
        ImageFolders([tree, tree / "three"]).check()
    first, second = str(raised.value).splitlines()
    folders = f"{tree / 'one'}, {tree / 'two'}"
    assert first == f"{tree}: contains no image, but folders with images: {folders}; list them in source.images"
    assert second.startswith(f"{tree / 'three'}: no such folder; source.images is")


def test_the_option_names_one_folder_or_several(tmp_path):
    assert image_folders(None, tmp_path) == [tmp_path]
    assert image_folders(tmp_path / "a", tmp_path) == [tmp_path / "a"]
    assert image_folders([tmp_path / "a", tmp_path / "b"], tmp_path) == [tmp_path / "a", tmp_path / "b"]
