"""Installing a separate distribution is enough to add its plugins."""

import json


def test_plugins_of_another_distribution_are_listed(emoji):
    listed = json.loads(emoji.run("plugins", "--json").stdout)
    plugins = {(row["stage"], row["name"]): row for row in listed}
    assert plugins["metric", "answer_length"]["distribution"] == "emoji-extension 1.2.3"
    assert "scale" in plugins["metric", "answer_length"]["options_schema"]["properties"]
    assert ("data", "emoji") in plugins
    assert ("metric", "rouge") in plugins


def test_options_of_an_extension_are_validated(emoji):
    (emoji.folder / "emoji.yaml").write_text(
        (emoji.folder / "emoji.yaml").read_text().replace("type: answer_length", "type: answer_length, scal: 2")
    )
    done = emoji.run("validate", "emoji.yaml")
    assert done.returncode == 2
    assert "emoji.yaml:9" in done.stdout
    assert "did you mean 'scale'?" in done.stdout


def test_experiment_runs_with_extension_plugins(emoji):
    done = emoji.run("launch", "emoji.yaml", "--local", "--json")
    assert done.returncode == 0, done.stderr
    [trial] = json.loads(done.stdout)["trials"]
    assert trial["status"] == "finished"
    assert trial["metrics"]["answer_length"] is not None


def test_missing_extension_is_an_error_that_names_the_plugins(workplace, emoji):
    done = workplace.run("validate", emoji.folder / "emoji.yaml")
    assert done.returncode == 2
    assert "no data plugin 'emoji'" in done.stdout
    assert "no metric plugin 'answer_length'" in done.stdout
