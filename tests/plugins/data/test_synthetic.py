"""Generated data: reproducible for a seed, without leaks, and with the answer in the segments only."""

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
from plugins.data.synthetic import COLOURS, ENTITIES_PER_LABEL, LABELS, SHAPES, EntitySampler, SyntheticData
from runner.dataset.leaks import find_leaks
from runner.errors import DataError

NUM_ENTITIES = ENTITIES_PER_LABEL * len(LABELS)
CELL = SyntheticOptions().cell_size
SYMBOL = re.compile(rf"({'|'.join(COLOURS)}) ({'|'.join(SHAPES)})")


def content(path):
    return {str(file.relative_to(path)): file.read_bytes() for file in path.rglob("*") if file.is_file()}


def make(path, reporter, **options):
    """Generate data; return its samples by split and its description."""
    data = SyntheticData(SyntheticOptions(path=path, **options))
    info = data.prepare(reporter)
    return {split: data.load(split) for split in ("train", "test")}, info


def only(path):
    (folder,) = (each for each in path.iterdir() if each.is_dir())
    return folder


@pytest.fixture(scope="module")
def splits(tmp_path_factory):
    """The samples of a data set that is large enough for statistics."""

    class Silent:
        def progress(self, done, total, **shown): ...

    return make(tmp_path_factory.mktemp("made"), Silent(), train=400, test=100)[0]


def everything(splits):
    return [*splits["train"], *splits["test"]]


def test_the_same_seed_gives_the_same_bytes(tmp_path, recorder):
    infos = [make(tmp_path / folder, recorder(), train=12, test=4)[1] for folder in "ab"]
    assert infos[0].fingerprint == infos[1].fingerprint
    assert infos[0].num_samples == {"train": 12, "test": 4}
    assert infos[0].labels == LABELS
    assert content(only(tmp_path / "a")) == content(only(tmp_path / "b"))


def test_another_seed_gives_other_data_in_another_folder(tmp_path, recorder):
    first, one = make(tmp_path, recorder(), train=12, test=4)
    second, other = make(tmp_path, recorder(), train=12, test=4, seed=1)
    assert one.fingerprint != other.fingerprint
    assert one.location != other.location
    assert not {each.text for each in everything(first)} & {each.text for each in everything(second)}


def test_it_is_generated_once(tmp_path, recorder):
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
def test_a_changed_folder_is_generated_again_with_a_warning(tmp_path, recorder, change):
    make(tmp_path, recorder(), train=6, test=2)
    before = content(only(tmp_path))
    change(only(tmp_path))
    reporter = recorder()
    make(tmp_path, reporter, train=6, test=2)
    assert content(only(tmp_path)) == before
    assert len(reporter.warnings) == 1
    assert reporter.warnings[0].endswith("it is generated again")


def test_concurrent_processes_generate_it_once(tmp_path, recorder):
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


def test_splits_share_nothing(splits):
    assert find_leaks(splits) == []
    texts = [sample.text for sample in everything(splits)]
    assert len(set(texts)) == len(texts)


def names(samples):
    return Counter(entity.text for sample in samples for entity in sample.entities)


def share_of_new_names(samples):
    known = set(names(samples["train"]))
    shown = names(samples["test"])
    return sum(number for name, number in shown.items() if name not in known) / shown.total()


@pytest.mark.parametrize(("option", "tolerance"), [(0.0, 0.0), (0.5, 0.08), (1.0, 0.0)])
def test_the_share_of_unseen_names(tmp_path, recorder, option, tolerance):
    samples, _ = make(tmp_path, recorder(), train=100, test=120, unseen_name_ratio=option)
    assert share_of_new_names(samples) == pytest.approx(option, abs=tolerance)


def test_segments_are_the_pixels_of_their_boxes(splits):
    for sample in everything(splits)[::10]:
        with Image.open(sample.image) as image:
            for segment in sample.segments:
                with Image.open(segment.image) as cut:
                    assert ImageChops.difference(image.crop(segment.box), cut).getbbox() is None


def test_boxes_do_not_overlap(splits):
    for sample in everything(splits):
        corners = [segment.box[:2] for segment in sample.segments]
        assert len(set(corners)) == len(corners)
        assert corners == sorted(corners, key=lambda corner: (corner[1], corner[0]))


def test_shown_entities_are_mentioned_and_some_mentioned_ones_are_not_shown(splits):
    hidden = []
    for sample in everything(splits):
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
    assert fmean(hidden) == pytest.approx(synthetic.EXTRA_MENTION_PROBABILITY, abs=0.08)


def test_the_order_of_segments_is_independent_of_the_text(splits):
    """Of two shown entities, the first mentioned one is first in the image half of the time."""
    first = []
    for sample in everything(splits):
        position = {entity.text: number for number, entity in enumerate(sample.entities)}
        one, other = (segment.entity for segment in sample.segments[:2])
        first.append(position[one] < position[other])
    assert fmean(first) == pytest.approx(0.5, abs=0.08)


