"""Completion in a real bash and a real zsh: what appears after Tab."""

import os
import re
import select
import shutil
import subprocess
import sys
import time

import pytest

pty = pytest.importorskip("pty")  # not on Windows
pytest.importorskip("shtab")
COMMAND = [sys.executable, "-m", "inception_tf", "--print-completion"]


# How each starts without settings of a user, loads the completion, and shows and clears its line at Ctrl-T.
SHELLS = {
    "bash": (
        ["--norc", "--noprofile"],
        r"""source {script}; bind -x '"\C-t": printf "<%s>" "$READLINE_LINE"; READLINE_LINE='""",
    ),
    "zsh": (
        ["-f"],
        "unsetopt promptcr; fpath=({script.parent} $fpath); autoload -U compinit; compinit -u -D; "
        "show() {{ printf '<%s>' $BUFFER; BUFFER= }}; zle -N show; bindkey '^T' show",
    ),
}


@pytest.fixture(params=SHELLS)
def tab(request, tmp_path):
    """A function from what is typed before Tab to what the shell then has on its line."""
    name, (options, setup) = request.param, SHELLS[request.param]
    if not shutil.which(name):
        pytest.skip(f"needs {name}")
    script, folder = tmp_path / "functions" / "_inception-tf", tmp_path / "work"
    script.parent.mkdir()
    (folder / "models").mkdir(parents=True)
    (folder / "flowers.keras").touch()
    script.write_bytes(subprocess.run([*COMMAND, name], check=True, capture_output=True).stdout)
    shell, terminal = pty.openpty()
    process = subprocess.Popen(
        [name, *options, "-i"],
        cwd=folder,
        env={"PATH": os.environ["PATH"], "TERM": "dumb", "PS1": "STARTING"},
        **dict.fromkeys(("stdin", "stdout", "stderr"), terminal),
        start_new_session=True,
    )

    def typed(text, until):
        os.write(shell, text.encode())
        answer, end = "", time.monotonic() + 60
        while not (found := re.search(until, answer)) and time.monotonic() < end:
            if select.select([shell], [], [], 1)[0]:
                answer += os.read(shell, 4096).decode(errors="replace")
        assert found, answer
        return found[1]

    # What is typed before the prompt is there meets no line editor: Tab would be a plain character.
    typed(f"{setup.format(script=script)}; PS1=READY\n", until="\n(READY)")
    yield lambda text: typed(f"{text}\t\x14", until="<(inception-tf .*)>")
    process.kill()
    process.wait()
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
