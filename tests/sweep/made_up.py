"""A sweep with invented results."""

BASE = """\
name: swept
data: {type: synthetic, train: 8, test: 2}
adapter: {type: pfa}
model: {type: qwen2_5_vl, size: smoke}
optimizer: {type: adamw, groups: {vision: {match: "*visual*", lr: 1e-3}, rest: {match: "*", lr: 1e-4}}}
trainer: {type: sft, epochs: 2, global_batch_size: 4, validation_ratio: 0.25}
generator: {type: transformers, max_new_tokens: 8}
metrics: [{type: ner_f1}]
tracker: {type: mlflow}
"""
RATES = """\
space:
  optimizer.groups.vision.lr: {loguniform: [1.0e-5, 1.0e-1]}
  optimizer.groups.rest.lr: {loguniform: [1.0e-5, 1.0e-1]}
  trainer.global_batch_size: {choice: [2, 4, 8]}
  trainer.epochs: {int: [1, 4], when: {trainer.global_batch_size: 8}}
objective: {metric: validation/loss, mode: min}
"""


def loss(trial):
    """A loss with its minimum inside the space."""
    numbers = [value for value in trial.parameters.values() if isinstance(value, float)]
    return sum(abs(value - 1e-3) for value in numbers) + 0.001 * trial.seed


def finish(search, trial):
    search.tell(trial, "finished", {}, {"validation/loss": loss(trial)})


def run(search, ends=10_000):
    """Run up to `ends` trials of a search one at a time; return their names, groups and parameters."""
    asked = []
    while len(asked) < ends and (trial := search.ask()) is not None:
        asked.append((trial.name, trial.group, tuple(trial.parameters.items())))
        finish(search, trial)
    return asked


def explode(search, ends, edge=1e-3):
    """Run up to `ends` trials whose trainings diverge above a learning rate; return how many did."""
    diverged, asked = 0, 0
    while asked < ends and (trial := search.ask()) is not None:
        asked += 1
        rates = [value for value in trial.parameters.values() if isinstance(value, float)]
        if max(rates) > edge:
            search.tell(trial, "failed", {}, {"validation/loss": float("nan")})
            diverged += 1
        else:
            finish(search, trial)
    return diverged
