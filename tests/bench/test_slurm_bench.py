"""A trial with two workers on two nodes of a real Slurm cluster on this machine, to its end."""

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
sys.path.insert(0, str(ROOT / "bench"))
from slurm import Bench, SlurmCluster, finish, lacking


@pytest.mark.slow
def test_the_shipped_script_trains_on_two_nodes(tmp_path):
    if reason := lacking():
        pytest.skip(reason)
    cluster = SlurmCluster()
    try:
        bench = Bench(cluster, tmp_path, epochs=1)
        job = finish(bench)
        output = (tmp_path / f"mmre-runner-{job}.out").read_text()
    finally:
        cluster.close()
    assert bench.results("finish")["metrics"].keys() >= {"ner_f1"}
    assert "training 12/12" in output
    assert not list(tmp_path.glob(".ray-*"))
