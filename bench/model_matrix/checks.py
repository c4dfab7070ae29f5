"""The one test of a model type: its small checkpoint, used by the product's plugin, against transformers itself."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Literal
from unittest.mock import patch

import torch
from PIL import Image
from transformers import AutoModelForImageTextToText

from bench.model_matrix.small_checkpoint import Recipe, write_checkpoint
from plugins.generator.generator_options import TransformersOptions
from plugins.generator.transformers import TransformersGenerator
from plugins.model.chat.loaded_chat_model import TEXT_FEATURES
from plugins.optimizer.adamw import AdamWOptimizer
from plugins.optimizer.optimizer_options import AdamWOptions
from plugins.trainer.loss import AnswerLoss
from plugins.trainer.sft import SftTrainer
from plugins.trainer.sft_options import SftOptions
from runner.errors import RunnerError
from runner.records import ImagePart, Rendered, TextPart
from runner.stages import TrainingRun

TOLERANCE = 2e-4
"""Largest difference, absolute and relative, of float32 values that are summed in another order."""

NUM_NEW_TOKENS = 6

GENERAL_PLUGIN = "image_text_to_text"


class CheckError(Exception):
    """A type does something else than transformers; the message says what."""


@dataclass(frozen=True)
class Verdict:
    """The result of the test of one model type.

    Attributes:
        model_type: Transformers' name of the type.
        result: `passes`; `refused` by the product; `fails`; `not tried`.
        plugin: The plugin that loads it.
        detail: The product's message, the check that fails and how, or the reason.
        check: The check that does not pass.
    """

    model_type: str
    result: Literal["passes", "refused", "fails", "not tried"]
    plugin: str
    detail: str = ""
    check: str = ""


class Reporter:
    """A reporter that keeps the losses."""

    def __init__(self) -> None:
        """Start without losses."""
        self.losses: list[float] = []

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Keep the loss."""
        if "train/loss" in values:
            self.losses.append(values["train/loss"])

    def progress(self, done: int, total: int, **shown: float) -> None:
        """Ignore progress."""

    def warn(self, message: str) -> None:
        """Ignore warnings."""

    def stop_requested(self) -> bool:
        """Never stop."""
        return False


