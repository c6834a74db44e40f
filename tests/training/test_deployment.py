"""The files that train on several machines: run with a Slurm that is none, and as Kubernetes reads them."""

import os
import re
import subprocess
import sys

import pytest
import yaml

from inception_tf.cli.main import main, parser
from inception_tf.training.workers import Cluster

DATA = "it's $HOME, $(WORKER) and $$"
COMMAND = ["finetune", "--data", DATA, "--weights", "none", "--out", "a run", "--epochs", "3"]


@pytest.fixture
def printed(monkeypatch, capsys):
    """A function from options to what `finetune` prints with them."""

    def run(*options):
        words = [*COMMAND[:3], *options, *COMMAND[3:]]
        monkeypatch.setattr(sys, "argv", ["inception-tf", *words])
        return main(words), capsys.readouterr()

    return run


@pytest.mark.parametrize("codes", [[0], [137, 1, 0], [2], [1, 130], [1] * 5])
def test_slurm(printed, tmp_path, codes):
    """Begun again when a worker was lost, and not after wrong use or when it was told to stop."""
    code, (text, _) = printed("--workers", "4", "--print=slurm")
    script, log = tmp_path / "slurm.sh", tmp_path / "log"
    script.write_text(text)
    subprocess.run(["bash", "-n", script], check=True)
    assert code == 0 and re.search("^#SBATCH --nodes=4$", text, re.MULTILINE)
    assert text.index("#SBATCH --signal") < text.index("srun")  # Slurm reads them up to the first command
    fake = tmp_path / "srun"
    fake.write_text(
        f"#!{sys.executable}\nimport json, sys\nfrom pathlib import Path\nlog = Path({str(log)!r})\n"
        "lines = log.read_text().splitlines() if log.exists() else []\n"
        "log.write_text('\\n'.join([*lines, json.dumps(sys.argv[1:])]))\n"
        f"sys.exit({codes}[len(lines)])\n"
    )
    fake.chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}
    assert subprocess.run(["bash", script], env=environment).returncode == codes[-1]
    calls = [yaml.safe_load(line) for line in log.read_text().splitlines()]
    assert calls == [["--kill-on-bad-exit=0", "inception-tf", *COMMAND, "--workers", "auto"]] * len(codes)


def test_kubernetes(printed):
    documents = list(yaml.safe_load_all(printed("--print", "kubernetes")[1].out))
    validate = pytest.importorskip("kubernetes_validate", reason="kubernetes-validate is not installed")
    for document in documents:
        validate.validate(document, validate.latest_version(), strict=True)
    service, job = documents
    pod, spec = job["spec"]["template"], job["spec"]["template"]["spec"]
    assert service["spec"]["clusterIP"] == "None" and service["spec"]["publishNotReadyAddresses"]
    assert service["spec"]["selector"] == pod["metadata"]["labels"] and service["metadata"]["name"] == spec["subdomain"]
    assert (job["spec"]["completionMode"], job["spec"]["completions"], job["spec"]["parallelism"]) == ("Indexed", 2, 2)
    (container,) = spec["containers"]
    assert container["env"][0]["name"] == "WORKER"
    assert {m["name"] for m in container["volumeMounts"]} == {v["name"] for v in spec["volumes"]}
    # As the kubelet expands them: $$ is a dollar sign, $(NAME) a variable.
    expanded = [re.sub(r"\$(\$|\(WORKER\))", lambda m: "$" if m[1] == "$" else "1", w) for w in container["args"]]
    args = parser().parse_args(expanded)
    assert expanded[: len(COMMAND)] == COMMAND and args.data == [DATA]
    names = tuple(f"{job['metadata']['name']}-{i}.{spec['subdomain']}:8476" for i in range(2))
    assert Cluster.parse(args.workers, args.worker) == Cluster(2, (1,), names)


@pytest.mark.parametrize(
    ("options", "fact"),
    [
        (["--workers", "auto"], "'auto'"),
        (["--workers", "1"], "'1'"),
        (["--workers", "a:1,b:1", "--worker", "0"], "'a:1,b:1'"),
        (["--workers", "3", "--batch-size", "8"], "8 cannot be split among 3"),
    ],
)
def test_what_is_not_printed(printed, options, fact):
    code, (_, chatter) = printed("--print", "slurm", *options)
    assert code == 2 and fact in chatter
