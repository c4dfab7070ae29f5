"""Near-duplicate images are found in any size, format and quality; other images are not."""

import random
from collections import Counter, defaultdict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from runner.dataset.leaks import (
    Leak,
    find_leaks,
    group_hashes,
    group_near_duplicates,
    perceptual_hash,
    without_shared_content,
)
from runner.dataset.split import split_samples
from runner.errors import DataError
from runner.prompt_rendering import split_groups
from runner.records import Sample
from runner.spec.check import make_section
from runner.spec.experiment_spec import ExperimentSpec


def scene(seed, size=(200, 150)):
    """Draw shapes; images of different seeds are not near-duplicates."""
    rng = random.Random(seed)
    image = Image.new("RGB", size, tuple(rng.choices(range(256), k=3)))
    draw = ImageDraw.Draw(image)
    for _ in range(12):
        x, y = rng.randrange(size[0]), rng.randrange(size[1])
        draw.ellipse((x, y, x + rng.randrange(20, 90), y + rng.randrange(20, 90)), fill=rng.randrange(2**24))
    return image


COPIES = {
    "smaller": lambda image, path: image.resize((100, 75)).save(path.with_suffix(".png")),
    "larger": lambda image, path: image.resize((500, 375)).save(path.with_suffix(".jpg"), quality=90),
    "worse": lambda image, path: image.save(path.with_suffix(".jpg"), quality=40),
    "grey": lambda image, path: image.convert("L").save(path.with_suffix(".png")),
}


def stored(folder, copy):
    scene(1).save(folder / "original.png")
    COPIES[copy](scene(1), folder / "copy")
    for seed in range(2, 6):
        scene(seed).save(folder / f"{seed}.png")
    return sorted(folder.iterdir())


@pytest.mark.parametrize("copy", COPIES)
def test_only_copies_are_near_duplicates(tmp_path, copy):
    paths = stored(tmp_path, copy)
    groups = group_near_duplicates(paths, 4)
    alike = [path.stem for path in paths if groups[path] == groups[tmp_path / "original.png"]]
    assert sorted(alike) == ["copy", "original"]
    assert len(set(groups.values())) == 5


def test_near_duplicates_leak_if_requested_and_are_kept_together(tmp_path):
    paths = stored(tmp_path, "worse")
    samples = {path.stem: Sample(path.stem, f"text {path.stem}", path, None, (), ()) for path in paths}
    splits = {
        "train": [each for name, each in samples.items() if name != "copy"],
        "test": [samples["copy"]],
    }
    assert find_leaks(splits) == []
    assert [str(leak) for leak in find_leaks(splits, 4)] == [
        "nearly the same image: train/original and test/copy",
    ]
    for seed in range(10):
        divided = split_samples(list(samples.values()), {"train": 0.5, "test": 0.5}, seed, max_hash_distance=4)
        assert find_leaks(divided, 4) == []


def test_near_duplicates_share_a_group_and_are_no_examples_if_requested(tmp_path):
    """The validation split and few-shot examples count the same images as equal as the leak check."""
    stored(tmp_path, "worse")
    original, copy, other = (
        Sample(name, name, tmp_path / f"{name}.{suffix}", None, (), ())
        for name, suffix in (("original", "png"), ("copy", "jpg"), ("2", "png"))
    )
    assert split_groups([original, other, copy], None) == ["0", "1", "2"]
    assert split_groups([original, other, copy], 4) == ["0", "1", "0"]
    assert without_shared_content([copy, other], [original]) == [copy, other]
    assert without_shared_content([copy, other], [original], 4) == [other]
    for distance, expected in ((None, None), (4, 4)):
        section = make_section("data", {"type": "mmre", "path": str(tmp_path), "near_images": distance})
        assert ExperimentSpec.model_construct(data=section).max_hash_distance == expected


def test_exact_copies_are_reported_once(tmp_path):
    scene(1).save(tmp_path / "1.png")
    scene(1).save(tmp_path / "2.png")
    splits = {name: [Sample(name, name, tmp_path / f"{name}.png", None, (), ())] for name in "12"}
    assert [leak.kind for leak in find_leaks(splits, 4)] == ["image"]


