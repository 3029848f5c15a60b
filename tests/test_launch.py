"""The launch scripts: what they would run, word for word, and what they do when runs end, crash or are preempted.

A changed command is looked at and then accepted with `LMINDEXER_ACCEPT=1 pytest tests/test_launch.py`, which writes the
files of tests/launch/ anew.
"""

import os
import pathlib
import re
import shlex
import shutil
import signal
import stat
import subprocess
import sys
import time

import pytest
import yaml

ROOT = pathlib.Path(__file__).parents[1]
LAUNCH = ROOT / "launch"
GOLDEN = pathlib.Path(__file__).with_name("launch")
SCRIPTS = sorted(path.name for path in LAUNCH.glob("*.sh") if path.name not in ("common.sh", "environment.sh"))

# Spaces, both kinds of quotes, a dollar, a backslash, a star: all of them words that a shell would like to change.
AWKWARD = """--config.corpus.template={title} of "$HOME" \\ it's *"""
MAIN = ["--", "--config", "configs/ours.py:tiny", "--workdir", "/mnt/lmindexer/runs/my run", AWKWARD]
SLICE = ["--name", "slice", "--zone", "us-west4-a"]

DRY = {
    "machine-gpu": ["machine.sh", "--platform", "gpu", *MAIN],
    "machine-tpu": ["machine.sh", "--platform", "tpu", *MAIN],
    "machine-cpu": ["machine.sh", "--platform", "cpu", *MAIN],
    "machine-finetune": ["machine.sh", "--platform", "gpu", "--", "finetune", "--workdir", "runs/mine", "--frozen"],
    "detached-start": ["detached.sh", "start", "--platform", "gpu", "--retries", "3", "--in", "run", *MAIN],
    "tpu-create": ["tpu_vm.sh", "create", *SLICE, "--type", "v5litepod-16", "--project", "my-project", "--spot"],
    "tpu-setup": ["tpu_vm.sh", "setup", *SLICE, "--share", "10.0.0.2:/runs"],
    "tpu-run": ["tpu_vm.sh", "run", *SLICE, *MAIN],
    "tpu-logs": ["tpu_vm.sh", "logs", *SLICE, "--worker", "3"],
    "tpu-status": ["tpu_vm.sh", "status", *SLICE],
    "tpu-stop": ["tpu_vm.sh", "stop", *SLICE],
    "tpu-babysit": ["tpu_vm.sh", "babysit", *SLICE, "--type", "v6e-8", "--retries", "4", *MAIN],
    "tpu-delete": ["tpu_vm.sh", "delete", *SLICE],
    "slurm": ["slurm.sh", "--nodes", "2", "--gpus", "4", "--partition", "long", "--account", "lab 1", *MAIN],
    "slurm-recommend": ["slurm.sh", "--", "recommend", "--config", "configs/recommend/text.py", "--workdir", "runs/rec"],
    "jobset-tpu": ["jobset.sh", "--image", "i", "--volume", "runs", "--tpu", "tpu-v5-lite-podslice/4x4", "--hosts", "4", "--spot", *MAIN],
    "jobset-gpu": ["jobset.sh", "--image", "i", "--volume", "runs", "--gpu", "nvidia-h100-80gb", "--hosts", "2", *MAIN],
}

