"""README and docs: what they show runs, what they link to exists, and the reference is complete."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.server import SeawayServer

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").rglob("*.md")])
README_LINES = 150
DEFAULT_URL = "http://127.0.0.1:8080"

_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")


def shown(page: Path) -> list[tuple[str, str]]:
    """The blocks of a page that run here, in order: (language, text). `console` blocks need another machine."""
    return [(kind, text) for kind, text in _BLOCK.findall(page.read_text()) if kind in {"bash", "python"}]


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.fixture
def demo(tmp_path: Path) -> Iterator[SeawayServer]:
    """What `make run` leaves a reader with: a server with the flights example deployed."""
    with SeawayServer(tmp_path / "home") as server:
        run([sys.executable, "examples/quickstart.py"], server)
        yield server


def run(command: list[str], server: SeawayServer) -> str:
    """The output of a command that a reader would type in the repository's root."""
    environment = {
        **os.environ,
        "SEAWAY_URL": server.url,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "NO_COLOR": "1",
    }
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}\n{done.stderr}\n{server.stderr()[-4000:]}"
    return done.stdout


@pytest.mark.timeout(180)
@pytest.mark.parametrize("page", [page for page in PAGES if shown(page)], ids=name_of)
def test_what_a_page_shows_runs(page: Path, demo: SeawayServer) -> None:
    needed = [tool for tool in ("curl",) if tool in page.read_text() and not shutil.which(tool)]
    if needed:
        pytest.skip(f"{name_of(page)} shows {needed[0]}, which is not installed: sudo apt-get install {needed[0]}")
    for kind, text in shown(page):
        script = text.replace(DEFAULT_URL, demo.url).replace(
            DEFAULT_URL.removeprefix("http://"), demo.url.removeprefix("http://")
        )
        # curl's --fail-with-body makes an answer that is an error a failed command.
        shell = 'set -euo pipefail\ncurl() { command curl --fail-with-body --silent --show-error "$@"; }\n'
        run(["bash", "-c", shell + script] if kind == "bash" else [sys.executable, "-c", script], demo)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    targets = [link.partition("#")[0] for link in _LINK.findall(text) if "://" not in link]
    missing = [target for target in targets if target and not (page.parent / target).exists()]
    assert not missing


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) < README_LINES


def test_every_page_can_be_found_from_the_readme() -> None:
    seen: set[Path] = set()
    todo = [ROOT / "README.md"]
    while todo:
        page = todo.pop().resolve()
        if page in seen or page.suffix != ".md" or not page.exists():
            continue
        seen.add(page)
        todo += [page.parent / link.partition("#")[0] for link in _LINK.findall(page.read_text()) if "://" not in link]
    assert sorted(name_of(page) for page in PAGES if page.resolve() not in seen) == []
