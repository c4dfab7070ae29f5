"""Generated data: the same for a seed, without leaks, and with the answer in the segments alone."""

import json
import re
import threading
from collections import Counter
from statistics import fmean

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageChops
from pydantic import ValidationError

from plugins.data import synthetic
from plugins.data.data_options import SyntheticOptions
from plugins.data.synthetic import SyntheticData
from plugins.data.synthetic_scenes import CELL, COLOURS, LABELS, SHAPES, THINGS_PER_LABEL, EntitySampler
from runner.dataset.split import find_leaks
from runner.errors import DataError

THINGS = THINGS_PER_LABEL * len(LABELS)
EMBLEM = re.compile(rf"({'|'.join(COLOURS)}) ({'|'.join(SHAPES)})")


def content(path):
    return {str(file.relative_to(path)): file.read_bytes() for file in path.rglob("*") if file.is_file()}


def make(path, reporter, **options):
    """Generate data, and give its samples by split and its folder."""
    data = SyntheticData(SyntheticOptions(path=path, **options))
    info = data.prepare(reporter)
    return {split: data.load(split) for split in ("train", "test")}, info


def only(path):
    (folder,) = (each for each in path.iterdir() if each.is_dir())
    return folder


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The samples of a set large enough to count in."""

    class Silent:
        def progress(self, done, total, **shown): ...

    return make(tmp_path_factory.mktemp("made"), Silent(), train=400, test=100)[0]


def everything(made):
    return [*made["train"], *made["test"]]


def test_the_same_seed_gives_the_same_bytes(tmp_path, recorder):
    infos = [make(tmp_path / place, recorder(), train=12, test=4)[1] for place in "ab"]
    assert infos[0].fingerprint == infos[1].fingerprint
    assert infos[0].num_samples == {"train": 12, "test": 4}
    assert infos[0].labels == LABELS
    assert content(only(tmp_path / "a")) == content(only(tmp_path / "b"))


def test_another_seed_gives_other_data_beside_it(tmp_path, recorder):
    first, one = make(tmp_path, recorder(), train=12, test=4)
    second, other = make(tmp_path, recorder(), train=12, test=4, seed=1)
    assert one.fingerprint != other.fingerprint
    assert one.location != other.location
    assert not {each.text for each in everything(first)} & {each.text for each in everything(second)}


def test_it_is_made_once(tmp_path, recorder):
    first, second = recorder(), recorder()
    make(tmp_path, first, train=6, test=2)
    make(tmp_path, second, train=6, test=2)
    assert [done for done, _, _ in first.shown] == list(range(1, 9))
    assert second.shown == []


def changed_line(folder):
    file = folder / "train.jsonl"
    file.write_text(file.read_text().replace('"summary": "This', '"summary": "That', 1))


def changed_description(folder):
    file = folder / "dataset.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"fingerprint": "0" * 64}))


def lost_picture(folder):
    next((folder / "segments").iterdir()).unlink()


@pytest.mark.parametrize("change", [changed_line, changed_description, lost_picture])
def test_a_changed_folder_is_made_again_and_told(tmp_path, recorder, change):
    make(tmp_path, recorder(), train=6, test=2)
    before = content(only(tmp_path))
    change(only(tmp_path))
    reporter = recorder()
    make(tmp_path, reporter, train=6, test=2)
    assert content(only(tmp_path)) == before
    assert len(reporter.warnings) == 1
    assert reporter.warnings[0].endswith("it is made again")


def test_two_at_once_make_it_once(tmp_path, recorder):
    reporters = [recorder() for _ in range(4)]
    fingerprints = []

    def prepare(reporter):
        fingerprints.append(make(tmp_path, reporter, train=40, test=10)[1].fingerprint)

    threads = [threading.Thread(target=prepare, args=(reporter,)) for reporter in reporters]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(fingerprints) == 4
    assert len(set(fingerprints)) == 1
    assert sum(bool(reporter.shown) for reporter in reporters) == 1


def test_splits_share_nothing(made):
    assert find_leaks(made) == []
    texts = [sample.text for sample in everything(made)]
    assert len(set(texts)) == len(texts)


def names(samples):
    return Counter(entity.text for sample in samples for entity in sample.entities)


def share_of_new_names(samples):
    known = set(names(samples["train"]))
    shown = names(samples["test"])
    return sum(number for name, number in shown.items() if name not in known) / shown.total()


@pytest.mark.parametrize(("option", "tolerance"), [(0.0, 0.0), (0.5, 0.08), (1.0, 0.0)])
def test_the_share_of_new_names(tmp_path, recorder, option, tolerance):
    samples, _ = make(tmp_path, recorder(), train=100, test=120, unseen_name_ratio=option)
    assert share_of_new_names(samples) == pytest.approx(option, abs=tolerance)


def test_segments_are_the_pixels_of_their_boxes(made):
    for sample in everything(made)[::10]:
        with Image.open(sample.image) as image:
            for segment in sample.segments:
                with Image.open(segment.image) as cut:
                    assert ImageChops.difference(image.crop(segment.box), cut).getbbox() is None


def test_boxes_do_not_overlap(made):
    for sample in everything(made):
        corners = [segment.box[:2] for segment in sample.segments]
        assert len(set(corners)) == len(corners)
        assert corners == sorted(corners, key=lambda corner: (corner[1], corner[0]))


def test_what_is_shown_is_named_and_some_of_what_is_named_is_not_shown(made):
    hidden = []
    for sample in everything(made):
        named = {entity.text for entity in sample.entities}
        shown = [segment.entity for segment in sample.segments]
        assert set(shown) <= named
        assert len(set(shown)) == len(shown) in (2, 3)
        assert all(name in sample.text for name in named)
        if len(shown) == 2:
            hidden.append(len(named) - len(shown))
        else:
            assert named == set(shown)
    assert set(hidden) == {0, 1}
    assert fmean(hidden) == pytest.approx(synthetic.EXTRA_SHARE, abs=0.08)


def test_the_order_of_segments_says_nothing_about_that_of_the_text(made):
    """Of two shown things, the first named stands first in the picture half of the time."""
    first = []
    for sample in everything(made):
        place = {entity.text: number for number, entity in enumerate(sample.entities)}
        one, other = (segment.entity for segment in sample.segments[:2])
        first.append(place[one] < place[other])
    assert fmean(first) == pytest.approx(0.5, abs=0.08)


def test_the_summary_tells_the_segments_in_order(made):
    """So a summary's emblems name the entities: each emblem is that of one name, and each name has one emblem."""
    emblem_of, name_of = {}, {}
    for sample in everything(made):
        emblems = EMBLEM.findall(sample.summary)
        assert len(emblems) == len(sample.segments)
        for emblem, segment in zip(emblems, sample.segments, strict=True):
            assert emblem_of.setdefault(segment.entity, emblem) == emblem
            assert name_of.setdefault(emblem, segment.entity) == segment.entity
    assert len(emblem_of) == THINGS


