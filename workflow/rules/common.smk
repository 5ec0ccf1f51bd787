# Paths, experiments, digests of models and code, checks. Every cluster job parses this file anew, so it imports nothing
# heavy.
import json
import os
import re
import shlex
import signal
import sys
from pathlib import Path

from snakemake.exceptions import WorkflowError

SCRIPTS = Path(workflow.basedir).parent / "scripts"
sys.path.insert(0, str(SCRIPTS))
# `python` in a rule is the one that runs Snakemake, also when its environment is not activated; a conda environment,
# if deployed, still comes first
os.environ.update(PATH=os.pathsep.join([str(Path(sys.executable).parent), *os.get_exec_path()]))

# SLURM's --signal goes to all processes of a job, this one included: it stays, to see how its training ends
if "SLURM_JOB_ID" in os.environ:
    signal.signal(signal.SIGUSR1, lambda number, frame: None)

from gateau.methods import contrasts
from gateau.errors import UserError
from gateau.model_files import ModelSpec, check_window, tokenizer_fingerprint, weights_fingerprint
from gateau.methods import FORMULA, METHODS, UNRANKED
from gateau.digests import code_digest

RESULTS = config["results_dir"].rstrip("/")
PROGRESS = config["progress_dir"] or f"{RESULTS}/progress"
PROGRESS_OPTIONS = f"--progress-dir {shlex.quote(PROGRESS)} --progress-seconds {config['scoring']['progress_seconds']}"


def paths(value):
    """A path, a list of them or nothing, as a list."""
    return [value] if isinstance(value, str) else list(value or [])


RAW_LONG, RAW_SHORT = paths(config["data"]["long"]), paths(config["data"]["short"])
CHECKPOINTS = config["train"]["checkpoint_dir"] or f"{RESULTS}/checkpoints"
SHARDS = [f"{shard:04d}" for shard in range(config["scoring"]["shards"])]
SHARD_FILE = f"{{shard}}-of-{len(SHARDS):04d}"
GPUS_PER_PASS = 0 if config["scoring"]["device"] == "cpu" else 1
WORLD_SIZE = config["train"]["nodes"] * config["train"]["ranks_per_node"]
GPUS_PER_NODE = 0 if config["train"]["device"] == "cpu" else config["train"]["ranks_per_node"]
if not all(isinstance(name, str) for name in config["experiments"]):
    raise WorkflowError("the names of experiments must be text: put numbers in quotes")
EXPERIMENTS = list(config["experiments"])
CONTRASTS = contrasts(config["scoring"]["short_context"])  # what some methods put in θ_S's place


wildcard_constraints:
    shard=r"\d+",
    experiment="|".join(map(re.escape, EXPERIMENTS)),
    contrast="|".join(CONTRASTS),
    source="long|short",


def script(name):
    """Path of a script, as a parameter that Snakemake does not compare: moving the repository reruns nothing."""
    return lambda wildcards, input: str(SCRIPTS / f"{name}.py")


def shards_of(folder):
    """An input function: what a pass makes of every shard."""
    files = expand(f"{RESULTS}/{folder}/{SHARD_FILE}.parquet", shard=SHARDS, allow_missing=True)
    return lambda wildcards: files


def lease(gpus):
    """What goes before a command that computes on GPUs: it gets some that no other job has, if need be after a wait."""
    return f"python {shlex.quote(str(SCRIPTS / 'gpu_lease.py'))} --gpus {gpus} --" if gpus else ""


def verbatim(value):
    """A parameter that may hold braces, which Snakemake would take for wildcards in a plain string."""
    return lambda wildcards: value


# models that a run has: the last three only if they are named
ROLES = ["short", "long", "base"] + [
    role for role in ("non_homologous", "reward", "embedder") if config["models"][role]
]


def model(role):
    """A model of the section models as an object with every option; null is models.long."""
    value = config["models"][role] or config["models"]["long"]
    return {"path": value} if isinstance(value, str) else {key: v for key, v in value.items() if v is not None}


def model_fingerprint(role):
    """Digest of a model's weights, whatever their path and time."""
    return weights_fingerprint(model(role)["path"], model(role).get("revision"))


def options_of(experiment):
    """What an experiment selects and mixes: the two sections with its own options in their place."""
    return {**config["selection"], **config["mixture"], **config["experiments"][experiment]}


def is_ranked(experiment):
    """Whether an experiment needs scores: no pass runs for the others."""
    return options_of(experiment)["method"] not in UNRANKED and options_of(experiment)["n_long"] != 0


def contrast_of(experiment):
    """The contrast that an experiment's method needs, if any."""
    return METHODS[options_of(experiment)["method"]].contrast


def reads_rewards(experiment):
    """Whether an experiment's method needs rewards."""
    return METHODS[options_of(experiment)["method"]].rewards


def leaves_out_near_duplicates(experiment):
    """Whether an experiment needs the signatures of the texts."""
    return options_of(experiment)["near_duplicates"] is not None


