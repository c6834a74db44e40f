"""Workers: what the watcher makes of their ends, and whole runs shared by two processes."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from histories import assert_same_history, finetune_command, read_rows

from inception_tf.errors import TrainingError, UsageError
from inception_tf.training import workers
from inception_tf.training.state import Position, read_position, save_state
from inception_tf.training.workers import Cluster


def test_clusters():
    assert Cluster.parse("3") == Cluster(3, (0, 1, 2))
    assert Cluster.parse("a:1,b.c:65535", 1) == Cluster(2, (1,), ("a:1", "b.c:65535"))
    assert Cluster.parse("auto") == Cluster()


@pytest.mark.parametrize(
    ("text", "worker", "fact"),
    [
        ("0", None, "'0'"),
        ("-2", None, "'-2'"),
        ("two", None, "'two'"),
        ("a:1", 0, "'a:1'"),
        ("a:1,b", 0, "'a:1,b'"),
        ("a:1,b:0", 0, "'a:1,b:0'"),
        ("a:1,:2", 0, "'a:1,:2'"),
        ("a:1,a:1", 0, "'a:1,a:1'"),
        ("a:1,b:2,a:1", 0, "an address twice"),
        ("a:1,b:2", None, "0 to 1. Received: None"),
        ("a:1,b:2", 2, "0 to 1. Received: 2"),
        ("2", 0, "--worker goes with"),
        ("auto", 0, "--worker goes with"),
    ],
)
def test_no_clusters(text, worker, fact):
    with pytest.raises(UsageError, match=fact):
        Cluster.parse(text, worker)


def test_workers_need_jax(monkeypatch):
    with pytest.raises(UsageError, match="KERAS_BACKEND=jax. Received: tensorflow"):
        workers.join(["127.0.0.1:1", "127.0.0.1:2"], 0)
    monkeypatch.setattr(workers.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match="pip install jax"):
        Cluster.parse("2")


TELL = """
import json, os, signal, sys, time
role = json.loads(os.environ["INCEPTION_TF_WORKER"])
def tell(**what):
    open(role["report"], "w").write(json.dumps(what))
worker = role["worker"]
"""


def start(body, out, count=2):
    """`workers.start` of a program that does without JAX."""
    return workers.start(Cluster.parse(str(count)), [sys.executable, "-c", TELL + body], out)


def test_what_the_first_worker_returns(tmp_path):
    assert start("tell(worker=worker, result={'best': worker})", tmp_path) == {"best": 0}


@pytest.mark.parametrize(
    ("ends", "message"),
    [
        ("os.kill(os.getpid(), signal.SIGKILL)", "Worker 1 was ended by SIGKILL."),
        ("os.kill(os.getpid(), signal.SIGSEGV)", "Worker 1 was ended by SIGSEGV."),
        ("print('no memory'); sys.exit(7)", "Worker 1 ended with exit code 7: no memory"),
        ("tell(message='KeyError: 3'); sys.exit(1)", "Worker 1 ended with exit code 1: KeyError: 3"),
        ("tell(worker=1); os.abort()", "Worker 1 lost another one: it ended, or it has been silent for 60 s."),
        ("os.abort()", "Worker 1 did not meet the others at 127.0.0.1:"),
    ],
)
def test_a_worker_that_ends_ends_the_others(tmp_path, monkeypatch, ends, message):
    monkeypatch.setattr(workers, "_GRACE_SECONDS", 0.2)
    save_state(tmp_path / "state.npz", Position(total=12), [])
    begun = time.monotonic()
    with pytest.raises(TrainingError) as error:
        start(f"if worker: {ends}\ntime.sleep(600)", tmp_path)
    assert time.monotonic() - begun < 300
    assert str(error.value).startswith(message)
    assert f"The state of step 12 is in {tmp_path};" in str(error.value)


def test_nothing_was_saved_yet(tmp_path):
    with pytest.raises(TrainingError, match="No step's state was saved yet"):
        start("os.kill(os.getpid(), signal.SIGKILL)", tmp_path, count=1)


def test_the_cause_is_told_before_what_follows_from_it(tmp_path, monkeypatch):
    """Worker 0 loses the connection at once; worker 1, which is to blame, takes a moment longer to end."""
    monkeypatch.setattr(workers, "_GRACE_SECONDS", 60)
    body = """
if worker == 0:
    tell(message="ValueError: Gloo AllReduce failed: Connection closed by peer", lost=True); sys.exit(1)
