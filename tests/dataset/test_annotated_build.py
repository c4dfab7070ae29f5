"""A build with an annotator and a local server: requests, stored answers, and answers that are reused."""

import json
import shutil

import pytest
from chat_server import completion, failure, serving

from runner.dataset.build.work_folder import WorkFolder
from runner.dataset.folder_reader import DatasetFolder
from runner.dataset.review.decisions import Decision, append_decision, reviewed_samples, utc_now
from runner.errors import DataError, StepError
from runner.spec.check import make_section

KEY = "-".join(["sk", "very", "secret"])  # not as one literal: the diff of a working tree is part of a run
FINE = "A picture of four coloured quadrants that together make up a small and plain flag."


@pytest.fixture(autouse=True)
def key(monkeypatch):
    monkeypatch.setenv("CHAT_KEY", KEY)


@pytest.fixture
def annotated(build):
    """Return a function that builds with the summaries of a server."""

    def run(server, publish="everything", dry_run=False, output="made", limit=None, **options):
        told = {"type": "openai_compatible", "model": "m", "base_url": server.url, "api_key_env": "CHAT_KEY"}
        made = make_section("annotator", {**told, "max_retries": 0, **options})
        return build(output, annotator=made, publish=publish, dry_run=dry_run, limit=limit)

    return run


def fine_summary(body, before):
    return completion(FINE, tokens=(700, 20))


def add_tweets(corpus, number=5):
    return [corpus.good(f"{place}", ("train", "test")[place % 2]) for place in range(number)]


def decide(work, name, verdict, summary=None):
    about = next(each.row["annotation"] for each in reviewed_samples(work) if each.row["id"] == name)
    append_decision(work.decisions, Decision(name, verdict, about, summary, "Ada", utc_now()))


def test_every_image_gets_a_summary_with_one_request(corpus, annotated, reporter):
    add_tweets(corpus)
    with serving(fine_summary) as server:
        built = annotated(server)
        assert (built.asked, built.tokens.total) == (5, 3600)
        again = annotated(server)
        assert len(server.requests) == 5
    assert set(again.stages.values()) == {"unchanged"}
    assert (again.asked, again.fingerprint) == (0, built.fingerprint)
    samples = [sample for split in DatasetFolder(built.path).load_splits().values() for sample in split]
    assert {sample.summary for sample in samples} == {FINE}
    assert len(samples) == 5
    assert any("5 images need a summary" in said for said in reporter.messages)
    assert any("publish: " in said for said in reporter.messages)


def test_requests_and_answers_are_published_and_dates_are_logged_separately(corpus, annotated, read_rows):
    (name,) = add_tweets(corpus, 1)
    answer = " Two\nlines of an answer that has ten words in all. "
    with serving(lambda body, before: completion(answer)) as server:
        built = annotated(server, prompt="What?", temperature=0.5, max_new_tokens=99)
    (row,) = read_rows(built.path / "annotations.jsonl")
    asked = {"model": "m", "prompt": "What?", "parameters": {"temperature": 0.5, "max_tokens": 99}}
    assert (row["id"], row["request"]) == (name, asked)
    assert row["answer"] == answer
    assert (row["flags"], row["decision"], row["origin"]) == ([], None, {"answered_by": "m"})
    (logged,) = read_rows(WorkFolder.for_dataset(built.path).answer_log)
    assert logged["when"].startswith("20")
    assert logged["server_id"] == "c"
    spec = DatasetFolder(built.path).description["provenance"]["spec"]
    assert spec["annotator"]["prompt"] == "What?"
    assert "base_url" not in spec["annotator"]


def test_api_key_is_written_nowhere(corpus, annotated, reporter, tmp_path):
    add_tweets(corpus, 3)
    with serving(fine_summary) as server:
        annotated(server)
        with pytest.raises(StepError) as raised:
            server.answer = lambda body, before: failure(500, f"broke on {KEY}")
            annotated(server, prompt="Else?")
    assert set(server.authorizations) == {f"Bearer {KEY}"}
    assert KEY not in str(raised.value)
    assert KEY not in "".join(reporter.messages + reporter.warnings)
    files = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert len(files) > 10
    assert not [file for file in files if KEY.encode() in file.read_bytes()]


