"""What `runner doctor` finds: packages, GPUs and their links, the storage, clocks, locks, and connections of nodes."""

import os
import subprocess
import sys
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.preflight import doctor
from runner.preflight.doctor import (
    LINKS,
    Finding,
    check_gpus,
    check_machine,
    check_software,
    check_storage,
    clock_skew,
    connection_findings,
    gpu_links,
    locks_exclude,
    skew_findings,
    summary,
    unmet_requirements,
    worst_level,
)
from runner.spec.experiment_spec import ComputeOptions

TWO_A100 = ComputeOptions(workers=2, gpus_per_worker=1, accelerator="A100")


def _levels(findings):
    return [finding.level for finding in findings]


@pytest.fixture
def distribution(tmp_path, monkeypatch):
    """Return a function that installs a distribution `study-parts` with requirements."""

    def install(*requirements):
        info = tmp_path / "study_parts-1.0.dist-info"
        info.mkdir(exist_ok=True)
        lines = ["Metadata-Version: 2.1", "Name: study-parts", "Version: 1.0"]
        (info / "METADATA").write_text("\n".join([*lines, *(f"Requires-Dist: {each}" for each in requirements)]) + "\n")
        monkeypatch.syspath_prepend(str(tmp_path))

    return install


def test_the_packages_of_this_environment_have_the_required_versions():
    [finding] = check_software()
    assert finding.level == "ok"
    assert "torch" in finding.text


def test_packages_that_are_missing_or_have_another_version_are_named(distribution):
    distribution(
        "pydantic>=999", "no-such-package<2", "typer>=0.1", 'absent; extra == "gpu"', 'absent; python_version < "3"'
    )
    missing, other = sorted(unmet_requirements("study-parts"))
    assert missing == "study-parts requires no-such-package<2, which is not installed"
    assert other.startswith("study-parts requires pydantic>=999; 2.")


@st.composite
def machines(draw):
    """Draw the links of a machine's GPUs, and what `nvidia-smi topo -m` prints of them."""
    number = draw(st.integers(2, 6))
    kinds = st.sampled_from(["SYS", "NODE", "PHB", "PXB", "PIX", "NV1", "NV12"])
    links = {(i, j): draw(kinds) for i in range(number) for j in range(i + 1, number)}
    names = [f"GPU{index}" for index in range(number)]
    lines = ["\t\x1b[4m" + "\t".join([*names, "NIC0", "CPU Affinity", "NUMA Affinity"]) + "\x1b[0m"]
    for row in range(number):
        cells = ["X" if row == column else links[min(row, column), max(row, column)] for column in range(number)]
        lines.append("\t".join([names[row], *(f" {cell} " for cell in cells), "SYS", "0-31", "0"]))
    return links, "\n".join([*lines, "NIC0\t" + "SYS\t" * number, "", "Legend:", "  SYS  = ...", "  NV#  = ..."])


@given(machines())
def test_links_are_read_as_the_driver_prints_them(machine):
    links, printed = machine
    assert gpu_links(printed) == links


@given(st.text())
def test_any_other_output_has_no_links_or_known_links(text):
    assert all(link.startswith(tuple(LINKS)) for link in gpu_links(text).values())


@pytest.fixture
def gpus(tmp_path, monkeypatch):
    """Return a function that puts an `nvidia-smi` of two GPUs on the PATH, linked as it is told."""

    def install(link):
        program = tmp_path / "bin" / "nvidia-smi"
        program.parent.mkdir(exist_ok=True)
        program.write_text(
            "#!/bin/sh\n"
            f'if [ "$1" = topo ]; then printf "\\tGPU0\\tGPU1\\nGPU0\\t X \\t{link}\\nGPU1\\t{link}\\t X \\n"\n'
            'else printf "NVIDIA A100-SXM4-80GB, 81920\\nNVIDIA A100-SXM4-80GB, 81920\\n"; fi\n'
        )
        program.chmod(0o755)
        monkeypatch.setenv("PATH", str(program.parent), prepend=os.pathsep)

    return install


def test_gpus_are_named_with_their_links(gpus, monkeypatch):
    monkeypatch.setattr(doctor.metadata, "version", lambda _: "2.13.0+cu130")
    gpus("NV12")
    named, linked = check_gpus(TWO_A100)
    assert (named.level, linked.level) == ("ok", "ok")
    assert "A100-SXM4-80GB (86 GB)" in named.text
    assert linked.text == "the slowest link between two GPUs is NV12 (NVLink)"
    gpus("SYS")
    assert _levels(check_gpus(TWO_A100)) == ["ok", "warning"]
    assert _levels(check_gpus(ComputeOptions(gpus_per_worker=1))) == ["ok", "ok"]


def test_a_build_of_torch_for_cpus_is_a_problem_where_gpus_are_requested(gpus, monkeypatch):
    monkeypatch.setattr(doctor.metadata, "version", lambda _: "2.13.0+cpu")
    gpus("NV12")
    assert _levels(check_gpus(TWO_A100)) == ["ok", "problem", "ok"]
    assert _levels(check_gpus(ComputeOptions())) == ["ok", "warning", "ok"]


