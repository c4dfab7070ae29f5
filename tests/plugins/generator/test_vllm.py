"""The generator `vllm` with a program in place of `vllm serve`: what is started, asked and ended, and how it fails."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from itertools import chain
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from plugins.generator import run_until_closed
from plugins.generator.generator_options import VllmOptions, python_environment
from plugins.generator.vllm import VllmGenerator
from plugins.generator.vllm_server import divide_gpus, own_part, serve_command
from runner.errors import RequirementError, SpecError, StepError
from runner.records import ImagePart, Rendered, TextPart
from runner.spec.load import load_spec
from runner.stages import LocatedStr, StopRequestedError

STAND_IN = Path(__file__).parent / "vllm_stand_in.py"

SPEC = """\
name: served
data: {type: synthetic, path: data, train: 12, test: 4}
adapter: {type: pfa, tasks: [ner]}
model: {type: qwen2_5_vl, checkpoint: folder}
trainer: none
optimizer: none
generator:
  type: vllm
  python: vllm/bin/python
  version: 0.30.0
metrics: [{type: ner_f1}]
tracker: {type: mlflow}
compute: {gpus_per_worker: 1}
"""


@pytest.fixture
def environment(tmp_path, monkeypatch):
    """A function that creates a Python with the stand-in; returns the options, and the notes of the servers."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)

    class Environment:
        python = tmp_path / "bin" / "python"

        def __call__(self, version="0.30.0", **settings):
            self.python.parent.mkdir(exist_ok=True)
            (tmp_path / "settings.json").write_text(json.dumps({"version": version, **settings}))
            # The stand-in uses the standard library alone, and starts faster without site-packages.
            self.python.write_text(f'#!/bin/sh\nexec {sys.executable} -S {STAND_IN} {tmp_path}/settings.json "$@"\n')
            self.python.chmod(0o755)
            return self

        def options(self, **options):
            return VllmOptions(python=self.python, version="0.30.0", **options)

        def servers(self):
            notes = [json.loads(file.read_text()) for file in tmp_path.glob("server_*.json")]
            return sorted(notes, key=lambda note: note["environment"]["CUDA_VISIBLE_DEVICES"])

        def logs(self):
            return sorted(tmp_path.glob("vllm-*/*"))

    created = Environment()
    yield created
    for note in created.servers():
        for process in note["processes"]:
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)


def questions(number):
    return [Rendered(f"s{place}", (TextPart(f"q{place}"),)) for place in range(number)]


def is_running(process):
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_for_end(servers, seconds=10):
    deadline = time.monotonic() + seconds
    while any(is_running(process) for note in servers for process in note["processes"]):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_server_gets_weights_and_prompts_and_is_ended(environment, recorder, held, draw, monkeypatch):
    for name in ("RANK", "PYTHONPATH", "RAY_ADDRESS", "OPENAI_API_KEY"):
        monkeypatch.setenv(name, "1")
    picture, reporter = ImagePart(draw(8, 6)), recorder()
    prompts = [Rendered(f"s{n}", (*[picture] * (n % 4), TextPart(f"q{n}"))) for n in range(5)]
    options = environment().options(max_new_tokens=9, gpu_memory_utilization=0.5, arguments=["--dtype", "float16"])
    answers = VllmGenerator(options).generate(held(None, "folder/model"), prompts, frozenset({"s0"}), reporter)
    assert sorted((each.id, each.output, each.finished) for each in answers) == [
        ("s1", "Q1", True), ("s2", "Q2", True), ("s3", "Q3", False), ("s4", "Q4", True),
    ]  # fmt: skip
    [server] = environment.servers()
    folder, *arguments = server["arguments"]
    assert folder == "folder/model"
    assert arguments[-2:] == ["--dtype", "float16"]
    given = dict(zip(arguments[::2], arguments[1::2], strict=True))
    assert given.pop("--port").isdecimal()
    assert given == {
        "--host": "127.0.0.1",
        "--served-model-name": "model",
        "--tensor-parallel-size": "1",
        "--gpu-memory-utilization": "0.5",
        "--limit-mm-per-prompt": '{"image": 3, "video": 0}',
        "--generation-config": "vllm",
        "--chat-template-content-format": "openai",
        "--uvicorn-log-level": "warning",
        "--dtype": "float16",
    }
    variables = server["environment"]
    assert len(variables.pop("VLLM_API_KEY")) >= 40
    assert variables == {
        "CUDA_VISIBLE_DEVICES": "4", "HOME": os.environ.get("HOME"),
        "RANK": None, "PYTHONPATH": None, "RAY_ADDRESS": None, "OPENAI_API_KEY": None,
    }  # fmt: skip
    [asked] = [each for each in server["questions"] if each["text"] == "q2"]
    assert asked == {
        "text": "q2", "kinds": ["image_url", "image_url", "text"],
        "model": "model", "max_tokens": 9, "temperature": 0.0,
    }  # fmt: skip
    assert (reporter.shown[0][:2], reporter.shown[-1][:2]) == ((1, 5), (5, 5))
    wait_for_end([server])
    assert not environment.logs()


