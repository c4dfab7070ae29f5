"""The generation benchmark runs, compares its answers, and notices an answer that is not the one written alone."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).parent.parent.parent / "bench"


@pytest.mark.slow
def test_it_prints_ratios_and_ties():
    command = [sys.executable, BENCH / "generation.py", "--samples", "6", "--repeats", "1", "--models", "balanced"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    told = json.loads(done.stdout)
    assert told["balanced"]["times_faster"]["refilling"] > 1
    assert told["balanced"]["answers_that_differ_by_a_tie"].keys() == {"batches of like length", "refilling"}


@pytest.mark.slow
def test_an_answer_that_differs_by_more_than_a_tie_ends_it(monkeypatch):
    monkeypatch.syspath_prepend(BENCH)
    import generation

    bench = generation.Bench.of("balanced", num_samples=1, batch_size=1, seed=0)
    [written] = bench.decoder.write(bench.prompts)
    alone = {written.prompt.id: written.tokens}
    assert generation.differences(bench, alone, alone) == 0
    with pytest.raises(SystemExit, match="token 5 differs, and its two best logits are"):
        generation.differences(bench, alone, {written.prompt.id: [*written.tokens[:5], 17, *written.tokens[6:]]})
    with pytest.raises(SystemExit, match="an answer of 3 tokens"):
        generation.differences(bench, alone, {written.prompt.id: written.tokens[:3]})


def test_lengths_are_those_of_mmre(monkeypatch):
    monkeypatch.syspath_prepend(BENCH)
    from models import MOST_TOKENS, mmre_lengths

    lengths = mmre_lengths(2000, 0)
    answers = [each.answer for each in lengths]
    assert 100 < sum(answers) / len(answers) < 106
    assert min(answers) >= 40
    assert max(answers) > 160
    assert all(3 <= height * width <= MOST_TOKENS for each in lengths for height, width in each.grids)
