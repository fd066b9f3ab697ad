"""Programs that tests need beside Python's packages: a test without its program skips, and under CI fails."""

import os
from typing import NoReturn

import pytest


def missing(sentence: str) -> NoReturn:
    """Skip for want of a program; fail where `CASBAH_CI` is set, as `.ci/run` and ci.yml set it: green means tried."""
    if os.environ.get("CASBAH_CI"):
        pytest.fail(f"{sentence}, and under CI nothing may go untried (CASBAH_CI)", pytrace=False)
    pytest.skip(sentence)
