# Paths, experiments, digests of models and code, checks. Every cluster job parses this file anew, so it imports nothing
# heavy.
import json
import os
import re
import shlex
import sys
from pathlib import Path

from snakemake.exceptions import WorkflowError

SCRIPTS = Path(workflow.basedir).parent / "scripts"
sys.path.insert(0, str(SCRIPTS))
# `python` in a rule is the one that runs Snakemake, also when its environment is not activated; a conda environment,
# if deployed, still comes first
os.environ.update(PATH=os.pathsep.join([str(Path(sys.executable).parent), *os.get_exec_path()]))

from gateau.errors import UserError
from gateau.model_files import ModelSpec, check_window, tokenizer_fingerprint, weights_fingerprint
from gateau.sources import code_digest

RESULTS = config["results_dir"].rstrip("/")
PROGRESS = config["progress_dir"] or f"{RESULTS}/progress"
PROGRESS_OPTIONS = f"--progress-dir {shlex.quote(PROGRESS)} --progress-seconds {config['scoring']['progress_seconds']}"
RAW_LONG = [config["data"]["long"]] if isinstance(config["data"]["long"], str) else config["data"]["long"]
SHARDS = [f"{shard:04d}" for shard in range(config["scoring"]["shards"])]
SHARD_FILE = f"{{shard}}-of-{len(SHARDS):04d}"
GPUS_PER_PASS = 0 if config["scoring"]["device"] == "cpu" else 1
if not all(isinstance(name, str) for name in config["experiments"]):
    raise WorkflowError("the names of experiments must be text: put numbers in quotes")
# an experiment set to null is dropped: so a user's file can leave out one that config.yaml defines
EXPERIMENTS = [name for name, options in config["experiments"].items() if options is not None]
if not EXPERIMENTS:
    raise WorkflowError("every experiment is set to null; keep at least one")


wildcard_constraints:
    shard=r"\d+",
    experiment="|".join(map(re.escape, EXPERIMENTS)),


def script(name):
    """Path of a script, as a parameter that Snakemake does not compare: moving the repository reruns nothing."""
    return lambda wildcards, input: str(SCRIPTS / f"{name}.py")


def verbatim(value):
    """A parameter that may hold braces, which Snakemake would take for wildcards in a plain string."""
    return lambda wildcards: value


def model(role):
    """The models.short or models.long section as an object with every option."""
    value = config["models"][role]
    return {"path": value} if isinstance(value, str) else {key: v for key, v in value.items() if v is not None}


def model_fingerprint(role):
    """Digest of a model's weights, whatever their path and time."""
    return weights_fingerprint(model(role)["path"], model(role).get("revision"))


def experiment_options(wildcards):
    """The selection section with the experiment's own options in their place."""
    return json.dumps({**config["selection"], **config["experiments"][wildcards.experiment]}, sort_keys=True)


def check_models():
    """Raise WorkflowError now, not after hours, for local models that are missing or too short for max_length."""
    try:
        for role in ("short", "long"):
            spec = ModelSpec.from_config(model(role))
            if spec.is_local:
                spec.config()
                if role == "long":
                    check_window(spec, spec.context_window(), config["scoring"]["max_length"])
        short, long = model("short"), model("long")
        if short["path"] == long["path"] and config["scoring"]["short_context"] == "ntk":
            raise UserError(
                f"models.short and models.long are the same model ({long['path']}), which already knows long contexts: "
                "set scoring.short_context: truncate, and models.short.window to the short window"
            )
    except UserError as error:
        raise WorkflowError(str(error)) from None


def pass_params(role):
    """Parameters of a pass with this model: what changes its numbers, and (uncompared) where the model lies."""
    spec = {key: value for key, value in model(role).items() if key != "path"}
    return {
        "model": lambda wildcards, input: json.dumps(model(role), sort_keys=True),
        "progress": lambda wildcards, input: PROGRESS_OPTIONS,
        "threads": lambda wildcards, input: config["scoring"]["threads"],
        "shard": lambda wildcards: int(wildcards.shard),
        "weights": model_fingerprint(role),
        "tokenizer": tokenizer_fingerprint(model(role)["path"], model(role).get("revision")),
        "options": verbatim(json.dumps(spec, sort_keys=True)),
        "prompt": verbatim(config["scoring"]["prompt"]),
        "max_length": config["scoring"]["max_length"],
        "device": config["scoring"]["device"],
        "dtype": config["scoring"]["dtype"],
        "attention": config["scoring"]["attention"],
    }


PASS_COMMAND = (
    "python {params.script:q} --samples {input.samples:q} --index {input.index:q} --shard {params.shard}"
    " --model {params.model:q} --prompt {params.prompt:q} --max-length {params.max_length}"
    " --device {params.device} --dtype {params.dtype} --attention {params.attention} --threads {params.threads}"
    " {params.progress} --output {output:q} {params.own} > {log:q} 2>&1"
)
SEGMENT_COMMAND = PASS_COMMAND.replace("{params.own}", "{params.own} {params.batches}")


check_models()
