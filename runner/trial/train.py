"""Step 1: checks the samples, fine-tunes the model and saves it."""

from __future__ import annotations

import math
import os
import shutil
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from runner.errors import DataError, SpecError
from runner.files import apply_umask, sync_tree, write_jsonl
from runner.fingerprint_and_provenance import fingerprint
from runner.preflight.check_samples import check_samples
from runner.preflight.sample_checker import SampleChecker
from runner.prompt_rendering import repeats_images, training_texts
from runner.resolved_plan import create_plugin
from runner.stages import Optimizer, Trainer, TrainingRun, VisionLanguageModel
from runner.stages.optimizer_and_trainer import builder_as_stored, summarize_groups
from runner.trial.cache_entry import plugin_identity
from runner.trial.trial_components import TrialContext, is_main_process
from runner.trial.validation_generator import ValidationGenerator


def encoded_folder(context: TrialContext) -> Path:
    """The folder in the cache for the encoded training samples, shared by trials that encode them alike.

    The folder's name is a hash of everything that decides the encoding: the content of the data, the texts of the
    training, from which a missing tokenizer is trained, and options, version and code of the plugins that encode; the
    code includes the versions of the packages that it computes with. The trainer names the files inside after what it
    adds itself.
    """
    spec = context.spec
    assert spec.pinned is not None
    return _cache_folder(
        context,
        engine=spec.pinned.code["engine.train"],
        adapter=plugin_identity(spec, spec.adapter),
        regime=spec.regime.training_settings(),
        seed=spec.seed if spec.training_uses_seed else None,
    )


def encoded_images_folder(context: TrialContext) -> Path:
    """The folder in the cache for what is encoded of images alone, which trials with different prompts share.

    Its name is a hash of what `encoded_folder` depends on, without the prompts.
    """
    return _cache_folder(context)


def _cache_folder(context: TrialContext, **prompts: Any) -> Path:
    """The folder whose name is a hash of data, model and trainer, and of what else decides the prompts."""
    spec, pins = context.spec, context.spec.pinned
    assert pins is not None
    assert spec.trainer is not None
    trainer = f"trainer.{spec.trainer.type}"
    key = fingerprint(
        {
            "data": pins.data,
            "model": pins.model,
            "plugins": [plugin_identity(spec, section) for section in (spec.data, spec.model)],
            "trainer": [pins.plugins[trainer], pins.code[trainer]],
            "prompts": prompts,
        }
    )
    return context.cache.root / "encoded" / key


def _record_use(context: TrialContext, encoded: Path) -> None:
    """Record which trial uses encoded samples, and when."""
    context.run.record_cache_use(f"{encoded.parent.name}/{encoded.name}")
    with suppress(FileNotFoundError):  # The trainer creates the folder if it stores samples.
        os.utime(encoded)


def train(context: TrialContext) -> None:
    """Check the training samples, train the model and save it as `model/`.

    The folder appears only once it is complete.

    Raises:
        DataError: The training split is empty.
        RequirementError: The initial weights are not those of the plan.
        SpecError: The optimizer's parameter groups do not match the model's parameters, or the trainer cannot draw
            contexts anew.
        StepError: A check failed: tokens outside the answers carry loss, or the optimizer does not train as its
            manifest says.
    """
    context.create_evaluation_plugins()
    if not context.samples("train"):
        raise DataError("the training split holds no samples")
    examples = context.training_examples
    context.check_initial_weights()
    assert context.spec.optimizer is not None
    assert context.spec.trainer is not None
    trainer = create_plugin(context.spec.trainer)
    if examples.draws[1:] and not getattr(trainer, "uses_later_draws", False):
        raise SpecError(
            f"the trainer {context.spec.trainer.type!r} trains on the same prompts and targets in every epoch; write 1 "
            "draw",
            path=("adapter",) if context.spec.num_target_draws > 1 else ("regime", "context_draws"),
        )
    as_stored = builder_as_stored(context.model, trainer)
    build = as_stored.build_as_stored if as_stored else context.model.build
    model = build(training_texts(examples.distinct), context.spec.seed)
    optimizer = create_plugin(context.spec.optimizer)
    manifest = optimizer.prepare(model.module, context.spec.seed)
    if is_main_process():
        write_jsonl(context.run.parameters, [vars(row) for row in manifest])
        context.log.append("parameters", groups=summarize_groups(manifest))
    checker = SampleChecker.of(model, trainer)
    if is_main_process():
        _run_preflight(context, checker, trainer)
    run = _training_run(context, checker, _estimate_encoded(context, trainer, optimizer, model))
    groups = examples.groups(context.training_groups)
    try:
        trained = trainer.train(model, optimizer, examples.first, groups, run)
    finally:
        # A training that is interrupted or that fails has its profile too.
        if is_main_process() and context.run.profile.exists():
            context.log.artifact("profile", context.run.profile)
    if trained is None:
        return
    optimizer.finish(trained.module)
    _save(context, trained, trainer.precision())