WRONG = {
    "nothing behind --": ["machine.sh", "--platform", "gpu"],
    "finetune without a workdir": ["machine.sh", "--", "finetune", "--frozen"],
    "recommend without a config": ["machine.sh", "--", "recommend", "--workdir", "runs/rec"],
    "no workdir": ["machine.sh", "--", "--config", "x.py"],
    "an unknown platform": ["machine.sh", "--platform", "abacus", *MAIN],
    "an unknown option": ["machine.sh", "--speed", "9", *MAIN],
    "no value": ["machine.sh", "--platform"],
    "no number": ["machine.sh", "--retries", "often", *MAIN],
    "no command for the machine": ["detached.sh", *MAIN],
    "no command": ["tpu_vm.sh", *SLICE],
    "an unknown command": ["tpu_vm.sh", "explode", *SLICE],
    "two commands": ["tpu_vm.sh", "stop", "delete", *SLICE],
    "no name": ["tpu_vm.sh", "delete", "--zone", "us-west4-a"],
    "no zone": ["tpu_vm.sh", "delete", "--name", "slice"],
    "no type": ["tpu_vm.sh", "create", *SLICE],
    "a type without known software": ["tpu_vm.sh", "create", *SLICE, "--type", "tpu7x-8"],
    "spot and reserved": ["tpu_vm.sh", "create", *SLICE, "--type", "v6e-8", "--spot", "--reserved"],
    "a run on a disk that goes with the slice": ["tpu_vm.sh", "babysit", *SLICE, "--type", "v6e-8", "--spot", *MAIN],
    "a share beside the workdir": ["tpu_vm.sh", "babysit", *SLICE, "--type", "v6e-8", "--share", "s:/x", *MAIN[:-2], "runs/mine"],
    "no share": ["tpu_vm.sh", "setup", *SLICE, "--share", "runs"],
    "too much": ["tpu_vm.sh", "delete", *SLICE, *MAIN],
    "no nodes": ["slurm.sh", "--nodes", "0", *MAIN],
    "neither TPU nor GPU": ["jobset.sh", "--image", "i", "--volume", "v", *MAIN],
    "both": ["jobset.sh", "--image", "i", "--volume", "v", "--tpu", "a/2x2", "--gpu", "b", *MAIN],
    "no topology": ["jobset.sh", "--image", "i", "--volume", "v", "--tpu", "a", *MAIN],
    "chips that are no slice": ["jobset.sh", "--image", "i", "--volume", "v", "--tpu", "a/4x4", *MAIN],
    "no image": ["jobset.sh", "--volume", "v", "--gpu", "b", *MAIN],
    "no volume": ["jobset.sh", "--image", "i", "--gpu", "b", *MAIN],
    "a workdir in the pod": ["jobset.sh", "--image", "i", "--volume", "v", "--gpu", "b", *MAIN[:-2], "/tmp/run"],
    "no name for Kubernetes": ["jobset.sh", "--name", "My Run", "--image", "i", "--volume", "v", "--gpu", "b", *MAIN],
}


def launch(script, *arguments, home=LAUNCH, **environment):
    """Run a script, with nothing of this machine's settings in its environment but the path."""
    clean = {"PATH": os.environ["PATH"], "HOME": "/home/user", "LMINDEXER_SHARE": "/nowhere"} | environment
    return subprocess.run(["bash", str(home / script), *arguments], env=clean, capture_output=True, text=True)


