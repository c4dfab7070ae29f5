"""The generation benchmark runs, and detects answers that differ from those generated one at a time."""

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
    results = json.loads(done.stdout)
    assert results["balanced"]["times_faster"]["refilling"] > 1
    assert results["balanced"]["answers_that_differ_by_a_tie"].keys() == {"batches of like length", "refilling"}


@pytest.mark.slow
def test_an_answer_that_differs_by_more_than_a_tie_is_an_error(monkeypatch):
    monkeypatch.syspath_prepend(BENCH)
    import generation

    bench = generation.Bench.create("balanced", num_samples=1, batch_size=1, seed=0)
    [output] = bench.decoder.generate_batch(bench._make_batch(bench.prompts))
    expected = {output.prompt.id: output.tokens}
    assert generation.count_ties(bench, expected, expected) == 0
    with pytest.raises(SystemExit, match="token 5 differs, and its two best logits are"):
        generation.count_ties(bench, expected, {output.prompt.id: [*output.tokens[:5], 17, *output.tokens[6:]]})
    with pytest.raises(SystemExit, match="the answer has 3 tokens instead of"):
        generation.count_ties(bench, expected, {output.prompt.id: output.tokens[:3]})


def test_lengths_are_those_of_mmre(monkeypatch):
    monkeypatch.syspath_prepend(BENCH)
    from models import MAX_IMAGE_TOKENS, mmre_lengths

    lengths = mmre_lengths(2000, 0)
    answers = [length.answer for length in lengths]
    assert 100 < sum(answers) / len(answers) < 106
    assert min(answers) >= 40
    assert max(answers) > 160
    assert all(3 <= height * width <= MAX_IMAGE_TOKENS for length in lengths for height, width in length.grids)
