"""HTTP: thin fronts over sync and store."""

from truetape.api.app import create_app, run_http, take_port

__all__ = ["create_app", "run_http", "take_port"]
