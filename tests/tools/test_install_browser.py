"""`make browser` on machines of every kind, played by stubs of the programs that it calls."""

import shutil
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "tools/ci/install_browser.sh"
BASH = shutil.which("bash")


def run(folder: Path, **programs: str) -> subprocess.CompletedProcess:
    """Run the script where nothing but these programs is."""
    for name, text in programs.items():
        path = folder / name.replace("_", "-")
        path.write_text(f"#!{BASH}\n{text}\n")
        path.chmod(0o755)
    return subprocess.run([BASH, SCRIPT], env={"PATH": str(folder)}, cwd=folder, capture_output=True, text=True)


ROOT, USER = "echo 0", "echo 1000"
# the lists are empty until they are updated
APT = 'echo "$1" >> calls; [[ $1 == update ]] && : > lists; [[ -f lists ]]'


@pytest.mark.parametrize("browser", ["chromium", "chromium_browser", "google_chrome"])
def test_what_is_there_is_kept(browser: str, tmp_path: Path) -> None:
    result = run(tmp_path, **{browser: "exit"}, chromedriver="exit", id=ROOT, apt_get=APT)
    assert result.returncode == 0 and not (tmp_path / "calls").exists()


def test_it_is_installed_after_an_update_of_the_lists(tmp_path: Path) -> None:
    assert run(tmp_path, chromium="exit", id=ROOT, apt_get=APT).returncode == 0  # the driver is missing
    assert (tmp_path / "calls").read_text().split() == ["install", "update", "install"]


@pytest.mark.parametrize("programs", [{"id": USER, "apt_get": APT}, {"id": ROOT}])
def test_the_command_is_named_where_it_cannot_be_run(programs: dict[str, str], tmp_path: Path) -> None:
    result = run(tmp_path, **programs)
    assert result.returncode == 1 and "sudo apt-get install chromium chromium-driver" in result.stderr
    assert not (tmp_path / "calls").exists()
