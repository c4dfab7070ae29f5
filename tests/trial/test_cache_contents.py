"""`runner cache` lists items with their users, and deletes only the items that match the filter."""

import json
import os
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.files import SIZE_UNITS, parse_size
from runner.spec.experiment_spec import ComputeOptions
from runner.trial.cache_and_mirror import Cache
from runner.trial.cache_contents import CachedItem, PruneFilter, list_items, prune
from tests.permissions import permissions_apply


@pytest.fixture
def storage(tmp_path):
    """A storage with two cached trainings, one of them used by a trial, and a folder of encoded samples."""
    runs = tmp_path / "runs"
    cache = Cache(runs / ".cache")
    for key, size in (("a" * 64, 10), ("b" * 64, 5000)):
        entry = cache.entry("trained", key)
        entry.folder.parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / key).write_text("x" * size)
        entry.publish({"model": tmp_path / key}, "x/trial-1", "run-1")
    encoded = cache.root / "encoded" / ("c" * 64)
    encoded.mkdir(parents=True)
    (encoded / "0.safetensors").write_text("xyz")
    (runs / "x" / "trial-1").mkdir(parents=True)
    steps = {"train": {"cache": f"trained/{'a' * 64}"}, "score": {"status": "finished"}}
    record = {"steps": steps, "cache_items": [f"encoded/{'c' * 64}"]}
    (runs / "x" / "trial-1" / "record.json").write_text(json.dumps(record))
    return runs


def by_key(rows):
    return {row.key[0]: row for row in rows}


def test_items_are_listed_with_size_and_users(storage):
    rows = by_key(list_items(Cache(storage / ".cache"), storage, pytest.fail))
    assert {row.kind for row in rows.values()} == {"encoded", "trained"}
    assert (rows["a"].used_by, rows["b"].used_by, rows["c"].used_by) == (("x/trial-1",), (), ("x/trial-1",))
    assert rows["b"].size - rows["b"].reclaimable_size == 5000, "the trial has a link to it"
    assert (rows["c"].size, rows["c"].reclaimable_size, rows["c"].made_by) == (3, 3, None)


def test_reusing_an_entry_updates_its_last_use(storage, tmp_path):
    cache = Cache(storage / ".cache")
    entry = cache.entry("trained", "a" * 64)
    os.utime(entry.folder / "entry.json", (0, 0))
    assert by_key(list_items(cache, storage, pytest.fail))["a"].last_used.year == 1970
    entry.link_into(tmp_path / "taken")
    assert datetime.now(UTC) - by_key(list_items(cache, storage, pytest.fail))["a"].last_used < timedelta(hours=1)


times = st.timedeltas(timedelta(0), timedelta(days=100))
held = st.builds(
    CachedItem,
    kind=st.just("trained"),
    key=st.just("a"),
    location=st.just("here"),
    size=st.integers(0, 100),
    reclaimable_size=st.just(0),
    last_used=times.map(lambda ago: datetime(2026, 1, 1, tzinfo=UTC) - ago),
    made_by=st.none(),
    used_by=st.sampled_from([None, (), ("x/trial-1",)]),
)


@given(held, st.none() | times, st.none() | st.integers(0, 100), st.booleans())
def test_an_item_must_match_all_criteria(row, older, larger, unused):
    now = datetime(2026, 1, 1, tzinfo=UTC)
    told = PruneFilter(older, larger, unused).matches(row, now)
    each = [
        PruneFilter(older_than=older).matches(row, now),
        PruneFilter(larger_than=larger).matches(row, now),
        PruneFilter(unused=unused).matches(row, now),
    ]
    assert told == all(each)
    assert not (unused and told and row.used_by != ())


