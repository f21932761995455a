"""Tests of owl serve need its extra; `make setup` brings it."""

from importlib.util import find_spec

if any(find_spec(name) is None for name in ("fastapi", "httpx2", "prometheus_client")):
    collect_ignore_glob = ["test_*.py"]
