# Commands and parameters that the passes share.
from gateau.model_files import ModelSpec

PASS_COMMAND = (
    "{params.lease} python {params.script:q} --samples {input.samples:q} --index {input.index:q} --shard {params.shard}"
    " --model {params.model:q} --prompt {params.prompt:q} --max-length {params.max_length}"
    " --device {params.device} --dtype {params.dtype} --attention {params.attention} --threads {params.threads}"
    " {params.progress} --output {output:q} {params.own} > {log:q} 2>&1"
)
CONTRAST_COMMAND = PASS_COMMAND.replace("{params.own}", "{params.own} {params.window_of}")
SEGMENT_COMMAND = PASS_COMMAND.replace("{params.own}", "{params.own} {params.batches}")
TEXT_MODEL_COMMAND = (
    "{params.lease} python {params.script:q} --samples {input:q} --model {params.model:q} --device {params.device}"
    " --dtype {params.dtype} --attention {params.attention} --threads {params.threads} {params.progress} {params.own}"
    " --output {output:q} > {log:q} 2>&1"
)


def text_model_params(role, rule):
    """Return the parameters of rules that ask a model about samples: what changes the numbers, and how the job runs."""
    options = {key: value for key, value in CONFIGURED.model(role).items() if key != "path"}
    scoring = config["scoring"]
    return {
        "script": script(rule),
        "code": code_digest(f"{rule}.py"),
        "model": model_json(role),
        "progress": lambda wildcards, output: (
            f"--progress-dir {shlex.quote(progress_of(output, rule))} --progress-seconds {scoring['progress_seconds']}"
        ),
        "threads": lambda wildcards, input: scoring["threads"],
        "lease": lambda wildcards, input: lease(GPUS_PER_PASS),
        **fingerprints(CONFIGURED.model(role)),
        "options": as_json(options),
        **{name: scoring[name] for name in ("device", "dtype", "attention")},
    }


def pass_params(role, rule):
    """Return the parameters of a pass with this model."""
    return {
        **text_model_params(role, rule),
        "shard": lambda wildcards: int(wildcards.shard),
        "prompt": no_wildcards(config["scoring"]["prompt"]),
        "max_length": config["scoring"]["max_length"],
    }


def contrast_params(rule):
    """Return the parameters of a pass that puts another model, or another view of it, in θ_S's place."""
    by_contrast = {name: pass_params(contrast.role, rule) for name, contrast in CONFIGURED.contrasts.items()}
    short = ModelSpec.from_config(CONFIGURED.model("short"))
    # for a contrast whose window is that of θ_S and not its own; the window counts, not where θ_S lies
    window = short.context_window() if short.is_local else model_json("short")(None, None)
    return {
        **pass_params("short", rule),
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
