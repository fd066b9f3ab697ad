"""Waits until the database is there and the Job has brought its tables to this MLflow's version.

A server that started earlier would make the tables itself, at the same time as the Job.
"""

import os
import sys
import time

import sqlalchemy
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from mlflow.store.db.utils import _get_alembic_config

PATIENCE = 900.0
"""Seconds; a large registry takes minutes to migrate."""


def main() -> int:
    engine = sqlalchemy.create_engine(os.environ["MLFLOW_BACKEND_STORE_URI"])
    wanted = ScriptDirectory.from_config(_get_alembic_config("")).get_current_head()
    deadline, found = time.monotonic() + PATIENCE, "no answer"
    while time.monotonic() < deadline:
        try:
            with engine.connect() as connection:
                found = str(MigrationContext.configure(connection).get_current_revision())
        except sqlalchemy.exc.OperationalError:
            found = "no answer"
        if found == wanted:
            return 0
        print(f"the database is at {found}, {wanted} is wanted", flush=True)
        time.sleep(5)
    print("look at the Job casbah-mlflow-migrate", file=sys.stderr)
    return 3


if __name__ == "__main__":
    sys.exit(main())