def test_unreadable_image_is_reported(tmp_path):
    scene(1).save(tmp_path / "1.png")
    (tmp_path / "1.png").write_bytes((tmp_path / "1.png").read_bytes()[:300])
    with pytest.raises(DataError, match=r"1\.png: cannot be compared"):
        group_near_duplicates([tmp_path / "1.png"], 4)


def test_no_images():
    assert group_near_duplicates([], 4) == {}


def test_hash_is_deterministic(tmp_path):
    scene(3).save(tmp_path / "1.jpg")
    assert perceptual_hash(tmp_path / "1.jpg") == perceptual_hash(tmp_path / "1.jpg")


def text_card(rng):
    """Draw one line of text on white: hashes of unrelated cards are near those of some others."""
    image = Image.new("RGB", (300, 225), "white")
    words = " ".join("".join(rng.choices("abcdefghijklmnoprstuvw", k=rng.randint(2, 8))) for _ in range(40))
    for line in range(7):
        ImageDraw.Draw(image).text((10, 12 + 28 * line), words[line * 30 : line * 30 + 26], fill="black", font_size=19)
    return image


def test_text_cards_are_not_chained_and_copies_are_still_found(tmp_path):
    """The simulation that decided for complete linkage: single linkage makes one group of half the images."""
    rng, hashes = random.Random(0), {}
    for number in range(60):
        card = text_card(rng)
        card.save(tmp_path / f"{number}.png")
        card.resize((600, 450)).save(tmp_path / f"{number}-copy.jpg", quality=80)
        for path in (tmp_path / f"{number}.png", tmp_path / f"{number}-copy.jpg"):
            hashes[path] = perceptual_hash(path)
    distance = 12
    single = connected_components_by_search(list(hashes.values()), distance)
    assert max(Counter(single).values()) > 60
    groups = group_near_duplicates(hashes, distance)
    assert max(Counter(groups.values()).values()) < 20
    found = [groups[tmp_path / f"{number}.png"] == groups[tmp_path / f"{number}-copy.jpg"] for number in range(60)]
    assert sum(found) >= 58


def connected_components_by_search(hashes, distance):
    """Find the components by a graph search, as single linkage does."""
    components = []
    for start in range(len(hashes)):
        visited, frontier = {start}, [start]
        while frontier:
            at = frontier.pop()
            for other, each in enumerate(hashes):
                if other not in visited and (hashes[at] ^ each).bit_count() <= distance:
                    visited.add(other)
                    frontier.append(other)
        components.append(min(visited))
    return components


hash_lists = st.lists(st.integers(0, 63) | st.integers(0, 2**64 - 1), max_size=30)


@given(hash_lists, st.integers(0, 8), st.randoms())
def test_groups_are_complete_maximal_and_independent_of_the_order(hashes, distance, rng):
    groups = group_hashes(np.array(hashes, dtype=np.uint64), distance).tolist()
    components = connected_components_by_search(hashes, distance)
    members = defaultdict(list)
    for index, group in enumerate(groups):
        members[group].append(index)
        assert components[group] == components[index]
    for group, indices in members.items():
        assert group == min(indices)
        assert all((hashes[one] ^ hashes[other]).bit_count() <= distance for one in indices for other in indices)
    for one in members:
        for other in members:
            together = [(hashes[a] ^ hashes[b]).bit_count() for a in members[one] for b in members[other]]
            assert one == other or max(together) > distance
    order = list(range(len(hashes)))
    rng.shuffle(order)
    shuffled = group_hashes(np.array([hashes[index] for index in order], dtype=np.uint64), distance).tolist()
    again = defaultdict(set)
    for position, group in enumerate(shuffled):
        again[group].add(order[position])
    assert {frozenset(indices) for indices in members.values()} == {frozenset(each) for each in again.values()}


def test_groups_span_chunks(monkeypatch):
    rng = random.Random(0)
    hashes = np.array([rng.randrange(256) for _ in range(40)], dtype=np.uint64)
    whole = group_hashes(hashes, 1).tolist()
    monkeypatch.setattr("runner.dataset.leaks.CHUNK_SIZE", 4)
    assert group_hashes(hashes, 1).tolist() == whole


def test_a_large_group_is_told_by_its_first_members_and_its_size():
    places = tuple(("train" if number else "test", f"s{number}") for number in range(59))
    assert str(Leak("near", places)) == (
        "nearly the same image: test/s0 and train/s1 and train/s2 and train/s3 and 55 more"
    )