time.sleep(0.5)
tell(worker=1, error="UsageError", message="daisy.jpg: no such file"); sys.exit(1)
"""
    with pytest.raises(UsageError, match="^Worker 1: daisy.jpg: no such file$"):
        start(body, tmp_path)


WATCHER = """
import sys
from inception_tf.training import workers
workers.start(workers.Cluster.parse("2"), [sys.executable, "-c", sys.argv[1]], ".")
"""


def test_workers_die_with_the_watcher(tmp_path):
    body = f"import os, time\nfrom inception_tf.training import workers\ndef work():\n    open(r'{tmp_path}/' + str("
    body += "os.getpid()), 'w').close()\n    time.sleep(600)\nworkers.join = lambda *_: None\nworkers.report(work)"
    with subprocess.Popen([sys.executable, "-c", WATCHER, body]) as watcher:
        until(lambda: len(list(tmp_path.iterdir())) == 2)
        watcher.kill()
    until(lambda: not any(alive(int(path.name)) for path in tmp_path.iterdir()))


def alive(process):
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def until(holds, seconds=600):
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.05)


def command(data, out, *options):
    common = ["--epochs", "3", "--learning-rate", "0.001", "--batch-size", "8", "--seed", "1"]
    return finetune_command(data, out, *common, *options)


@pytest.fixture(scope="module")
def alone(pictures, tmp_path_factory):
    """A run of one worker."""
    out = tmp_path_factory.mktemp("alone") / "run"
    subprocess.run(command(pictures, out, "--workers", 1), check=True, capture_output=True)
    return out


@pytest.mark.slow
@pytest.mark.parametrize("detected", [False, True])
def test_two_workers_train_as_one(pictures, alone, tmp_path, detected):
    """Each started by itself, as on two machines, or as by Open MPI. Dropout and augmentation are drawn as for one."""
    out, port = tmp_path / "run", workers._free_port()

    def start(number):
        if detected:
            options, environment = ("--workers", "auto"), dict(os.environ, JAX_COORDINATOR_PORT=str(port))
            environment |= {"OMPI_MCA_orte_hnp_uri": "4096.0;tcp://127.0.0.1:1", "OMPI_COMM_WORLD_SIZE": "2"}
            environment |= dict.fromkeys(("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_LOCAL_RANK"), str(number))
        else:
            options, environment = ("--workers", f"127.0.0.1:{port},127.0.0.1:1", "--worker", number), None
        words = command(pictures, out, *options)
        return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)

    with start(0) as first, start(1) as other:
        (text, lines), (others_text, others_lines) = (process.communicate(timeout=900) for process in (first, other))
    assert (first.returncode, other.returncode) == (0, 0), lines + others_lines
    assert "Best: all, epoch" in text
    assert (others_text, others_lines) == (f"Written: {out}, by the first worker\n", "")
    assert_same_history(read_rows(out), read_rows(alone))
    assert len(lines.splitlines()) == 5, lines


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc").is_dir(), reason="finds the workers in /proc")
def test_a_run_of_two_workers_interrupted_twice(pictures, alone, tmp_path):
    """By Ctrl-C, and by a worker that is killed. It ends as one that was never interrupted."""
    out = tmp_path / "run"
    words = command(pictures, out, "--workers", 2, "--save-steps", 1)

    def run(step, breaks):
        with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as watcher:
            until(lambda: watcher.poll() is not None or (out / "state.npz").exists())
            until(lambda: watcher.poll() is not None or read_position(out / "state.npz").total >= step)
            breaks(watcher.pid)
            _, chatter = watcher.communicate(timeout=900)
        return watcher.returncode, chatter

    code, chatter = run(1, lambda pid: os.kill(pid, signal.SIGINT))
    assert code == 130
    stopped = int(re.search(r"Stopped at step (\d) of 9;", chatter)[1])
    assert stopped == read_position(out / "state.npz").total >= 1

    code, chatter = run(stopped + 1, lambda pid: os.kill(worker(pid, 1), signal.SIGKILL))
    assert code == 1
    last = chatter.splitlines()[-1]
    kept = read_position(out / "state.npz").total
    assert last.startswith("inception-tf finetune: Worker 1 was ended by SIGKILL. ")
    assert f"The state of step {kept} is in {out};" in last
    assert stopped < kept < 9

    done = subprocess.run(words, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    assert f"Resuming at step {kept} of 9." in done.stderr
    assert_same_history(read_rows(out), read_rows(alone))


def worker(watcher, number):
    children = Path(f"/proc/{watcher}/task/{watcher}/children").read_text().split()
    (found,) = [pid for pid in children if f'"worker": {number}'.encode() in Path(f"/proc/{pid}/environ").read_bytes()]
    return int(found)


@pytest.fixture
def hosts(tmp_path):
    """Two network namespaces that a cable joins: for each, a function from a command to one that runs there."""
    names, table = [f"itf-{os.getpid()}-{i}" for i in range(2)], tmp_path / "hosts"
    table.write_text("127.0.0.1 localhost\n10.77.0.1 host0\n10.77.0.2 host1\n")

    def ip(*words):
        return subprocess.run(["ip", *words], check=True, capture_output=True)

    try:
        for name in names:
            ip("netns", "add", name)
        ip("link", "add", "eth0", "netns", names[0], "type", "veth", "peer", "name", "eth0", "netns", names[1])
        for i, name in enumerate(names):
            ip("-n", name, "address", "add", f"10.77.0.{i + 1}/24", "dev", "eth0")
            for device in ("lo", "eth0"):
                ip("-n", name, "link", "set", device, "up")
        own = ["unshare", "--uts", "--mount", "sh", "-c"]
        steps = f'mount --bind "{table}" /etc/hosts && hostname "$0" && exec "$@"'
        makers = [
            lambda words, i=i: ["ip", "netns", "exec", names[i], *own, steps, f"host{i}", *words] for i in range(2)
        ]
        for make in makers:
            subprocess.run(make(["true"]), check=True, capture_output=True)
        yield names, makers
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no network namespaces: {error}")
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "delete", name], capture_output=True)


@pytest.mark.slow
def test_two_hosts_one_of_which_dies(pictures, alone, tmp_path, hosts):
    """As under Slurm. All processes of a host are killed; both are started again, and end as one that never died."""
    out, (names, makers) = tmp_path / "run", hosts
    words = command(pictures, out, "--workers", "auto", "--save-steps", 1)
    job = {"SLURM_JOB_ID": "7", "SLURM_STEP_NODELIST": "host[0-1]", "SLURM_NTASKS": "2", "SLURM_LOCALID": "0"}

    def start(i):
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        return subprocess.Popen(makers[i](words), env={**os.environ, **job, "SLURM_PROCID": str(i)}, **pipes)

    with start(0) as first, start(1) as other:
        until(lambda: first.poll() is not None or (out / "state.npz").exists())
        until(lambda: first.poll() is not None or read_position(out / "state.npz").total >= 2)
        for pid in subprocess.run(["ip", "netns", "pids", names[1]], capture_output=True, text=True).stdout.split():
            os.kill(int(pid), signal.SIGKILL)
        (_, chatter), _ = (process.communicate(timeout=900) for process in (first, other))
    kept = read_position(out / "state.npz").total
    assert first.returncode == 1 and 2 <= kept < 9, chatter
    assert "Worker 0 lost another one" in chatter and f"The state of step {kept} is in {out};" in chatter

    with start(0) as first, start(1) as other:
        (_, chatter), (others_text, _) = (process.communicate(timeout=900) for process in (first, other))
    assert (first.returncode, other.returncode) == (0, 0), chatter
    assert f"Resuming at step {kept} of 9." in chatter and "by the first worker" in others_text
    assert_same_history(read_rows(out), read_rows(alone))


@pytest.mark.slow
def test_workers_of_different_commands(pictures, tmp_path):
    """One has another seed. Both say so."""
    address = f"127.0.0.1:{workers._free_port()},127.0.0.1:1"
    both = [
        subprocess.Popen(
            command(pictures, tmp_path / "run", "--workers", address, "--worker", i, "--label-smoothing", i / 10),
            stderr=subprocess.PIPE,
            text=True,
        )
        for i in range(2)
    ]
    for process in both:
        _, chatter = process.communicate(timeout=900)
        assert process.returncode == 2
        assert "Worker 1 differs from worker 0 in: recipe." in chatter


@pytest.mark.slow
def test_a_batch_that_workers_cannot_share(pictures, tmp_path):
    words = command(pictures, tmp_path / "run", "--workers", 3)
    done = subprocess.run(words, stderr=subprocess.PIPE, text=True, timeout=900)
    assert done.returncode == 2
    assert "A batch of 8 cannot be split among 3 workers." in done.stderr
    assert not (tmp_path / "run").exists()


def test_sums_over_workers_are_float64():
    from inception_tf.training.devices import DataParallel

    parts = np.array([[[1.0, 1e-9]], [[1e9, 3.0]]])

    class Second(DataParallel):
        def __init__(self):
            pass

        def _gather(self, array):
            assert array.dtype == np.uint32
            return np.stack([np.frombuffer(part.tobytes(), np.uint32) for part in parts])

    np.testing.assert_array_equal(Second().all_reduce_sum(parts[1]), parts.sum(axis=0))
