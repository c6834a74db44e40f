"""Files that train on several machines, under Slurm and under Kubernetes."""

import json
import shlex
from importlib.resources import files
from string import Template

FORMS = {"slurm": "slurm.sh", "kubernetes": "kubernetes.yaml"}


def deployment(form, command, machines):
    """One of the files in `deploy/`, filled in: the workers meet, and meet again when one of them was lost.

    Args:
        form: one of `FORMS`. Under Slurm JAX detects the workers; in Kubernetes that would need rights, so they have
            addresses.
        command: the words after `inception-tf`, without `--workers`.
        machines: how many there are.
    """
    template = Template(files("inception_tf.training").joinpath("deploy", FORMS[form]).read_text("utf-8"))
    if form == "slurm":
        words = shlex.join(["inception-tf", *command, "--workers", "auto"])
        return template.substitute(machines=machines, command=words)
    addresses = ",".join(f"training-{i}.training:8476" for i in range(machines))
    words = [word.replace("$", "$$") for word in [*command, "--workers", addresses]]  # $(NAME) is a variable there
    words = json.dumps([*words, "--worker", "$(WORKER)"], ensure_ascii=False)
    return template.substitute(machines=machines, failures=10 * machines, command=words)
