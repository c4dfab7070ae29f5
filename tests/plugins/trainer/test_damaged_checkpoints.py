"""Damaged checkpoints are passed over with a warning; a full disk leaves the one before; none left is an error."""

import errno
import os
import shutil
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from ranks import together
from test_state import parts, step
from torch import distributed
from torch.distributed.checkpoint.filesystem import FileSystem

from plugins.trainer import checkpoint_reader
from plugins.trainer.accelerator_and_sharding import make_accelerator
from plugins.trainer.checkpoint import Checkpoints
from plugins.trainer.checkpoint_reader import _DescriptionUnpickler
from plugins.trainer.sft_options import SftOptions
from plugins.trainer.training_history_and_warnings import TrainingHistory
from plugins.trainer.training_state import TrainingState
from runner.errors import LostWorkerError, OutOfMemoryError, StepError

ONE_WORKER = SimpleNamespace(is_main_process=True, process_index=0, num_processes=1, wait_for_everyone=lambda: None)
FILES = (".metadata", "__0_0.distcp", "course.pt", "random-0.pt")
DAMAGES = {
    "empty": lambda content: b"",
    "half": lambda content: content[: len(content) // 2],
    "cut": lambda content: content[:-1],
    "zeros": lambda content: bytes(len(content)),
    "removed": lambda content: None,
}


class Training:
    """A small training, its checkpoints, and the weights after each step."""

    def __init__(self, folder, accelerator=ONE_WORKER, limit=9, **writing):
        self.parts, self.folder = parts(seed=1), folder
        self.history = TrainingHistory(SftOptions(validation_ratio=0.1).metric_for_best_model)
        self.checkpoints = Checkpoints(folder, limit, accelerator, TrainingState(*self.parts), self.history, **writing)
        self.warnings, self.weights = [], {}

    def train(self, *steps, losses=(), best=None):
        """Take these steps, with a checkpoint after each."""
        for number, done in enumerate(steps):
            step(*self.parts)
            if losses:
                self.history.add(done, {"validation/loss": losses[number]})
            self.weights[done] = self.parts[0]["used"].weight.detach().clone()
            self.checkpoints.save(done, best)
        return self

    def restore(self, **options):
        return self.checkpoints.restore(self.warnings.append, **options)

    def saved(self):
        return sorted(each.name for each in self.folder.iterdir())


def path(folder, done):
    return folder / f"step-{done:08d}"


def damage(file, change):
    content = change(file.read_bytes())
    file.unlink()
    if content is not None:
        file.write_bytes(content)


@pytest.mark.parametrize("kind", DAMAGES)
@pytest.mark.parametrize("file", FILES)
def test_the_checkpoint_before_a_damaged_one_is_restored_with_a_warning(tmp_path, file, kind):
    expected = Training(tmp_path).train(2, 4, 6).weights
    damage(path(tmp_path, 6) / file, DAMAGES[kind])
    resumed = Training(tmp_path)
    assert resumed.restore() == 4
    [warning] = resumed.warnings
    assert str(path(tmp_path, 6)) in warning
    assert "continues from the checkpoint after step 4" in warning
    assert resumed.parts[0]["used"].weight.equal(expected[4])
    resumed.train(6)
    assert resumed.weights[6].equal(expected[6])


@pytest.mark.parametrize("file", ["course.pt", "random-0.pt"])
def test_a_checkpoint_with_other_values_than_a_training_writes_is_passed_over(tmp_path, file):
    expected = Training(tmp_path).train(2, 4).weights
    content = torch.load(path(tmp_path, 4) / file)
    for entry in content:
        torch.save({**content, entry: [[-1]]}, path(tmp_path, 4) / file)
        resumed = Training(tmp_path)
        if resumed.restore() == 2:
            assert len(resumed.warnings) == 1
            assert resumed.parts[0]["used"].weight.equal(expected[2])
        else:
            assert entry == "cuda"  # A machine without a GPU does not read this entry.


def test_descriptions_with_a_wrong_length_are_damaged_and_no_lack_of_memory(tmp_path, monkeypatch):
    Training(tmp_path).train(2, 4)
    load = _DescriptionUnpickler.load

    def load_wrong_length(unpickler):
        if path(tmp_path, 4) / ".metadata" == Path(unpickler.file.name):
            raise MemoryError
        return load(unpickler)

    class Unpickler(_DescriptionUnpickler):
        def __init__(self, file):
            super().__init__(file)
            self.file = file

        load = load_wrong_length

    monkeypatch.setattr(checkpoint_reader, "_DescriptionUnpickler", Unpickler)
    resumed = Training(tmp_path)
    assert resumed.restore() == 2
    assert "describes more data than fit into memory" in resumed.warnings[0]


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("course.pt", {"workers": 1, "history": {}, "rates": {}}),
        ("course.pt", {"workers": 1, "history": {"figures": {}, "num_skipped": 0}, "rates": {}}),
        ("course.pt", {"workers": 1, "history": {"figures": {"a": 3}, "num_skipped": 0}, "rates": {}}),
        ("course.pt", [1]),
        ("random-0.pt", {"python": [3, [1, 2], None]}),
    ],
)
def test_a_file_with_other_content_counts_as_damaged(tmp_path, file, content):
    Training(tmp_path).train(2, 4)
    torch.save(content, path(tmp_path, 4) / file)
    resumed = Training(tmp_path)
    assert resumed.restore(keep_best=True) == 2
    [warning] = resumed.warnings
    assert f"{path(tmp_path, 4)} is damaged" in warning