def test_gpus_that_are_missing_are_a_problem(monkeypatch):
    monkeypatch.setattr(doctor, "local_gpus", list)
    [finding] = check_gpus(TWO_A100)
    assert finding.level == "problem"
    assert "requests 2 GPU(s) of type A100; this machine has none" in finding.text
    [finding] = check_gpus(ComputeOptions())
    assert finding.level == "ok"


def test_a_machine_with_little_room_and_few_open_files_is_told(monkeypatch):
    assert _levels(check_machine())[0] == "ok"
    usage = doctor.shutil.disk_usage("/")
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda _: usage._replace(free=10**9))
    monkeypatch.setattr(doctor.resource, "getrlimit", lambda _: (256, 1024))
    _, room, files = check_machine()
    assert "1.0 GB are free for temporary files" in room.text
    assert "may open 1024 files" in files.text
    assert (room.level, files.level) == ("warning", "warning")


def test_storage_is_tried_and_left_as_it_was(tmp_path, monkeypatch):
    monkeypatch.setattr(doctor, "MIN_WRITE_SPEED", 0)
    [finding] = check_storage(tmp_path, keeps_database=True)
    assert finding.level == "ok"
    assert list(tmp_path.iterdir()) == []
    [finding] = check_storage(tmp_path / "runs" / "new", keeps_database=True)
    assert "does not exist yet" in finding.text
    assert list(tmp_path.iterdir()) == []


def test_slow_lost_and_shared_storage_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(doctor, "write_speed", lambda _: 9e6)
    monkeypatch.setattr(doctor, "file_system", lambda _: "tmpfs")
    slow, lost = check_storage(tmp_path, keeps_database=True)
    assert "9 MB/s written" in slow.text
    assert "lost when the machine stops" in lost.text
    monkeypatch.setattr(doctor, "file_system", lambda _: "nfs4")
    assert "SQLite database would lie on nfs4" in list(check_storage(tmp_path, keeps_database=True))[-1].text
    assert _levels(check_storage(tmp_path, keeps_database=False)) == ["warning"]


def test_locks_that_do_not_hold_and_a_wrong_clock_are_told(tmp_path, monkeypatch):
    monkeypatch.setattr(doctor, "MIN_WRITE_SPEED", 0)
    monkeypatch.setattr(doctor, "locks_exclude", lambda _: False)
    monkeypatch.setattr(doctor, "clock_skew", lambda _: -75.0)
    _, clock, locks = check_storage(tmp_path, keeps_database=False)
    assert clock.text == "the clock of the storage is 75 seconds behind this one"
    assert locks.level == "problem"


def test_a_folder_that_cannot_be_written_is_a_problem(tmp_path):
    (tmp_path / "file").touch()
    [finding] = check_storage(tmp_path / "file", keeps_database=False)
    assert finding.level == "problem"
    assert "cannot be written: Not a directory" in finding.text


def test_a_locked_file_excludes_other_processes(tmp_path):
    assert locks_exclude(tmp_path / "lock")
    done = subprocess.run([sys.executable, "-c", doctor._TRY_LOCK, tmp_path / "lock"], check=False)
    assert done.returncode == 0  # nobody holds it any more


def test_the_clock_of_a_file_system_is_compared(tmp_path, monkeypatch):
    assert clock_skew(tmp_path / "now") == pytest.approx(0, abs=doctor.MAX_SKEW_SECONDS)
    real = time.time
    monkeypatch.setattr(doctor.time, "time", lambda: real() - 100)
    assert clock_skew(tmp_path / "later") == pytest.approx(100, abs=doctor.MAX_SKEW_SECONDS)


def test_clocks_of_nodes_are_compared():
    findings = list(skew_findings({"a": 0.4, "b": 61.0, "c": -5.2}))
    assert [finding.text for finding in findings] == [
        "the clock of node b is 61 seconds ahead of that of this machine",
        "the clock of node c is 5 seconds behind that of this machine",
    ]


def test_connections_between_nodes_are_reported_in_each_direction():
    fine = {("a", "b"): "", ("b", "a"): ""}
    [finding] = connection_findings(["a", "b"], fine)
    assert finding.level == "ok"
    [finding] = connection_findings(["a", "b"], {**fine, ("b", "a"): "port 4000: timed out"})
    assert finding.text == "node b cannot connect to node a: port 4000: timed out"
    assert list(connection_findings(["a"], {})) == []


def test_the_most_serious_finding_decides():
    fine, doubtful, bad = (Finding("storage", level, "", "") for level in ("ok", "warning", "problem"))
    assert worst_level([]) == worst_level([fine]) == "ok"
    assert worst_level([fine, doubtful]) == "warning"
    assert summary([doubtful, bad, fine])["level"] == "problem"
