"""Step 1: samples to a fine-tuned model."""

from __future__ import annotations

import shutil
from collections.abc import Sequence

from runner.errors import DataError, StepError
from runner.files import write_lines
from runner.plan import implement
from runner.proof.inspection import Inspector
from runner.proof.prove import prove
from runner.records import Rendered, Sample
from runner.stages import Trainer, TrainingRun
from runner.steps.context import TrialContext, main_process
from runner.steps.encoding import encoded_folder
from runner.steps.examine import TrialExaminer
from runner.steps.manifest import by_group
from runner.steps.rendering import groups_of, prompts_of, training_texts


def train(context: TrialContext) -> None:
    """Train the model and leave it in `model/`, whole or not at all.

    Raises:
        DataError: The training split is empty.
        SpecError: The optimizer's groups do not fit the model's parameters.
        StepError: The proof failed, so that something else than the answers carries loss; or the optimizer trains
            otherwise than its manifest says.
    """
    context.foresee()
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
        context.log.append("parameters", groups=by_group(manifest))
    trainer = implement(context.spec.trainer)
    inspector = Inspector.of(model, trainer)
    if main_process():
        _prove(context, inspector, trainer, samples, rendered)
    options = context.spec.trainer_options
    run = TrainingRun(
        context.run.checkpoints,
        context.spec.seed,
        context.reporter("train"),
        check=inspector.check,
        examiner=TrialExaminer(context, samples) if options and options.answers_validation else None,
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
    inspector: Inspector,
    trainer: Trainer,
    samples: Sequence[Sample],
    rendered: Sequence[Rendered],
) -> None:
    """Prove what is trained before anything is, and note what was checked; see `prove`."""
    for sample, each in zip(samples, rendered, strict=True):
        if context.adapter.render_prompt(sample).content != each.content:
            raise StepError(f"sample {sample.id}: the adapter renders another prompt for training than for an answer")
    prompts = prompts_of(context, context.samples("test"))
    answer_limit = context.spec.generator_options.answer_limit
    proof = prove(inspector, trainer, rendered, prompts, answer_limit, context.reporter("proof"))
    context.reporter("train").metrics(0, {"train/samples_truncated": len(proof.truncated)})
    told = proof.as_json()
    context.log.append("proof", **told)
    listed = ("truncated", "skipped", "respelt")
    context.run.update_record(proof={**told, **{name: len(told[name]) for name in listed}})