@settings(max_examples=30)
@given(file=st.sampled_from(FILES), part=st.floats(0, 1, exclude_max=True))
def test_a_file_cut_anywhere_never_ends_the_training(tmp_path_factory, file, part):
    folder = tmp_path_factory.mktemp("cut")
    Training(folder).train(2, 4)
    damage(path(folder, 4) / file, lambda content: content[: int(part * len(content))])
    resumed = Training(folder)
    assert resumed.restore() == 2
    assert len(resumed.warnings) == 1


def test_several_damaged_checkpoints_each_have_a_warning(tmp_path):
    Training(tmp_path).train(2, 4, 6)
    for done in (4, 6):
        shutil.rmtree(path(tmp_path, done))
        path(tmp_path, done).mkdir()
    resumed = Training(tmp_path)
    assert resumed.restore() == 2
    assert [str(path(tmp_path, done)) in warning for done, warning in zip((6, 4), resumed.warnings, strict=True)]


def test_an_error_names_folder_and_remedy_if_no_checkpoint_can_be_read(tmp_path):
    Training(tmp_path).train(2, 4)
    for done in (2, 4):
        damage(path(tmp_path, done) / "__0_0.distcp", DAMAGES["half"])
    with pytest.raises(
        StepError, match=r"is damaged .*no other checkpoint that can be read; restore .* or remove it"
    ) as e:
        Training(tmp_path).restore()
    assert str(path(tmp_path, 4)) in str(e.value)


def test_a_damaged_checkpoint_is_kept_until_the_next_one_is_written(tmp_path):
    Training(tmp_path).train(2, 4, 6)
    damage(path(tmp_path, 6) / "course.pt", DAMAGES["empty"])
    resumed = Training(tmp_path, limit=1)
    assert resumed.restore() == 4
    assert len(resumed.saved()) == 3
    resumed.train(5)
    assert resumed.saved() == ["step-00000005"]
    assert Training(tmp_path).restore() == 5


def test_a_damaged_checkpoint_is_written_again(tmp_path):
    Training(tmp_path).train(2, 4)
    damage(path(tmp_path, 4) / ".metadata", DAMAGES["removed"])
    resumed = Training(tmp_path)
    resumed.restore()
    resumed.train(4)
    again = Training(tmp_path)
    assert again.restore() == 4
    assert not again.warnings


def test_a_training_goes_back_before_its_best_step_if_those_weights_are_damaged(tmp_path):
    Training(tmp_path).train(2, 4, 6, losses=(3.0, 1.0, 2.0), best=4)
    damage(path(tmp_path, 4) / "__0_0.distcp", DAMAGES["half"])
    resumed = Training(tmp_path)
    assert resumed.restore(keep_best=True) == 2
    assert "step-00000004, which has the best weights, cannot be read" in resumed.warnings[0]
    assert Training(tmp_path).restore(keep_best=False) == 6


