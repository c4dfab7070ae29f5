"""A sample as a line and back, from a file one at a time; and its content hashed as if all of it were in memory."""

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from runner.dataset.folder import StoredSamples, content_fingerprint, row_of, sample_of
from runner.files import write_rows_whole
from runner.fingerprint import fingerprint
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
def test_samples_are_read_as_they_were_written(tmp_path_factory, samples):
    path = tmp_path_factory.mktemp("rows") / "samples.jsonl"
    root = Path("/root")
    assert [sample_of(row_of(sample, root), root) for sample in samples] == samples
    write_rows_whole(path, (row_of(sample, root) for sample in samples))
    stored = StoredSamples(path, root)
    assert list(stored) == [stored[place] for place in range(len(stored))] == stored[:] == samples
    assert stored[1:3] == samples[1:3]


@given(st.dictionaries(st.sampled_from(["train", "dev", "test"]), SAMPLES), st.lists(NAMES, max_size=2))
def test_content_is_hashed_as_one_document(splits, labels):
    def content(sample):
        segments = [[each.letter, None, each.entity, list(each.box)] for each in sample.segments]
        entities = [[each.label, each.text] for each in sample.entities]
        return [sample.id, sample.text, None, sample.summary, entities, segments]

    def without_pictures(sample):
        segments = tuple(Segment(each.letter, None, each.entity, each.box) for each in sample.segments)
        return Sample(sample.id, sample.text, None, sample.summary, sample.entities, segments)

    bare = {split: [without_pictures(each) for each in samples] for split, samples in splits.items()}
    rows = {split: [content(each) for each in samples] for split, samples in bare.items()}
    assert content_fingerprint(labels, bare) == fingerprint({"labels": labels, "splits": rows})
