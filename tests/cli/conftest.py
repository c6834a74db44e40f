"""The command line, as a user types it."""

import pytest

from inception_tf.cli.main import main


@pytest.fixture
def command(capfd):
    """A function that runs `inception-tf` and returns its exit code, standard output and standard error.

    An error is a line or two on standard error, and nothing else but its JSON where that is asked for.
    """

    def run(*arguments):
        code = main(list(map(str, arguments)))
        out, err = capfd.readouterr()
        assert len(err.splitlines()) <= 2 and "Traceback" not in err
        assert not (code and out and err) or "--json" in arguments
        return code, out, err

    return run
