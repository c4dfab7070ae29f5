"""Step 1: samples to a fine-tuned model."""

from __future__ import annotations

import shutil

from runner.artifacts import write_lines
from runner.errors import DataError
from runner.plan import implement
from runner.records import Rendered
from runner.stages import TrainingRun
from runner.steps.context import TrialContext, main_process
from runner.steps.manifest import by_group


def training_texts(rendered: list[Rendered]) -> list[str]:
    """Prompts and targets, for a model whose tokenizer is made from its training texts."""
    return [text for each in rendered for text in (each.prompt, each.target or "")]


def train(context: TrialContext) -> None:
    """Train the model and leave it in `model/`, whole or not at all.

    Raises:
        DataError: The training split is empty.
        SpecError: The optimizer's groups do not fit the model's parameters.
        StepError: The optimizer trains otherwise than its manifest says.
    """
    samples = context.samples("train")
    if not samples:
        raise DataError("the training split holds no samples")
    rendered = [context.adapter.render_training(sample) for sample in samples]
    groups = [str(sample.image or sample.id) for sample in samples]
    model = context.model.build(training_texts(rendered), context.spec.seed)
    optimizer = implement(context.spec.optimizer)
    manifest = optimizer.prepare(model.module, context.spec.seed)
    if main_process():
        write_lines(context.run.parameters, [vars(row) for row in manifest])
        context.log.append("parameters", groups=by_group(manifest))
    trainer = implement(context.spec.trainer)
    run = TrainingRun(context.run.checkpoints, context.spec.seed, context.reporter("train"))
    trained = trainer.train(model, optimizer, rendered, groups, run)
    if trained is None:
        return
    optimizer.finish(trained.module)
    unfinished = context.run.path / ".model"
    for folder in (unfinished, context.run.model):
        shutil.rmtree(folder, ignore_errors=True)
    trained.save(unfinished, trainer.precision())
    unfinished.rename(context.run.model)
    context.log.artifact("model", context.run.model)