def test_each_tensor_parallel_group_of_gpus_has_a_server(environment, recorder, held, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-a,GPU-b,GPU-c,GPU-d")
    options = environment().options(tensor_parallel_size=2, concurrency=1, max_model_len=4096)
    answers = list(VllmGenerator(options).generate(held(None), questions(8), frozenset(), recorder()))
    assert len(answers) == 8
    servers = environment.servers()
    assert [server["environment"]["CUDA_VISIBLE_DEVICES"] for server in servers] == ["GPU-a,GPU-b", "GPU-c,GPU-d"]
    assert all(server["questions"] for server in servers)
    for server in servers:
        arguments = server["arguments"]
        assert arguments[arguments.index("--tensor-parallel-size") + 1] == "2"
        assert arguments[arguments.index("--distributed-executor-backend") + 1] == "mp"
        assert arguments[arguments.index("--max-model-len") + 1] == "4096"


def test_nothing_is_started_if_all_answers_exist(environment, recorder, held):
    options = environment().options()
    assert not list(VllmGenerator(options).generate(held(None), questions(1), frozenset({"s0"}), recorder()))
    assert not environment.servers()


@pytest.mark.parametrize(
    ("thinking", "outputs"), [("cut", ["Q0", ""]), ("flag", ["<think>so?</think>Q0", "<think>Q1"])]
)
def test_reasoning_is_cut_or_told(environment, recorder, held, thinking, outputs):
    reporter = recorder()
    prompts = [Rendered("s0", (TextPart("<think>so?</think>q0"),)), Rendered("s1", (TextPart("<think>q1"),))]
    generator = VllmGenerator(environment().options(thinking=thinking))
    answers = sorted(generator.generate(held(None), prompts, frozenset(), reporter), key=lambda answer: answer.id)
    assert [answer.output for answer in answers] == outputs
    [warning] = reporter.warnings
    assert ("1 of 2 answers have no text" if thinking == "cut" else "2 of 2 answers begin") in warning


def test_a_server_that_cannot_start_is_told_with_its_log(environment, recorder, held):
    generator = VllmGenerator(environment(exit=7).options())
    with pytest.raises(StepError, match=r"ended with exit status 1.*ValueError: no such model") as caught:
        list(generator.generate(held(None), questions(1), frozenset(), recorder()))
    [log] = environment.logs()
    assert str(log) in str(caught.value)


def test_a_server_that_is_not_ready_in_time_is_ended(environment, recorder, held):
    generator = VllmGenerator(environment(delay=60).options(startup_timeout=0.5))
    with pytest.raises(StepError, match=r"not ready after 0.5 seconds \(startup_timeout\)"):
        list(generator.generate(held(None), questions(1), frozenset(), recorder()))
    wait_for_end(environment.servers())


def test_a_server_that_ends_while_it_answers_keeps_the_answers_before(environment, recorder, held):
    generator = VllmGenerator(environment(answers=3).options(concurrency=1))
    answers = []
    with pytest.raises(StepError, match=r"ended with exit status 3.*the engine is out of memory"):
        for answer in generator.generate(held(None), questions(5), frozenset(), recorder()):
            answers.append(answer.id)
    assert answers == ["s0", "s1"]
    wait_for_end(environment.servers())


@pytest.mark.parametrize("when", ["loading", "answering"])
def test_stop_request_ends_the_server(environment, recorder, held, when):
    generator = VllmGenerator(environment(delay=60 if when == "loading" else 0).options(concurrency=1))
    reporter = recorder(stop_after=0 if when == "loading" else 2)
    with pytest.raises(StopRequestedError):
        list(generator.generate(held(None), questions(6), frozenset(), reporter))
    wait_for_end(environment.servers())
    assert not environment.logs()


def test_a_caller_that_stops_reading_ends_the_server(environment, recorder, held):
    answers = VllmGenerator(environment().options()).generate(held(None), questions(6), frozenset(), recorder())
    next(answers)
    answers.close()
    wait_for_end(environment.servers())


@pytest.mark.parametrize("is_stubborn", [False, True])
def test_killed_worker_leaves_no_process(environment, tmp_path, is_stubborn):
    environment(stubborn=is_stubborn)
    command = [environment.python, "-m", "vllm.entrypoints.cli.main", "serve", "folder", "--port", "0"]
    start = (
        "import subprocess, sys, time\n"
        "process = subprocess.Popen(sys.argv[1:], stdin=subprocess.PIPE, start_new_session=True)\n"
        "time.sleep(300)"
    )
    runner = [sys.executable, "-I", run_until_closed.__file__, "0.2", *command]
    variables = {**os.environ, "VLLM_API_KEY": "k"}
    worker = subprocess.Popen([sys.executable, "-S", "-c", start, *map(str, runner)], env=variables)
    deadline = time.monotonic() + 20
    while not environment.servers():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    worker.kill()
    worker.wait()
    wait_for_end(environment.servers())


@pytest.mark.parametrize(
    ("version", "message"),
    [
        (None, "vLLM is not installed .* vllm==0.30.0"),
        ("0.29.1", "has vLLM '0.29.1', and generator.version is '0.30.0'"),
    ],
)
def test_an_environment_without_this_version_is_an_error_before_the_training(environment, version, message):
    with pytest.raises(RequirementError, match=message):
        VllmGenerator(environment(version=version).options())


def test_a_missing_environment_is_an_error_that_says_how_to_create_it(environment):
    with pytest.raises(RequirementError, match=r"cannot be run: No such file.*pip install vllm==0.30.0"):
        environment.options().check_requirements()


def test_the_build_of_a_version_does_not_matter(environment):
    environment(version="0.30.0+cu130").options().check_requirements()


def test_python_is_relative_to_the_spec_and_its_link_is_not_followed(tmp_path):
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python").symlink_to(sys.executable)
    options = VllmOptions(python=LocatedStr("bin/python", tmp_path), version="0.30.0")
    assert options.python == tmp_path / "bin" / "python"


@pytest.mark.parametrize("argument", ["--port", "--port=1", "--max_model_len", "--tp=4", "-tp", "--uds"])
def test_an_argument_that_the_generator_sets_is_an_error(argument):
    with pytest.raises(ValidationError, match=r"must not contain"):
        VllmOptions(python="python", version="0.30.0", arguments=[argument])


@pytest.mark.parametrize(
    ("overrides", "messages"),
    [
        ([], []),
        (["generator.tensor_parallel_size=2", "compute.gpus_per_worker=4"], []),
        (["generator.tensor_parallel_size=2"], ["is 2, but compute.gpus_per_worker is 1; each worker"]),
        (["generator.tensor_parallel_size=2", "compute.gpus_per_worker=3"], ["is 2, but compute.gpus_per_worker is 3"]),
        (["compute.gpus_per_worker=0.5"], ["is 1, but compute.gpus_per_worker is 0.5"]),
        (["compute.gpus_per_worker=0"], ["is 1, but compute.gpus_per_worker is 0;"]),
        (["compute.gpus_per_worker=-1"], ["greater than or equal to 0"]),
    ],
)
def test_validation_compares_the_gpus_of_a_server_with_those_of_a_worker(tmp_path, overrides, messages):
    (tmp_path / "spec.yaml").write_text(SPEC)
    try:
        load_spec(tmp_path / "spec.yaml", overrides)
        problems = []
    except SpecError as error:
        problems = error.problems
    assert len(problems) == len(messages)
    for problem, message in zip(problems, messages, strict=True):
        assert message in str(problem)
        assert problem.path[0] == "compute" or problem.path == ("generator", "tensor_parallel_size")


def test_a_problem_of_an_option_with_its_default_is_located_at_the_section(tmp_path):
    (tmp_path / "spec.yaml").write_text(SPEC.replace("compute: {gpus_per_worker: 1}\n", ""))
    with pytest.raises(SpecError, match=r"spec.yaml:7:\d+: generator.tensor_parallel_size: is 1, but"):
        load_spec(tmp_path / "spec.yaml")


@given(st.lists(st.integers(0, 99), unique=True, max_size=16), st.integers(1, 8), st.integers(1, 8))
def test_workers_and_servers_divide_the_gpus(numbers, num_workers, size):
    gpus = [str(number) for number in numbers]
    if len(gpus) % num_workers:
        with pytest.raises(RequirementError, match="equally"):
            own_part(gpus, 0, num_workers)
        return
    parts = [own_part(gpus, rank, num_workers) for rank in range(num_workers)]
    assert list(chain.from_iterable(parts)) == gpus
    if not parts[0] or len(parts[0]) % size:
        with pytest.raises(RequirementError, match=f"multiple of {size}"):
            divide_gpus(parts[0], size)
        return
    groups = divide_gpus(parts[0], size)
    assert list(chain.from_iterable(groups)) == parts[0]
    assert {len(group) for group in groups} == {size}


@given(st.dictionaries(st.sampled_from(["RANK", "LOCAL_RANK", "RAY_JOB_ID", "PYTHONHOME", "PATH", "HOME"]), st.text()))
def test_only_foreign_variables_are_removed(variables):
    kept = python_environment(variables)
    assert {name: kept.get(name) for name in ("PATH", "HOME")} == {
        name: variables.get(name) for name in ("PATH", "HOME")
    }
    assert kept.keys() <= {"PATH", "HOME", "PYTHONUNBUFFERED"}


def test_arguments_of_the_user_come_last():
    options = VllmOptions(python="/opt/vllm/bin/python", version="0.30.0", arguments=["--enforce-eager"])
    command = serve_command(options, Path("folder"), 8000, 2)
    assert command[:5] == ["/opt/vllm/bin/python", "-m", "vllm.entrypoints.cli.main", "serve", "folder"]
    assert command[-1] == "--enforce-eager"
