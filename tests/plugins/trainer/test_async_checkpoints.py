"""Checkpoints by time, and checkpoints that are written while the training continues."""

import errno
import os
import threading
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from ranks import together
from test_damaged_checkpoints import Training
from test_state import step
from torch import distributed
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor

from plugins.trainer import checkpoint_writer, train_loop
from plugins.trainer.accelerator_and_sharding import make_accelerator
from plugins.trainer.checkpoint_writer import BackgroundWriter, assign_owners, own_part
from plugins.trainer.sft_options import SftOptions
from runner.errors import StepError
from runner.records import CheckpointSchedule

STEPS = st.integers(1, 60)
SCHEDULES = st.builds(
    CheckpointSchedule,
    seconds=st.none() | st.floats(1, 100),
    steps=st.none() | STEPS,
    steps_per_epoch=STEPS,
    best_steps=st.none() | STEPS,
)


@given(SCHEDULES, st.integers(0, 200), st.floats(0.01, 50))
def test_the_number_of_checkpoints_is_that_of_a_training_that_asks_after_each_step(schedule, num_steps, seconds):
    last, saved = 0, []
    for done in range(1, num_steps):
        is_best = schedule.best_steps is not None and done % schedule.best_steps == 0
        if is_best or schedule.is_due(done, (done - last) * seconds):
            last = done
            saved.append(done)
    assert schedule.count(num_steps, seconds) == len(saved)


@given(st.floats(1, 100), STEPS, st.integers(1, 300), st.floats(0.01, 50))
def test_checkpoints_by_time_are_at_least_half_the_time_apart(seconds, steps_per_epoch, num_steps, step_seconds):
    number = CheckpointSchedule(seconds, None, steps_per_epoch).count(num_steps, step_seconds)
    assert number * max(step_seconds, seconds / 2) <= num_steps * step_seconds * (1 + 1e-9)


def test_a_checkpoint_is_due_after_its_time_and_at_the_end_of_an_epoch_after_half_of_it():
    schedule = SftOptions().checkpoint_schedule(steps_per_epoch=10)
    assert [schedule.is_due(step, 1200) for step in (9, 10)] == [True, True]
    assert [schedule.is_due(step, 1199) for step in (9, 10)] == [False, True]
    assert [schedule.is_due(step, 599) for step in (9, 10)] == [False, False]


def test_three_epochs_of_forty_minutes_write_two_checkpoints():
    assert SftOptions().checkpoint_schedule(steps_per_epoch=967).count(2901, 40 * 60 / 2901) == 2


def test_a_schedule_that_never_saves_is_refused():
    with pytest.raises(ValidationError, match="set one of them, such as save_minutes: 20"):
        SftOptions(save_minutes=None)
    assert SftOptions(save_minutes=None, save_steps=5).checkpoint_schedule(3).is_due(5, 0)


