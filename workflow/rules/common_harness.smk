# Parameters of the rule that runs lm-evaluation-harness.
from snakemake.settings.types import DeploymentMethod

from gateau.evaluation.harness.configured import own_tasks_digest, task_options
from gateau.evaluation.harness.index import INSTALL, harness_version

if HARNESS and harness_version() is None:
    if DeploymentMethod.CONDA not in workflow.deployment_settings.deployment_method:
        stop(
            "evaluate.harness.tasks: lm-evaluation-harness is not installed; install it with "
            f"{INSTALL}, or run with --sdm conda"
        )


def harness_options(wildcards):
    """Return the options that decide what is asked, as JSON."""
    return json.dumps(task_options(EVALUATE["harness"]), sort_keys=True)


def harness_run(wildcards, output):
    """Return the arguments that change no answer."""
    file = "harness/model/task/scores.json"
    server, results = EVALUATION.server(wildcards.model), results_of(output, file)
    run = ["--threads", str(GENERATE["threads"]), "--gpus-per-job", str(max(EVALUATION.gpus(wildcards.model), 1))]
    run += ["--progress-dir", f"{progress_of(output, file)}/harness", "--cache", EVALUATE["harness"]["cache"]]
    run += [part for folder in EVALUATE["harness"]["include_path"] for part in ("--include-path", folder)]
    run += ["--offline"] * EVALUATE["harness"]["offline"]
    log = f"{results}/logs/harness/{wildcards.model}/{wildcards.task}.server.log"
    return shlex.join([*run, *(["--server", json.dumps(server), "--server-log", log] if server else [])])
