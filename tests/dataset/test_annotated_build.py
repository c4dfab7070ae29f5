"""A build with an annotator, against a server on the loopback: what is asked, what is kept, what is not asked again."""

import json
import shutil

import pytest
from chat_server import completion, failure, serving

from runner.dataset.build.work_folder import WorkFolder
from runner.dataset.folder import DatasetFolder
from runner.dataset.review.decisions import Decision, decide, now, reviewed
from runner.errors import DataError, StepError
from runner.spec.check import section

KEY = "sk-very-secret"
FINE = "A picture of four coloured quadrants that together make up a small and plain flag."


@pytest.fixture(autouse=True)
def key(monkeypatch):
    monkeypatch.setenv("CHAT_KEY", KEY)


@pytest.fixture
def annotated(build):
    """A function that builds with a server's summaries."""

    def run(server, publish="everything", dry_run=False, output="made", limit=None, **options):
        told = {"type": "openai_compatible", "model": "m", "base_url": server.url, "api_key_env": "CHAT_KEY"}
        made = section("annotator", {**told, "max_retries": 0, **options})
        return build(output, annotator=made, publish=publish, dry_run=dry_run, limit=limit)

    return run


def fine(body, before):
    return completion(FINE, tokens=(700, 20))


def few(corpus, number=5):
    return [corpus.good(f"{place}", ("train", "test")[place % 2]) for place in range(number)]


def decided(work, name, verdict, summary=None):
    about = next(each.row["annotation"] for each in reviewed(work) if each.row["id"] == name)
    decide(work.decisions, Decision(name, verdict, about, summary, "Ada", now()))


def test_every_picture_gets_its_summary_and_nothing_is_asked_again(corpus, annotated, heard):
    few(corpus)
    with serving(fine) as server:
        built = annotated(server)
        assert (built.asked, built.tokens.total) == (5, 3600)
        again = annotated(server)
        assert len(server.asked) == 5
    assert set(again.stages.values()) == {"unchanged"}
    assert (again.asked, again.fingerprint) == (0, built.fingerprint)
    samples = [sample for split in DatasetFolder(built.path).splits().values() for sample in split]
    assert {sample.summary for sample in samples} == {FINE}
    assert len(samples) == 5
    assert any("5 images to ask about" in said for said in heard.said)
    assert any("publish: " in said for said in heard.said)


def test_what_was_asked_and_answered_is_kept_with_the_summary_and_dates_beside_it(corpus, annotated, read_rows):
    (name,) = few(corpus, 1)
    answer = " Two\nlines of an answer that has ten words in all. "
    with serving(lambda body, before: completion(answer)) as server:
        built = annotated(server, prompt="What?", temperature=0.5, max_new_tokens=99)
    (row,) = read_rows(built.path / "annotations.jsonl")
    asked = {"model": "m", "prompt": "What?", "parameters": {"temperature": 0.5, "max_tokens": 99}}
    assert (row["id"], row["request"]) == (name, asked)
    assert row["answer"] == answer
    assert (row["flags"], row["decision"], row["origin"]) == ([], None, {"answered_by": "m"})
    (logged,) = read_rows(WorkFolder.of(built.path).answer_log)
    assert logged["when"].startswith("20")
    assert logged["server_id"] == "c"
    spec = DatasetFolder(built.path).description["provenance"]["spec"]
    assert spec["annotator"]["prompt"] == "What?"
    assert "base_url" not in spec["annotator"]


def test_the_key_is_written_nowhere(corpus, annotated, heard, tmp_path):
    few(corpus, 3)
    with serving(fine) as server:
        annotated(server)
        with pytest.raises(StepError) as raised:
            server.answer = lambda body, before: failure(500, f"broke on {KEY}")
            annotated(server, prompt="Else?")
    assert set(server.keys) == {f"Bearer {KEY}"}
    assert KEY not in str(raised.value)
    assert KEY not in "".join(heard.said + heard.warnings)
    files = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert len(files) > 10
    assert not [file for file in files if KEY.encode() in file.read_bytes()]


def test_only_what_decides_an_answer_makes_it_be_asked_again(corpus, annotated):
    few(corpus, 3)
    with serving(fine) as server:
        annotated(server)
        annotated(server, words={"min": 1, "max": 5}, concurrency=2, prices={"input": 1, "output": 1})
        assert len(server.asked) == 3
        annotated(server, prompt="Else?")
        assert len(server.asked) == 6
        annotated(server)
        assert len(server.asked) == 6
        corpus.good("new")
        annotated(server)
        assert len(server.asked) == 7


def test_a_picture_that_many_tweets_show_is_asked_about_once(corpus, annotated):
    few(corpus, 2)
    corpus.tweet("0")
    corpus.good("copy")
    shutil.copyfile(corpus.images / "0.jpg", corpus.images / "copy.jpg")
    with serving(fine) as server:
        built = annotated(server)
    assert (len(server.asked), built.num_samples) == (2, {"train": 3, "test": 1})


def test_after_an_error_the_rest_alone_is_asked_for(corpus, annotated):
    few(corpus, 6)
    with serving(lambda body, before: fine(body, 0) if len(server.asked) != 4 else failure(500)) as server:
        with pytest.raises(StepError, match="Answers that came are kept"):
            annotated(server, concurrency=1)
        assert not (corpus.path.parent / "made").exists()
        built = annotated(server, concurrency=1)
        assert len(server.asked) == 7
    assert built.asked == 3
    with serving(fine) as other:
        undisturbed = annotated(other, output="other")
    assert undisturbed.fingerprint == built.fingerprint
    assert [(built.path / name).read_bytes() for name in ("dataset.json", "annotations.jsonl")] == [
        (undisturbed.path / name).read_bytes() for name in ("dataset.json", "annotations.jsonl")
    ]


