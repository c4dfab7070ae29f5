"""Images of others: only regular files, only formats of pictures."""

import os

import pytest
from PIL import Image, UnidentifiedImageError

from runner.dataset.folder_reader import image_digest
from runner.images import FORMATS, open_image, read_image_file


def written(folder, format_name):
    file = folder / f"picture.{format_name.lower()}"
    Image.new("RGB", (8, 6), "red").save(file, format_name)
    return file


@pytest.mark.parametrize("format_name", FORMATS)
def test_pictures_are_opened_from_a_file_and_from_bytes(tmp_path, format_name):
    file = written(tmp_path, format_name)
    for source in (file, file.read_bytes()):
        with open_image(source) as image:
            image.load()
            assert (image.size, image.format) == ((8, 6), format_name)
    assert read_image_file(file) == file.read_bytes()


@pytest.mark.parametrize("format_name", ["PCX", "TGA", "ICO", "SGI", "EPS"])
def test_other_formats_are_refused_even_under_the_name_of_a_picture(tmp_path, format_name):
    file = written(tmp_path, format_name).rename(tmp_path / "picture.png")
    for source in (file, file.read_bytes()):
        with pytest.raises(UnidentifiedImageError, match="JPEG, PNG"):
            open_image(source)


def test_a_pipe_is_refused_without_waiting(tmp_path):
    os.mkfifo(tmp_path / "picture.png")
    for read in (open_image, read_image_file, image_digest):
        with pytest.raises(OSError, match=r"picture\.png: is not a regular file"):
            read(tmp_path / "picture.png")


def test_a_large_file_is_refused(tmp_path, monkeypatch):
    file = written(tmp_path, "PNG")
    monkeypatch.setattr("runner.images.MAX_BYTES", 10)
    with pytest.raises(OSError, match="an image may have 10"):
        open_image(file)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nothing"):
        open_image(tmp_path / "nothing.png")


def test_no_module_opens_images_in_another_way():
    from pathlib import Path

    root = Path(__file__).parent.parent
    files = [file for folder in ("runner", "plugins") for file in (root / folder).rglob("*.py")]
    assert [file.name for file in files if "Image.open(" in file.read_text()] == ["images.py"]