def takes_of_each_cluster(experiment):
    """Whether an experiment needs embeddings."""
    return options_of(experiment)["per_cluster"] is not None


def check_options(name, method):
    """Raise WorkflowError for an option of an experiment that its method, or no method, does not read."""
    own = config["experiments"][name]
    reads = METHODS[method].reads if method in METHODS else ()
    if unread := [option for option in own if option in FORMULA and option not in reads]:
        raise WorkflowError(f"experiment {name}: method {method} does not read {', '.join(unread)}; leave it out")
    if method in UNRANKED:
        for option in ("near_duplicates", "per_cluster", "clusters"):
            if own.get(option) is not None:
                raise WorkflowError(f"experiment {name}: {option} needs a method that ranks, which {method} is not")
    elif options_of(name)["clusters"] is not None and not takes_of_each_cluster(name):
        raise WorkflowError(f"experiment {name}: clusters does nothing without per_cluster; set both")


def check_needed_models(name, method):
    """Raise WorkflowError where an experiment needs a model that is not named."""
    needed = {
        "non_homologous": (METHODS[method].contrast == "non_homologous", f"method {method}"),
        "reward": (METHODS[method].rewards, f"method {method}"),
        "embedder": (takes_of_each_cluster(name), "per_cluster"),
    }
    for role, (needs, what) in needed.items():
        if needs and not config["models"][role]:
            raise WorkflowError(f"experiment {name}: {what} needs models.{role}")


def nothing_to_compare(wildcards):
    """An input function for whoever asks for a comparison without saying of what."""
    raise WorkflowError(
        "nothing can be compared: comparison.positive names no label, or no experiment is ranked; for generated data "
        "take --configfile config/planted.yaml, for your own set comparison.positive to labels of your rows"
    )


def check_methods():
    """Raise WorkflowError for an unknown method, an option that is not read, or a model that is not named."""
    for name in EXPERIMENTS:
        method = options_of(name)["method"]
        if method not in {**METHODS, **UNRANKED}:
            known = ", ".join([*METHODS, *UNRANKED])
            raise WorkflowError(f"experiment {name}: there is no method {method!r}; choose one of {known}")
        check_options(name, method)
        if method in METHODS:
            check_needed_models(name, method)


check_methods()


RANKED = [experiment for experiment in EXPERIMENTS if is_ranked(experiment)]
USED_CONTRASTS = sorted({contrast_of(experiment) for experiment in RANKED} - {None})
COMPARED = bool(config["comparison"]["positive"] and RANKED)
SOURCES = ["long", "short"] if RAW_SHORT else ["long"]
if short_of := [name for name in EXPERIMENTS if options_of(name)["n_short"] and not RAW_SHORT]:
    raise WorkflowError(f"experiment {short_of[0]} mixes short chats (n_short), but data.short is null")


def experiment_options(*names):
    """A parameter function: these options of the experiment, as JSON."""
    return lambda wildcards: json.dumps(
        {name: options_of(wildcards.experiment)[name] for name in names}, sort_keys=True
    )


def selection_options(wildcards):
    """A parameter function: what an experiment's ranking depends on, as JSON."""
    names = (
        *METHODS[options_of(wildcards.experiment)["method"]].reads,
        "method",
        "n_long",
        "near_duplicates",
        "per_cluster",
        "clusters",
    )
    return experiment_options(*names)(wildcards)


def selection_inputs(wildcards):
    """Beside the scores: contrast, rewards, signatures and embeddings, where the experiment needs them."""
    contrast = contrast_of(wildcards.experiment)
    inputs = {"contrast": f"{RESULTS}/contrast/{contrast}.parquet"} if contrast else {}
    if leaves_out_near_duplicates(wildcards.experiment):
        inputs["signatures"] = f"{RESULTS}/minhash/signatures.parquet"
    if reads_rewards(wildcards.experiment):
        inputs["rewards"] = f"{RESULTS}/rewards/rewards.parquet"
    if takes_of_each_cluster(wildcards.experiment):
        inputs["embeddings"] = f"{RESULTS}/embeddings/embeddings.parquet"
    return inputs


def check_models():
    """Raise WorkflowError now, not after hours, for local models that are missing or too short for max_length."""
    try:
        for role in ROLES:
            spec = ModelSpec.from_config(model(role))
            if spec.is_local:
                spec.config()
                if role == "long":
                    check_window(spec, spec.context_window(), config["scoring"]["max_length"])
        for value in filter(None, config["evaluate"]["models"].values()):
            spec = ModelSpec.from_config({"path": value} if isinstance(value, str) else value)
            if spec.is_local:
                spec.config()
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
        "lease": lambda wildcards, input: lease(GPUS_PER_PASS),
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


def text_model_params(role):
    """Parameters of a rule that asks a text model about every sample."""
    names = ("lease", "weights", "tokenizer", "options", "device", "dtype", "attention", "model", "progress", "threads")
    params = pass_params(role)
    return {name: params[name] for name in names}