def test_best_weights_that_were_damaged_during_the_training_are_an_error(tmp_path):
    training = Training(tmp_path).train(2, 4)
    damage(path(tmp_path, 2) / "__0_0.distcp", DAMAGES["half"])
    with pytest.raises(StepError, match=r"step-00000002, which has the best weights, is damaged.*launch again"):
        training.checkpoints.restore_weights(2)


@pytest.mark.parametrize(
    ("cause", "expected"),
    [(MemoryError(), OutOfMemoryError), (RuntimeError("CUDA error: unspecified launch failure"), LostWorkerError)],
)
def test_too_little_memory_and_a_fault_of_the_gpu_are_not_damage(tmp_path, monkeypatch, cause, expected):
    Training(tmp_path).train(2, 4)

    def fail(self, folder, metadata=None):
        raise cause

    monkeypatch.setattr(TrainingState, "read", fail)
    with pytest.raises(expected):
        Training(tmp_path).restore()


def _fill_disk_after(monkeypatch, num_bytes):
    """Let torch's files end with the error of a full disk after a number of bytes."""
    create_stream, left = FileSystem.create_stream, [num_bytes]

    @contextmanager
    def create(self, name, mode):
        with create_stream(self, name, mode) as stream:
            write = stream.write

            def limited(content):
                left[0] -= len(content)
                if left[0] < 0:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                return write(content)

            yield SimpleNamespace(
                write=limited, tell=stream.tell, fileno=stream.fileno, flush=stream.flush, close=stream.close
            )

    monkeypatch.setattr(FileSystem, "create_stream", create)


@pytest.mark.parametrize("num_bytes", [0, 3000, 14500])
def test_a_disk_that_fills_leaves_the_checkpoint_before_and_the_message_says_disk(tmp_path, monkeypatch, num_bytes):
    training = Training(tmp_path).train(2)
    expected = training.weights[2]
    with monkeypatch.context() as full, pytest.raises(StepError) as error:
        _fill_disk_after(full, num_bytes)
        training.train(4)
    assert "No space left on device" in str(error.value)
    assert "free disk space and launch again, which continues from the checkpoint after step 2" in str(error.value)
    assert training.saved() == ["step-00000002"]
    resumed = Training(tmp_path)
    assert resumed.restore() == 2
    assert resumed.parts[0]["used"].weight.equal(expected)


def test_a_checkpoint_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    training, synced, fsync = Training(tmp_path), set(), os.fsync
    monkeypatch.setattr(os, "fsync", lambda handle: (synced.add(os.fstat(handle).st_ino), fsync(handle)))
    training.train(2)
    checkpoint = path(tmp_path, 2)
    assert {file.stat().st_ino for file in (*checkpoint.iterdir(), checkpoint, tmp_path)} <= synced


def _work(rank, folder):
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2", MASTER_ADDR="localhost", MASTER_PORT="0")
    distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    accelerator = make_accelerator("fp32")
    training = Training(folder / "saved", accelerator).train(2, 4, 6, 8)
    accelerator.wait_for_everyone()
    if rank == 0:
        damage(path(folder / "saved", 8) / "random-1.pt", DAMAGES["removed"])
        damage(path(folder / "saved", 6) / "__1_0.distcp", DAMAGES["half"])
    accelerator.wait_for_everyone()
    resumed = Training(folder / "saved", accelerator)
    assert resumed.restore() == 4
    assert len(resumed.warnings) == 2
    assert resumed.parts[0]["used"].weight.equal(training.weights[4])
    resumed.train(6)
    if rank == 1:
        (folder / "full").touch()
        torch.save = _raise_full
    with pytest.raises(StepError, match=r"No space left.*continues from the checkpoint after step 6"):
        resumed.train(8)
    distributed.destroy_process_group()


def _raise_full(*arguments):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_workers_agree_on_the_checkpoint_and_on_a_failed_write(tmp_path):
    together(_work, tmp_path)
