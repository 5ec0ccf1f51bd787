# Paths and parameters that the rules share. What a configuration means is in gateau/experiments.py. Every cluster job
# reads this file again, so it imports nothing heavy.
import json
import os
import re
import shlex
import signal
import sys
from pathlib import Path

from snakemake.exceptions import WorkflowError

# The library beside this checkout. A module from a git tag has no folder: there the installed package takes its place.
_beside = Path(workflow.current_basedir.get_path_or_uri(secret_free=True)).parents[1] / "scripts"
if (_beside / "gateau").is_dir():
    sys.path.insert(0, str(_beside))
try:
    from gateau.config_files import completed
    from gateau.digests import code_digest
    from gateau.errors import UserError
    from gateau.experiments import FORMULA, TRAIN_OPTIONS, Configuration
    from gateau.model_files import fingerprints
    from gateau.places import SCHEMA, SCRIPTS
    from gateau.raw_files import expanded
except ModuleNotFoundError as error:
    raise WorkflowError(f"{error}: install the package gateau-workflow where Snakemake runs") from None

# `python` in a rule is the one that runs Snakemake, also when its environment is not activated. A conda environment, if
# deployed, still comes first.
os.environ.update(PATH=os.pathsep.join([str(Path(sys.executable).parent), *os.get_exec_path()]))

# SLURM's --signal reaches all processes of a job, this one included. This process stays, to see how its training ends.
if "SLURM_JOB_ID" in os.environ:
    signal.signal(signal.SIGUSR1, lambda number, frame: None)

# Laid under in code, because Snakemake skips `configfile:` in a module that is given a `config:`.


def stop(message):
    """End planning with one line. A WorkflowError would name a line of this file, or print a traceback."""
    logger.error(message)
    sys.exit(1)


def checked(check):
    """Return what ``check`` returns, or end planning with its error in one line."""
    try:
        return check()
    except UserError as error:
        stop(str(error))


config = checked(lambda: completed(config))
validate(config, str(SCHEMA))
CONFIGURED = Configuration(config, workflow.modifier.path_modifier.modify)
checked(CONFIGURED.check)

RESULTS = config["results_dir"].rstrip("/")
# with the prefix of a module, as Snakemake gives it to all inputs that are not absolute paths
RAW_LONG, RAW_SHORT = (
    [workflow.modifier.path_modifier.modify(path) for path in CONFIGURED.raw_files(source)]
    for source in ("long", "short")
)
SHARDS = [f"{shard:04d}" for shard in range(config["scoring"]["shards"])]
SHARD_FILE = f"{{shard}}-of-{len(SHARDS):04d}"
GPUS_PER_PASS = CONFIGURED.gpus_per_pass
GPUS_PER_NODE = 0 if config["train"]["device"] == "cpu" else config["train"]["ranks_per_node"]
TRAINED, RANKED = CONFIGURED.trained, CONFIGURED.ranked
SOURCES = CONFIGURED.sources
CONTRASTS = CONFIGURED.all_contrasts


wildcard_constraints:
    shard=r"\d+",
    experiment="|".join(map(re.escape, CONFIGURED.experiments)) or "none",
    contrast="|".join(CONTRASTS),
    source="long|short",


def raw_data(key, entries):
    """Return an input function: the files that the entries of this key stand for, which exist or are made by some rule."""

    def found(wildcards):
        if CONFIGURED.unset:
            stop(
                f"{' and '.join(CONFIGURED.unset)} must be set in your configuration file; start from a file of "
                "config/presets, or try the embedded data with --configfile config/demo.yaml"
            )
        made = [entry for entry in entries if any(one.is_producer(entry) for one in workflow.rules)]
        return [file for one in entries for file in ([one] if one in made else checked(lambda: expanded([one], key)))]

    return found


def raw_files_of(folder):
    """Return the raw files that a folder was made from."""
    entries = {"samples": ("data.long", RAW_LONG), "chats": ("data.short", RAW_SHORT)}.get(folder)
    return raw_data(*entries)(None) if entries else []


def script(name):
    """Return the path of a script as a parameter that Snakemake does not compare: moving the repository reruns nothing."""
    return lambda wildcards, input: str(SCRIPTS / f"{name}.py")


