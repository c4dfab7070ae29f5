import json
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from transformers import AutoTokenizer, Qwen2_5_VLForConditionalGeneration

from plugins.model.family_options import Qwen25VLOptions
from plugins.model.qwen_vl import Qwen25VLModel
from runner.errors import DataError, RequirementError, SpecError
from runner.records import ImagePart, Rendered, TextPart


@pytest.fixture(scope="module")
def model(build_smoke):
    return build_smoke()


def _tokens(model, text):
    return model._tokenizer(text, add_special_tokens=False)["input_ids"]


def test_a_sample_is_encoded_as_the_template_writes_it(model, colour_samples):
    sample = colour_samples[0]
    features = model.encode(sample)
    num_image = int(features["image_grid_thw"].prod()) // 4
    written = (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n"
        f"<|vision_start|>{'<|image_pad|>' * num_image}<|vision_end|>{sample.prompt}<|im_end|>\n"
        f"<|im_start|>assistant\n{sample.target}<|im_end|>"
    )
    assert features["input_ids"].tolist() == _tokens(model, written)


def test_labels_are_the_answer_its_end_token_and_the_suffix(model, colour_samples):
    sample = colour_samples[1]
    features = model.encode(sample, target_suffix="\n")
    learnt = features["labels"][features["labels"] != -100].tolist()
    assert learnt == _tokens(model, f"{sample.target}<|im_end|>\n")
    assert features["input_ids"][-len(learnt) :].tolist() == learnt


def test_a_prompt_has_no_labels_and_is_the_start_of_the_training_sample(model, colour_samples):
    sample = colour_samples[2]
    prompt = model.encode(Rendered(sample.id, sample.content))
    trained = model.encode(sample)
    assert (prompt["labels"] == -100).all()
    assert trained["input_ids"][: len(prompt["input_ids"])].equal(prompt["input_ids"])


@given(ids=st.lists(st.integers(0, 400), max_size=60))
def test_token_types_are_those_of_transformers(model, ids):
    assert model._type_ids(ids) == model.processor.create_mm_token_type_ids([ids])[0]


def test_transformers_computes_the_type_of_a_token_once(model, colour_samples, monkeypatch):
    model.encode(colour_samples[0])
    monkeypatch.setattr(model.processor.__class__, "image_token_ids", property(lambda _: pytest.fail("computed again")))
    assert int(model.encode(replace(colour_samples[0], id="another"))["mm_token_type_ids"].sum()) > 0


def test_an_own_method_of_a_processor_gets_whole_prompts(model, colour_samples, monkeypatch):
    def by_position(processor, prompts):
        return [list(range(len(prompt))) for prompt in prompts]

    monkeypatch.setattr(model.processor.__class__, "create_mm_token_type_ids", by_position, raising=False)
    prompt = replace(colour_samples[0], target=None)
    types = model.encode(prompt)["mm_token_type_ids"]
    assert types.tolist() == list(range(len(types)))


def test_an_encoded_sample_is_not_changed_by_a_change_of_another(model, colour_samples):
    first, expected = model.encode(colour_samples[0]), model.encode(colour_samples[0])
    for name in ("input_ids", "labels", "mm_token_type_ids"):
        first[name].fill_(7)
    again = model.encode(colour_samples[0])
    assert all(again[name].equal(expected[name]) for name in ("input_ids", "labels", "mm_token_type_ids"))


def test_special_tokens_in_the_text_of_a_sample_are_plain_text(model, draw):
    nasty = "a<|im_end|>b <|image_pad|> <|vision_start|>"
    sample = Rendered("x", (ImagePart(draw(16, 16)), TextPart(nasty)), nasty)
    features = model.encode(sample)
    ids = features["input_ids"].tolist()
    image_pad, turn_end = (model._tokenizer.convert_tokens_to_ids(t) for t in ("<|image_pad|>", "<|im_end|>"))
    assert ids.count(image_pad) == 1 == int(features["mm_token_type_ids"].sum())
    assert ids.count(turn_end) == 3  # system, user, assistant
    learnt = features["labels"][features["labels"] != -100].tolist()
    assert image_pad not in learnt
    assert model.decode(learnt) == nasty


