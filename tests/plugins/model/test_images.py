"""The size of an image equals that of the loaded image, for any format and position of the EXIF data."""

import struct
import zlib

import pytest
from PIL import Image

from plugins.model.chat import processor_and_images
from plugins.model.chat.processor_and_images import cached_image_size, load_image, read_image_size
from runner.errors import DataError

QUARTER_TURN = 6


def _turned():
    notes = Image.Exif()
    notes[0x0112] = QUARTER_TURN
    return notes


def _notes_behind_pixels(file):
    """Move the EXIF chunk of a PNG behind its pixels, which the format allows."""
    content = file.read_bytes()
    at = content.index(b"eXIf") - 4
    end = at + 12 + struct.unpack(">I", content[at : at + 4])[0]
    chunk, rest = content[at:end], content[:at] + content[end:]
    last = rest.index(b"IEND") - 4
    file.write_bytes(rest[:last] + chunk + rest[last:])


@pytest.mark.parametrize("name", ["plain.png", "plain.jpg", "plain.webp"])
@pytest.mark.parametrize("notes", [None, _turned()])
def test_the_size_equals_that_of_the_loaded_image(tmp_path, name, notes):
    file = tmp_path / name
    Image.new("RGB", (40, 24), "red").save(file, **({"exif": notes} if notes else {}))
    upright = load_image(file, "x")
    assert read_image_size(file, "x") == (upright.height, upright.width) == ((40, 24) if notes else (24, 40))


def test_exif_data_after_the_pixels_is_read(tmp_path):
    file = tmp_path / "late.png"
    Image.new("RGB", (40, 24), "red").save(file, exif=_turned())
    _notes_behind_pixels(file)
    assert read_image_size(file, "x") == (40, 24)


def test_exif_data_of_older_programs_is_read(tmp_path):
    """ImageMagick wrote EXIF data as text in hexadecimal digits."""
    file = tmp_path / "old.png"
    Image.new("RGB", (40, 24), "red").save(file)
    exif = _turned().tobytes()
    text = b"Raw profile type exif\0\0" + zlib.compress(f"\nexif\n{len(exif):8}\n{exif.hex()}\n".encode())
    chunk = struct.pack(">I", len(text)) + b"zTXt" + text + struct.pack(">I", zlib.crc32(b"zTXt" + text))
    content = file.read_bytes()
    last = content.index(b"IEND") - 4
    file.write_bytes(content[:last] + chunk + content[last:])
    upright = load_image(file, "x")
    assert read_image_size(file, "x") == (upright.height, upright.width) == (40, 24)


def test_a_truncated_image_is_refused(tmp_path):
    file = tmp_path / "cut.png"
    Image.effect_noise((64, 64), 90).save(file)
    file.write_bytes(file.read_bytes()[:-600])
    with pytest.raises(DataError, match=r"sample x: image .*cut\.png cannot be used"):
        read_image_size(file, "x")


def test_the_sizes_of_a_thousand_images_are_read_once(tmp_path, monkeypatch):
    files = [tmp_path / f"{number}.png" for number in range(1000)]
    for file in files:
        file.write_bytes(b"not read")
    read = []
    monkeypatch.setattr(processor_and_images, "read_image_size", lambda path, _: read.append(path) or (1, 2))
    for _ in range(2):
        assert [cached_image_size(file, "x") for file in files] == [(1, 2)] * len(files)
    assert read == files


def test_a_file_that_changes_is_read_again(tmp_path):
    file = tmp_path / "one.png"
    for size in ((40, 24), (8, 9)):
        Image.new("RGB", size, "red").save(file)
        assert cached_image_size(file, "x") == (size[1], size[0])
    file.unlink()
    with pytest.raises(DataError, match="cannot be used"):
        cached_image_size(file, "x")
