"""Completion in a real bash: what appears after Tab."""

import os
import select
import shutil
import subprocess
import sys
import time

import pytest

pty = pytest.importorskip("pty")  # not on Windows
pytest.importorskip("shtab")
COMMAND = [sys.executable, "-m", "inception_tf", "--print-completion"]


@pytest.fixture(scope="module")
def script(tmp_path_factory):
    path = tmp_path_factory.mktemp("completion") / "inception-tf.bash"
    path.write_bytes(subprocess.run([*COMMAND, "bash"], check=True, capture_output=True).stdout)
    return path


@pytest.fixture
def tab(script, tmp_path):
    """A function from what is typed before Tab to what bash then has on its line."""
    if not shutil.which("bash"):
        pytest.skip("needs bash")
    (tmp_path / "models").mkdir()
    (tmp_path / "flowers.keras").touch()
    shell, terminal = pty.openpty()
    bash = subprocess.Popen(
        ["bash", "--norc", "--noprofile", "-i"],
        cwd=tmp_path,
        env={"PATH": os.environ["PATH"], "TERM": "dumb", "PS1": "STARTING"},
        **dict.fromkeys(("stdin", "stdout", "stderr"), terminal),
        start_new_session=True,
    )

    def typed(text, until):
        os.write(shell, text.encode())
        answer, end = "", time.monotonic() + 60
        while until not in answer and time.monotonic() < end:
            if select.select([shell], [], [], 1)[0]:
                answer += os.read(shell, 4096).decode()
        return answer

    # What is typed before the prompt is there meets no readline: Tab would be a plain character.
    typed(f"bind 'set bell-style none'; source {script}; PS1=READY\n", until="\nREADY")
    yield lambda text: typed(f"{text}\tEND\x15", until="END").partition("END")[0].rpartition("READY")[2]
    bash.kill()
    bash.wait()
    os.close(shell)
    os.close(terminal)


def test_tab_completes_commands_options_and_files(tab):
    assert tab("inception-tf expo") == "inception-tf export "
    assert tab("inception-tf export --calib") == "inception-tf export --calibrate "
    assert tab("inception-tf export --format op") == "inception-tf export --format openvino "
    assert tab("inception-tf classify flo") == "inception-tf classify flowers.keras "
    assert tab("inception-tf export flowers.keras mod") == "inception-tf export flowers.keras models/"


def test_other_shells_and_without_shtab():
    assert subprocess.run([*COMMAND, "zsh"], check=True, capture_output=True).stdout.startswith(
        b"#compdef inception-tf"
    )
    script = "import sys; sys.modules['shtab'] = None; sys.argv = ['inception-tf', '--print-completion', 'bash']\n"
    script += "from inception_tf.cli.main import main; main()"
    done = subprocess.run([sys.executable, "-c", script], check=False, capture_output=True, text=True)
    assert done.returncode == 2 and "pip install shtab" in done.stderr and "Traceback" not in done.stderr