def test_image_tokens_match_the_vision_features_and_never_carry_loss(model, colour_samples):
    batch = model.collate([model.encode(sample) for sample in colour_samples], "right")
    is_image = batch["mm_token_type_ids"] == 1
    assert int(is_image.sum()) == int(batch["image_grid_thw"].prod(dim=1).sum()) // 4
    assert (batch["labels"][is_image] == -100).all()
    assert torch.isfinite(model.module(**batch).loss)


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_changes_no_prediction(model, colour_samples, side):
    encoded = [model.encode(colour_samples[place]) for place in (0, 3, 5)]
    batch = model.collate(encoded, side)
    with torch.no_grad():
        logits = model.module(**batch).logits
        for row, alone in enumerate(encoded):
            length, place = len(alone["input_ids"]), torch.arange(batch["input_ids"].shape[1])
            kept = place < length if side == "right" else place >= len(place) - length
            assert batch["labels"][row][kept].equal(alone["labels"])
            assert (batch["labels"][row][~kept] == -100).all()
            single = model.module(**model.collate([alone], side)).logits[0]
            torch.testing.assert_close(logits[row][kept], single, atol=1e-4, rtol=1e-4)


def test_positions_of_a_padded_batch_are_those_that_the_model_computes_from_the_token_types(model, colour_samples):
    batch = model.collate([model.encode(sample) for sample in colour_samples[:3]], "right")
    own = {name: tensor for name, tensor in batch.items() if name != "position_ids"}
    logits = model.module(**batch).logits
    assert len(own) < len(batch)
    assert model.module(**own).logits.equal(logits)
    model.module.model.rope_deltas = None
    without = {name: tensor for name, tensor in own.items() if name != "mm_token_type_ids"}
    assert not torch.allclose(model.module(**without).logits, logits)


def test_tokens_are_counted_without_reading_pixels(model, colour_samples, draw):
    for sample in [*colour_samples, Rendered("x", (ImagePart(draw(300, 100)), TextPart("wide")), "yes")]:
        features, count = model.encode(sample), model.count(sample)
        assert count.image == int(features["mm_token_type_ids"].sum())
        assert count.target == int((features["labels"] != -100).sum())
        assert count.text + count.image + count.target == len(features["input_ids"])


def test_a_rotated_photograph_is_loaded_upright(model, tmp_path):
    upright = Image.new("RGB", (48, 16), (0, 0, 0))
    upright.paste((255, 255, 255), (0, 0, 16, 16))
    tag = Image.Exif()
    tag[0x0112] = 6  # the camera was turned: show it a quarter further clockwise
    upright.rotate(90, expand=True).save(tmp_path / "turned.png", exif=tag)
    upright.save(tmp_path / "upright.png")
    turned, straight = (model.encode(Rendered("x", (ImagePart(tmp_path / f"{n}.png"),))) for n in ("turned", "upright"))
    assert turned["image_grid_thw"].equal(straight["image_grid_thw"])
    torch.testing.assert_close(turned["pixel_values"], straight["pixel_values"])


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "CMYK", "LA", "1"])
def test_every_image_mode_becomes_three_channels(model, draw, mode):
    name = "picture.tif" if mode == "CMYK" else "picture.png"
    features = model.encode(Rendered("x", (ImagePart(draw(16, 16, name, mode)),)))
    assert (features["pixel_values"].shape, features["pixel_values"].dtype) == ((4, 3 * 8 * 8), torch.uint8)


def test_images_that_cannot_be_used_are_named(model, tmp_path, draw):
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    for path in (tmp_path / "missing.png", tmp_path / "broken.png", draw(450, 2)):
        sample = Rendered("s7", (ImagePart(path),))
        for use in (model.encode, model.count):
            with pytest.raises(DataError, match=rf"sample s7: image .*{path.name}"):
                use(sample)


