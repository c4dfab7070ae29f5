"""Another thread may import modules while a process remembers what it has imported."""

from types import SimpleNamespace

from runner import imported_modules


def test_imports_of_other_threads_do_not_disturb(monkeypatch):
    modules = {}

    class ImportingName(str):
        """The name of a module; whoever reads the name lets another thread import a module meanwhile."""

        __slots__ = ()

        def partition(self, separator):
            modules[f"imported_meanwhile_{len(modules)}"] = None
            return super().partition(separator)

    modules |= {ImportingName(f"package_{number}"): None for number in range(3)}
    monkeypatch.setattr(imported_modules, "sys", SimpleNamespace(modules=modules))
    imported_modules.note_imported()
    assert len(modules) == 6