def test_only_options_that_change_an_answer_cause_new_requests(corpus, annotated):
    add_tweets(corpus, 3)
    with serving(fine_summary) as server:
        annotated(server)
        annotated(server, words={"min": 1, "max": 5}, concurrency=2, prices={"input": 1, "output": 1})
        assert len(server.requests) == 3
        annotated(server, prompt="Else?")
        assert len(server.requests) == 6
        annotated(server)
        assert len(server.requests) == 6
        corpus.good("new")
        annotated(server)
        assert len(server.requests) == 7


def test_shared_image_is_annotated_once(corpus, annotated):
    add_tweets(corpus, 2)
    corpus.tweet("0")
    corpus.good("copy")
    shutil.copyfile(corpus.images / "0.jpg", corpus.images / "copy.jpg")
    with serving(fine_summary) as server:
        built = annotated(server)
    assert (len(server.requests), built.num_samples) == (2, {"train": 3, "test": 1})


def test_build_resumes_after_a_server_error(corpus, annotated):
    add_tweets(corpus, 6)
    with serving(lambda body, before: fine_summary(body, 0) if len(server.requests) != 4 else failure(500)) as server:
        with pytest.raises(StepError, match="Completed answers are saved"):
            annotated(server, concurrency=1)
        assert not (corpus.path.parent / "made").exists()
        built = annotated(server, concurrency=1)
        assert len(server.requests) == 7
    assert built.asked == 3
    with serving(fine_summary) as other:
        undisturbed = annotated(other, output="other")
    assert undisturbed.fingerprint == built.fingerprint
    assert [(built.path / name).read_bytes() for name in ("dataset.json", "annotations.jsonl")] == [
        (undisturbed.path / name).read_bytes() for name in ("dataset.json", "annotations.jsonl")
    ]


def test_build_resumes_with_a_larger_budget(corpus, annotated):
    add_tweets(corpus, 6)
    with serving(fine_summary) as server:
        with pytest.raises(StepError, match="the token budget is used up: 2,160 of 3,300"):
            annotated(server, token_budget=3300, max_new_tokens=400, concurrency=1)
        assert annotated(server, token_budget=9000, max_new_tokens=400).asked == 3
        assert len(server.requests) == 6


def test_dry_run_estimates_without_requests(corpus, annotated, reporter):
    add_tweets(corpus, 4)
    with serving(fine_summary) as server:
        told = annotated(server, dry_run=True, prices={"input": 2.5, "output": 10.0})
        assert server.requests == []
    assert told.estimate.tokens.input == 4 * (765 + 6)
    assert told.estimate.cost == pytest.approx(4 * (771 * 2.5 + 300 * 10) / 1e6)
    assert told.fingerprint is None
    assert not told.path.exists()
    assert "0.02 by annotator.prices" in reporter.messages[-1]


def test_answers_of_a_limited_build_are_reused(corpus, annotated):
    add_tweets(corpus, 5)
    with serving(fine_summary) as server:
        assert sum(annotated(server, limit=2).num_samples.values()) == 2
        assert sum(annotated(server).num_samples.values()) == 5
    assert len(server.requests) == 5


def test_suspicious_answers_are_flagged_and_empty_ones_left_out(corpus, annotated, reporter):
    names = add_tweets(corpus, 4)
    answers = [
        FINE,
        "Too short.",
        "I'm sorry, but I can't help with that picture at all, nor with any other.",
        "\u3000\n",
    ]
    with serving(lambda body, before: completion(answers[len(server.requests) - 1])) as server:
        built = annotated(server, concurrency=1)
    flags = {each.row["id"]: each.row["flags"] for each in reviewed_samples(WorkFolder.for_dataset(built.path))}
    # Requests are in the order of the corpus: the training split first.
    asked = [name for split in ("train", "test") for name in names if name.startswith(split)]
    few_words = ["fewer words than expected"]
    assert [flags[name] for name in asked] == [[], few_words, ["refused"], ["no text", *few_words]]
    assert built.left_out == {"answer without a summary": 1}
    assert sum(built.num_samples.values()) == 3
    assert "flagged: 2 × fewer words than expected" in reporter.messages


