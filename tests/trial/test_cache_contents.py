"""`runner cache` says what is held and by whom, and removes what it is told to, and nothing else."""

import json
import os
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.trial.cache import Cache
from runner.trial.cache_contents import CachedItem, PruneFilter, list_items, prune


@pytest.fixture
def storage(tmp_path):
    """A storage with two trainings, of which one trial has one, and a folder that grows."""
    runs = tmp_path / "runs"
    cache = Cache(runs / ".cache")
    for key, size in (("a" * 64, 10), ("b" * 64, 5000)):
        entry = cache.entry("trained", key)
        entry.folder.parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / key).write_text("x" * size)
        entry.publish({"model": tmp_path / key}, "x/trial-1")
    (cache.growing("encoded", "c" * 64) / "0.safetensors").write_text("xyz")
    (runs / "x" / "trial-1").mkdir(parents=True)
    steps = {"train": {"cache": f"trained/{'a' * 64}"}, "score": {"status": "finished"}}
    (runs / "x" / "trial-1" / "record.json").write_text(json.dumps({"steps": steps}))
    return runs


def by_key(rows):
    return {row.key[0]: row for row in rows}


def test_each_thing_is_listed_with_its_size_and_its_users(storage):
    rows = by_key(list_items(Cache(storage / ".cache"), storage))
    assert {row.kind for row in rows.values()} == {"encoded", "trained"}
    assert (rows["a"].used_by, rows["b"].used_by, rows["c"].used_by) == (("x/trial-1",), (), None)
    assert rows["b"].size - rows["b"].freed == 5000, "the trial has a link to it"
    assert (rows["c"].size, rows["c"].freed, rows["c"].made_by) == (3, 3, None)


def test_what_is_taken_from_is_young_again(storage, tmp_path):
    cache = Cache(storage / ".cache")
    entry = cache.entry("trained", "a" * 64)
    os.utime(entry.folder / "entry.json", (0, 0))
    assert by_key(list_items(cache, storage))["a"].last_used.year == 1970
    entry.take(tmp_path / "taken")
    assert datetime.now(UTC) - by_key(list_items(cache, storage))["a"].last_used < timedelta(hours=1)


times = st.timedeltas(timedelta(0), timedelta(days=100))
held = st.builds(
    CachedItem,
    kind=st.just("trained"),
    key=st.just("a"),
    place=st.just("here"),
    size=st.integers(0, 100),
    freed=st.just(0),
    last_used=times.map(lambda ago: datetime(2026, 1, 1, tzinfo=UTC) - ago),
    made_by=st.none(),
    used_by=st.sampled_from([None, (), ("x/trial-1",)]),
)


@given(held, st.none() | times, st.none() | st.integers(0, 100), st.booleans())
def test_all_that_is_given_must_apply(row, older, larger, unused):
    now = datetime(2026, 1, 1, tzinfo=UTC)
    told = PruneFilter(older, larger, unused).apply(row, now)
    each = [
        PruneFilter(older_than=older).apply(row, now),
        PruneFilter(larger_than=larger).apply(row, now),
        PruneFilter(unused=unused).apply(row, now),
    ]
    assert told == all(each)
    assert not (unused and told and row.used_by != ())


def test_pruning_takes_what_killed_trials_left_along(storage):
    cache = Cache(storage / ".cache")
    old, new = (cache.root / "trained" / f".{name}.unfinished.1" for name in ("old", "new"))
    for left in (old, new):
        left.mkdir()
    os.utime(old, (0, 0))
    prune(cache, [by_key(list_items(cache, storage))["b"]])
    assert set(by_key(list_items(cache, storage))) == {"a", "c"}
    assert not old.exists()
    assert new.exists()


def test_a_mirror_is_listed_and_pruned_too(storage, tmp_path):
    cache = Cache.of(f"file://{tmp_path / 'mirror'}", storage)
    cache.mirror.send(cache.entry("trained", "b" * 64))
    [row] = [row for row in list_items(cache, storage) if row.at_mirror]
    assert (row.key, row.used_by) == ("b" * 64, None)
    prune(cache, [row])
    assert [row for row in list_items(cache, storage) if row.at_mirror] == []
    assert "b" in by_key(list_items(cache, storage))


def told(workplace, *arguments):
    done = workplace.run("cache", *arguments, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_the_command(storage, workplace):
    assert len(told(workplace)["entries"]) == 3
    shown = workplace.run("cache").stdout
    assert "x/trial-1" in shown
    assert "nobody" in shown
    dry = told(workplace, "--unused", "--dry-run")
    assert ([row["key"][0] for row in dry["chosen"]], dry["removed"]) == (["b"], 0)
    assert told(workplace, "--larger-than", "1kB", "--older-than", "1h")["removed"] == 0
    done = told(workplace, "--larger-than", "1kB")
    assert (done["removed"], {row["key"][0] for row in done["entries"]}) == (1, {"a", "c"})


@pytest.mark.parametrize("arguments", [("--older-than", "soon"), ("--larger-than", "5"), ("--dry-run",)])
def test_what_the_command_does_not_understand_is_said_with_what_it_would(workplace, arguments):
    done = workplace.run("cache", *arguments)
    assert done.returncode == 2
    assert arguments[0] in done.stderr
    assert "Traceback" not in done.stderr
