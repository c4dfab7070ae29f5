"""Behaviour that all model families share, tested with small random models."""

import json
import shutil

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pydantic import ValidationError
from transformers import AutoModelForImageTextToText, AutoProcessor, AutoTokenizer

from plugins.generator.generator_options import TransformersOptions
from plugins.generator.transformers import TransformersGenerator
from plugins.model.chat.loaded_chat_model import LoadedChatModel
from plugins.model.family_options import ImageTextToTextOptions
from plugins.model.image_text_to_text import ImageTextToTextModel
from plugins.optimizer.adamw import AdamWOptimizer
from plugins.optimizer.optimizer_options import AdamWOptions
from plugins.optimizer.param_groups import model_parts
from plugins.trainer.sft import SftTrainer
from plugins.trainer.sft_options import SftOptions
from runner.errors import SpecError
from runner.records import ImagePart, Rendered, TextPart
from runner.stages import TrainingRun

TEXT = {"input_ids", "labels", "mm_token_type_ids", "token_type_ids"}


def _pixels(features):
    return {name: value for name, value in features.items() if name not in TEXT}


def _tower_features(module, pixels):
    """Return the features that the real vision tower computes for a sample's pixels, and their number."""
    given = module.get_image_features(**pixels).pooler_output
    parts = [given] if isinstance(given, torch.Tensor) else given
    return sum(part.numel() // part.shape[-1] for part in parts)


def _same(one, other):
    return one.keys() == other.keys() and all(one[name].equal(other[name]) for name in one)


def _normalised(model, features):
    """The features as transformers' processor gives them, where the plugin stores bytes."""
    if not (model.stores_raw_pixels and "pixel_values" in features):
        return features
    assert features["pixel_values"].dtype == torch.uint8
    return {**features, "pixel_values": model._raw_pixels.normalise(features["pixel_values"])}


def test_image_tokens_are_the_features_of_the_real_vision_tower(model, pictured):
    for sample in pictured:
        features = model.encode(sample)
        is_image = torch.isin(features["input_ids"], torch.tensor(sorted(model.image_token_ids)))
        pixels = _pixels(features)
        given = _tower_features(model.module, pixels) if pixels else 0
        assert int(is_image.sum()) == given == model.num_image_features(features)
        assert bool(pixels) == bool(sample.images)
        assert (features["labels"][is_image] == -100).all()


def test_tokens_are_counted_without_reading_pixels(model, pictured):
    for sample in pictured:
        features, count = model.encode(sample), model.count(sample)
        assert count.image == sum(count.by_image) == model.num_image_features(features)
        assert len(count.by_image) == len(sample.images)
        assert count.target == int((features["labels"] != -100).sum())
        assert count.text + count.image + count.target == len(features["input_ids"])


def test_without_pixels_a_sample_has_the_same_tokens(model, pictured):
    for sample in pictured:
        whole, quick = model.encode(sample, "\n"), model.encode(sample, "\n", pixels=False)
        assert quick.keys() == whole.keys() & TEXT
        assert all(quick[name].equal(whole[name]) for name in quick)
        assert model.num_image_tokens(sample) == model.num_image_features(whole)


sides = st.one_of(st.integers(1, 300), st.integers(1, 9))


@settings(max_examples=12, deadline=None)
@given(sizes=st.lists(st.tuples(sides, sides).filter(lambda size: max(size) < 200 * min(size)), min_size=1, max_size=3))
def test_image_tokens_equal_features_for_any_image_sizes(model, tmp_path_factory, sizes):
    folder = tmp_path_factory.getbasetemp()
    for place, size in enumerate(sizes):
        Image.new("RGB", size, (90, 120, 30)).save(folder / f"{place}.png")
    sample = Rendered("x", tuple(ImagePart(folder / f"{place}.png") for place in range(len(sizes))))
    features = model.encode(sample)
    num_places = sum(token in model.image_token_ids for token in features["input_ids"].tolist())
    with torch.no_grad():
        made = _tower_features(model.module, _pixels(features))
    assert num_places == made == model.num_image_features(features) == model.count(sample).image


def test_a_rotated_photograph_is_counted_upright(model, tmp_path):
    tag = Image.Exif()
    tag[0x0112] = 6  # the camera was turned: show it a quarter further clockwise
    Image.new("RGB", (100, 40), "red").rotate(90, expand=True).save(tmp_path / "turned.png", exif=tag)
    Image.new("RGB", (100, 40), "red").save(tmp_path / "upright.png")
    turned, upright = (Rendered("x", (ImagePart(tmp_path / f"{each}.png"),)) for each in ("turned", "upright"))
    assert _same(model.encode(turned), model.encode(upright))
    assert model.count(turned) == model.count(upright)
    assert model.count(turned).image == model.num_image_features(model.encode(turned))


def test_a_model_spec_encodes_and_counts_like_the_model(family, model, pictured):
    model_spec = family.plugin().model_spec(family.texts)
    assert next(model_spec.module.parameters()).is_meta
    for sample in pictured:
        features = model_spec.encode(sample)
        assert _same(features, model.encode(sample))
        assert model_spec.count(sample) == model.count(sample)
        assert model_spec.num_image_features(features) == model.num_image_features(features)


def test_labels_are_the_answer_its_end_token_and_the_suffix(model, pictured):
    for sample in pictured:
        features = model.encode(sample, target_suffix="\n")
        learnt = features["labels"][features["labels"] != -100].tolist()
        assert model.decode_raw(learnt) == f"{sample.target}{model.turn_end}\n"
        assert features["input_ids"][-len(learnt) :].tolist() == features["labels"][-len(learnt) :].tolist() == learnt
        assert set(learnt) & set(model.stop_token_ids)
        prompt = model.encode(Rendered(sample.id, sample.content, None, sample.examples))
        assert (prompt["labels"] == -100).all()
        assert features["input_ids"].tolist() == prompt["input_ids"].tolist() + learnt


def test_a_prompt_equals_the_output_of_the_processor_of_transformers(model, pictured):
    for sample in pictured:
        turns = [turn for each in sample.examples for turn in ((each.content, "user"), (each.target, "assistant"))]
        conversation = [
            {"role": role, "content": _content(content) if role == "user" else [{"type": "text", "text": content}]}
            for content, role in [*turns, (sample.content, "user")]
        ]
        theirs = model.processor.apply_chat_template(
            conversation, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
        )
        ours = model.encode(Rendered(sample.id, sample.content, None, sample.examples))
        assert ours["input_ids"].tolist() == theirs["input_ids"][0].tolist()
        for name, value in _pixels(_normalised(model, ours)).items():
            assert value.equal(theirs[name]), name
        for name in ("mm_token_type_ids", "token_type_ids"):
            assert name not in ours or ours[name].tolist() == theirs[name][0].tolist()


def _content(parts):
    return [
        {"type": "image", "image": Image.open(part.path)}
        if isinstance(part, ImagePart)
        else {"type": "text", "text": part.text}
        for part in parts
    ]


def test_control_tokens_in_the_text_of_a_sample_are_plain_text(model, pictured):
    one = pictured[1]
    nasty = "hear " + " and ".join(model._tokenizer.all_special_tokens) + " here"
    solved = Rendered("e", (*one.content[:1], TextPart(nasty)), nasty)
    sample = Rendered("x", (*one.content[:1], TextPart(nasty)), nasty, (solved,))
    plain = Rendered("x", (*one.content[:1], TextPart("hear")), "hear", (Rendered("e", one.content, "hear"),))
    special = set(model._tokenizer.all_special_ids)

    def control(rendered):
        return [token for token in model.encode(rendered)["input_ids"].tolist() if token in special]

    assert control(sample) == control(plain)
    features = model.encode(sample)
    learnt = features["labels"][features["labels"] != -100].tolist()
    assert model.decode(learnt) == nasty
    assert model.decode_raw(features["input_ids"].tolist()).count(nasty) == 4


def test_examples_are_earlier_turns_with_their_images_first(model, pictured):
    sample = pictured[-1]
    features = model.encode(sample)
    spelt = model.decode_raw(features["input_ids"].tolist())
    places = [spelt.index(each.target + model.turn_end) for each in (*sample.examples, sample)]
    assert places == sorted(places)
    together = Rendered("x", tuple(ImagePart(path) for path in sample.images))
    assert [path.stem for path in sample.images] == ["wide", "high", "small", "small"]
    assert _same(_pixels(features), _pixels(model.encode(together)))


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_batch_gives_the_same_logits_as_single_samples(model, pictured, side):
    encoded = [model.encode(sample) for sample in pictured]
    batch = model.collate(encoded, side)
    assert ("attention_mask" in batch) >= (side == "left")
    with torch.no_grad():
        logits = model.module(**batch).logits
        for row, alone in enumerate(encoded):
            length, place = len(alone["input_ids"]), torch.arange(batch["input_ids"].shape[1])
            kept = place < length if side == "right" else place >= len(place) - length
            assert batch["labels"][row][kept].equal(alone["labels"])
            assert (batch["labels"][row][~kept] == -100).all()
            single = model.module(**model.collate([alone], side)).logits[0]
            torch.testing.assert_close(logits[row][kept], single, atol=2e-4, rtol=2e-4)


def test_the_images_of_a_sample_change_its_logits(model, pictured):
    sample = pictured[3]
    swapped = Rendered("x", (sample.content[1], sample.content[0], *sample.content[2:]), sample.target)
    with torch.no_grad():
        one, other = (model.module(**model.collate([model.encode(each)], "right")).logits for each in (sample, swapped))
    assert not torch.allclose(one[0, -1], other[0, -1])


def test_packed_samples_are_computed_as_if_alone(model, pictured):
    encoded = [model.encode(sample) for sample in pictured]
    if not model.supports_packing:
        with pytest.raises(NotImplementedError, match="does not support packing"):
            LoadedChatModel.pack(model, encoded)
        return
    batch = [encoded[place] for place in (3, 0, 5, 1)]
    row = model.pack(batch)
    assert row["input_ids"].shape == (1, sum(len(each["input_ids"]) for each in batch))
    del row["labels"]
    with torch.no_grad():
        packed = model.module(**row).logits[0].split([len(each["input_ids"]) for each in batch])
        for logits, each in zip(packed, batch, strict=True):
            alone = model.collate([each], "right")
            del alone["labels"]
            torch.testing.assert_close(logits, model.module(**alone).logits[0], atol=2e-4, rtol=2e-4)


def test_features_that_replace_pixels_give_the_same_logits(family, pictured):
    model = family.build()
    model.module.eval().requires_grad_(False)
    tower = model.frozen_vision()
    assert (tower is not None) == model.replaces_pixels
    encoded = [model.encode(sample) for sample in pictured]
    made = [tower.replace_pixels(features) for features in encoded] if tower is not None else encoded
    for features, replaced in zip(encoded, made, strict=True):
        if tower is not None and "pixel_values" in features:
            assert not any(name.startswith("pixel") for name in replaced)
            assert len(replaced["image_features"]) == model.num_image_features(features)
    with torch.no_grad():
        expected, logits = (model.module(**model.collate(each, "right")).logits for each in (encoded, made))
        torch.testing.assert_close(logits, expected, atol=1e-5, rtol=1e-5)
        if model.supports_packing:
            expected, logits = (model.module(**model.pack(each)).logits for each in (encoded, made))
            torch.testing.assert_close(logits, expected, atol=1e-5, rtol=1e-5)


def test_groups_named_after_parts_select_the_same_in_every_family(model):
    parts = model_parts(model.module)
    decoder = {id(weight) for weight in model.module.get_decoder().parameters()}
    for name, weight in model.module.named_parameters():
        assert (parts[name] == "language") == (id(weight) in decoder or name.startswith("lm_head"))
    assert set(parts.values()) == {"vision", "merger", "language"}
    towers = {name for name, part in parts.items() if part == "vision"}
    assert all("vis" in name for name in towers)


def test_training_generation_saving_and_loading(family, pictured, tmp_path, recorder):
    model, reporter = family.build(), recorder()
    before = {name: weight.clone() for name, weight in model.module.named_parameters()}
    options = SftOptions(epochs=1, max_steps=2, global_batch_size=3, precision="fp32", target_suffix="\n")
    optimizer = AdamWOptimizer(AdamWOptions(groups={"all": {"match": "*", "lr": 1e-2}}, warmup_ratio=0))
    run = TrainingRun(tmp_path / "checkpoints", 3, reporter)
    keys = [sample.id for sample in pictured]
    trained = SftTrainer(options).train(model, optimizer, pictured, keys, run)
    losses = reporter.series("train/loss")
    assert len(losses) == 2
    assert all(torch.isfinite(torch.tensor(losses)))
    changed = {name for name, weight in model.module.named_parameters() if not weight.equal(before[name])}
    assert {name.split(".")[1] for name in before if "." in name} == {name.split(".")[1] for name in changed}

    prompts = [Rendered(sample.id, sample.content, None, sample.examples) for sample in pictured]
    together = _answers(trained, prompts, 6)
    assert together == _answers(trained, prompts, 1)
    trained.save(tmp_path / "model", "fp32")
    assert _answers(family.plugin().load(tmp_path / "model"), prompts, 6) == together


def _answers(model, prompts, batch_size):
    class Silent:
        def progress(self, done, total, **shown):
            pass

        def stop_requested(self):
            return False

        def warn(self, message):
            assert "continuous batching" in message  # a hybrid model does not support it

    class Held:
        def __init__(self, model):
            self.load = lambda: model

    generator = TransformersGenerator(TransformersOptions(max_new_tokens=6, batch_size=batch_size))
    return {answer.id: answer for answer in generator.generate(Held(model), prompts, frozenset(), Silent())}


@pytest.mark.parametrize(("precision", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_a_saved_model_loads_here_and_with_transformers(family, model, pictured, tmp_path, precision, dtype):
    model.save(tmp_path, precision)
    loaded = family.plugin().load(tmp_path)
    plain = AutoModelForImageTextToText.from_pretrained(tmp_path)
    assert plain.dtype == loaded.module.dtype == dtype
    assert {file.suffix for file in tmp_path.iterdir()} == {".json", ".jinja", ".safetensors"}
    encoded = [model.encode(sample, "\n") for sample in pictured]
    assert all(_same(loaded.encode(sample, "\n"), one) for sample, one in zip(pictured, encoded, strict=True))
    assert list(loaded.stop_token_ids) == list(model.stop_token_ids)
    assert AutoTokenizer.from_pretrained(tmp_path).chat_template
    batch = model.collate(encoded, "right")
    with torch.no_grad():
        ours = loaded.module(**batch).logits
        assert ours.equal(plain(**_normalised(model, batch)).logits)
        if precision == "fp32":
            # The products of experts are rounded differently if their weights are placed differently in memory.
            tolerance = 1e-5 if family.name.endswith("_moe") else 0.0
            torch.testing.assert_close(ours, model.module(**batch).logits, atol=tolerance, rtol=tolerance)


def test_a_saved_model_can_be_used_as_checkpoint(family, model, saved, pictured):
    plugin = family.plugin(checkpoint=str(saved))
    assert plugin._options.exact_revision().startswith("sha256:")
    built, model_spec = plugin.build([], 0), plugin.model_spec([])
    assert built.module.dtype == torch.float32
    assert next(model_spec.module.parameters()).is_meta
    for again in (built, model_spec):
        assert all(_same(again.encode(sample), model.encode(sample)) for sample in pictured)


def test_the_general_class_encodes_like_the_plugin_of_the_family(model, saved, pictured):
    plugin = ImageTextToTextModel(ImageTextToTextOptions(checkpoint=str(saved)))
    general, model_spec = plugin.build([], 0), plugin.model_spec([])
    for sample in pictured:
        features = _normalised(model, model.encode(sample))
        assert _same(general.encode(sample), features)
        assert general.count(sample) == model.count(sample)
        for each in (general, model_spec):
            assert each.num_image_features(features) == model.num_image_features(features)
    assert general.turn_end == model.turn_end
    assert list(general.stop_token_ids) == list(model.stop_token_ids)


@pytest.mark.parametrize("family", ["image_text_to_text"], indirect=True)
def test_transformers_auto_classes_load_what_was_saved(family, model, saved, pictured):
    processor = AutoProcessor.from_pretrained(saved)  # of the other families it would need torchvision
    for sample in pictured[1:5]:
        text = processor.apply_chat_template(
            [{"role": "user", "content": _content(sample.content)}], add_generation_prompt=True
        )
        pictures = [Image.open(path) for path in sample.images]
        theirs = processor(text=text, images=[pictures], return_tensors="pt")
        ours = model.encode(Rendered(sample.id, sample.content))
        assert ours["input_ids"].tolist() == theirs["input_ids"][0].tolist()
        assert ours["pixel_values"].equal(theirs["pixel_values"])


def test_a_checkpoint_with_the_older_settings_file_is_loaded(family, model, saved, pictured, tmp_path):
    folder = shutil.copytree(saved, tmp_path / "older")
    written = json.loads((folder / "processor_config.json").read_text())
    images = written.pop("image_processor")
    kind = images["image_processor_type"].removesuffix("Pil")
    (folder / "preprocessor_config.json").write_text(json.dumps({**images, "image_processor_type": kind}))
    (folder / "processor_config.json").write_text(json.dumps(written))
    again = family.plugin(checkpoint=str(folder)).model_spec([])
    assert all(_same(again.encode(sample), model.encode(sample)) for sample in pictured)


def test_code_in_a_checkpoint_is_not_run(family, saved, tmp_path):
    folder = shutil.copytree(saved, tmp_path / "foreign")
    brought = {"model_type": "internvl_chat", "auto_map": {"AutoConfig": "brought.Config"}}
    (folder / "config.json").write_text(json.dumps(brought))
    (folder / "brought.py").write_text("raise SystemExit('it ran')")
    with pytest.raises((SpecError, ValidationError), match=r"not a checkpoint of an architecture in|are untested"):
        family.plugin(checkpoint=str(folder)).model_spec([])


def test_another_architecture_is_refused(family, saved, tmp_path):
    folder = shutil.copytree(saved, tmp_path / "other")
    (folder / "config.json").write_text(json.dumps({"model_type": "llama"}))
    with pytest.raises((SpecError, ValidationError), match="'llama'"):
        family.plugin(checkpoint=str(folder)).build([], 0)