def no_wildcards(value):
    """Return a parameter whose braces are not wildcards, as they would be in a plain string."""
    return lambda wildcards: value


def as_json(value):
    """Return a value as a JSON parameter."""
    return no_wildcards(json.dumps(value, sort_keys=True))


def results_of(output, pattern):
    """Return the results folder of an output ``<results>/<pattern>``. A module's prefix is part of it."""
    return str(Path(output[0]).parents[pattern.count("/")])


def progress_of(output, pattern):
    """Return the folder of finished work, which is beside the rule's results unless the configuration names another."""
    return config["progress_dir"] or f"{results_of(output, pattern)}/progress"


def shards_of(folder):
    """Return an input function: what a pass makes of every shard."""
    files = expand(f"{RESULTS}/{folder}/{SHARD_FILE}.parquet", shard=SHARDS, allow_missing=True)
    return lambda wildcards: files


def lease(gpus):
    """Return what precedes a command that computes on GPUs: it waits for GPUs that no other job has."""
    return f"python {shlex.quote(str(SCRIPTS / 'gpu_lease.py'))} --gpus {gpus} --" if gpus else ""


def named_files(files, *names):
    """Return the arguments ``--name file`` for those of ``names`` that the rule has."""
    return " ".join(f"--{name} {shlex.quote(str(files[name]))}" for name in names if files.get(name))


def experiment_options(*names):
    """Return a parameter function: these options of the experiment, as JSON."""
    return lambda wildcards: json.dumps(
        {name: CONFIGURED.experiments[wildcards.experiment].options[name] for name in names}, sort_keys=True
    )


def ranking_if_any(wildcards):
    """Return the ranking of an experiment that has one, and the summary that says how much of it is selected."""
    folder = f"{RESULTS}/selection/{wildcards.experiment}"
    files = {"ranking": f"{folder}/ranking.parquet", "selection": f"{folder}/summary.json"}
    return files if wildcards.experiment in RANKED else {}


def nothing_to_do(wildcards):
    """End planning where the configuration asks for nothing."""
    stop(
        "nothing to do: no experiment is ranked or trained, and no benchmark is run; set experiments, train.experiments "
        "or evaluate.benchmarks"
    )


def manifests_of(*groups):
    """Return the manifests of all folders of these groups that the run fills."""
    folders = [folder for group in groups for folder, files in group.items() if files]
    return expand(f"{RESULTS}/{{folder}}/manifest.json", folder=folders)


def tokens_by_source(wildcards):
    """Return the token tables by the name of their source."""
    return {source: f"{RESULTS}/tokens/{source}.parquet" for source in SOURCES}


def contents_of(folder):
    """Return the file beside a folder that lists what the folder holds."""
    return f"{folder}.contents.json"


def by_contents(name, folder):
    """Return a folder as a rule's input. It must exist, but its list is compared: Snakemake knows folders by time only."""
    return {name: ancient(folder), f"{name}_contents": contents_of(folder)}


def all_by_contents(pattern, **values):
    """Return all folders of a pattern as a rule's inputs, the same way."""
    return [file for folder in expand(pattern, **values) for file in by_contents("folder", folder).values()]


def model_json(role):
    """Return a model's section as JSON, as a parameter that Snakemake does not compare."""
    return lambda wildcards, input: json.dumps(CONFIGURED.model(role), sort_keys=True)


def tokenizer_of(role):
    """Return the digest of a model's tokenizer files. Where they lie does not count."""
    return CONFIGURED.fingerprints(role)["tokenizer"]


def run_options(wildcards, output):
    """Return how a training runs: all options that do not change its result, as JSON."""
    results, train = results_of(output, "train/experiment/model"), config["train"]
    return json.dumps(
        {
            **{name: value for name, value in train.items() if name not in (*TRAIN_OPTIONS, "experiments")},
            "deepspeed": None if train["deepspeed"] == "none" else str(SCRIPTS.parent / train["deepspeed"]),
            "checkpoint_dir": train["checkpoint_dir"] or f"{results}/checkpoints",
            "log_dir": f"{results}/logs/train/{wildcards.experiment}.tensorboard",
        },
        sort_keys=True,
    )
