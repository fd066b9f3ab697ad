"""What tests with services may ask for."""

from collections.abc import Iterator

import pytest

from casbah import stack


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[stack.Stack]:
    """A stack of this file of tests: object store and MLflow."""
    directory = tmp_path_factory.mktemp("services") / "stack"
    yield stack.up(directory)
    stack.down(directory)


@pytest.fixture
def served(running: stack.Stack, monkeypatch: pytest.MonkeyPatch) -> stack.Stack:
    """The same, with its addresses and keys in the environment."""
    for name, value in running.environment().items():
        monkeypatch.setenv(name, value)
    return running
