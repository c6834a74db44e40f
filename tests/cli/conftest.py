"""The command line, as a user types it."""

import pytest

from inception_tf.cli.main import main


@pytest.fixture
def command(capfd):
    """A function that runs `inception-tf` and returns its exit code, standard output and standard error."""

    def run(*arguments):
        code = main(list(map(str, arguments)))
        out, err = capfd.readouterr()
        assert len(err.splitlines()) <= 2 and "Traceback" not in err
        return code, out, err

    return run
