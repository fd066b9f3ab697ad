"""A stack's directory that belongs to somebody else is one sentence."""

from pathlib import Path

import pytest

from casbah import stack
from casbah.errors import InputError
from casbah.stack.stack import STATE


def test_a_lock_that_can_not_be_opened_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "lock").mkdir()
    with pytest.raises(InputError, match=r"lock can't be opened .*another user's; name another --directory"):
        stack.up(tmp_path)


def test_a_state_that_may_not_be_read_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def closed(*_: object, **__: object) -> str:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_text", closed)
    for ask in (stack.find, stack.down):
        with pytest.raises(InputError, match=rf"{STATE} can't be opened \(Permission denied\): .*another user's"):
            ask(tmp_path)
