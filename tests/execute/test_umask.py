"""Who may read and write what a launch leaves behind is decided by the umask alone."""

import json
import subprocess

import pytest


@pytest.mark.parametrize("umask", [0o002, 0o077])
def test_every_file_and_folder_of_a_launch_has_the_permissions_of_the_umask(emoji, umask):
    done = subprocess.run(
        emoji.command("launch", "emoji.yaml", "--smoke", "--json"),
        cwd=emoji.folder,
        env=emoji.environment,
        umask=umask,
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(done.stdout)["trials"]
    storage = emoji.folder / "runs"
    paths = [storage, *storage.rglob("*")]
    assert {"model.safetensors", "mlflow.db", "output.log", "record.json", ".mlflow.lock"} <= {
        path.name for path in paths
    }
    wrong = {
        str(path.relative_to(emoji.folder)): oct(path.stat().st_mode & 0o777)
        for path in paths
        if path.stat().st_mode & 0o777 != (0o777 if path.is_dir() else 0o666) & ~umask
    }
    assert not wrong
