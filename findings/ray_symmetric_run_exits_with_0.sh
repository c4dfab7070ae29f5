#!/bin/sh
# ray 2.60.0: `ray symmetric-run` exits with 0 when its command never ran, and when it has killed the command.
#
# Slurm and scripts read the exit status, and Ray's pages recommend this command for Slurm. The status is that of the command
# only if the command ends by itself. If Ray does not start, since another job uses the port, the command never runs, and the
# status is 0. On an interrupt, the command has a quarter of a second to save (it is run by Python's `subprocess.run`), then
# it is killed, and the status is 0 too. `ray start` in the foreground with the command beside it has neither problem.
# The script must run where no other Ray of the user runs: `ray symmetric-run` refuses to start then, and at its end it stops
# every Ray of the user on the machine. Seen on 2026-12-02:
#
#     the command ends with 3: exit status 3
#     the port is in use: exit status 0, the command ran: False
#     interrupted: exit status 0, the command began to save: True, it has saved: False
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet "ray[default]==2.60.0"
cat > "$folder/saves.py" <<'PYTHON'
import signal
import sys
import time


def save(*_):
    print("begins to save", flush=True)
    time.sleep(2)
    print("has saved", flush=True)
    sys.exit(130)


signal.signal(signal.SIGINT, save)
print("works", flush=True)
time.sleep(120)
PYTHON
cat > "$folder/statuses.py" <<'PYTHON'
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

folder = Path(sys.argv[1])
environment = {
    **os.environ,
    "PATH": f"{folder}/venv/bin:{os.environ['PATH']}",
    "RAY_AUTH_MODE": "disabled",
    "RAY_USAGE_STATS_ENABLED": "0",
}
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell lets background jobs ignore it


def start(port, *command):
    output = folder / f"output-{port}"
    words = ["ray", "symmetric-run", "--address", f"127.0.0.1:{port}", "--num-cpus=1", "--", *command]
    with output.open("w") as file:
        process = subprocess.Popen(words, env=environment, stdout=file, stderr=file, start_new_session=True)
    return process, output


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]


process, _ = start(free_port(), "sh", "-c", "exit 3")
seen = [f"the command ends with 3: exit status {process.wait()}"]

with socket.create_server(("127.0.0.1", 0)) as other:
    process, output = start(other.getsockname()[1], "touch", str(folder / "ran"))
    status = process.wait()
seen.append(f"the port is in use: exit status {status}, the command ran: {(folder / 'ran').exists()}")

process, output = start(free_port(), sys.executable, str(folder / "saves.py"))
while "\nworks\n" not in output.read_text():
    time.sleep(0.2)
os.killpg(process.pid, signal.SIGINT)
status, printed = process.wait(), output.read_text()
began, saved = "begins to save" in printed, "has saved" in printed
seen.append(f"interrupted: exit status {status}, the command began to save: {began}, it has saved: {saved}")

print("\n".join(seen))
assert seen == [
    "the command ends with 3: exit status 3",
    "the port is in use: exit status 0, the command ran: False",
    "interrupted: exit status 0, the command began to save: True, it has saved: False",
], "the behaviour has changed"
PYTHON
"$folder/venv/bin/python" "$folder/statuses.py" "$folder"