@pytest.mark.parametrize(("precision", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_a_saved_model_loads_here_and_with_transformers(model, colour_samples, tmp_path, precision, dtype):
    model.save(tmp_path, precision)
    plain = Qwen2_5_VLForConditionalGeneration.from_pretrained(tmp_path)
    loaded = Qwen25VLModel(Qwen25VLOptions(size="smoke")).load(tmp_path)
    assert plain.dtype == loaded.module.dtype == dtype
    assert json.loads((tmp_path / "config.json").read_text())["dtype"] == str(dtype).removeprefix("torch.")
    for (name, weight), again in zip(
        model.module.state_dict().items(), loaded.module.state_dict().values(), strict=True
    ):
        assert weight.to(dtype).equal(again), name
    assert AutoTokenizer.from_pretrained(tmp_path).chat_template
    before, after = model.encode(colour_samples[0], "\n"), loaded.encode(colour_samples[0], "\n")
    assert all(before[name].equal(after[name]) for name in before)
    assert list(loaded.stop_token_ids) == list(model.stop_token_ids)


def test_a_local_checkpoint_is_trained_in_float32_and_identified_by_its_content(model, colour_samples, tmp_path):
    model.save(tmp_path, "bf16")
    options = Qwen25VLOptions(checkpoint=str(tmp_path))
    plugin, revision = Qwen25VLModel(options), options.exact_revision()
    assert plugin.build([], 0).module.dtype == torch.float32
    model_spec = plugin.model_spec([])
    assert next(model_spec.module.parameters()).is_meta
    assert model_spec.count(colour_samples[0]) == model.count(colour_samples[0])
    assert options.exact_revision() == revision
    template = tmp_path / "chat_template.jinja"
    template.write_text(template.read_text() + " ")
    assert options.exact_revision() != revision


def test_the_processors_own_template_comes_first(model, colour_samples, tmp_path):
    model.save(tmp_path, "fp32")
    template = (tmp_path / "chat_template.jinja").read_text().replace("helpful", "terse")
    (tmp_path / "chat_template.json").write_text(json.dumps({"chat_template": template}))
    loaded = Qwen25VLModel(Qwen25VLOptions(checkpoint=str(tmp_path))).build([], 0)
    assert "a terse assistant" in loaded._tokenizer.decode(loaded.encode(colour_samples[0])["input_ids"])


def test_a_folder_without_a_checkpoint_is_an_error_in_one_line(tmp_path):
    for folder, said in ((tmp_path, "contains no config.json"), (tmp_path / "none", "is not a folder")):
        with pytest.raises(RequirementError, match=said) as caught:
            Qwen25VLOptions(checkpoint=str(folder)).exact_revision()
        assert "\n" not in str(caught.value)


def test_another_architecture_is_refused(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"}))
    with pytest.raises(SpecError, match=r"'llama'.*'qwen2_5_vl'"):
        Qwen25VLModel(Qwen25VLOptions(checkpoint=str(tmp_path))).model_spec([])


def test_an_unreachable_hub_is_an_error_unless_the_commit_is_cached(monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    options = Qwen25VLOptions(checkpoint="nobody/nothing")
    with pytest.raises(
        RequirementError, match=r"'nobody/nothing' at revision 'main' is not available.*local folder"
    ) as caught:
        options.exact_revision()
    assert "\n" not in str(caught.value)
    commit = "c" * 40
    repository = tmp_path / "models--nobody--nothing"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    (repository / "snapshots" / commit).mkdir(parents=True)
    (repository / "snapshots" / commit / "config.json").write_text("{}")
    assert options.exact_revision() == commit


def test_random_weights_depend_on_the_seed_only(build_smoke):
    torch.manual_seed(1)
    first = build_smoke(3)
    drawn = torch.rand(1)
    torch.manual_seed(2)
    again, other = build_smoke(3), build_smoke(4)

    def weights(model):
        return torch.cat([p.flatten() for p in model.module.parameters()])

    assert weights(first).equal(weights(again))
    assert not weights(first).equal(weights(other))
    torch.manual_seed(1)
    assert drawn.equal(torch.rand(1))  # the seed of the process was left alone


def test_random_sizes_are_named_with_a_digest():
    tiny, smoke = (Qwen25VLOptions(size=size).exact_revision() for size in ("tiny", "smoke"))
    assert tiny.startswith("random:tiny:")
    assert smoke.startswith("random:smoke:")


def test_pixel_limits_are_areas(build_smoke, draw):
    sample = Rendered("x", (ImagePart(draw(200, 200)),))
    assert build_smoke(max_pixels=32 * 32).count(sample).image == 4
    assert build_smoke(min_pixels=64 * 64, max_pixels=64 * 64).count(sample).image == 16
    with pytest.raises(SpecError, match="set both"):
        build_smoke(min_pixels=10**6)


def test_the_model_attributes_used_by_preflight_checks(model, colour_samples):
    features = model.encode(colour_samples[0], target_suffix="\n")
    learnt = features["labels"][features["labels"] != -100].tolist()
    assert model.decode_raw(learnt) == f"{colour_samples[0].target}{model.turn_end}\n"
    places = sum(token in model.image_token_ids for token in features["input_ids"].tolist())
    assert model.num_image_features(features) == places > 0
    seen = model.module.get_image_features(features["pixel_values"], features["image_grid_thw"]).pooler_output
    assert sum(len(each) for each in seen) == places
    assert model.context_length == model.module.config.text_config.max_position_embeddings
