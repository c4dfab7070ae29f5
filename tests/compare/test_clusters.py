"""Clusters of test samples: how they are chosen from the runs, and that they are resampled as a whole."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plugins.metric.extraction import NerF1, NerF1Options
from plugins.metric.summary import CorpusBleu
from plugins.metric.summary_options import CorpusBleuOptions
from runner.compare.clusters import Clusters, choose_clusters, join_groups
from runner.compare.comparison import CompareOptions, compare
from runner.compare.comparison_page import write_page
from runner.compare.finished_runs import read_run
from runner.compare.resampling import (
    AggregatedReduction,
    Resampling,
    bootstrap,
    bootstrap_weights,
    choose_reduction,
    percentile_interval,
)
from runner.compare.studentised_test import randomisation_p_value, sample_contributions, studentised_p_value
from runner.compare.tables import latex, markdown
from runner.errors import DataError, SpecError
from runner.files import read_jsonl, write_jsonl
from runner.records import Answer

SINGLE = Clusters.from_labels("content", range(40))


def pair_counts(rows):
    return [
        {"predicted": int(wrong + hit), "reference": int(hit + missed), "matched": int(hit)}
        for wrong, missed, hit in rows
    ]


def three_runs():
    random = np.random.default_rng(4)
    return choose_reduction(NerF1(NerF1Options()), [pair_counts(random.integers(0, 3, size=(40, 3))) for _ in range(3)])


@pytest.mark.parametrize("clusters", [None, SINGLE])
def test_clusters_of_one_sample_change_no_digit(clusters):
    # These numbers were computed before there were clusters.
    resampling = Resampling(500, seed=2, clusters=clusters)
    six = None if clusters is None else Clusters.from_labels("content", range(6))
    (draws,) = bootstrap_weights(6, 3, 5, six)
    assert draws.tolist() == [[1, 0, 1, 1, 3, 0], [1, 2, 1, 1, 0, 1], [4, 0, 1, 1, 0, 0]]
    reduction = three_runs()
    f1 = [draw["ner_f1"] for draw in bootstrap(reduction, range(3), 40, resampling)]
    assert percentile_interval((f1[0] + f1[1]) / 2 - f1[2], 0.95) == (-0.009531605752613088, 0.15642724324218268)
    contributions = sample_contributions(reduction, ([0, 1], [2]), resampling)
    for name, difference, p_value in (
        ("ner_precision", 0.08996156120638676, 0.04228938602220601),
        ("ner_f1", 0.07081879300486982, 0.12947496572568745),
        ("ner_recall", 0.052261785478628475, 0.3735611642439798),
    ):
        number = resampling.effective_number(np.ones(40, dtype=bool))
        assert studentised_p_value(difference, number, contributions[name]) == p_value
        assert contributions[name].design_effect == 1
    counts = (reduction.counts(0), reduction.counts(2))
    assert randomisation_p_value(reduction, counts, "ner_f1", resampling) == 0.106


@settings(deadline=None, max_examples=15)
@given(st.integers(0, 1000), st.integers(2, 4))
def test_copies_of_samples_in_one_cluster_give_no_more_evidence(seed, num_copies):
    """The whole test split repeated, each sample in one cluster with its copies, has the results of the test split."""
    once = [pair_counts(run) for run in np.random.default_rng(seed).integers(0, 3, size=(2, 60, 3))]
    repeated = [run * num_copies for run in once]
    clusters = Clusters.from_labels("content", [*range(60)] * num_copies)
    found = []
    for runs, how in ((once, Resampling(100)), (repeated, Resampling(100, clusters=clusters))):
        reduction = AggregatedReduction(NerF1(NerF1Options()), runs, mean=False)
        number = len(runs[0])
        values = [reduction.reduce_draws(run, np.ones((1, number)))["ner_f1"][0] for run in (0, 1)]
        contributions = sample_contributions(reduction, ([0], [1]), how)["ner_f1"]
        effective = how.effective_number(np.ones(number, dtype=bool))
        draws = bootstrap(reduction, [0, 1], number, how)
        found.append((studentised_p_value(values[0] - values[1], effective, contributions), draws))
    # Contributions are differences by one more sample, which is a smaller change of the repeated test split.
    assert found[0][0] == pytest.approx(found[1][0], rel=0.01)
    for first, second in zip(found[0][1], found[1][1], strict=True):
        np.testing.assert_allclose(first["ner_f1"], second["ner_f1"])


labels = st.lists(st.integers(0, 8), min_size=1, max_size=20)


@given(labels, st.integers(0, 3))
def test_a_draw_contains_whole_clusters_as_many_as_there_are(each, seed):
    clusters = Clusters.from_labels("image", each)
    for draw in np.vstack(list(bootstrap_weights(len(each), 5, seed, clusters))):
        by_cluster = {}
        for label, weight in zip(each, draw, strict=True):
            by_cluster.setdefault(label, set()).add(weight)
        assert all(len(weights) == 1 for weights in by_cluster.values())
        assert sum(weights.pop() for weights in by_cluster.values()) == clusters.num_clusters


@given(labels)
def test_sums_and_effective_numbers_of_clusters(each):
    clusters = Clusters.from_labels("image", each)
    sizes = clusters.sum(np.ones(len(each)))
    assert sizes.sum() == len(each) and sizes.max() == clusters.largest and sizes.size == clusters.num_clusters
    columns = clusters.sum(np.column_stack([np.ones(len(each)), np.arange(len(each))]))
    np.testing.assert_array_equal(columns[:, 0], sizes)
    assert columns[:, 1].sum() == sum(range(len(each)))
    number = clusters.effective_number(np.ones(len(each), dtype=bool))
    assert len(each) / clusters.largest - 1e-9 <= number <= clusters.num_clusters + 1e-9


@given(labels, st.randoms())
def test_joined_groups_are_the_finest_that_separate_no_group(first, chance):
    second = [chance.randint(0, 8) for _ in first]
    joined = join_groups([first, second])
    together = [
        {other for other in range(len(first)) if first[other] == first[index] or second[other] == second[index]}
        for index in range(len(first))
    ]
    reached = [{index} for index in range(len(first))]
    for _ in first:
        reached = [set().union(*(together[each] for each in links)) for links in reached]
    for index, links in enumerate(reached):
        assert links == {other for other in range(len(first)) if joined[other] == joined[index]}


def test_the_squared_contributions_of_clusters_sum_to_the_variance_of_the_bootstrap():
    random = np.random.default_rng(1)
    # The samples of a cluster are easy or hard together for one of the two systems.
    hits = [np.repeat(random.integers(0, 4, size=100), 3), random.integers(0, 4, size=300)]
    runs = [[{"predicted": 3, "reference": 3, "matched": int(each)} for each in np.minimum(run, 3)] for run in hits]
    clusters = Clusters.from_labels("content", [index // 3 for index in range(300)])
    how = Resampling(4000, clusters=clusters)
    reduction = choose_reduction(NerF1(NerF1Options()), runs)
    first, second = (draw["ner_f1"] for draw in bootstrap(reduction, [0, 1], 300, how))
    contributions = sample_contributions(reduction, ([0], [1]), how)["ner_f1"]
    assert contributions.difference.size == 100
    assert np.sum(contributions.difference**2) == pytest.approx(np.var(first - second), rel=0.1)
    assert 1.5 < contributions.design_effect < 3


def test_randomisation_exchanges_whole_clusters():
    metric = CorpusBleu(CorpusBleuOptions())
    reference = Answer("a b c d e f", None, None)
    words, other = Answer("a b x c d y", None, None), Answer("a x y c z z", None, None)
    runs = [[metric.score(answer, reference)] * 20 for answer in (words, other)]
    reduction = choose_reduction(metric, runs)
    # With two clusters, half of the exchanges leave the difference or reverse it.
    how = Resampling(600, clusters=Clusters.from_labels("content", [0, 1] * 10))
    [contributions] = sample_contributions(reduction, ([0], [1]), how).values()
    assert contributions.pooled is None
    assert contributions.randomisation_p_value == pytest.approx(0.5, abs=0.08)


def with_groups(run, **kinds):
    """Replace the groups that a run has recorded, by the index of each sample; no kinds: an earlier version's run."""
    scores = read_jsonl(run.scores)
    for index, row in enumerate(scores):
        row.pop("groups")
        if kinds:
            row["groups"] = {kind: group(index) for kind, group in kinds.items()}
    write_jsonl(run.scores, scores)
    return run


