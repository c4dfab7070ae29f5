"""Step 1: checks the samples, fine-tunes the model and saves it."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from runner import __version__
from runner.errors import DataError, StepError
from runner.files import write_lines
from runner.fingerprint import fingerprint, identity
from runner.plan import implement
from runner.preflight.check_samples import check_samples
from runner.preflight.sample_checker import SampleChecker
from runner.records import Rendered, Sample
from runner.rendering import groups_of, training_texts
from runner.stages import Trainer, TrainingRun
from runner.stages.training import summarize_groups
from runner.trial.context import TrialContext, main_process
from runner.trial.generate import ValidationGenerator

ENCODERS = ("torch", "transformers", "tokenizers", "numpy", "pillow")
"""Distributions that turn text and images into a model's inputs; another version may do so otherwise."""


def encoded_folder(context: TrialContext) -> Path:
    """The folder for samples of these data as this model encodes them, in the cache that trials share.

    Its name is a hash over what decides the encoding: data, adapter and model with their options, content and plugins'
    versions, and the versions of what encodes and of what checks it. What a trainer adds is the trainer's to name.
    """
    spec, pins = context.spec, context.spec.pinned
    assert pins is not None
    assert spec.model is not None
    assert spec.trainer is not None
    sections = (spec.data, spec.adapter, spec.model)
    key = fingerprint(
        {
            "sections": [[each.type, identity(each.options)] for each in sections],
            "data": pins.data,
            "model": pins.model,
            "plugins": [pins.plugins[f"{each.stage}.{each.type}"] for each in (*sections, spec.trainer)],
            "runner": __version__,
            "packages": {name: version(name) for name in ENCODERS},
        }
    )
    return context.cache.root / "encoded" / key


def train(context: TrialContext) -> None:
    """Train the model and leave it in `model/`, whole or not at all.

    Raises:
        DataError: The training split is empty.
        SpecError: The optimizer's groups do not fit the model's parameters.
        StepError: The proof failed, so that something else than the answers carries loss; or the optimizer trains
            otherwise than its manifest says.
    """
    context.create_all()
    samples = context.samples("train")
    if not samples:
        raise DataError("the training split holds no samples")
    rendered = [context.adapter.render_training(sample) for sample in samples]
    model = context.model.build(training_texts(rendered), context.spec.seed)
    assert context.spec.optimizer is not None
    assert context.spec.trainer is not None
    optimizer = implement(context.spec.optimizer)
    manifest = optimizer.prepare(model.module, context.spec.seed)
    if main_process():
        write_lines(context.run.parameters, [vars(row) for row in manifest])
        context.log.append("parameters", groups=summarize_groups(manifest))
    trainer = implement(context.spec.trainer)
    inspector = SampleChecker.of(model, trainer)
    if main_process():
        _prove(context, inspector, trainer, samples, rendered)
    options = context.spec.trainer_options
    run = TrainingRun(
        context.run.checkpoints,
        context.spec.seed,
        context.reporter("train"),
        check=inspector.check,
        evaluator=ValidationGenerator(context, samples) if options and options.generates_validation else None,
        encoded=encoded_folder(context),
    )
    trained = trainer.train(model, optimizer, rendered, groups_of(samples), run)
    if trained is None:
        return
    optimizer.finish(trained.module)
    unfinished = context.run.path / ".model"
    for folder in (unfinished, context.run.model):
        shutil.rmtree(folder, ignore_errors=True)
    trained.save(unfinished, trainer.precision())
    unfinished.rename(context.run.model)
    context.log.artifact("model", context.run.model)


def _prove(
    context: TrialContext,
    inspector: SampleChecker,
    trainer: Trainer,
    samples: Sequence[Sample],
    rendered: Sequence[Rendered],
) -> None:
    """Prove what is trained before anything is, and note what was checked; see `check_samples`."""
    for sample, each in zip(samples, rendered, strict=True):
        if context.adapter.render_prompt(sample).content != each.content:
            raise StepError(f"sample {sample.id}: the adapter renders another prompt for training than for an answer")
    prompts = context.prompts(context.samples("test"))
    answer_limit = context.spec.generator_options.answer_limit
    proof = check_samples(inspector, trainer, rendered, prompts, answer_limit, context.reporter("preflight"))
    context.reporter("train").metrics(0, {"train/samples_truncated": len(proof.truncated)})
    told = proof.as_json()
    context.log.append("preflight", **told)
    listed = ("truncated", "skipped", "respelt")
    context.run.update_record(preflight={**told, **{name: len(told[name]) for name in listed}})
