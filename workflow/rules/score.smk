# Three passes over every shard, one device each. What a pass has finished is kept sample by sample under PROGRESS.


def pass_params(role):
    """Parameters of a pass with this model: what changes its numbers, and (uncompared) where the model lies."""
    spec = {key: value for key, value in model(role).items() if key != "path"}
    return {
        "model": lambda wildcards, input: json.dumps(model(role), sort_keys=True),
        "progress": lambda wildcards, input: PROGRESS,
        "threads": lambda wildcards, input: config["scoring"]["threads"],
        "shard": lambda wildcards: int(wildcards.shard),
        "weights": model_fingerprint(role),
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
    " --progress-dir {params.progress:q} --output {output:q}"
)


rule short_pass:
    input:
        samples=rules.samples.output.samples,
        index=rules.index.output,
    output:
        ensure(f"{RESULTS}/short_pass/{SHARD_FILE}.parquet", non_empty=True),
    log:
        f"{RESULTS}/logs/short_pass/{SHARD_FILE}.log",
    benchmark:
        f"{RESULTS}/benchmarks/short_pass/{SHARD_FILE}.tsv"
    conda:
        "../../envs/gateau.yaml"
    threads: config["scoring"]["threads"]
    resources:
        gpu=GPUS_PER_PASS,
        mem_mb=lambda wildcards, attempt: 48000 * attempt,
        runtime=lambda wildcards, attempt: 720 * attempt,
    params:
        **pass_params("short"),
        script=script("short_pass"),
        code=code_digest("short_pass.py"),
        short_context=config["scoring"]["short_context"],
    shell:
        PASS_COMMAND + " --short-context {params.short_context} > {log:q} 2>&1"


rule long_pass:
    input:
        samples=rules.samples.output.samples,
        index=rules.index.output,
    output:
        ensure(f"{RESULTS}/long_pass/{SHARD_FILE}.parquet", non_empty=True),
    log:
        f"{RESULTS}/logs/long_pass/{SHARD_FILE}.log",
    benchmark:
        f"{RESULTS}/benchmarks/long_pass/{SHARD_FILE}.tsv"
    conda:
        "../../envs/gateau.yaml"
    threads: config["scoring"]["threads"]
    resources:
        gpu=GPUS_PER_PASS,
        mem_mb=lambda wildcards, attempt: 48000 * attempt,
        runtime=lambda wildcards, attempt: 720 * attempt,
    params:
        **pass_params("long"),
        script=script("long_pass"),
        code=code_digest("long_pass.py"),
        layer_block=config["scoring"]["layer_block"],
    shell:
        PASS_COMMAND + " --layer-block {params.layer_block} > {log:q} 2>&1"


rule segment_pass:
    input:
        samples=rules.samples.output.samples,
        index=rules.index.output,
    output:
        ensure(f"{RESULTS}/segment_pass/{SHARD_FILE}.parquet", non_empty=True),
    log:
        f"{RESULTS}/logs/segment_pass/{SHARD_FILE}.log",
    benchmark:
        f"{RESULTS}/benchmarks/segment_pass/{SHARD_FILE}.tsv"
    conda:
        "../../envs/gateau.yaml"
    threads: config["scoring"]["threads"]
    resources:
        gpu=GPUS_PER_PASS,
        mem_mb=lambda wildcards, attempt: 48000 * attempt,
        runtime=lambda wildcards, attempt: 720 * attempt,
    params:
        **pass_params("long"),
        script=script("segment_pass"),
        code=code_digest("segment_pass.py"),
        segment_length=config["cam"]["segment_length"],
        batch_tokens=config["scoring"]["segment_batch_tokens"],
    shell:
        PASS_COMMAND + " --segment-length {params.segment_length} --batch-tokens {params.batch_tokens} > {log:q} 2>&1"
