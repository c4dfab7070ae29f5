"""Two machines that compute with other software are told apart, by name."""

from runner.execute.ray.node_worker import software_versions, version_differences
from runner.fingerprint_and_provenance import code_hash


def test_this_machine_has_no_difference_to_itself_in_code_plugins_and_packages():
    ours = software_versions()
    assert version_differences(ours, software_versions()) == []
    assert {"the code of runner", "the code of plugins", "mmre-runner", "torch", "python"} <= ours.keys()
    assert "+" not in ours["torch"]


def test_differences_list_both_versions():
    ours = {"torch": "2.13.0", "the code of plugins": "ab", "mmre-runner": "1"}
    theirs = {"torch": "2.12.0", "the code of plugins": "ab", "emoji": "2"}
    assert version_differences(ours, theirs) == [
        "torch 2.13.0 here and 2.12.0 there",
        "mmre-runner 1 here and missing there",
        "emoji missing here and 2 there",
    ]


def test_code_is_hashed_by_content_and_place(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    package = tmp_path / "hashed_package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "a.py").write_text("x = 1\n")
    before = code_hash("hashed_package")
    (package / "a.py").write_text("x = 2\n")
    edited = code_hash("hashed_package")
    (package / "a.py").rename(package / "b.py")
    assert len({before, edited, code_hash("hashed_package")}) == 3
    (tmp_path / "hashed_module.py").write_text("")
    assert code_hash("hashed_module") != "missing"
    assert code_hash("no_such_package") == "missing"
