"""The verdicts on the claims of sweeps, with Holm's correction over the claims of each sweep."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from runner.compare.arms import Point, SweepRuns
from runner.compare.claim_evidence import (
    UNDECIDABLE,
    Decision,
    Evidence,
    Needed,
    OneSided,
    Verdict,
    combine_parts,
    decide,
    measure_evidence,
    what_would_decide,
)
from runner.compare.recompute_metrics import RunMetric
from runner.compare.resampling import Resampling
from runner.compare.statistics import GroupPair
from runner.spec.claims_section import Claim
from runner.sweep.claim_registry import Standing


@dataclass(frozen=True)
class ClaimPart:
    """One comparison of a claim: two arms, one metric, one point of the space.

    Attributes:
        metric: The metric.
        arm: The arm that the claim is about.
        baseline: The arm that it is compared with.
        point: The point of the space in words; empty if there is only one.
        evidence: The tests; None if they are not possible.
        problem: Why they are not possible; empty if they are.
    """

    metric: str
    arm: str
    baseline: str
    point: str
    evidence: Evidence | None
    problem: str = ""

    def as_json(self) -> dict[str, Any]:
        """Return the JSON object that docs/compare.md describes."""
        names = {"metric": self.metric, "a": self.arm, "b": self.baseline, "point": self.point or None}
        if self.evidence is None:
            return {**names, "problem": self.problem}
        evidence, test = self.evidence, self.evidence.test
        return {
            **names,
            **{name: getattr(test, name) for name in ("value_a", "value_b", "difference", "low", "high")},
            "threshold": evidence.threshold,
            "num_samples": evidence.num_samples,
            "num_seeds": evidence.num_seeds,
            "depends_on_seeds": evidence.depends_on_seeds,
            "samples": vars(evidence.samples),
            "seeds": evidence.seeds and vars(evidence.seeds),
            "joint": evidence.joint and vars(evidence.joint),
            "combined": vars(evidence.combined),
        }


@dataclass(frozen=True)
class ClaimResult:
    """The verdict on a claim.

    Attributes:
        experiment: The experiment that it was registered for.
        name: The name of the claim.
        claim: The claim.
        standing: Whether it was registered before the results.
        parts: The comparisons that it consists of; the claim says that it holds in all of them.
        decision: The verdict and its p-values.
        num_claims: The number of claims of the experiment, for which the p-values are corrected.
    """

    experiment: str
    name: str
    claim: Claim
    standing: Standing
    parts: Sequence[ClaimPart]
    decision: Decision
    num_claims: int

    def __repr__(self) -> str:
        """Return the name and the verdict: the parts would fill pages."""
        return f"<ClaimResult {self.name}: {self.verdict}>"

    @property
    def verdict(self) -> Verdict:
        """Supported, refuted or undecided."""
        return self.decision.verdict

    @cached_property
    def needed(self) -> Needed | None:
        """What would decide the claim; None if it is decided."""
        if self.verdict != "undecided":
            return None
        problems = dict.fromkeys(part.problem for part in self.parts if part.problem)
        if problems:
            return Needed(None, None, None, f"missing: {'; '.join(problems)}")
        evidence = [part.evidence for part in self.parts if part.evidence is not None]
        if not evidence:
            return Needed(None, None, None, "missing: no finished run is at such a point of the space")
        return what_would_decide(evidence, self.claim.level / self.num_claims)

    def as_json(self) -> dict[str, Any]:
        """Return the JSON object that docs/compare.md describes."""
        decision, needed = self.decision, self.needed
        return {
            "experiment": self.experiment,
            "name": self.name,
            "statement": str(self.claim),
            "registered": self.standing.as_json(),
            "verdict": self.verdict,
            "level": self.claim.level,
            "p_value": decision.p_values.greater,
            "p_holm": decision.corrected.greater,
            "p_value_against": decision.p_values.less,
            "p_holm_against": decision.corrected.less,
            "needed": needed and vars(needed),
            "claim": dict(self.standing.content),
            "parts": [part.as_json() for part in self.parts],
        }

    def as_row(self) -> dict[str, Any]:
        """Return the row of a data frame: `as_json` without nested values."""
        nested = {"registered", "needed", "claim", "parts"}
        row = {name: value for name, value in self.as_json().items() if name not in nested}
        return {**row, "registered": str(self.standing), "needed": self.needed and self.needed.text}


def judge_claims(sweep: SweepRuns, metrics: Sequence[RunMetric], resampling: Resampling) -> list[ClaimResult]:
    """Judge the registered claims of a sweep, also those that were removed after results.

    Args:
        sweep: The runs of the sweep.
        metrics: The metrics that the claims name, as far as the runs have them.
        resampling: The options of the bootstrap.
    """
    by_name = {metric.name: metric for metric in metrics}
    claims = {name: Claim.model_validate(standing.content) for name, standing in sweep.registry.claims.items()}
    parts = {name: list(_parts(claim, sweep, by_name, resampling)) for name, claim in claims.items()}
    decisions = decide(
        [combine_parts([_p_values(part) for part in each]) for each in parts.values()],
        [claim.level for claim in claims.values()],
    )
    return [
        ClaimResult(sweep.experiment, name, claim, sweep.registry.claims[name], parts[name], decision, len(claims))
        for (name, claim), decision in zip(claims.items(), decisions, strict=True)
    ]


def _p_values(part: ClaimPart) -> OneSided:
    return UNDECIDABLE if part.evidence is None else part.evidence.combined


def _parts(
    claim: Claim, sweep: SweepRuns, metrics: Mapping[str, RunMetric], resampling: Resampling
) -> Iterator[ClaimPart]:
    """Compare the arm of a claim with its baselines at each point that the claim is about."""
    arms = {claim.arm, *claim.baselines.values()}
    points = dict.fromkeys(point for arm, point in sweep.groups if arm in arms and sweep.matches(point, claim.where))
    for point in points:
        for metric, baseline in claim.baselines.items():
            part = ClaimPart(metric, claim.arm, baseline, sweep.describe(point), None)
            if problem := _missing(part, point, sweep, metrics):
                yield replace(part, problem=problem)
                continue
            pair = GroupPair(sweep.groups[claim.arm, point], sweep.groups[baseline, point])
            yield replace(part, evidence=measure_evidence(metrics[metric], pair, claim.threshold, resampling))


def _missing(part: ClaimPart, point: Point, sweep: SweepRuns, metrics: Mapping[str, RunMetric]) -> str:
    """Return why two arms cannot be compared; empty if they can."""
    for arm in (part.arm, part.baseline):
        if (arm, point) not in sweep.groups:
            return f"the arm {arm} has no finished run" + (f" at {part.point}" if part.point else "")
        if part.metric not in metrics or not metrics[part.metric].is_known_for(sweep.groups[arm, point].runs):
            return f"the arm {arm} has no {part.metric}, because its prompts do not ask for this task"
    return ""