def make_samples(folder: Path) -> list[Rendered]:
    """Draw images, and return four samples: three with one or two images, one without."""
    parts = {}
    for name, size in {"wide": (100, 40), "high": (30, 90), "small": (24, 28)}.items():
        image = Image.effect_noise(size, 80).convert("RGB")
        image.paste((90, 40, 200), (0, 0, size[0] // 2, size[1]))
        image.save(folder / f"{name}.png")
        parts[name] = ImagePart(folder / f"{name}.png")

    def sample(id: str, *names: str, question: str = "Who is this?") -> Rendered:
        return Rendered(id, (*(parts[name] for name in names), TextPart(question)), f"It is {id}, of course.")

    return [
        sample("none", question="Text alone, " * 4 + "who is it?"),
        sample("one", "wide"),
        sample("two", "high", "small", question="Who is on which?\nTell me."),
        sample("other", "small", question="Who is it here?"),
    ]


def check_type(model_type: str, recipe: Recipe) -> Verdict:
    """Test one model type.

    Errors of the code under test are verdicts, whatever their class.
    """
    plugin = model_type if model_type in own_plugins() else GENERAL_PLUGIN
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        samples = make_samples(folder)
        texts = [text for sample in samples for text in (sample.prompt, sample.target or "")]
        try:
            write_checkpoint(model_type, recipe, texts, folder / "checkpoint")
        except Exception as error:  # whatever transformers raises, there is no model to test
            return Verdict(model_type, "not tried", plugin, f"no small model: {_first_line(error)}")
        for title, function in Checks(plugin, folder, samples, recipe.attention).all():
            try:
                # The results of an earlier run must not decide.
                with patch("plugins.model.tested_model_types.type_results", dict):
                    function()
            except RunnerError as error:
                return Verdict(model_type, "refused", plugin, _first_line(error).replace(f"{folder}/", ""), title)
            except Exception as error:  # a crash is a verdict
                return Verdict(model_type, "fails", plugin, f"{title}: {_first_line(error)}", title)
    return Verdict(model_type, "passes", plugin)


def own_plugins() -> set[str]:
    """Return the names of the product's plugins for single families."""
    return {entry.name for entry in entry_points(group="runner.model")} - {GENERAL_PLUGIN}


def _first_line(error: Exception) -> str:
    text = next(iter(str(error).strip().splitlines()), "")
    return text if isinstance(error, RunnerError | CheckError) else f"{type(error).__name__}: {text}"


class Checks:
    """The checks of one checkpoint, in order; each raises an error if it fails."""

    def __init__(self, plugin: str, folder: Path, samples: Sequence[Rendered], attention: str) -> None:
        """Take the plugin's name, the folder with `checkpoint`, and four samples."""
        self._folder, self._samples = folder, samples
        (options,) = entry_points(group="runner.model.options", name=plugin)
        (model,) = entry_points(group="runner.model", name=plugin)
        untested = {"untested": True} if plugin == GENERAL_PLUGIN else {}
        with patch("plugins.model.tested_model_types.type_results", dict):
            values = options.load()(checkpoint=str(folder / "checkpoint"), attention=attention, **untested)
        self._plugin = model.load()(values)

    def all(self) -> Iterator[tuple[str, Callable[[], None]]]:
        """Yield titles and functions; later ones use the model that the first one loads."""
        yield "load", self.load
        yield "prompt and pixels", self.prompt_and_pixels
        yield "control tokens", self.control_tokens
        yield "image tokens", self.image_tokens
        yield "loss", self.loss
        yield "batch", self.batch
        yield "gradient checkpointing", self.gradient_checkpointing
        yield "answers", self.answers
        yield "LoRA", self.lora
        yield "training", self.training
        yield "saving", self.saving

    def load(self) -> None:
        """Load the checkpoint with the product's plugin."""
        self.model = self._plugin.build([], 0)
        self.module = self.model.module.eval()
        self._encoded = [self.model.encode(sample) for sample in self._samples]

    def prompt_and_pixels(self) -> None:
        """Compare with the processor's own `apply_chat_template`."""
        for sample in self._samples:
            theirs = self._processed(sample)
            ours = self.model.encode(Rendered(sample.id, sample.content))
            ids, expected = ours["input_ids"].tolist(), theirs["input_ids"][0].tolist()
            if ids != expected:
                raise CheckError(f"the prompt has {len(ids)} tokens, transformers' has {len(expected)}, or they differ")
            for name, value in self._pixels(ours).items():
                if name not in theirs or not torch.as_tensor(value).equal(torch.as_tensor(theirs[name])):
                    raise CheckError(f"{name} differs from the processor's")
            unused = set(theirs) - set(ours) - {"attention_mask"}
            if unused:
                raise CheckError(f"the processor's {', '.join(sorted(unused))} would not reach the model")

    def _processed(self, sample: Rendered) -> Any:
        content = [
            {"type": "image", "image": Image.open(part.path)}
            if isinstance(part, ImagePart)
            else {"type": "text", "text": part.text}
            for part in sample.content
        ]
        # Without these, some models of transformers refuse, and others use plain positions.
        requested = {"return_mm_token_type_ids": True} if "mm_token_type_ids" in self._encoded[0] else {}
        return self.model.processor.apply_chat_template(
            [{"role": "user", "content": content}],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            **requested,
        )

    def _pixels(self, features: Mapping[str, Any]) -> dict[str, Any]:
        pixels = {name: value for name, value in features.items() if name not in TEXT_FEATURES}
        if getattr(self.model, "stores_raw_pixels", False) and "pixel_values" in pixels:
            pixels["pixel_values"] = self.model._raw_pixels.normalise(pixels["pixel_values"])
        return pixels

    def control_tokens(self) -> None:
        """Put each special token of the vocabulary into a prompt, an example and an answer: it must stay plain text."""
        tokenizer = self.model.processor.tokenizer
        flagged = {text.content for text in tokenizer.added_tokens_decoder.values() if text.special}
        special = set(tokenizer.convert_tokens_to_ids(sorted(flagged | set(tokenizer.all_special_tokens))))
        expected = self._control_ids("hear this", special)
        for token in sorted(tokenizer.convert_ids_to_tokens(sorted(special))):
            for text in (f"hear {token} this", f"{token}{token}"):
                if self._control_ids(text, special) != expected:
                    raise CheckError(f"the text of {token} in a sample becomes the token")

    def _control_ids(self, text: str, special: set[int]) -> list[int]:
        example = Rendered("e", (TextPart(text),), text)
        features = self.model.encode(Rendered("x", (TextPart(text),), text, (example,)))
        return [token for token in features["input_ids"].tolist() if token in special]

    def image_tokens(self) -> None:
        """Compare image tokens with the features of the vision tower, and with the count without pixels."""
        for sample, features in zip(self._samples, self._encoded, strict=True):
            tokens = sum(token in self.model.image_token_ids for token in features["input_ids"].tolist())
            made, counted = self.model.num_image_features(features), self.model.count(sample).image
            if not tokens == made == counted:
                raise CheckError(f"{tokens} image tokens, {made} features, {counted} counted")
            if bool(tokens) != bool(sample.images):
                raise CheckError(f"{tokens} image tokens for {len(sample.images)} images")

    def loss(self) -> None:
        """Compare the trainer's loss with that of transformers' forward pass with labels, and that images matter."""
        batch = self.model.collate(self._encoded, "right")
        with torch.no_grad():
            ours, theirs = AnswerLoss(self.module)(**batch), self.module(**batch).loss
        expected = theirs * int((batch["labels"][:, 1:] != -100).sum())
        _check_close("the loss", ours, expected)
        negative = {
            name: -value if value.is_floating_point() and name.startswith("pixel") else value
            for name, value in self.model.collate(self._encoded[1:2], "right").items()
        }
        with torch.no_grad():
            one = AnswerLoss(self.module)(**self.model.collate(self._encoded[1:2], "right"))
            changed = AnswerLoss(self.module)(**negative)
        if not getattr(self.model, "stores_raw_pixels", False) and one.equal(changed):
            raise CheckError("the loss does not depend on the image")

    def batch(self) -> None:
        """Compare the logits of a batch of four with those of single samples, on both sides of the padding."""
        for side in ("right", "left"):
            together = self.model.collate(self._encoded, side)
            del together["labels"]
            with torch.no_grad():
                logits = self.module(**together).logits
                for row, alone in enumerate(self._encoded):
                    single = self.model.collate([alone], side)
                    del single["labels"]
                    length = len(alone["input_ids"])
                    kept = logits[row, :length] if side == "right" else logits[row, -length:]
                    _check_close(f"logits with padding on the {side}", kept, self.module(**single).logits[0])

    def gradient_checkpointing(self) -> None:
        """Compare the gradients with and without gradient checkpointing, in training mode."""
        plain = self._gradients()
        self.module.activation_checkpointing_enable({"use_reentrant": False})
        try:
            again = self._gradients()
        finally:
            self.module.activation_checkpointing_disable()
        if plain.keys() != again.keys():
            raise CheckError("other weights get gradients")
        for name, gradient in plain.items():
            _check_close(f"the gradient of {name}", again[name], gradient)

    def _gradients(self) -> dict[str, torch.Tensor]:
        self.module.train()
        self.module.zero_grad()
        torch.manual_seed(0)
        AnswerLoss(self.module)(**self.model.collate(self._encoded, "right")).backward()
        gradients = {name: p.grad.clone() for name, p in self.module.named_parameters() if p.grad is not None}
        self.module.zero_grad()
        self.module.eval()
        return gradients

    def answers(self) -> None:
        """Compare the generator's answers, alone and in a batch, with `generate` on the processor's own outputs."""
        prompts = [Rendered(sample.id, sample.content) for sample in self._samples]
        for size in (1, 4):
            ours = self._answers(prompts, size)
            for prompt in prompts:
                theirs = self._generate(prompt)
                if ours[prompt.id] != theirs:
                    raise CheckError(f"in batches of {size} {ours[prompt.id]!r} instead of {theirs!r}")

    def _answers(self, prompts: Sequence[Rendered], batch_size: int) -> dict[str, str]:
        generator = TransformersGenerator(TransformersOptions(max_new_tokens=NUM_NEW_TOKENS, batch_size=batch_size))
        weights: Any = _Weights(self.model)
        return {answer.id: answer.output for answer in generator.generate(weights, prompts, frozenset(), Reporter())}

    def _generate(self, prompt: Rendered) -> str:
        inputs = {name: torch.as_tensor(value) for name, value in self._processed(prompt).items()}
        if getattr(self.model, "stores_raw_pixels", False) and "pixel_values" in inputs:
            inputs["pixel_values"] = self._encode_again(prompt)["pixel_values"]
        with torch.no_grad():
            output = self.module.generate(
                **inputs,
                max_new_tokens=NUM_NEW_TOKENS,
                do_sample=False,
                eos_token_id=list(self.model.stop_token_ids),
                pad_token_id=self.model.stop_token_ids[0],
            )
        return str(self.model.decode(output[0, inputs["input_ids"].shape[1] :].tolist()))

    def _encode_again(self, prompt: Rendered) -> Any:
        return self.model.encode(prompt)

    def lora(self) -> None:
        """Train adapters of the language part alone, and compare all other weights."""
        model = self._plugin.build([], 0)
        language = language_prefix(model.module)
        before = {name: weight.detach().clone() for name, weight in model.module.named_parameters()}
        groups: dict[str, Any] = {
            "language": {"lr": 1e-2, "lora": {"rank": 2}},
            "merger": {"frozen": True},
            "vision": {"frozen": True},
        }
        self._train(model, groups)
        changed = {name for name, weight in model.module.named_parameters() if not weight.equal(before[name])}
        if not changed:
            raise CheckError("no weight changed")
        if outside := sorted(name for name in changed if not name.startswith(language)):
            raise CheckError(f"{outside[0]} changed")

    def _train(self, model: Any, groups: dict[str, Any]) -> list[float]:
        reporter = Reporter()
        options = SftOptions(epochs=1, max_steps=2, global_batch_size=2, precision="fp32")
        optimizer = AdamWOptimizer(AdamWOptions(groups=groups, warmup_ratio=0))
        run = TrainingRun(self._folder / f"run{id(model)}", 3, reporter)
        optimizer.prepare(model.module, 0)
        SftTrainer(options).train(model, optimizer, self._samples, [each.id for each in self._samples], run)
        optimizer.finish(model.module)
        return reporter.losses

    def training(self) -> None:
        """Train all weights for two steps."""
        before = {name: weight.detach().clone() for name, weight in self.module.named_parameters()}
        losses = self._train(self.model, {"all": {"match": "*", "lr": 1e-3}})
        if len(losses) != 2 or not torch.isfinite(torch.tensor(losses)).all():
            raise CheckError(f"the losses are {losses}")
        changed = {name for name, weight in self.module.named_parameters() if not weight.equal(before[name])}
        language = language_prefix(self.module)
        for part in (True, False):
            if not any(name.startswith(language) is part for name in changed):
                raise CheckError(f"no weight of the {'language' if part else 'vision'} part changed")

    def saving(self) -> None:
        """Save the trained model, load it with the product and with transformers, and compare logits."""
        saved = self._folder / "model"
        self.model.save(saved, "fp32")
        loaded = self._plugin.load(saved)
        batch = self.model.collate(self._encoded, "right")
        del batch["labels"]
        theirs = AutoModelForImageTextToText.from_pretrained(saved).eval()
        raw = getattr(self.model, "stores_raw_pixels", False)
        plain = {**batch, "pixel_values": self.model._raw_pixels.normalise(batch["pixel_values"])} if raw else batch
        with torch.no_grad():
            ours = self.module.eval()(**batch).logits
            for name, again in (("the product", loaded.module.eval()(**batch)), ("transformers", theirs(**plain))):
                _check_close(f"logits of the model loaded with {name}", again.logits, ours)


class _Weights:
    """The weights of a model in memory, as a generator takes them."""

    def __init__(self, model: Any) -> None:
        self.load = lambda: model


def language_prefix(module: Any) -> str:
    """Return the path of the language model inside a model, with a dot."""
    decoder = module.get_decoder()
    for name, child in module.named_modules():
        if child is decoder and name:
            return f"{name}."
    raise CheckError("the model does not say which part is its language model")


def _check_close(what: str, actual: torch.Tensor, expected: torch.Tensor) -> None:
    if actual.shape != expected.shape:
        raise CheckError(f"{what}: shape {tuple(actual.shape)} instead of {tuple(expected.shape)}")
    scale = max(1.0, float(expected.abs().max())) if expected.numel() else 1.0
    difference = float((actual - expected).abs().max()) if expected.numel() else 0.0
    if not difference <= TOLERANCE * scale:  # also if a value is not a number
        raise CheckError(f"{what}: differs by {difference:.2g} of {scale:.2g}")