def test_a_timer_measures_from_the_last_checkpoint(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(train_loop, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    timer = train_loop.SaveTimer(CheckpointSchedule(60, None, 1000))
    due = []
    for clock[0] in (30, 60, 90, 119, 120):
        due.append(timer.is_due(1))
        if due[-1]:
            timer.restart()
    assert due == [False, True, False, False, True]


@given(st.lists(st.integers(0, 10**9), max_size=50), st.integers(1, 9))
def test_no_worker_writes_more_than_an_equal_part_and_one_tensor(sizes, num_workers):
    loads = [0] * num_workers
    for size, owner in zip(sizes, assign_owners(sizes, num_workers), strict=True):
        loads[owner] += size
    assert max(loads) <= sum(sizes) / num_workers + max(sizes, default=0)


@given(st.lists(st.integers(0, 9), max_size=20), st.integers(1, 5))
def test_workers_write_each_tensor_once(sizes, num_workers):
    tensors = {str(index): torch.zeros(size) for index, size in enumerate(sizes)}
    parts = [own_part(tensors, worker, num_workers) for worker in range(num_workers)]
    assert sorted(name for part in parts for name in part) == sorted(tensors)


class Disk:
    """Lets a write wait until it is released, and can be full."""

    def __init__(self, monkeypatch):
        self.released, self.is_full = threading.Event(), False
        write_tensors = checkpoint_writer.write_tensors

        def write(*arguments):
            assert self.released.wait(60)
            if self.is_full:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            write_tensors(*arguments)

        monkeypatch.setattr(checkpoint_writer, "write_tensors", write)


@pytest.fixture
def disk(monkeypatch):
    return Disk(monkeypatch)


def test_a_checkpoint_holds_the_state_of_its_step_though_the_training_goes_on(tmp_path, disk):
    training = Training(tmp_path, is_async=True, threads=3).train(2)
    step(*training.parts)
    assert training.saved() == [".step-00000002"]
    assert Training(tmp_path).restore() == 0
    disk.released.set()
    training.checkpoints.wait()
    resumed = Training(tmp_path)
    assert resumed.restore() == 2
    assert resumed.parts[0]["used"].weight.equal(training.weights[2])
    step(*resumed.parts)
    assert resumed.parts[0]["used"].weight.equal(training.parts[0]["used"].weight)
    training.checkpoints.close()


def test_a_checkpoint_has_its_name_before_anything_waits_for_it(tmp_path):
    training = Training(tmp_path, is_async=True).train(2)
    training.checkpoints.close()
    assert training.saved() == ["step-00000002"]


def test_the_next_checkpoint_waits_for_the_one_before_and_removes_the_oldest(tmp_path):
    training = Training(tmp_path, limit=2, is_async=True).train(2, 4, 6)
    training.checkpoints.close()
    assert training.saved() == ["step-00000004", "step-00000006"]


def test_a_full_disk_is_an_error_at_the_next_checkpoint_and_leaves_the_one_before(tmp_path, disk):
    disk.released.set()
    training = Training(tmp_path, is_async=True).train(2)
    training.checkpoints.wait()
    disk.is_full = True
    training.train(4)
    with pytest.raises(
        StepError,
        match=r"after step 4 could not be written .*No space left.*continues from the checkpoint after step 2",
    ):
        training.checkpoints.save(6)
    assert training.saved() == ["step-00000002"]
    training.checkpoints.close()


def test_the_copy_is_freed_when_it_is_written(tmp_path):
    writer = BackgroundWriter(1)
    weight = torch.ones(3)
    staged = writer.stage({"weights/a": weight})
    weight.zero_()
    assert staged["weights/a"].equal(torch.ones(3))
    writer.submit(staged, tmp_path, lambda: None).result()
    assert staged == {}
    writer.close()


def _work(rank, folder):
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2", MASTER_ADDR="localhost", MASTER_PORT="0")
    distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    accelerator = make_accelerator("fp32")
    training = Training(folder / "saved", accelerator, is_async=True, threads=2).train(2)
    # The training goes on with its own collective operations.
    accelerator.wait_for_everyone()
    training.train(4)
    training.checkpoints.wait()
    resumed = Training(folder / "saved", accelerator)
    assert resumed.restore() == 4
    assert resumed.parts[0]["used"].weight.equal(training.weights[4])
    sharded = distribute_tensor(torch.arange(6.0), init_device_mesh("cpu", (2,)), [Shard(0)])
    writer = BackgroundWriter(1)
    staged = writer.stage({"whole": torch.ones(4), "sharded": sharded})
    assert staged["sharded"].to_local().tolist() == [[0, 1, 2], [3, 4, 5]][rank]
    assert ("whole" in staged) == (rank == 0)
    if rank == 0:
        (folder / "both").mkdir()
    accelerator.wait_for_everyone()
    writer.submit(staged, folder / "both", lambda: None).result()
    writer.close()
    training.checkpoints.close()
    distributed.destroy_process_group()


def test_two_workers_each_write_their_part_in_the_background(tmp_path):
    together(_work, tmp_path)
    names = FileSystemReader(tmp_path / "both").read_metadata().state_dict_metadata.keys()
    assert names == {"whole", "sharded"}