@given(st.lists(held, max_size=12), st.integers(0, 400), st.data())
def test_the_least_recently_used_are_deleted_until_the_rest_fits(items, max_size, data):
    items = [replace(item, key=str(number)) for number, item in enumerate(items)]
    items = [replace(item, reclaimable_size=data.draw(st.integers(0, item.size))) for item in items]
    now = datetime(2026, 1, 1, tzinfo=UTC)
    criteria = PruneFilter(max_size=max_size, unused=data.draw(st.booleans()))
    chosen, candidates = criteria.select(items, now), [item for item in items if criteria.matches(item, now)]
    left = sum(item.reclaimable_size for item in items) - sum(item.reclaimable_size for item in chosen)
    deletable = [item for item in candidates if item.reclaimable_size]
    assert left <= max_size or chosen == sorted(deletable, key=lambda item: (item.last_used, item.key))
    assert all(item in deletable for item in chosen)
    assert not chosen or left + chosen[-1].reclaimable_size > max_size, "no item is deleted without need"
    latest = max((item.last_used for item in chosen), default=now - timedelta(days=999))
    assert all(item.last_used >= latest for item in deletable if item not in chosen)


def test_pruning_deletes_old_unfinished_folders(storage):
    cache = Cache(storage / ".cache")
    old, new = (cache.root / "trained" / f".{name}.unfinished.1" for name in ("old", "new"))
    for left in (old, new):
        left.mkdir()
    os.utime(old, (0, 0))
    prune(cache, [by_key(list_items(cache, storage, pytest.fail))["b"]])
    assert set(by_key(list_items(cache, storage, pytest.fail))) == {"a", "c"}
    assert not old.exists()
    assert new.exists()


def test_mirror_items_are_listed_and_pruned(storage, tmp_path):
    cache = Cache.open(f"file://{tmp_path / 'mirror'}", storage)
    cache.mirror.upload(cache.entry("trained", "b" * 64))
    [row] = [row for row in list_items(cache, storage, pytest.fail) if row.is_remote]
    assert (row.key, row.used_by) == ("b" * 64, None)
    prune(cache, [row])
    assert [row for row in list_items(cache, storage, pytest.fail) if row.is_remote] == []
    assert "b" in by_key(list_items(cache, storage, pytest.fail))


def change_description(folder, **changes):
    file = folder / "entry.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def test_entries_that_lead_out_of_the_cache_are_passed_over_by_name_and_not_pruned(storage, tmp_path):
    precious = tmp_path / "precious" / "work"
    precious.mkdir(parents=True)
    (precious / "file").write_text("mine")
    cache, warnings = Cache(storage / ".cache"), []
    (cache.root / "linked").symlink_to(precious.parent)
    (cache.root / "trained" / "linked-key").symlink_to(precious)
    os.utime(precious, (0, 0))
    change_description(cache.root / "trained" / ("b" * 64), kind="..", key="precious")
    items = list_items(cache, storage, warnings.append)
    assert set(by_key(items)) == {"a", "c"}
    assert len(warnings) == 3
    assert all("passed over an entry of the cache" in warning for warning in warnings)
    assert all(any(name in warning for warning in warnings) for name in ("linked/work", "linked-key", "b" * 64))
    prune(cache, items)
    assert (precious / "file").read_text() == "mine"
    assert (cache.root / "trained" / ("b" * 64)).exists()


@pytest.mark.parametrize(
    "changes", [{"kind": "..", "key": "precious"}, {"upload": "../.."}, {"files": 1}, {"key": "b"}]
)
def test_mirror_entries_of_another_form_are_passed_over_by_name_and_not_pruned(storage, tmp_path, changes):
    cache, warnings = Cache.open(f"file://{tmp_path / 'mirror'}", storage), []
    for key in ("a" * 64, "b" * 64):
        cache.mirror.upload(cache.entry("trained", key))
    change_description(tmp_path / "mirror" / "trained" / ("b" * 64), **changes)
    (tmp_path / "precious").mkdir()
    remote = [row for row in list_items(cache, storage, warnings.append) if row.is_remote]
    assert [row.key for row in remote] == ["a" * 64]
    [warning] = warnings
    assert "b" * 64 in warning
    prune(cache, remote)
    assert (tmp_path / "precious").is_dir()


