"""Samples are shown as the model gets them, with what is wrong with them."""

import json
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from rich.console import Console

from runner.cli.plan_and_preview_display import TRAINED_STYLES, sample_lines
from runner.errors import DataError, RequirementError, SpecError
from runner.preflight.preview import PromptSegmenter, load_preview, write_page
from runner.records import Rendered, TextPart
from runner.spec.load import load_spec

SPEC = """\
name: looked_at
data: {type: synthetic, path: data, train: 6, test: 3}
adapter: {type: pfa, images: lettered}
model: {type: qwen2_5_vl, size: smoke}
optimizer: {type: adamw, groups: {all: {match: "*", lr: 1e-3}}}
trainer: {type: sft, target_suffix: "\\n"}
generator: {type: transformers}
metrics: [{type: ner_f1}]
tracker: {type: mlflow}
"""


class SilentReporter:
    """A reporter that ignores everything."""

    def progress(self, done, total, **shown):
        pass

    def warn(self, message):
        pass

    def stop_requested(self):
        return False


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a small experiment on generated data."""
    folder = tmp_path_factory.mktemp("looked_at")
    (folder / "spec.yaml").write_text(SPEC)
    return folder


@pytest.fixture
def open_preview(folder):
    """A function that loads the preview of the experiment with overrides of its spec."""

    def load(*overrides, split="train"):
        return load_preview(load_spec(folder / "spec.yaml", overrides).spec, split, SilentReporter())

    return load


def test_a_training_sample_is_shown_as_in_training(open_preview):
    preview = open_preview()
    shown = list(preview.preview_samples(4))
    assert [each.id for each in shown] == [sample.id for sample in preview.samples[:4]]
    for sample, each in zip(preview.samples, shown, strict=False):
        assert each.problems == ()
        assert each.trained_text == f"{each.target}<|im_end|>\n"
        assert "".join(piece.text for piece in each.segments if piece.trained) == each.trained_text
        assert each.prompt.endswith("<|im_end|>\n<|im_start|>assistant\n")
        assert f"Task 2: Text: {sample.text}\n" in each.prompt
        assert "<|image_pad|>" not in each.prompt
        assert [picture.name for picture in each.images] == ["main", *(part.letter for part in sample.segments)]
        assert [picture.path for picture in each.images] == [sample.image, *(part.image for part in sample.segments)]
        numbers = [picture.num_tokens for picture in each.images]
        assert all(f"‹image: {number} token" in each.prompt for number in numbers)
        rendered = preview.regime.adapter.render_training(sample)
        count = preview.checker.model.count(rendered)
        told = each.lengths
        assert (told["text"], told["image"]) == (count.text, count.image) == (count.text, sum(numbers))
        assert told["total"] == count.text + count.image + told["target"]
        assert told["share"] == pytest.approx(told["total"] / told["limit"], abs=1e-4)


def test_a_test_sample_is_shown_without_its_answer(open_preview):
    [shown, *_] = open_preview(split="test").preview_samples(None)
    assert shown.trained_text == ""
    assert not any(piece.trained for piece in shown.segments)
    assert shown.target.startswith("Task 1 Answer:")
    assert shown.target not in shown.prompt
    assert shown.problems == ()
    [narrow, *_] = open_preview("generator.max_new_tokens=32768", split="test").preview_samples(1)
    assert "an answer of 32,768 exceed 32,768 tokens" in narrow.problems[0]


def test_a_refused_sample_is_shown_in_full_with_the_error(open_preview):
    shown = list(open_preview("trainer.max_length=60").preview_samples(2))
    for each in shown:
        [problem] = each.problems
        assert problem.startswith(f"sample {each.id}: {each.lengths['total']} tokens (")
        assert each.trained_text.endswith("<|im_end|>\n")
        assert each.lengths["limit"] == 60


def test_a_truncated_answer_is_reported(open_preview):
    longest = max(each.lengths["total"] for each in open_preview().preview_samples(None))
    limit = f"trainer.max_length={longest - 1}"
    shown = list(open_preview(limit, "trainer.on_overlength=truncate").preview_samples(None))
    cut = [each for each in shown if each.truncated]
    assert cut
    assert all(each.lengths["total"] == longest - 1 and not each.problems for each in cut)
    assert "the answer is truncated" in _printed(cut[0])


def test_a_skipped_sample_is_shown_in_full_and_reported(open_preview):
    whole = {each.id: each.lengths["total"] for each in open_preview().preview_samples(None)}
    longest = max(whole.values())
    shown = list(open_preview(f"trainer.max_length={longest - 1}", "trainer.on_overlength=skip").preview_samples(None))
    skipped = [each for each in shown if each.skipped]
    assert [each.id for each in skipped] == [name for name, length in whole.items() if length == longest]
    for each in skipped:
        assert (each.lengths["total"], each.trained_text, each.problems) == (longest, "", ())
        assert each.as_json()["skipped"]
    assert "too long, skipped in training" in _printed(skipped[0])
    assert not any(each.as_json()["skipped"] for each in open_preview().preview_samples(2))


def test_an_image_that_cannot_be_read_is_a_problem_of_its_sample(open_preview, tmp_path):
    preview = open_preview()
    broken = tmp_path / "broken.png"
    broken.write_text("no picture")
    samples = [replace(preview.samples[0], image=broken), preview.samples[1]]
    rendered = [preview.regime.adapter.render_training(sample) for sample in samples]
    faulty_model = replace(preview, samples=samples, rendered=rendered)
    first, second = faulty_model.preview_samples(None)
    assert "broken.png" in first.problems[0]
    assert (first.images[0].width, first.segments) == (None, ())
    assert "cannot be read" in _printed(first)
    assert second.problems == ()
    write_page(tmp_path / "page.html", "broken", faulty_model.preview_samples(None))
    assert "cannot be read" in (tmp_path / "page.html").read_text()


def test_options_and_a_checkpoint_that_do_not_fit_are_refused(open_preview):
    with pytest.raises(SpecError, match=r"^trainer\.max_length"):
        open_preview("trainer.max_length=99999")
    with pytest.raises(RequirementError, match="--smoke"):
        open_preview("model={type: qwen2_5_vl, checkpoint: ./nowhere}")


def test_an_empty_split_is_an_error(open_preview, monkeypatch):
    from plugins.data.synthetic import SyntheticData

    load = SyntheticData.load
    monkeypatch.setattr(SyntheticData, "load", lambda self, split: load(self, split) if split == "train" else [])
    with pytest.raises(DataError, match="the test split has no samples"):
        open_preview(split="test")


@pytest.mark.parametrize("text", ["plain words", "né \u0301 ✂️ 👩‍👩‍👧", "<|im_end|>", "a\n\n b", "\ufffd?"])
def test_segments_are_the_text_token_by_token(open_preview, text):
    model = open_preview().checker.model
    labels = model.encode(Rendered("x", (TextPart("?"),), text))["labels"].tolist()
    ids = [label for label in labels if label != -100][:-1]
    assert ids
    pieces = PromptSegmenter(model).segment(ids, ids)
    assert "".join(piece.text for piece in pieces) == model.decode_raw(ids)
    assert sum(piece.num_tokens for piece in pieces) == len(ids)
    assert all(piece.trained and piece.kind == "text" for piece in pieces)


def _printed(sample):
    console = Console(width=200, record=True, quiet=True)
    for line in sample_lines(sample):
        console.print(line)
    return "\n".join(line.plain for line in sample_lines(sample))


def test_trained_tokens_alternate_in_colour_in_a_terminal(open_preview):
    [shown] = open_preview().preview_samples(1)
    [flow] = [line for line in sample_lines(shown) if "<|im_start|>" in line.plain]
    tinted = [(flow.plain[span.start : span.end], span.style) for span in flow.spans if span.style in TRAINED_STYLES]
    assert "".join(text for text, _ in tinted) == shown.trained_text
    assert [style for _, style in tinted] == [TRAINED_STYLES[place % 2] for place in range(len(tinted))]


class Page(HTMLParser):
    """Collects the texts of a page by element."""

    def __init__(self, text):
        super().__init__()
        self.images, self.trained, self.flow, self.tags = [], [], "", set()
        self._open = []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        told = dict(attributes)
        self.tags.add(tag)
        if tag == "img":
            self.images.append(told["src"])
        elif tag not in {"meta", "br"}:
            self._open.append((tag, (told.get("class") or "").split()))

    def handle_endtag(self, tag):
        assert self._open.pop()[0] == tag

    def handle_data(self, data):
        if any(tag == "pre" for tag, _ in self._open):
            self.flow += data
            if "loss" in self._open[-1][1]:
                self.trained.append(data)


def test_a_page_holds_all_in_one_file(open_preview, tmp_path):
    shown = list(open_preview().preview_samples(2))
    nasty = replace(shown[0].segments[0], text="<script>alert(1)</script> & ‹›")
    shown[0] = replace(shown[0], id="<b>1</b>", segments=(nasty, *shown[0].segments[1:]), problems=("a <fault>",))
    file = tmp_path / "new" / "page.html"
    write_page(file, "two & more", iter(shown))
    text = file.read_text(encoding="utf-8")
    page = Page(text)
    assert "script" not in page.tags
    assert "b" not in page.tags
    assert page.flow.startswith("<script>alert(1)</script> & ‹›")
    assert "".join(page.trained).replace("↵\n", "\n") == "".join(each.trained_text for each in shown)
    assert len(page.images) == sum(len(each.images) for each in shown)
    assert all(source.startswith("data:image/jpeg;base64,") for source in page.images)
    assert "http" not in text
    assert "a &lt;fault&gt;" in text
    assert "prefers-color-scheme: dark" in text
    assert 'content="width=device-width' in text


def test_a_page_that_cannot_be_written_is_an_error(open_preview, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RequirementError, match=r"^--html .*page.html: cannot be written"):
        write_page(tmp_path / "file" / "page.html", "none", iter(()))


def test_the_command_prints_lines_of_json_and_says_by_its_status_what_it_found(workplace):
    (workplace.folder / "spec.yaml").write_text(SPEC)
    done = workplace.run("preview", "spec.yaml", "-n", "2", "--json", "--html", "page.html")
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(rows) == 2
    for row in rows:
        assert {"id", "images", "prompt", "target", "trained_text", "lengths", "problems"} <= row.keys()
        assert all(Path(image).is_file() for image in row["images"])
        assert row["trained_text"] == f"{row['target']}<|im_end|>\n"
    assert len(Page((workplace.folder / "page.html").read_text()).images) == sum(len(row["images"]) for row in rows)
    done = workplace.run("preview", "spec.yaml", "-n", "1", "--set", "trainer.max_length=60")
    assert done.returncode == 1
    assert "trained: " in done.stdout
    assert "1 sample, 1 with a problem" in done.stdout
    assert "Traceback" not in done.stderr
    assert workplace.run("preview", "spec.yaml", "-n", "none").returncode == 2