@pytest.fixture
def two_runs(storage):
    return [
        storage.run(experiment="one", error_rate=0.4),
        storage.run(experiment="two", error_rate=0.1),
    ]


def compared(storage, **options):
    return compare(
        ["one", "two"],
        storage.runs,
        CompareOptions("experiment", metrics=["ner_f1"], resampling=Resampling(300), **options),
    )


def test_recorded_groups_are_resampled_together_and_reported(storage, two_runs, tmp_path):
    independent = compared(storage)
    assert independent.as_json()["cluster"] == {"kind": "none", "num_clusters": 40, "largest": 1}
    assert not any("cluster" in note for note in independent.notes)
    for run in two_runs:
        with_groups(run, image=lambda index: index // 4, text=lambda index: index, content=lambda index: index // 4)
    comparison = compared(storage)
    assert comparison.as_json()["cluster"] == {"kind": "content", "num_clusters": 10, "largest": 4}
    [before], [after] = independent.tests, comparison.tests
    assert before.difference == after.difference
    assert (before.low, before.high, before.p_value) != (after.low, after.high, after.p_value)
    assert before.effect_size == pytest.approx(after.effect_size, rel=0.3)
    assert [part.value_a for part in independent.subgroups] == [part.value_a for part in comparison.subgroups]
    assert [part.low for part in independent.subgroups] != [part.low for part in comparison.subgroups]
    sentence = "10 clusters of 40 samples; the largest has 4 samples"
    write_page(tmp_path / "page.html", comparison)
    for text in (markdown(comparison), latex(comparison), (tmp_path / "page.html").read_text()):
        assert sentence in text
    assert "95% over both" in (tmp_path / "page.html").read_text()
    assert any("as few as 10 clusters" in warning for warning in comparison.warnings)
    assert compared(storage, cluster="text").tests[0].p_value == before.p_value
    ignored = compared(storage, cluster="none")
    assert ignored.tests[0].p_value == before.p_value
    assert any("count as independent" in warning for warning in ignored.warnings)


def test_runs_without_groups_are_compared_with_a_warning_that_names_the_remedy(storage, two_runs):
    for run in two_runs:
        with_groups(run)
    comparison = compared(storage)
    assert comparison.clusters.kind == "none"
    assert any("runner launch SPEC --rerun score" in warning for warning in comparison.warnings)
    assert not any("--rerun score" in warning for warning in compared(storage, cluster="none").warnings)
    with pytest.raises(SpecError, match=r"--cluster image: no test sample .* --rerun score"):
        compared(storage, cluster="image")


def test_groups_of_one_run_hold_for_all_and_differing_groups_are_joined(storage, two_runs):
    with_groups(two_runs[0], content=lambda index: index // 2)
    with_groups(two_runs[1])
    assert compared(storage).clusters.num_clusters == 20
    two_runs[1].scores.write_text(two_runs[0].scores.read_text())
    with_groups(two_runs[1], content=lambda index: index // 20 + index % 2)
    runs = [read_run(run.path) for run in two_runs]
    clusters, _ = choose_clusters(runs, None)
    assert (clusters.num_clusters, clusters.largest) == (1, 40)


@pytest.mark.parametrize(("kind", "nearest"), [("images", "'image'"), ("contents", "'content'"), ("author", "valid: ")])
def test_an_unknown_kind_of_clusters_is_an_error_with_the_nearest_name(storage, two_runs, kind, nearest):
    with pytest.raises(SpecError, match=f"--cluster {kind}: no test sample.*{nearest}"):
        compared(storage, cluster=kind)


@pytest.mark.parametrize("groups", [["a"], {"image": 1.5}, {"image": None}])
def test_groups_that_are_no_numbers_are_an_error_that_names_the_run(storage, two_runs, groups):
    scores = read_jsonl(two_runs[0].scores)
    scores[3]["groups"] = groups
    write_jsonl(two_runs[0].scores, scores)
    with pytest.raises(DataError, match=r"one/trial-.*invalid groups.*--rerun score"):
        compared(storage)