def dry(script, *arguments):
    """Options stand before the --."""
    done = launch(script, "--dry-run", *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout.replace(str(ROOT), "ROOT")


@pytest.mark.parametrize("name", DRY)
def test_what_would_be_run(name):
    shown, golden = dry(*DRY[name]), GOLDEN / f"{name}.txt"
    if os.environ.get("LMINDEXER_ACCEPT"):
        golden.write_text(shown)
    assert shown == golden.read_text()


def test_no_golden_file_is_left_over():
    assert {path.stem for path in GOLDEN.iterdir()} == set(DRY)


@pytest.mark.parametrize("name", [name for name in DRY if MAIN[-1] in DRY[name] and not name.startswith("jobset")])
def test_awkward_words_survive_every_shell_on_their_way(name):
    """The last line holds the run: read as often as shells will read it, it ends in the words that were given."""
    words = shlex.split(dry(*DRY[name]).splitlines()[-1])
    while MAIN[-1] not in words:
        assert len(words) > 1, "no further shell would read it"
        words = shlex.split(words[-1])
    assert words[-len(MAIN[1:]) :] == MAIN[1:]


@pytest.mark.parametrize("name", ["jobset-tpu", "jobset-gpu"])
def test_a_jobset_is_yaml_and_its_command_the_words_given(name):
    job = yaml.safe_load(dry(*DRY[name]))["spec"]["replicatedJobs"][0]["template"]["spec"]
    (container,) = job["template"]["spec"]["containers"]
    assert container["command"][-len(MAIN) :] == MAIN
    assert job["parallelism"] == job["completions"] == (4 if name == "jobset-tpu" else 2)
    assert ("env" in container) == (name == "jobset-gpu"), "GKE tells the pods of a TPU slice about each other"


def test_kubernetes_does_not_fill_in_what_looks_like_its_variables():
    arguments = [*DRY["jobset-gpu"], "--config.corpus.template=$(HOME)"]
    assert '- "--config.corpus.template=$$(HOME)"' in dry(*arguments)


@pytest.mark.parametrize("name", WRONG)
def test_wrong_arguments_get_one_line_and_exit_code_2(name):
    done = launch(*WRONG[name])
    assert done.returncode == 2 and done.stdout == ""
    assert len(done.stderr.splitlines()) == 1 and done.stderr.startswith(WRONG[name][0])


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_names_every_option(script):
    shown = launch(script, "--help")
    assert shown.returncode == 0 and not shown.stderr
    branches = re.findall(r"^ +(--[^)]*)\)", (LAUNCH / script).read_text(), re.MULTILINE)
    options = {option for branch in branches for option in re.findall(r"--[a-z-]+", branch)}
    assert len(options) > 3 and not [option for option in options if option not in shown.stdout]


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_can_be_read_from_anywhere(script):
    done = subprocess.run(["bash", script, "--help"], cwd=LAUNCH, capture_output=True, text=True)
    assert done.stdout == launch(script, "--help").stdout


def test_shellcheck_has_nothing_to_say():
    checker = shutil.which("shellcheck") or pathlib.Path(sys.executable).with_name("shellcheck")
    files = [f"launch/{path.name}" for path in sorted(LAUNCH.iterdir()) if path.suffix in (".sh", ".sbatch")]
    done = subprocess.run([str(checker), "-x", *files], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_jaxlib_knows_the_flags():
    """An unknown flag ends the process when XLA is loaded; flags of GPUs are read by jaxlib for CPUs too."""
    line = next(line for line in dry(*DRY["machine-gpu"]).splitlines() if "XLA_FLAGS" in line)
    flags = shlex.split(line)[-1].partition("=")[2]
    code = "import jax; jax.devices()"
    for given, works in ((flags, True), (f"{flags} --xla_gpu_no_such_flag=1", False)):
        environment = os.environ | {"XLA_FLAGS": given, "JAX_PLATFORMS": "cpu"}
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True)
        assert (done.returncode == 0) == works


def test_what_the_user_has_set_stays():
    done = launch("machine.sh", "--dry-run", "--platform", "gpu", *MAIN, XLA_FLAGS="--mine", JAX_DEFAULT_MATMUL_PRECISION="bfloat16")
    assert "JAX_DEFAULT_MATMUL_PRECISION=bfloat16" in done.stdout
    assert "_scheduler=true --mine'" in done.stdout


@pytest.fixture
def elsewhere(tmp_path):
    """A copy of the scripts, and a folder of programs that come before all others: `write(name, bash)`."""
    shutil.copytree(LAUNCH, tmp_path / "launch")
    programs = tmp_path / "bin"
    programs.mkdir()

    def write(name, text):
        (programs / name).write_text(f"#!/usr/bin/env bash\n{text}")
        (programs / name).chmod(0o755 | stat.S_IXUSR)

    def call(script, *arguments):
        return launch(script, *arguments, home=tmp_path / "launch", PATH=f"{programs}:{os.environ['PATH']}", HOME=str(tmp_path))

    write("sleep", "true")
    call.write, call.home = write, tmp_path
    return call


def test_a_crash_is_tried_again_and_wrong_settings_are_not(elsewhere):
    elsewhere.write("python", f"""printf '%s\\n' "$*" >>{elsewhere.home}/calls; exit "$(cat {elsewhere.home}/code)" """)
    status = elsewhere.home / "status"
    for code, calls in ((0, 1), (1, 3), (2, 1), (139, 3)):
        status.unlink(missing_ok=True)
        (elsewhere.home / "calls").write_text("")
        (elsewhere.home / "code").write_text(str(code))
        done = elsewhere("machine.sh", "--platform", "cpu", "--retries", "2", "--status", str(status), *MAIN)
        assert done.returncode == code and status.read_text() == f"{code}\n"
        lines = (elsewhere.home / "calls").read_text().splitlines()
        assert lines == ["-m lmindexer_jax.main " + " ".join(MAIN[1:])] * calls


def test_a_detached_run_is_looked_after(elsewhere):
    elsewhere.write("python", "trap 'exit 143' TERM; while [ ! -f go ]; do /bin/sleep 0.05; done; exit 5")
    other = ["--", "--config", "x.py", "--workdir", "y"]
    assert elsewhere("detached.sh", "status").stdout == "none\n"
    assert elsewhere("detached.sh", "start", *MAIN).returncode == 0
    assert elsewhere("detached.sh", "status", *MAIN).stdout == "running\n"
    assert elsewhere("detached.sh", "status", *other).stdout == "other\n"
    again = elsewhere("detached.sh", "start", *MAIN)
    assert again.returncode == 1 and "stop it first" in again.stderr
    assert elsewhere("detached.sh", "stop").returncode == 0
    assert elsewhere("detached.sh", "status", *MAIN).stdout == "none\n"

    elsewhere("detached.sh", "start", *MAIN)
    pid = int((elsewhere.home / "lmindexer-run/pid").read_text())
    (elsewhere.home / "go").touch()
    wait_until_gone(pid)
    assert elsewhere("detached.sh", "status", *MAIN).stdout == "5\n"
    assert elsewhere("detached.sh", "status", *other).stdout == "none\n", "another run's end is not this one's"


def wait_until_gone(pid):
    """Its parent is gone, so nothing says when it ends but its absence."""
    while pathlib.Path(f"/proc/{pid}").exists() or _alive(pid):
        time.sleep(0.02)


def _alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


# Stands in for gcloud: it logs its verb, and takes the slice's state and the run's from the next line of two files.
GCLOUD = """
cd {home}
verb=$4
case $verb in ssh) case "$*" in *" status "*) verb=status ;; *" start "*) verb=start ;; *" stop") verb=stop ;; *) verb=setup ;; esac ;; esac
next() {{ head -n 1 "$1"; sed -i 1d "$1"; }}
case $verb in
describe)
    state=$(next states)
    case $state in
    "") echo "NOT_FOUND: Resource 'slice' was not found" >&2; exit 1 ;;
    offline) echo "Unable to find the server" >&2; exit 1 ;;
    esac
    echo $state
    exit
    ;;
status) next runs; exit ;;
esac
echo $verb >>calls
if [[ $verb == create && -s failures ]]; then next failures >&2; exit 1; fi
[[ $verb != "$(cat broken)" ]]
"""

FRESH = ["create", "scp", "setup", "stop", "start"]
AGAIN = FRESH[1:]


@pytest.mark.parametrize(
    "states, runs, broken, calls, code, said",
    [
        ([""] + ["READY"] * 3, ["running", "running", "0"], "", FRESH, 0, "done"),
        (["READY"], ["0"], "", [], 0, "done"),
        (["READY", "PREEMPTED", "READY"], ["running", "0"], "", ["delete", *FRESH], 0, "PREEMPTED; start 1"),
        (["CREATING", "READY", "READY"], ["none", "0"], "", AGAIN, 0, "start 1"),
        (["READY"] * 3, ["1", "dead", "0"], "", AGAIN * 2, 0, "dead; start 2"),
        (["READY"] * 9, ["1"] * 9, "", AGAIN * 3, 1, "1 after 3 starts. Giving up"),
        ([""] * 9, [], "create", ["create"] * 3, 1, "no slice after 3 starts"),
        (["READY"], ["2"], "", ["setup"], 2, "refuses its settings"),
        (["READY"], ["other"], "", [], 1, "another run"),
        (["STOPPED"], [], "", [], 1, "the slice is STOPPED"),
        (["", "READY", "READY"], ["none", "0"], "scp", ["create", "scp", "scp"], 0, "that failed"),
        (["offline"] * 9 + ["READY"], ["0"], "", [], 0, "Unable to find the server"),
        (["offline"] * 11, [], "", [], 1, "out of reach 11 times"),
    ],
)
def test_babysit(babysit, states, runs, broken, calls, code, said):
    done, called = babysit(states, runs, broken)
    assert called == calls
    assert done.returncode == code and said in done.stderr
    assert "delete --name slice --zone us-west4-a" in done.stderr, "whoever stops looking says that the slice costs"


def test_babysit_waits_for_capacity_and_counts_what_else_fails(babysit):
    capacity, quota = 'There is no more capacity in the zone "us-west4-a"', "Quota limit has been exceeded"
    done, called = babysit([""] * 6 + ["READY"], ["0"], "", [capacity] * 5)
    assert done.returncode == 0 and called == ["create"] * 5 + FRESH
    assert done.stderr.count("start 1 of at most 3") == 6 and capacity in done.stderr
    done, called = babysit([""] * 9, [], "", [quota] * 9)
    assert done.returncode == 1 and called == ["create"] * 3 and quota in done.stderr


@pytest.fixture
def babysit(elsewhere):
    """Babysitting with a gcloud that says what it is told to: what became of it, and the verbs it used."""

    def call(states, runs, broken, failures=()):
        home = elsewhere.home
        elsewhere.write("gcloud", GCLOUD.format(home=home))
        elsewhere.write("git", "true")
        for name, lines in (("states", states), ("runs", runs), ("failures", failures)):
            (home / name).write_text("".join(f"{line}\n" for line in lines))
        (home / "broken").write_text(broken)
        (home / "calls").write_text("")
        done = elsewhere("tpu_vm.sh", "babysit", *SLICE, "--type", "v6e-8", "--retries", "2", *MAIN)
        return done, (home / "calls").read_text().split()

    return call


# Stands in for srun: a task by the last words of its line, which ends as the test says and may be killed for another's sake.
SRUN = """
echo "$$" >{home}/srun
while [[ $1 != --status ]]; do shift; done
if [[ -n ${{TASK:-}} ]]; then echo "$TASK" >"$2"; fi
if [[ $CODE == slow ]]; then /bin/sleep 20 >/dev/null 2>&1 & wait; fi
exit "$CODE"
"""


@pytest.fixture
def slurm(elsewhere):
    """The environment of a job, and its command."""
    elsewhere.write("srun", SRUN.format(home=elsewhere.home))
    elsewhere.write("scontrol", 'echo "$*"')
    settings = {"PATH": f"{elsewhere.home}/bin:{os.environ['PATH']}", "SLURM_JOB_ID": "7", "SLURM_CPUS_PER_TASK": "8"}
    command = ["bash", "launch/slurm.sbatch", "3", *MAIN[1:]]

    def start(**more):
        pipe = subprocess.PIPE
        return subprocess.Popen(command, cwd=elsewhere.home, env=settings | more, stdout=pipe, stderr=pipe, text=True)

    start.home = elsewhere.home
    return start


@pytest.mark.parametrize(
    "code, task, restarts, ends, requeued",
    [
        (0, "", 0, 0, False),
        (1, "", 0, 1, True),
        (1, "", 2, 1, True),
        (1, "", 3, 1, False),
        (2, "2", 0, 2, False),
        (137, "2", 0, 2, False),  # one task has refused its settings, and srun has killed the others
        (137, "3", 0, 137, True),
    ],
)
def test_a_crashed_slurm_job_goes_back_into_the_queue_a_bounded_number_of_times(slurm, code, task, restarts, ends, requeued):
    job = slurm(CODE=str(code), TASK=task, SLURM_RESTART_COUNT=str(restarts))
    said, _ = job.communicate()
    assert job.returncode == ends and said == ("requeue 7\n" if requeued else "")
    assert not list(slurm.home.glob("*.status"))


def test_a_slurm_job_whose_time_is_up_goes_back_into_the_queue_once(slurm):
    with slurm(CODE="slow") as job:
        while not (slurm.home / "srun").exists() or not (slurm.home / "srun").read_text():
            time.sleep(0.02)
        job.send_signal(signal.SIGUSR1)
        assert job.stdout.readline() == "requeue 7\n"
        assert job.poll() is None, "SLURM ends the step, not the job itself"
        os.kill(int((slurm.home / "srun").read_text()), signal.SIGKILL)
        assert job.wait() == 137 and job.stdout.read() == ""
