"""The work folder of a build whose samples need a review."""

import json
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from PIL import Image

from runner.dataset.build.work_folder import WorkFolder
from runner.dataset.folder_reader import sample_to_row
from runner.records import Entity, Sample, Segment

TWEET = "Ada & <script>alert(1)</script> in Rome"
"""Untrusted text must be shown and never executed."""


@dataclass
class PendingReview:
    """The annotated samples of a build."""

    work: WorkFolder
    rows: list[dict] = field(default_factory=list)

    @property
    def dataset(self) -> Path:
        return self.work.path.with_suffix("")

    def sample(self, name, summary="A red square beside a blue one.", *, flags=(), annotation=None, size=(60, 40)):
        """Add a sample with one segment."""
        pictures = self.work.image_root
        for folder in ("images", "segments"):
            (pictures / folder).mkdir(parents=True, exist_ok=True)
        main, cut = pictures / "images" / f"{name}.png", pictures / "segments" / f"{name}-a.png"
        Image.new("RGB", size, "red").save(main)
        Image.new("RGB", (20, 10), "blue").save(cut)
        segment = Segment("a", cut, "Ada", (6, 10, 36, 30))
        sample = Sample(name, TWEET, main, summary, (Entity("person", "Ada"),), (segment,))
        row = sample_to_row(sample, pictures) | {
            "flags": list(flags),
            "annotation": annotation or f"annotation of {name}",
        }
        self.rows.append(row)
        return row

    def write(self):
        self.work.annotated_samples.parent.mkdir(parents=True, exist_ok=True)
        self.work.annotated_samples.write_text("".join(json.dumps(row) + "\n" for row in self.rows))
        return self


@pytest.fixture
def pending_review(tmp_path):
    """A work folder without samples."""
    return PendingReview(WorkFolder.for_dataset(tmp_path / "made"))


@pytest.fixture
def six_samples(pending_review):
    """Six samples: the second was refused, the fourth is too long, and the last has no summary."""
    flags = {"2": ["refused"], "4": ["more words than expected"], "6": ["no summary"]}
    for name in "123456":
        summary = None if name == "6" else f"Picture {name} shows a red square."
        pending_review.sample(name, summary, flags=flags.get(name, ()))
    return pending_review.write()
