"""Alembic's entry point: runs inside the one transaction that ``store.migrate`` has opened."""

from alembic import context

context.configure(
    connection=context.config.attributes["connection"],
    version_table="alembic_version",
    version_table_schema="analytics",
    transactional_ddl=True,
)
context.run_migrations()