@pytest.mark.parametrize("content", ["{", "[]", '{"steps": 1}', '{"steps": {"train": 1}}'])
def test_an_unreadable_record_of_a_trial_is_named(storage, content):
    warnings = []
    record = storage / "x" / "trial-1" / "record.json"
    record.write_text(content)
    assert len(list_items(Cache(storage / ".cache"), storage, warnings.append)) == 3
    [warning] = warnings
    assert str(record) in warning


@pytest.mark.parametrize("private", ["x", "x/trial-1", "x/trial-1/record.json"])
def test_a_trial_of_another_user_is_named(storage, private):
    (storage / private).chmod(0)
    warnings = []
    with permissions_apply():
        assert len(list_items(Cache(storage / ".cache"), storage, warnings.append)) == 3
    [warning] = warnings
    assert str(storage / private) in warning
    assert "may count as unused" in warning
    (storage / private).chmod(0o755)


def cache_json(workplace, *arguments):
    done = workplace.run("cache", *arguments, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_command_lists_and_deletes(storage, workplace):
    assert len(cache_json(workplace)["entries"]) == 3
    shown = workplace.run("cache").stdout
    assert "x/trial-1" in shown
    assert "nobody" in shown
    dry = cache_json(workplace, "--unused", "--dry-run")
    assert ([row["key"][0] for row in dry["chosen"]], dry["removed"]) == (["b"], 0)
    assert cache_json(workplace, "--larger-than", "1kB", "--older-than", "1h")["removed"] == 0
    done = cache_json(workplace, "--larger-than", "1kB")
    assert (done["removed"], {row["key"][0] for row in done["entries"]}) == (1, {"a", "c"})


@given(st.decimals(0, 10**6, places=3), st.sampled_from(list(SIZE_UNITS)), st.sampled_from(["", " "]))
def test_sizes_are_numbers_with_a_unit(number, unit, space):
    assert parse_size(f"{number:f}{space}{unit}") == pytest.approx(float(number) * SIZE_UNITS[unit], abs=1)


@pytest.mark.parametrize("text", ["", "5", "GB", "-1GB", "1.GB", "5gb", "1e3MB", "5GiB"])
def test_another_size_is_an_error_in_a_spec(text):
    with pytest.raises(ValueError, match="is not a size such as 500MB"):
        ComputeOptions(cache_limit=text)


def test_command_limits_the_size(storage, workplace, tmp_path):
    for place, name in enumerate("abc"):
        [folder] = storage.glob(f".cache/*/{name * 64}")
        for file in (folder, *folder.iterdir()):
            os.utime(file, (place, place))
    (tmp_path / ("b" * 64)).unlink()  # The cache has the only copy of this file.
    sizes = {row["key"][0]: row["freed"] for row in cache_json(workplace)["entries"]}
    assert sizes["b"] > 5000 > sizes["a"] > 0 and sizes["c"] == 3
    assert cache_json(workplace, "--max-size", "10kB")["chosen"] == []
    dry = cache_json(workplace, "--max-size", "1kB", "--dry-run")
    assert [row["key"][0] for row in dry["chosen"]] == ["a", "b"]
    assert [row["key"][0] for row in cache_json(workplace, "--max-size", "1kB", "--unused")["chosen"]] == ["b"]
    assert "deleted" in workplace.run("cache", "--max-size", "0kB").stdout
    assert cache_json(workplace)["entries"] == []


@pytest.mark.parametrize(
    "arguments", [("--max-size", "5"), ("--older-than", "soon"), ("--larger-than", "5"), ("--dry-run",)]
)
def test_invalid_options_are_refused_with_a_remedy(workplace, arguments):
    done = workplace.run("cache", *arguments)
    assert done.returncode == 2
    assert arguments[0] in done.stderr
    assert "Traceback" not in done.stderr
