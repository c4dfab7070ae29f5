"""What is known of a sweep before it begins, for `runner plan`; nothing is searched for that."""

from __future__ import annotations

from itertools import zip_longest
from typing import Any

from runner.plan import Trial
from runner.sweep.points import Composer


def known_trials(composer: Composer) -> list[Trial]:
    """List the trials that do not depend on results: of a grid all, else those to try first, arms in turn.

    Raises:
        SpecError: Their values do not go together; all mistakes.
        DataError: A data set is missing or broken.
        UnmetError: A model's checkpoint cannot be had.
    """
    sweep = composer.swept.sweep
    limit = sweep.budget.trials // len(sweep.seeds or (0,)) if sweep.budget.trials else None
    by_arm = []
    for arm in composer.swept.arms:
        known = composer.known(arm)[:limit]
        composer.refuse(arm, known)
        by_arm.append([composer.point(arm, number, parameters) for number, parameters in enumerate(known)])
    points = [point for row in zip_longest(*by_arm) for point in row if point is not None]
    return list({trial.name: trial for point in points for trial in point.trials}.values())


def outlook(composer: Composer) -> dict[str, Any]:
    """Describe a sweep.

    Returns:
        `num_trials`: at most, None where only time ends it; `space`: path to its values, in words; `arms`: name to what
        it sets; `seeds`; `search`, `pruning`, `objective`, `budget`: as in the spec, every default written out.
    """
    sweep = composer.swept.sweep
    told = sweep.model_dump(mode="json", include={"seeds", "search", "pruning", "objective", "budget"})
    return {
        "num_trials": composer.expected(),
        "space": {name: str(dimension) for name, dimension in sweep.space.items()},
        "arms": {arm: composer.swept.shown(arm, {}) for arm in sweep.arms},
        **told,
    }