def emblem_colour(segment):
    """The colour whose emblem a segment shows, read from its pixels."""
    with Image.open(segment.image) as opened:
        middle = opened.getpixel((opened.width // 2, opened.height // 2))
    return min(COLOURS, key=lambda each: sum(abs(a - b) for a, b in zip(COLOURS[each], middle, strict=True)))


def test_segments_show_what_the_summary_tells(made):
    for sample in everything(made)[::5]:
        assert all(emblem_colour(segment) in sample.summary for segment in sample.segments)


PLACE = re.compile(r"something at the (top|middle|bottom) (left|centre|right)")


def place_of(segment):
    left, top, _, _ = segment.box
    return ("top", "middle", "bottom")[top // CELL], ("left", "centre", "right")[left // CELL]


def test_relatedness_changes_the_summaries_alone(tmp_path, recorder):
    made = [
        everything(make(tmp_path / str(share), recorder(), train=30, test=10, relatedness=share)[0])
        for share in (0.0, 0.5, 1.0)
    ]
    for same in zip(*made, strict=True):
        assert len({sample.text for sample in same}) == 1
        assert len({sample.entities for sample in same}) == 1
        assert len({sample.image.read_bytes() for sample in same}) == 1
        segments = [[(each.letter, each.entity, each.box) for each in sample.segments] for sample in same]
        assert segments[0] == segments[1] == segments[2]
        assert all(len({each.image.read_bytes() for each in of_one}) == 1 for of_one in segment_rows(same))
    none, half, all_told = ([len(EMBLEM.findall(sample.summary)) for sample in samples] for samples in made)
    assert not any(none)
    assert sum(none) < sum(half) < sum(all_told) == sum(len(sample.segments) for sample in made[2])


def segment_rows(samples):
    return zip(*(sample.segments for sample in samples), strict=True)


@pytest.mark.parametrize("share", [0.0, 0.25, 0.5, 1.0])
def test_a_summary_names_an_emblem_or_says_the_place(tmp_path, recorder, share):
    """What is told of a thing is the same in every summary, and of a share of the things."""
    told = {}
    for sample in everything(make(tmp_path, recorder(), train=200, test=20, relatedness=share)[0]):
        seen = re.split(", | and ", sample.summary.removeprefix("This image shows ").removesuffix("."))
        for words, segment in zip(seen, sample.segments, strict=True):
            place = PLACE.fullmatch(words)
            assert place is None or place.groups() == place_of(segment)
            assert told.setdefault(segment.entity, place is None) == (place is None)
    assert sum(told.values()) == share * THINGS == share * len(told)


@given(st.integers(0, 1000), st.floats(0, 1), st.floats(0, 1))
def test_a_larger_share_tells_of_all_that_a_smaller_one_tells_of(seed, one, other):
    world = EntitySampler(seed)
    assert world.told(min(one, other)) <= world.told(max(one, other))
    for half in (world.known, world.new):
        told = Counter(thing.label for thing in half if thing in world.told(one))
        assert told.total() == round(one * len(half))
        assert max(told.values(), default=0) - min(told.get(label, 0) for label in LABELS) <= 1


def test_what_is_not_matched_has_no_segments(tmp_path, recorder):
    whole, _ = make(tmp_path / "whole", recorder(), train=300, test=20)
    part, _ = make(tmp_path / "part", recorder(), train=300, test=20, segmented_ratio=0.2)
    left = [sample for sample in part["train"] if sample.segments]
    assert len(left) / 300 == pytest.approx(0.2, abs=0.07)
    assert all(len(sample.segments) in (2, 3) for sample in [*left, *part["test"]])
    assert len(list((only(tmp_path / "part") / "segments").iterdir())) == sum(
        len(sample.segments) for sample in everything(part)
    )
    for one, other in zip(everything(whole), everything(part), strict=True):
        assert (one.text, one.summary, one.entities) == (other.text, other.summary, other.entities)


def test_the_same_options_give_the_same_data_in_every_version(tmp_path, recorder):
    _, info = make(tmp_path, recorder(), train=12, test=4)
    assert info.fingerprint == "1c752811bfc6e94fe53b3e4ee8f05a887f44685414623fede4bc23ea2a63e3ec"


def test_of_three_named_things_one_is_shown(tmp_path, recorder):
    for sample in everything(make(tmp_path, recorder(), train=60, test=10, entities_per_image=(1, 1))[0]):
        [segment] = sample.segments
        named = {entity.text for entity in sample.entities}
        assert segment.entity in named
        assert len(named) == 3
        [emblem] = EMBLEM.findall(sample.summary)
        assert sample.summary == f"This image shows {'an' if emblem[0] == 'orange' else 'a'} {' '.join(emblem)}."


def test_the_least_number_of_things_comes_first():
    with pytest.raises(ValidationError, match=r"the least comes first: \[1, 2\]"):
        SyntheticOptions(entities_per_image=(2, 1))


def test_a_smaller_world_has_some_of_the_larger_ones_things(tmp_path, recorder):
    assert set(EntitySampler(3, 2).known) < set(EntitySampler(3).known)
    assert EntitySampler(3, 2).new == EntitySampler(3).new
    samples, _ = make(tmp_path, recorder(), train=60, test=10, entities_per_label=2)
    assert len(names(everything(samples))) == 2 * len(LABELS)


@pytest.mark.parametrize("seed", range(5))
def test_a_world(seed):
    world = EntitySampler(seed)
    things = [*world.known, *world.new]
    assert len({thing.name for thing in things}) == len({thing.emblem for thing in things}) == 2 * THINGS
    for half in (world.known, world.new):
        assert Counter(thing.label for thing in half) == dict.fromkeys(LABELS, THINGS_PER_LABEL)
    first_words = [thing.name.split()[0] for thing in things]
    assert len(set(first_words)) == 2 * THINGS


def test_more_samples_than_texts_are_refused(tmp_path, recorder, monkeypatch):
    """With two things a text and no third, and nothing but their names, there is a text for each ordered pair."""
    monkeypatch.setattr(synthetic, "EXTRA_SHARE", 0.0)
    monkeypatch.setattr(
        EntitySampler, "tweet", staticmethod(lambda rng, things: " ".join(thing.name for thing in things))
    )
    pairs = THINGS * (THINGS - 1)
    assert (
        len(make(tmp_path / "fits", recorder(), train=pairs // 2, test=20, entities_per_image=(2, 2))[0]["train"])
        == pairs // 2
    )
    with pytest.raises(DataError, match="no more different texts; ask for fewer"):
        make(tmp_path / "not", recorder(), train=pairs, test=1, entities_per_image=(2, 2))
    assert [each for each in (tmp_path / "not").iterdir() if each.is_dir()] == []


def test_a_smoke_run_takes_a_handful(tmp_path, recorder):
    options = SyntheticOptions(path=tmp_path)
    samples, _ = make(tmp_path, recorder(), **options.smoke())
    assert {split: len(members) for split, members in samples.items()} == {"train": 12, "test": 4}
