"""What holds of every command."""

import subprocess
import sys

import pytest

COMMAND = """
import os, signal, sys, time, weakref
from runner.cli.main import app, main

class Thing:
    pass

def interrupted(reference):
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(0.01)

@app.command()
def noted():
    thing = Thing()
    reference = weakref.ref(thing, interrupted)
    del thing
    time.sleep(60)
    print("waited")

@app.command()
def dropped():
    try:
        interrupted(None)
    except BaseException:
        pass
    time.sleep(60)
    print("waited")

@app.command()
def terminated():
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(60)
    print("waited")

@app.command()
def cleaning():
    try:
        interrupted(None)
    finally:
        time.sleep(2)
        print("cleaned up")

main()
"""


@pytest.mark.parametrize(
    ("command", "printed"), [("noted", ""), ("dropped", ""), ("terminated", ""), ("cleaning", "cleaned up\n")]
)
def test_ctrl_c_is_heard_wherever_it_falls_and_disturbs_no_cleaning_up(command, printed):
    done = subprocess.run([sys.executable, "-c", COMMAND, command], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (130, printed)
    assert done.stderr == "interrupted; the same command goes on from where it stopped\n"