def test_after_a_spent_budget_a_larger_one_goes_on(corpus, annotated):
    few(corpus, 6)
    with serving(fine) as server:
        with pytest.raises(StepError, match="the token budget is spent: 2,160 of 3,300"):
            annotated(server, token_budget=3300, max_new_tokens=400, concurrency=1)
        assert annotated(server, token_budget=9000, max_new_tokens=400).asked == 3
        assert len(server.asked) == 6


def test_a_dry_run_asks_nobody_and_says_what_it_would_take(corpus, annotated, heard):
    few(corpus, 4)
    with serving(fine) as server:
        told = annotated(server, dry_run=True, prices={"input": 2.5, "output": 10.0})
        assert server.asked == []
    assert told.estimate.tokens.input == 4 * (765 + 6)
    assert told.estimate.cost == pytest.approx(4 * (771 * 2.5 + 300 * 10) / 1e6)
    assert told.fingerprint is None
    assert not told.path.exists()
    assert "0.02 by annotator.prices" in heard.said[-1]


def test_a_few_can_be_tried_and_are_not_asked_about_again(corpus, annotated):
    few(corpus, 5)
    with serving(fine) as server:
        assert sum(annotated(server, limit=2).num_samples.values()) == 2
        assert sum(annotated(server).num_samples.values()) == 5
    assert len(server.asked) == 5


def test_what_should_be_looked_at_is_flagged_and_an_answer_without_text_left_out(corpus, annotated, heard):
    names = few(corpus, 4)
    answers = [FINE, "Too short.", "I'm sorry, but I can't help with that picture at all, nor with any other.", ""]
    with serving(lambda body, before: completion(answers[len(server.asked) - 1])) as server:
        built = annotated(server, concurrency=1)
    flags = {each.row["id"]: each.row["flags"] for each in reviewed(WorkFolder.of(built.path))}
    # Asked in the order of the corpus: the training split first.
    asked = [name for split in ("train", "test") for name in names if name.startswith(split)]
    few_words = ["fewer words than expected"]
    assert [flags[name] for name in asked] == [[], few_words, ["refused"], few_words]
    assert built.left_out == {"answer without a summary": 1}
    assert sum(built.num_samples.values()) == 3
    assert "flagged: 2 × fewer words than expected" in heard.said


def test_nothing_is_published_before_all_is_decided(corpus, annotated):
    names = few(corpus, 4)
    with serving(fine) as server:
        waiting = annotated(server, publish=None)
        assert (waiting.fingerprint, waiting.review.undecided) == (None, 4)
        assert not waiting.path.exists()
        work = WorkFolder.of(waiting.path)
        for name, verdict in zip(names, ("accept", "edit", "reject"), strict=False):
            decided(work, name, verdict, "What I see." if verdict == "edit" else None)
        assert annotated(server, publish=None).review.undecided == 1
        decided(work, names[3], "accept")
        built = annotated(server, publish=None)
        assert len(server.asked) == 4
    splits = DatasetFolder(built.path).splits()
    summaries = {sample.id: sample.summary for samples in splits.values() for sample in samples}
    assert summaries == {names[0]: FINE, names[1]: "What I see.", names[3]: FINE}
    assert built.left_out == {"summary rejected in review": 1}
    assert (built.review.accepted, built.review.edited, built.review.rejected) == (2, 1, 1)


def test_everything_is_published_but_what_a_reviewer_rejected(corpus, annotated):
    names = few(corpus, 4)
    with serving(fine) as server:
        before = annotated(server)
        decided(WorkFolder.of(before.path), names[2], "reject")
        after = annotated(server)
        assert sum(after.num_samples.values()) == 3
        decided(WorkFolder.of(before.path), names[2], "undo")
        assert annotated(server).fingerprint == before.fingerprint != after.fingerprint


def test_a_decision_is_about_one_summary(corpus, annotated):
    names = few(corpus, 2)
    with serving(fine) as server:
        work = WorkFolder.of(annotated(server).path)
        for name in names:
            decided(work, name, "accept")
        assert annotated(server, publish="accepted").fingerprint
        assert annotated(server, publish="accepted", prompt="Else?").review.undecided == 2
        assert annotated(server, publish="accepted").fingerprint


def test_a_place_where_something_else_stands_is_refused_before_anything_is_asked(corpus, annotated):
    few(corpus, 2)
    with serving(fine) as server:
        with pytest.raises(DataError, match="is no data set"):
            annotated(server, output="gmner")
        assert server.asked == []


def test_pictures_that_were_taken_away_are_cut_again(corpus, annotated):
    few(corpus, 3)
    with serving(fine) as server:
        built = annotated(server)
        work = WorkFolder.of(built.path)
        shutil.rmtree(work.pictures)
        (work.path / "crop" / "done.json").unlink()
        shutil.rmtree(built.path)
        assert annotated(server).fingerprint == built.fingerprint
        assert len(server.asked) == 3


def test_the_result_is_one_document(corpus, annotated):
    few(corpus, 2)
    with serving(fine) as server:
        built = annotated(server)
    told = json.loads(json.dumps(built.as_json()))
    assert {"path", "fingerprint", "num_samples", "statistics", "left_out", "stages", "asked", "tokens"} <= set(told)
    assert told["tokens"] == {"input": 1400, "output": 40}