def contrast_params():
    """Parameters of the passes that put another model, or another view of it, in θ_S's place."""
    params = {contrast: pass_params(CONTRASTS[contrast].role) for contrast in USED_CONTRASTS}
    shared = pass_params("short")
    short = ModelSpec.from_config(model("short"))
    window = short.context_window() if short.is_local else json.dumps(model("short"), sort_keys=True)
    return {
        **shared,
        "model": lambda wildcards, input: json.dumps(model(CONTRASTS[wildcards.contrast].role), sort_keys=True),
        "weights": lambda wildcards: params[wildcards.contrast]["weights"],
        "tokenizer": lambda wildcards: params[wildcards.contrast]["tokenizer"],
        "options": lambda wildcards: params[wildcards.contrast]["options"](wildcards),
        "own": lambda wildcards: f"--short-context {CONTRASTS[wildcards.contrast].short_context}",
        # where θ_S's window is not the model's own; the window counts, not where θ_S lies
        "window_of": lambda wildcards, input: (
            f"--window-of {shlex.quote(json.dumps(model('short'), sort_keys=True))}"
            if wildcards.contrast == "one_model"
            else ""
        ),
        "window": lambda wildcards: window if wildcards.contrast == "one_model" else "",
    }


TRAIN_OPTIONS = [
    "learning_rate",
    "lr_scheduler",
    "warmup_share",
    "weight_decay",
    "adam_beta1",
    "adam_beta2",
    "max_grad_norm",
    "optimizer",
    "lora",
    "dtype",
    "attention",
    "device",
    "seed",
]


# A plain `gpu` counts a job's GPUs in all, which SLURM may spread unevenly over nodes. So several nodes ask for theirs
# with `gres`, which counts each node's, and `mpi` leaves starting a process on each to the script.
if (NODES := config["train"]["nodes"]) == 1:
    TRAIN_PLACES = {"nodes": 1, "gpu": GPUS_PER_NODE}
else:
    TRAIN_PLACES = {"nodes": NODES, "mpi": "srun", "tasks": NODES, "tasks_per_gpu": 0}
    TRAIN_PLACES |= {"gres": f"gpu:{GPUS_PER_NODE}"} if GPUS_PER_NODE else {}


def run_options(experiment):
    """How a training runs: all that does not change its result."""
    rest = {name: value for name, value in config["train"].items() if name not in TRAIN_OPTIONS}
    deepspeed = rest["deepspeed"] and str(SCRIPTS.parent / rest["deepspeed"])
    folder = f"{RESULTS}/logs/train/{experiment}.tensorboard"
    return {**rest, "deepspeed": deepspeed, "checkpoint_dir": CHECKPOINTS, "log_dir": folder}


def tokens_by_source(wildcards):
    """Token tables by the name of their source."""
    return {source: f"{RESULTS}/tokens/{source}.parquet" for source in SOURCES}


def contents_of(folder):
    """The file beside a folder that lists what it holds."""
    return f"{folder}.contents.json"


def by_contents(name, folder):
    """A folder as a rule's input: it must exist, but its list is compared, since Snakemake knows folders by time only."""
    return {name: ancient(folder), f"{name}_contents": contents_of(folder)}


def all_by_contents(pattern, **values):
    """All folders of a pattern as a rule's inputs, the same way."""
    return [file for folder in expand(pattern, **values) for file in by_contents("folder", folder).values()]


def ranking_if_any(wildcards):
    """The ranking of an experiment that has one."""
    if not is_ranked(wildcards.experiment):
        return {}
    return {"ranking": f"{RESULTS}/selection/{wildcards.experiment}/ranking.parquet"}


def named_files(files, *names):
    """Arguments ``--name file`` for those that the rule has."""
    return " ".join(f"--{name} {shlex.quote(str(files[name]))}" for name in names if files.get(name))


PASS_COMMAND = (
    "{params.lease} python {params.script:q} --samples {input.samples:q} --index {input.index:q} --shard {params.shard}"
    " --model {params.model:q} --prompt {params.prompt:q} --max-length {params.max_length}"
    " --device {params.device} --dtype {params.dtype} --attention {params.attention} --threads {params.threads}"
    " {params.progress} --output {output:q} {params.own} > {log:q} 2>&1"
)
TEXT_MODEL_COMMAND = (
    "{params.lease} python {params.script:q} --samples {input:q} --model {params.model:q} --device {params.device}"
    " --dtype {params.dtype} --attention {params.attention} --threads {params.threads} {params.progress} {params.own}"
    " --output {output:q} > {log:q} 2>&1"
)
CONTRAST_COMMAND = PASS_COMMAND.replace("{params.own}", "{params.own} {params.window_of}")
SEGMENT_COMMAND = PASS_COMMAND.replace("{params.own}", "{params.own} {params.batches}")


check_models()
