"""Measures the error rate of the test and the coverage of the intervals of `runner compare`.

    python bench/calibration.py [--comparisons 1000] [--samples 600] [--resamples 400] [--metric NAME ...]

Simulates pairs of systems that are equally good by one metric, and compares each pair as `runner compare` does. Prints
a Markdown table with one row for each scenario. The first columns contain the metric, its value, and what differs
between the systems. The other columns are percentages of the comparisons:

- rejected: the test of `runner compare` rejects equality at the level of 5 %;
- separate, pooled: the same test rejects equality if its variance is only that of each group, or only the pooled one;
- exchange: approximate randomisation (Noreen 1989) rejects equality, which exchanges the answers of the systems;
- covered: the 95 % interval contains the true difference, which is 0;
- disagree: interval and p-value disagree.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import numpy as np

from plugins.metric.extraction import (
    ExactMatch,
    ExactMatchOptions,
    ImageEntityAccuracy,
    ImageEntityAccuracyOptions,
    NerF1,
    NerF1Options,
)
from plugins.metric.summary import Bleu, CorpusBleu, Rouge
from plugins.metric.summary_options import BleuOptions, CorpusBleuOptions, RougeOptions
from runner.compare.resampling import (
    NUM_PROBE_DRAWS,
    AggregatedReduction,
    Resampling,
    bootstrap,
    bootstrap_weights,
    percentile_interval,
)
from runner.compare.studentised_test import (
    PRIOR_SAMPLES,
    randomisation_p_value,
    sample_contributions,
    studentised_p_value,
)
from runner.records import Answer

LEVEL = 0.05
ONLY_POOLED = 1e12
"""A weight of the pooled variance at which the variance of each group has no effect."""
Counts = Sequence[Mapping[str, Any]]
"""The counts of a metric for each sample."""
Columns = tuple[Any, Any, Any]
"""NumPy arrays with the numbers of predicted, reference and matched pairs of each sample."""


@dataclass(frozen=True)
class Scenario:
    """Two systems with equal values of a metric.

    Attributes:
        metric: The name of the metric.
        value: Its true value.
        difference: What differs between the systems.
        plugin: The plugin of the metric.
        draw: Draws the counts of both systems, from a random generator and a number of samples.
        is_mean: Whether the metric is a mean over samples, not a ratio of sums.
    """

    metric: str
    value: float
    difference: str
    plugin: Any
    draw: Callable[[np.random.Generator, int], tuple[Counts, Counts]]
    is_mean: bool = False


@dataclass(frozen=True)
class Comparison:
    """The comparison of one simulated pair.

    Attributes:
        p_value: The p-value of `runner compare`.
        p_separate: The p-value if only the variance of each group is used.
        p_pooled: The p-value if only the pooled variance is used.
        p_exchange: The p-value of approximate randomisation; 1 unless it was asked for.
        interval: The interval of the difference.
        first_interval: The interval of the value of the first system.
    """

    p_value: float
    p_separate: float
    p_pooled: float
    p_exchange: float
    interval: tuple[float, float]
    first_interval: tuple[float, float]


def draw_pair(scenario: Scenario, seed: int, num_samples: int) -> AggregatedReduction:
    """Draw the counts of a pair of systems."""
    runs = scenario.draw(np.random.default_rng([7, seed]), num_samples)
    reduction = AggregatedReduction(scenario.plugin, runs, mean=scenario.is_mean)
    reduction.use_means_directly(next(bootstrap_weights(num_samples, NUM_PROBE_DRAWS, seed)))
    return reduction


def pair_p_values(
    reduction: AggregatedReduction, name: str, num_samples: int, resampling: Resampling, priors: Sequence[float]
) -> list[float]:
    """Return the p-value of `runner compare` for a pair of systems, with different weights of the pooled variance."""
    a, b = (float(reduction.reduce_draws(run, np.ones((1, num_samples)))[name][0]) for run in (0, 1))
    contributions = sample_contributions(reduction, ([0], [1]), resampling)[name]
    return [studentised_p_value(a - b, num_samples, contributions, prior) for prior in priors]


def rejection_rate(scenario: Scenario, num_comparisons: int, num_samples: int) -> float:
    """Return the share of comparisons in which the test rejects equality."""
    p_values = [
        pair_p_values(
            draw_pair(scenario, seed, num_samples), scenario.metric, num_samples, Resampling(500, seed), [PRIOR_SAMPLES]
        )
        for seed in range(num_comparisons)
    ]
    return float(np.mean(np.array(p_values) <= LEVEL))


def compare_pair(
    scenario: Scenario, seed: int, num_samples: int, num_resamples: int, *, with_exchange: bool
) -> Comparison:
    """Draw a pair of systems and compare them."""
    reduction, resampling = draw_pair(scenario, seed, num_samples), Resampling(num_resamples, seed=seed)
    name = scenario.metric
    first, second = (each[name] for each in bootstrap(reduction, [0, 1], num_samples, resampling))
    return Comparison(
        *pair_p_values(reduction, name, num_samples, resampling, (PRIOR_SAMPLES, 0.0, ONLY_POOLED)),
        _exchange_p_value(reduction, name, resampling) if with_exchange else 1.0,
        percentile_interval(first - second, 1 - LEVEL) or (0.0, 0.0),
        percentile_interval(first, 1 - LEVEL) or (0.0, 0.0),
    )


def _exchange_p_value(reduction: AggregatedReduction, name: str, resampling: Resampling) -> float:
    return randomisation_p_value(reduction, (reduction.counts(0), reduction.counts(1)), name, resampling)


def to_counts(system: Columns) -> Counts:
    """Return the counts of each sample in the form that `NerF1` computes."""
    keys = ("predicted", "reference", "matched")
    return [
        dict(zip(keys, values, strict=True)) for values in zip(*(column.tolist() for column in system), strict=True)
    ]


MEAN_REFERENCE = 2.0
"""Mean number of reference pairs of a sample."""


def draw_pairs(
    rng: np.random.Generator, num_samples: int, shares: Sequence[Sequence[float]], burst: int = 1
) -> tuple[Counts, Counts]:
    """Draw label-entity pairs of two systems.

    Some samples are hard for both systems: there, both have more wrong predictions.

    Args:
        rng: The random generator.
        num_samples: The number of samples.
        shares: Precision of both systems, then recall of both systems.
        burst: The second system has its wrong predictions in groups of this size.
    """
    reference = 1 + rng.poisson(MEAN_REFERENCE - 1, size=num_samples)
    hardness = rng.gamma(2, 0.5, size=num_samples)
    systems = []
    for precision, recall, group in zip(*shares, (1, burst), strict=True):
        matched = rng.binomial(reference, recall)
        num_wrong = MEAN_REFERENCE * recall * (1 - precision) / precision
        predicted = matched + group * rng.poisson(hardness * num_wrong / group)
        systems.append(to_counts((predicted, reference, matched)))
    return systems[0], systems[1]


def pair_scenarios() -> Iterator[Scenario]:
    """Precision, recall and F1 of label-entity pairs."""
    plugin = NerF1(NerF1Options())

    def scenario(metric: str, value: float, difference: str, *shares: Sequence[float], burst: int = 1) -> Scenario:
        return Scenario(metric, value, difference, plugin, partial(draw_pairs, shares=shares, burst=burst))

    for precision in (0.003, 0.01, 0.8, 0.99, 0.995, 0.998, 0.999):
        # Near 0, the number of matches must be small too, otherwise there would be thousands of predictions.
        scale = precision if precision < 0.1 else 1.0
        for recalls in ((0.9, 0.9), (0.9, 0.8), (0.9, 0.5), (0.9, 0.3)):
            text = f"number of predictions, {recalls[0] / recalls[1]:.2g} : 1"
            yield scenario("ner_precision", precision, text, (precision,) * 2, [scale * each for each in recalls])
    text = "errors, one in groups of 5, and number of predictions, 1.3 : 1"
    yield scenario("ner_precision", 0.8, text, (0.8, 0.8), (0.9, 0.7), burst=5)
    for recall in (0.005, 0.7, 0.99, 0.998):
        yield scenario("ner_recall", recall, "precision, 0.9 and 0.5", (0.9, 0.5), (recall, recall))
    for f1, precisions in (
        (0.01, (0.02, 0.007)),
        (0.5, (0.9, 0.35)),
        (0.72, (0.9, 0.6)),
        (0.98, (0.999, 0.97)),
        (0.995, (0.999, 0.992)),
        (0.998, (0.999, 0.9975)),
    ):
        recalls = [f1 * precision / (2 * precision - f1) for precision in precisions]
        yield scenario("ner_f1", f1, f"precision, {precisions[0]} and {precisions[1]}", precisions, recalls)


def share_scenarios() -> Iterator[Scenario]:
    """Accuracy of segments and exact match: samples or segments that are right or wrong."""

    def draw_accuracy(value: float) -> Callable[[np.random.Generator, int], tuple[Counts, Counts]]:
        def draw(rng: np.random.Generator, num_samples: int) -> tuple[Counts, Counts]:
            reference = rng.integers(0, 5, size=num_samples)
            a, b = (to_counts((reference, reference, rng.binomial(reference, value))) for _ in range(2))
            return a, b

        return draw

    def draw_exact(value: float) -> Callable[[np.random.Generator, int], tuple[Counts, Counts]]:
        def draw(rng: np.random.Generator, num_samples: int) -> tuple[Counts, Counts]:
            a, b = ([{"exact": float(right)} for right in rng.random(num_samples) < value] for _ in range(2))
            return a, b

        return draw

    accuracy, exact = ImageEntityAccuracy(ImageEntityAccuracyOptions()), ExactMatch(ExactMatchOptions())
    for value in (0.003, 0.02, 0.5, 0.98, 0.997):
        yield Scenario("image_entity_accuracy", value, "nothing", accuracy, draw_accuracy(value))
    for value in (0.005, 0.02, 0.5, 0.98, 0.995):
        yield Scenario("exact_match", value, "nothing", exact, draw_exact(value), is_mean=True)


WORDS = [f"word{number}" for number in range(400)]
NUM_TEXTS = 4000
"""Number of reference texts for which answers are scored; each comparison draws its samples from them."""
WrongWords = tuple[float, float]
"""The share of texts with wrong words, and the share of wrong words in these texts."""


@lru_cache
def scored_texts(plugin_type: Any, options_type: Any, wrong: WrongWords) -> list[tuple[Mapping[str, Any], ...]]:
    """Score the answers of two systems, which replace words of the reference by other words."""
    chance, metric = random.Random(3), plugin_type(options_type())
    rows = []
    for _ in range(NUM_TEXTS):
        reference = chance.choices(WORDS, k=chance.randint(6, 20))
        answers = [_replace_words(reference, wrong, chance) for _ in range(2)]
        rows.append(tuple(metric.score(_summary(answer), _summary(reference)) for answer in answers))
    return rows


def _summary(words: Sequence[str]) -> Answer:
    return Answer(" ".join(words), None, None)


def _replace_words(words: Sequence[str], wrong: WrongWords, chance: random.Random) -> list[str]:
    if chance.random() >= wrong[0]:
        return list(words)
    changed = [chance.choice(WORDS) if chance.random() < wrong[1] else word for word in words]
    return changed[: chance.randint(len(words) - 2, len(words))]


def text_scenarios() -> Iterator[Scenario]:
    """ROUGE and BLEU of texts with wrong words. Both systems draw from the same answers, in either order."""
    plugins = {
        "bleu": (Bleu, BleuOptions),
        "rouge1": (Rouge, RougeOptions),
        "rougeL": (Rouge, RougeOptions),
        "corpus_bleu": (CorpusBleu, CorpusBleuOptions),
    }
    for metric, types in plugins.items():
        for wrong in ((1.0, 0.98), (1.0, 0.9), (1.0, 0.4), (0.02, 0.3), (0.006, 0.3)):
            rows = scored_texts(*types, wrong)
            plugin = types[0](types[1]())
            value = plugin.reduce([counts for row in rows for counts in row])[metric]
            difference = f"nothing; {wrong[0]:.1%} of the texts have wrong words"
            is_mean = metric != "corpus_bleu"
            yield Scenario(metric, round(value, 4), difference, plugin, partial(draw_texts, rows), is_mean=is_mean)


def draw_texts(
    rows: Sequence[Sequence[Mapping[str, Any]]], rng: np.random.Generator, num_samples: int
) -> tuple[Counts, Counts]:
    """Draw scored texts with replacement; for each text, the two systems have the two answers in random order."""
    indices, first = rng.integers(len(rows), size=num_samples), rng.integers(2, size=num_samples)
    chosen = list(zip(indices.tolist(), first.tolist(), strict=True))
    return [rows[index][system] for index, system in chosen], [rows[index][1 - system] for index, system in chosen]


def simulate(scenario: Scenario, num_comparisons: int, num_samples: int, num_resamples: int) -> dict[str, float]:
    """Compare many pairs of a scenario.

    Returns:
        The shares of comparisons in which the test `rejected` equality, in which the test with only one of the two
        estimates of the variance did (`separate_rejected`, `pooled_rejected`), in which approximate randomisation did
        (`exchange_rejected`), whose interval `covered` 0, and in which interval and p-value disagree (`disagreed`).
    """
    counts = dict.fromkeys(
        ("rejected", "separate_rejected", "pooled_rejected", "exchange_rejected", "covered", "disagreed"), 0
    )
    for number in range(num_comparisons):
        pair = compare_pair(scenario, number, num_samples, num_resamples, with_exchange=True)
        rejected, covered = pair.p_value <= LEVEL, pair.interval[0] <= 0 <= pair.interval[1]
        counts["rejected"] += rejected
        counts["separate_rejected"] += pair.p_separate <= LEVEL
        counts["pooled_rejected"] += pair.p_pooled <= LEVEL
        counts["exchange_rejected"] += pair.p_exchange <= LEVEL
        counts["covered"] += covered
        counts["disagreed"] += rejected == covered
    return {name: count / num_comparisons for name, count in counts.items()}


def simulate_systems(rng: np.random.Generator, num_samples: int) -> list[Columns]:
    """Draw counts of label-entity pairs for two systems of equal quality; some samples are hard for both."""
    reference = rng.integers(0, 5, size=num_samples)
    ease = rng.beta(4, 1, size=num_samples)
    systems = []
    for _ in range(2):
        matched = rng.binomial(reference, ease)
        predicted = matched + rng.binomial(2, 0.2, size=num_samples)
        systems.append((predicted, reference, matched))
    return systems


def true_f1() -> float:
    """Return the F1 of a very large corpus, as an approximation of an infinite one."""
    predicted, reference, matched = simulate_systems(np.random.default_rng(0), 2_000_000)[0]
    return float(2 * matched.sum() / (predicted.sum() + reference.sum()))


def calibrate(num_comparisons: int, num_samples: int, num_resamples: int) -> dict[str, int]:
    """Compare systems that are equal in every respect.

    Returns:
        Number of comparisons that were `rejected`, whose difference interval was right (`difference_covered`), and
        whose F1 interval was right (`figure_covered`).
    """

    def draw(rng: np.random.Generator, number: int) -> tuple[Counts, Counts]:
        a, b = map(to_counts, simulate_systems(rng, number))
        return a, b

    truth = true_f1()
    scenario = Scenario("ner_f1", truth, "nothing", NerF1(NerF1Options()), draw)
    counts = {"rejected": 0, "difference_covered": 0, "figure_covered": 0}
    for number in range(num_comparisons):
        pair = compare_pair(scenario, number, num_samples, num_resamples, with_exchange=False)
        counts["rejected"] += pair.p_value <= LEVEL
        counts["difference_covered"] += pair.interval[0] <= 0 <= pair.interval[1]
        counts["figure_covered"] += pair.first_interval[0] <= truth <= pair.first_interval[1]
    return counts


def main() -> None:
    """Run the simulations and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--comparisons", type=int, default=1000)
    parser.add_argument("--samples", type=int, default=600)
    parser.add_argument("--resamples", type=int, default=400)
    parser.add_argument("--metric", nargs="+", help="only these metrics")
    arguments = parser.parse_args()
    print("| metric | value | the systems differ in | rejected | separate | pooled | exchange | covered | disagree |")
    print("|---|---:|---|---:|---:|---:|---:|---:|---:|")
    for scenario in (*pair_scenarios(), *share_scenarios(), *text_scenarios()):
        if not arguments.metric or scenario.metric in arguments.metric:
            shares = simulate(scenario, arguments.comparisons, arguments.samples, arguments.resamples)
            cells = " | ".join(f"{100 * share:.1f}" for share in shares.values())
            print(f"| `{scenario.metric}` | {scenario.value:g} | {scenario.difference} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