def _training_run(context: TrialContext, checker: SampleChecker, encoded_bytes: int) -> TrainingRun:
    """Create the environment of the training, and record which encoded samples it uses."""
    examples, options = context.training_examples, context.spec.trainer_options
    evaluates = options is not None and options.generates_validation
    encoded, images = encoded_folder(context), encoded_images_folder(context)
    if is_main_process():
        for folder in (encoded, images):
            _record_use(context, folder)
    return TrainingRun(
        context.run.checkpoints,
        context.spec.seed,
        context.reporter("train"),
        check=checker.check,
        evaluator=ValidationGenerator(context, context.samples("train")) if evaluates else None,
        encoded=encoded,
        encoded_images=images,
        profile=context.run.profile,
        encoded_bytes=encoded_bytes,
        later_draws=examples.draws[1:],
        plain=None if examples.plain is examples.first else examples.plain,
        num_per_sample=examples.num_per_sample,
    )


def _save(context: TrialContext, trained: VisionLanguageModel, precision: str) -> None:
    """Save the trained model as `model/`, which appears only once it is complete."""
    unfinished = context.run.path / ".model"
    for folder in (unfinished, context.run.model):
        shutil.rmtree(folder, ignore_errors=True)
    trained.save(unfinished, precision)
    apply_umask(*(file for file in unfinished.rglob("*") if file.is_file()))
    sync_tree(unfinished)
    unfinished.rename(context.run.model)
    context.log.artifact("model", context.run.model)


MAX_COUNTED = 256
"""Number of samples whose tokens are counted to estimate the size of all encoded samples."""


def _estimate_encoded(
    context: TrialContext,
    trainer: Trainer,
    optimizer: Optimizer,
    model: VisionLanguageModel,
) -> int:
    """Estimate the bytes of the encoded samples, as if samples were as long as the last counted one before them.

    Only the main process, which checks the disk, counts tokens.
    """
    if not is_main_process():
        return 0
    rendered = context.training_examples.distinct
    stride = math.ceil(len(rendered) / MAX_COUNTED)
    counts = [model.count(sample) for sample in rendered[::stride]]
    repeats = repeats_images(rendered)
    all_counts = [replace(counts[index // stride], shares_images=repeats[index]) for index in range(len(rendered))]
    return trainer.estimate_training(model, optimizer, all_counts, context.spec.compute.workers, gpus=False).encoded


def _run_preflight(context: TrialContext, checker: SampleChecker, trainer: Trainer) -> None:
    """Check examples and prompts before the training, and record the results; see `check_samples`."""
    regime, examples = context.regime, context.training_examples
    regime.check_examples(context.samples("train"), examples, context.training_groups)
    regime.check_prompts(context.test_prompts)
    reporter = context.reporter("preflight")
    report = check_samples(
        checker, trainer, examples.distinct, len(examples.first), context.prompt_limits(context.test_prompts), reporter
    )
    context.reporter("train").metrics(0, {"train/samples_truncated": len(report.truncated)})
    results = report.as_json()
    context.log.append("preflight", **results)
    counts = {name: len(results[name]) for name in ("truncated", "skipped", "respelt")}
    context.run.update_record(preflight={**results, **counts})
