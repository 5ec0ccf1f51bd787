# Commands and parameters that scoring and selection share.
import inspect

from gateau.digests import files_digest
from gateau.model_files import ModelSpec

# What the frame around the texts follows from. Rule index makes the frame, and the passes read it from the index; they
# compare these parameters too, so that a run that was interrupted between the two goes on.
FRAME = {
    "prompt": no_wildcards(config["scoring"]["prompt"]),
    "format": config["scoring"]["format"],
    "template_options": as_json(config["scoring"]["template_options"]),
    "stop_tokens": as_json([files_digest(file) for file in CONFIGURED.files_of_auto_format]),
}
ATTENTION_BLOCK = f"--attention-block {config['scoring']['attention_block']}"
PASS_COMMAND = (
    "{params.lease} python {params.script:q} --samples {input.samples:q} --index {input.index:q} --shard {params.shard}"
    " --model {params.model:q} --max-length {params.max_length}"
    " --device {params.device} --dtype {params.dtype} --attention {params.attention} {params.run}"
    " {params.progress} --output {output:q} {params.own} > {log:q} 2>&1"
)
CONTRAST_COMMAND = PASS_COMMAND.replace("{params.own}", "{params.own} {params.window_of}")
SEGMENT_COMMAND = PASS_COMMAND.replace(
    "{params.own}", "{params.own} {params.files} --segments {params.segments:q} {params.batches}"
)
TEXT_MODEL_COMMAND = (
    "{params.lease} python {params.script:q} --samples {input:q} --model {params.model:q} --device {params.device}"
    " --dtype {params.dtype} --attention {params.attention} {params.run} {params.progress} {params.own}"
    " --output {output:q} > {log:q} 2>&1"
)


def text_model_params(role, rule, file="file"):
    """Return the parameters of rules that ask a model about samples: what changes the numbers, and how the job runs.

    ``file`` is the path of an output below the folder of the rule.
    """
    options = {key: value for key, value in CONFIGURED.model(role).items() if key != "path"}
    scoring, gpus = config["scoring"], GPUS_PER_PASS
    if role == "embedder":  # sentence-transformers loads it onto one device
        gpus = min(gpus, 1)
    return {
        "script": script(rule),
        "code": code_digest(f"{rule}.py"),
        "model": model_json(role),
        "progress": lambda wildcards, output: (
            f"--progress-dir {shlex.quote(progress_of(output, f'{rule}/{file}'))} --progress-seconds {scoring['progress_seconds']}"
        ),
        "run": lambda wildcards, input: f"--threads {scoring['threads']} --gpus-per-job {max(gpus, 1)}",
        "lease": lambda wildcards, input: lease(gpus),
        **CONFIGURED.fingerprints(role),
        "options": as_json(options),
        **{name: scoring[name] for name in ("device", "dtype", "attention")},
    }


def pass_params(role, rule, file="file"):
    """Return the parameters of a pass with this model."""
    params = {
        **text_model_params(role, rule, file),
        "shard": lambda wildcards: int(wildcards.shard),
        **FRAME,
        "max_length": config["scoring"]["max_length"],
    }
    # Snakemake asks for the signature of every function three times for each of a thousand jobs
    for function in filter(callable, params.values()):
        function.__signature__ = inspect.signature(function)
    return params


def short_view():
    """Return the arguments that say how θ_S reads long inputs. Without θ_S, θ_L reads a shortened context."""
    cut = f" --cut-to {CONFIGURED.short_window}" if CONFIGURED.short_window else ""
    return f"--short-context {config['scoring']['short_context']}{cut}"


def contrast_params(rule):
    """Return the parameters of a pass that puts another model, or another view of it, in θ_S's place."""
    file = "contrast/file"
    by_contrast = {name: pass_params(contrast.role, rule, file) for name, contrast in CONFIGURED.contrasts.items()}
    short = ModelSpec.from_config(CONFIGURED.model("short"))
    # for a contrast whose window is that of θ_S and not its own; the window counts, not where θ_S lies
    window = ""
    if "one_model" in CONFIGURED.contrasts:
        window = short.context_window() if short.is_local else model_json("short")(None, None)
    return {
        **pass_params("short", rule, file),
        "model": lambda wildcards, input: model_json(CONTRASTS[wildcards.contrast].role)(wildcards, input),
        "weights": lambda wildcards: by_contrast[wildcards.contrast]["weights"],
        "tokenizer": lambda wildcards: by_contrast[wildcards.contrast]["tokenizer"],
        "options": lambda wildcards: by_contrast[wildcards.contrast]["options"](wildcards),
        "own": lambda wildcards: f"--short-context {CONTRASTS[wildcards.contrast].short_context}",
        "window_of": lambda wildcards, input: (
            f"--window-of {shlex.quote(model_json('short')(wildcards, input))}"
            if wildcards.contrast == "one_model"
            else ""
        ),
        "window": lambda wildcards: window if wildcards.contrast == "one_model" else "",
    }


def shard_folders(files, *names):
    """Return the arguments ``--name folder``. A shell command of more than 128 KB (some thousand paths) is refused."""
    return " ".join(f"--{name} {shlex.quote(str(Path(files[name][0]).parent))}" for name in names)


def screen_if_any(wildcards):
    """Return what tells the segment pass which samples, and which segments, it reads; nothing if it reads all."""
    if config["scoring"]["screen"] is None:
        return {}
    long = {"long": f"{RESULTS}/long_pass/{SHARD_FILE}.parquet".format(shard=wildcards.shard)}
    return {"screen": f"{RESULTS}/screen/screen.parquet", **(long if config["scoring"]["segments"] else {})}


def selection_inputs(wildcards):
    """Return the contrast, rewards, signatures and embeddings that the experiment needs beside the scores."""
    experiment = CONFIGURED.experiments[wildcards.experiment]
    needed = {
        "contrast": experiment.contrast and f"contrast/{experiment.contrast}.parquet",
        "rewards": experiment.reads_rewards and "rewards/rewards.parquet",
        "signatures": experiment.leaves_out_near_duplicates and "minhash/signatures.parquet",
        "embeddings": experiment.takes_of_each_cluster and "embeddings/embeddings.parquet",
    }
    return {name: f"{RESULTS}/{file}" for name, file in needed.items() if file}


def compares_samples(wildcards):
    """Return whether the experiment compares samples with each other, which takes more memory and time than ranking."""
    experiment = CONFIGURED.experiments[wildcards.experiment]
    return experiment.leaves_out_near_duplicates or experiment.takes_of_each_cluster


def nothing_to_compare(wildcards):
    """End planning where a comparison is asked for and there is nothing to compare."""
    stop(
        "nothing to compare: comparison.positive names no label, or no experiment is ranked; set comparison.positive to "
        "labels of your rows, or use generated rows with --configfile config/planted.yaml"
    )


def data_set_inputs(wildcards):
    """Return the files from which an experiment's rows are chosen."""
    name = wildcards.experiment
    files = ranking_if_any(wildcards)
    if name in RANKED:
        files["plot"] = f"{RESULTS}/selection/{name}/distributions.png"
    if name in CONFIGURED.drawn_by_tokens:
        files["long"] = f"{RESULTS}/tokens/long.parquet"
    if CONFIGURED.mixes_chats(name):
        files |= {"chats": f"{RESULTS}/chats/chats.parquet", "short": f"{RESULTS}/tokens/short.parquet"}
    return files
