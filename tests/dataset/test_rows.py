"""Converting samples to rows and back, reading them one at a time, and hashing their content."""

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from runner.dataset.folder_reader import JsonlSamples, content_fingerprint, sample_from_row, sample_to_row
from runner.files import stream_jsonl
from runner.fingerprint_and_provenance import fingerprint
from runner.records import Entity, Sample, Segment

NAMES = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)
SEGMENTS = st.lists(
    st.builds(Segment, st.sampled_from("abc"), st.just(Path("/root/segments/a.jpg")), NAMES, st.just((0, 1, 2, 3))),
    max_size=2,
).map(tuple)
ENTITIES = st.lists(st.builds(Entity, st.sampled_from(["person", "other"]), NAMES), max_size=3).map(tuple)
SAMPLES = st.lists(
    st.builds(Sample, NAMES, NAMES, st.just(Path("/root/images/1.jpg")), st.none() | NAMES, ENTITIES, SEGMENTS),
    max_size=5,
)


@given(SAMPLES)
def test_samples_survive_a_round_trip(tmp_path_factory, samples):
    path = tmp_path_factory.mktemp("rows") / "samples.jsonl"
    root = Path("/root")
    assert [sample_from_row(sample_to_row(sample, root), root) for sample in samples] == samples
    stream_jsonl(path, (sample_to_row(sample, root) for sample in samples))
    stored = JsonlSamples(path, root)
    assert list(stored) == [stored[place] for place in range(len(stored))] == stored[:] == samples
    assert stored[1:3] == samples[1:3]


@given(st.dictionaries(st.sampled_from(["train", "dev", "test"]), SAMPLES), st.lists(NAMES, max_size=2))
def test_content_fingerprint_equals_that_of_one_document(splits, labels):
    def content(sample):
        segments = [[each.letter, None, each.entity, list(each.box)] for each in sample.segments]
        entities = [[each.label, each.text] for each in sample.entities]
        return [sample.id, sample.text, None, sample.summary, entities, segments]

    def without_images(sample):
        segments = tuple(Segment(each.letter, None, each.entity, each.box) for each in sample.segments)
        return Sample(sample.id, sample.text, None, sample.summary, sample.entities, segments)

    bare = {split: [without_images(each) for each in samples] for split, samples in splits.items()}
    rows = {split: [content(each) for each in samples] for split, samples in bare.items()}
    assert content_fingerprint(labels, bare) == fingerprint({"labels": labels, "splits": rows})
