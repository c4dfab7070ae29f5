"""What holds of every command."""

import subprocess
import sys

import pytest

COMMAND = """
import os, signal, sys, time, weakref
from runner.cli import app, main

class Thing:
    pass

def interrupted(reference):
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(0.01)

@app.command()
def wait():
    thing = Thing()
    reference = weakref.ref(thing, interrupted)
    del thing
    time.sleep(60)
    print("waited")

sys.argv = ["runner", "wait"]
main()
"""


@pytest.mark.timeout(50)
def test_ctrl_c_in_a_callback_that_drops_exceptions_is_heard():
    done = subprocess.run([sys.executable, "-c", COMMAND], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (130, "")
    assert done.stderr == "interrupted; the same command goes on from where it stopped\n"
