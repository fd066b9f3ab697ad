#!/bin/sh
# Run by PostgreSQL's image when its volume is empty: MLflow's role is no superuser, and owns two databases.
# psql reads the password from the environment: a command line can be read by every process of the pod.
set -eu
psql --set=ON_ERROR_STOP=1 --username "$POSTGRES_USER" --dbname postgres <<'SQL'
\getenv password MLFLOW_PASSWORD
CREATE ROLE mlflow LOGIN PASSWORD :'password';
CREATE DATABASE mlflow OWNER mlflow;
CREATE DATABASE mlflow_auth OWNER mlflow;
SQL