def test_nothing_is_published_before_all_samples_are_decided(corpus, annotated):
    names = add_tweets(corpus, 4)
    with serving(fine_summary) as server:
        waiting = annotated(server, publish=None)
        assert (waiting.fingerprint, waiting.review.undecided) == (None, 4)
        assert not waiting.path.exists()
        work = WorkFolder.for_dataset(waiting.path)
        for name, verdict in zip(names, ("accept", "edit", "reject"), strict=False):
            decide(work, name, verdict, "What I see." if verdict == "edit" else None)
        assert annotated(server, publish=None).review.undecided == 1
        decide(work, names[3], "accept")
        built = annotated(server, publish=None)
        assert len(server.requests) == 4
    splits = DatasetFolder(built.path).load_splits()
    summaries = {sample.id: sample.summary for samples in splits.values() for sample in samples}
    assert summaries == {names[0]: FINE, names[1]: "What I see.", names[3]: FINE}
    assert built.left_out == {"summary rejected in review": 1}
    assert (built.review.accepted, built.review.edited, built.review.rejected) == (2, 1, 1)


def test_publish_everything_still_leaves_out_rejected_samples(corpus, annotated):
    names = add_tweets(corpus, 4)
    with serving(fine_summary) as server:
        before = annotated(server)
        decide(WorkFolder.for_dataset(before.path), names[2], "reject")
        after = annotated(server)
        assert sum(after.num_samples.values()) == 3
        decide(WorkFolder.for_dataset(before.path), names[2], "undo")
        assert annotated(server).fingerprint == before.fingerprint != after.fingerprint


def test_decision_applies_to_one_summary_only(corpus, annotated):
    names = add_tweets(corpus, 2)
    with serving(fine_summary) as server:
        work = WorkFolder.for_dataset(annotated(server).path)
        for name in names:
            decide(work, name, "accept")
        assert annotated(server, publish="accepted").fingerprint
        assert annotated(server, publish="accepted", prompt="Else?").review.undecided == 2
        assert annotated(server, publish="accepted").fingerprint


def test_occupied_output_is_rejected_before_any_request(corpus, annotated):
    add_tweets(corpus, 2)
    with serving(fine_summary) as server:
        with pytest.raises(DataError, match="is not a data set"):
            annotated(server, output="gmner")
        assert server.requests == []


def test_deleted_images_are_cropped_again(corpus, annotated):
    add_tweets(corpus, 3)
    with serving(fine_summary) as server:
        built = annotated(server)
        work = WorkFolder.for_dataset(built.path)
        shutil.rmtree(work.image_root)
        (work.path / "crop" / "done.json").unlink()
        shutil.rmtree(built.path)
        assert annotated(server).fingerprint == built.fingerprint
        assert len(server.requests) == 3


def test_result_is_json(corpus, annotated):
    add_tweets(corpus, 2)
    with serving(fine_summary) as server:
        built = annotated(server)
    told = json.loads(json.dumps(built.as_json()))
    assert {"path", "fingerprint", "num_samples", "statistics", "left_out", "stages", "asked", "tokens"} <= set(told)
    assert told["tokens"] == {"input": 1400, "output": 40}


@pytest.mark.parametrize(
    "damage",
    [{"answer": ["Two", "people"]}, {"answer": None}, {"answer": "\ud83d"}, {"tokens": {"input": -5, "output": 1}},
     {"tokens": None}, {"origin": 5}],
)  # fmt: skip
def test_stored_answer_that_cannot_be_read_is_requested_again(corpus, annotated, read_rows, damage):
    add_tweets(corpus, 3)
    with serving(fine_summary) as server:
        built = annotated(server)
        store = WorkFolder.for_dataset(built.path).answers
        first, *others = read_rows(store)
        store.write_text("".join(json.dumps(row) + "\n" for row in [{**first, **damage}, *others]))
        again = annotated(server)
    assert (len(server.requests), again.asked, again.fingerprint) == (4, 1, built.fingerprint)


def test_unusual_answers_end_no_later_build(corpus, annotated):
    add_tweets(corpus, 4)
    replies = [completion(FINE), completion(5), completion(FINE), completion([{"type": "text", "text": FINE}])]
    with serving(lambda body, before: replies[len(server.requests) - 1]) as server:
        with pytest.raises(StepError, match=r"annotator: sample .*`content` is 5.*not stored"):
            annotated(server, concurrency=1)
        server.answer = lambda body, before: completion([{"type": "text", "text": FINE + "\ud83d"}])
        built = annotated(server)
    assert sum(built.num_samples.values()) == 4
    assert len(server.requests) == 5
