"""A distribution that the project does not know adds plugins by being installed, and by nothing else."""

import json


def test_plugins_of_another_distribution_are_listed(emoji):
    listed = json.loads(emoji.run("plugins", "--json").stdout)
    found = {(row["stage"], row["name"]): row for row in listed}
    assert found["metric", "answer_length"]["distribution"] == "emoji-extension 1.2.3"
    assert "scale" in found["metric", "answer_length"]["options_schema"]["properties"]
    assert ("data", "emoji") in found
    assert ("metric", "rouge") in found


def test_their_options_are_checked_like_ours(emoji):
    (emoji.folder / "emoji.yaml").write_text(
        (emoji.folder / "emoji.yaml").read_text().replace("type: answer_length", "type: answer_length, scal: 2")
    )
    done = emoji.run("validate", "emoji.yaml")
    assert done.returncode == 2
    assert "emoji.yaml:9" in done.stdout
    assert "did you mean 'scale'?" in done.stdout


def test_an_experiment_runs_on_them(emoji):
    done = emoji.run("launch", "emoji.yaml", "--local", "--json")
    assert done.returncode == 0, done.stderr
    [trial] = json.loads(done.stdout)["trials"]
    assert trial["status"] == "finished"
    assert trial["metrics"]["answer_length"] is not None


def test_without_it_the_spec_is_refused_by_name(workplace, emoji):
    done = workplace.run("validate", emoji.folder / "emoji.yaml")
    assert done.returncode == 2
    assert "no data plugin 'emoji'" in done.stdout
    assert "no metric plugin 'answer_length'" in done.stdout