def test_the_summary_describes_the_segments_in_order(splits):
    """The symbols of a summary identify entities: each symbol belongs to one name, and each name has one symbol."""
    emblem_of, name_of = {}, {}
    for sample in everything(splits):
        emblems = SYMBOL.findall(sample.summary)
        assert len(emblems) == len(sample.segments)
        for emblem, segment in zip(emblems, sample.segments, strict=True):
            assert emblem_of.setdefault(segment.entity, emblem) == emblem
            assert name_of.setdefault(emblem, segment.entity) == segment.entity
    assert len(emblem_of) == NUM_ENTITIES


def emblem_colour(segment):
    """Return the colour of the symbol in a segment, read from its pixels."""
    with Image.open(segment.image) as opened:
        middle = opened.getpixel((opened.width // 2, opened.height // 2))
    return min(COLOURS, key=lambda each: sum(abs(a - b) for a, b in zip(COLOURS[each], middle, strict=True)))


def test_segments_show_the_symbols_of_the_summary(splits):
    for sample in everything(splits)[::5]:
        assert all(emblem_colour(segment) in sample.summary for segment in sample.segments)


POSITION = re.compile(r"something at the (top|middle|bottom) (left|centre|right)")


def position(segment):
    left, top, _, _ = segment.box
    return ("top", "middle", "bottom")[top // CELL], ("left", "centre", "right")[left // CELL]


def test_relatedness_changes_the_summaries_only(tmp_path, recorder):
    splits = [
        everything(make(tmp_path / str(share), recorder(), train=30, test=10, relatedness=share)[0])
        for share in (0.0, 0.5, 1.0)
    ]
    for same in zip(*splits, strict=True):
        assert len({sample.text for sample in same}) == 1
        assert len({sample.entities for sample in same}) == 1
        assert len({sample.image.read_bytes() for sample in same}) == 1
        segments = [[(segment.letter, segment.entity, segment.box) for segment in sample.segments] for sample in same]
        assert segments[0] == segments[1] == segments[2]
        assert all(len({segment.image.read_bytes() for segment in row}) == 1 for row in segment_rows(same))
    none, half, all_described = ([len(SYMBOL.findall(sample.summary)) for sample in samples] for samples in splits)
    assert not any(none)
    assert sum(none) < sum(half) < sum(all_described) == sum(len(sample.segments) for sample in splits[2])


def segment_rows(samples):
    return zip(*(sample.segments for sample in samples), strict=True)


@pytest.mark.parametrize("share", [0.0, 0.25, 0.5, 1.0])
def test_a_summary_describes_a_symbol_or_a_position(tmp_path, recorder, share):
    """An entity is described the same way in every summary, with its symbol for the given share of entities."""
    described = {}
    for sample in everything(make(tmp_path, recorder(), train=200, test=20, relatedness=share)[0]):
        seen = re.split(", | and ", sample.summary.removeprefix("This image shows ").removesuffix("."))
        for words, segment in zip(seen, sample.segments, strict=True):
            match = POSITION.fullmatch(words)
            assert match is None or match.groups() == position(segment)
            assert described.setdefault(segment.entity, match is None) == (match is None)
    assert sum(described.values()) == share * NUM_ENTITIES == share * len(described)


@given(st.integers(0, 1000), st.floats(0, 1), st.floats(0, 1))
def test_a_larger_share_includes_the_entities_of_a_smaller_one(seed, one, other):
    sampler = EntitySampler(seed)
    assert sampler.described_entities(min(one, other)) <= sampler.described_entities(max(one, other))
    for half in (sampler.train_entities, sampler.unseen_entities):
        described = Counter(entity.label for entity in half if entity in sampler.described_entities(one))
        assert described.total() == round(one * len(half))
        assert max(described.values(), default=0) - min(described.get(label, 0) for label in LABELS) <= 1


def test_samples_outside_the_segmented_ratio_have_no_segments(tmp_path, recorder):
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


def test_one_of_three_mentioned_entities_is_shown(tmp_path, recorder):
    for sample in everything(make(tmp_path, recorder(), train=60, test=10, entities_per_image=(1, 1))[0]):
        [segment] = sample.segments
        named = {entity.text for entity in sample.entities}
        assert segment.entity in named
        assert len(named) == 3
        [emblem] = SYMBOL.findall(sample.summary)
        assert sample.summary == f"This image shows {'an' if emblem[0] == 'orange' else 'a'} {' '.join(emblem)}."


@pytest.mark.parametrize("entities_per_image", [(1, 1), (2, 3)])
def test_the_evidence_changes_symbols_and_shown_entities_only(tmp_path, recorder, entities_per_image):
    """Texts, boxes and backgrounds are the same, and without symbols also the images."""
    by_image, by_summary, by_text = (
        everything(
            make(
                tmp_path / evidence,
                recorder(),
                train=30,
                test=10,
                match_evidence=evidence,
                entities_per_image=entities_per_image,
            )[0]
        )
        for evidence in ("image", "summary", "text")
    )
    for same in zip(by_image, by_summary, by_text, strict=True):
        assert len({(sample.text, sample.entities) for sample in same}) == 1
        assert len({tuple((segment.letter, segment.box) for segment in sample.segments) for sample in same}) == 1
        assert len({sample.image.read_bytes() for sample in same[1:]}) == 1
    for sample, without_symbols in zip(by_image, by_summary, strict=True):
        assert sample.summary == without_symbols.summary
        assert [segment.entity for segment in sample.segments] == [each.entity for each in without_symbols.segments]
        assert sample.image.read_bytes() != without_symbols.image.read_bytes()


@pytest.mark.parametrize("evidence", ["summary", "text"])
def test_without_evidence_in_images_all_pixels_are_background(tmp_path, recorder, evidence):
    lowest = synthetic.BACKGROUND_GREY - synthetic.NOISE_LEVELS // 2
    for sample in everything(make(tmp_path, recorder(), train=20, test=5, match_evidence=evidence)[0]):
        for path in (sample.image, *(segment.image for segment in sample.segments)):
            with Image.open(path) as image:
                assert all(lowest <= low <= high < lowest + synthetic.NOISE_LEVELS for low, high in image.getextrema())


def test_with_evidence_in_the_text_the_segments_show_what_it_names_first(tmp_path, recorder):
    for sample in everything(make(tmp_path, recorder(), train=60, test=10, match_evidence="text")[0]):
        in_order = sorted((entity.text for entity in sample.entities), key=sample.text.index)
        assert [segment.entity for segment in sample.segments] == in_order[: len(sample.segments)]


def test_with_evidence_in_the_summary_its_symbols_belong_to_the_shown_entities(tmp_path, recorder):
    symbols = {entity.name: str(entity.symbol) for entity in EntitySampler(0).train_entities}
    for sample in everything(make(tmp_path, recorder(), train=60, test=10, match_evidence="summary")[0]):
        described = [f"{colour} {shape}" for colour, shape in SYMBOL.findall(sample.summary)]
        assert described == [symbols[segment.entity] for segment in sample.segments]


def test_the_suffix_follows_the_texts_of_the_test_only(tmp_path, recorder):
    plain, _ = make(tmp_path / "plain", recorder(), train=20, test=10)
    ending, _ = make(tmp_path / "ending", recorder(), train=20, test=10, test_text_suffix="{{seen}} {summary}")
    assert [sample.text for sample in ending["train"]] == [sample.text for sample in plain["train"]]
    for one, other in zip(plain["test"], ending["test"], strict=True):
        assert other.text == f"{one.text} {{seen}} {one.summary}"
        assert (other.summary, other.entities) == (one.summary, one.entities)


@given(st.text(), st.text())
def test_a_suffix_can_have_any_characters(before, after):
    escaped = [text.replace("{", "{{").replace("}", "}}") for text in (before, after)]
    options = SyntheticOptions(test_text_suffix="{summary}".join(escaped))
    assert options.test_text_suffix.format(summary="A cat.") == f"{before}A cat.{after}"


@pytest.mark.parametrize(
    ("suffix", "message"),
    [
        ("{sumary}", r"only \{summary\} can be filled in, not \{sumary\}"),
        ("{summary:>9}", "no format after it"),
        ("{summary!r}", "no format after it"),
        ("{0}", r"not \{0\}"),
        ("{}", r"not \{\}"),
        ("{summary.upper}", r"not \{summary.upper\}"),
        ("{summary", "write {{ and }} for braces"),
        ("a } b", "write {{ and }} for braces"),
    ],
)
def test_a_suffix_that_cannot_be_filled_in_is_refused(suffix, message):
    with pytest.raises(ValidationError, match=message):
        SyntheticOptions(test_text_suffix=suffix)


@pytest.mark.parametrize("number", [1, 2, 3, 4])
def test_a_text_with_one_shown_entity_names_the_given_number(tmp_path, recorder, number):
    samples, _ = make(tmp_path, recorder(), train=40, test=10, entities_per_image=(1, 1), max_entities_per_text=number)
    for sample in everything(samples):
        assert len({entity.text for entity in sample.entities}) == number


def test_a_text_names_at_least_what_the_image_shows():
    with pytest.raises(ValidationError, match="write max_entities_per_text: 3, or lower entities_per_image"):
        SyntheticOptions(max_entities_per_text=2)


def test_the_minimum_number_of_entities_comes_first():
    with pytest.raises(ValidationError, match=r"the minimum comes first: \[1, 2\]"):
        SyntheticOptions(entities_per_image=(2, 1))


def test_fewer_entities_are_a_subset_of_more(tmp_path, recorder):
    assert set(EntitySampler(3, 2).train_entities) < set(EntitySampler(3).train_entities)
    assert EntitySampler(3, 2).unseen_entities == EntitySampler(3).unseen_entities
    samples, _ = make(tmp_path, recorder(), train=60, test=10, entities_per_label=2)
    assert len(names(everything(samples))) == 2 * len(LABELS)


@pytest.mark.parametrize("seed", range(5))
def test_entity_sampler(seed):
    sampler = EntitySampler(seed)
    entities = [*sampler.train_entities, *sampler.unseen_entities]
    assert len({entity.name for entity in entities}) == len({entity.symbol for entity in entities}) == 2 * NUM_ENTITIES
    for half in (sampler.train_entities, sampler.unseen_entities):
        assert Counter(entity.label for entity in half) == dict.fromkeys(LABELS, ENTITIES_PER_LABEL)
    first_words = [entity.name.split()[0] for entity in entities]
    assert len(set(first_words)) == 2 * NUM_ENTITIES


def test_more_samples_than_texts_are_refused(tmp_path, recorder, monkeypatch):
    """If texts consist of two names only, there is one text for each ordered pair."""
    monkeypatch.setattr(synthetic, "EXTRA_MENTION_PROBABILITY", 0.0)
    monkeypatch.setattr(
        EntitySampler, "tweet", staticmethod(lambda rng, entities: " ".join(entity.name for entity in entities))
    )
    pairs = NUM_ENTITIES * (NUM_ENTITIES - 1)
    assert (
        len(make(tmp_path / "fits", recorder(), train=pairs // 2, test=20, entities_per_image=(2, 2))[0]["train"])
        == pairs // 2
    )
    with pytest.raises(DataError, match="cannot generate more distinct texts; request fewer"):
        make(tmp_path / "not", recorder(), train=pairs, test=1, entities_per_image=(2, 2))
    assert [each for each in (tmp_path / "not").iterdir() if each.is_dir()] == []


def test_a_smoke_run_uses_few_samples(tmp_path, recorder):
    options = SyntheticOptions(path=tmp_path)
    samples, _ = make(tmp_path, recorder(), **options.smoke())
    assert {split: len(members) for split, members in samples.items()} == {"train": 12, "test": 4}


def test_symbols_have_varied_sizes_and_places_in_their_cells(tmp_path, recorder):
    splits, _ = make(tmp_path, recorder(), train=60, test=4, cell_size=20, symbol_size=(12, 18))
    boxes = [segment.box for sample in everything(splits) for segment in sample.segments]
    sides = {right - left for left, _, right, _ in boxes}
    assert sides == set(range(12, 19))
    assert len({left % 20 for left, *_ in boxes}) == 9
    for left, top, right, bottom in boxes:
        assert right - left == bottom - top
        assert (left // 20, top // 20) == ((right - 1) // 20, (bottom - 1) // 20)
    for sample in splits["train"][:8]:
        with Image.open(sample.image) as image:
            assert image.size == (60, 60)
            for segment in sample.segments:
                inside = image.crop(segment.box).convert("RGB")
                assert ImageChops.difference(inside, Image.new("RGB", inside.size, (150,) * 3)).getbbox() is not None
                with Image.open(segment.image) as crop:
                    assert crop.convert("RGB").tobytes() == inside.tobytes()


def test_a_gradient_shows_where_a_part_of_an_image_comes_from(tmp_path, recorder):
    splits, _ = make(tmp_path, recorder(), train=4, test=2, background="gradient", match_evidence="text")
    for sample in splits["train"]:
        with Image.open(sample.image) as image:
            red, green, blue = image.convert("RGB").split()
            edges = {"left": (0, 0, 4, 48), "right": (44, 0, 48, 48), "top": (0, 0, 48, 4), "bottom": (0, 44, 48, 48)}
            level = {
                (edge, name): fmean(band.crop(box).tobytes())
                for edge, box in edges.items()
                for name, band in (("red", red), ("green", green), ("blue", blue))
            }
        assert level["right", "red"] > level["left", "red"] + 100
        assert level["bottom", "blue"] > level["top", "blue"] + 100
        assert abs(level["top", "red"] - level["bottom", "red"]) < 5
        assert abs(level["left", "green"] - level["right", "green"]) < 5


def test_symbols_larger_than_their_cells_are_refused():
    for size in ((17, 17), (12, 17), (12, 10)):
        with pytest.raises(ValidationError, match="at most the 16 pixels of cell_size"):
            SyntheticOptions(symbol_size=size)
