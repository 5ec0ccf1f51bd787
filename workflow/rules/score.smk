# Three passes over every shard, one device each. What a pass has finished is kept sample by sample under PROGRESS.


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
        own=f"--short-context {config['scoring']['short_context']}",
    shell:
        PASS_COMMAND


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
        own=f"--layer-block {config['scoring']['layer_block']}",
    shell:
        PASS_COMMAND


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
        own=f"--segment-length {config['cam']['segment_length']}",
        # not compared: the composition of batches changes the last digits only
        batches=lambda wildcards, input: f"--batch-tokens {config['scoring']['segment_batch_tokens']}",
    shell:
        SEGMENT_COMMAND


# as the short pass, with what some methods put in θ_S's place; only for experiments whose method asks for it
rule contrast_pass:
    input:
        samples=rules.samples.output.samples,
        index=rules.index.output,
    output:
        ensure(f"{RESULTS}/contrast_pass/{{contrast}}/{SHARD_FILE}.parquet", non_empty=True),
    log:
        f"{RESULTS}/logs/contrast_pass/{{contrast}}/{SHARD_FILE}.log",
    benchmark:
        f"{RESULTS}/benchmarks/contrast_pass/{{contrast}}/{SHARD_FILE}.tsv"
    conda:
        "../../envs/gateau.yaml"
    threads: config["scoring"]["threads"]
    resources:
        gpu=GPUS_PER_PASS,
        mem_mb=lambda wildcards, attempt: 48000 * attempt,
        runtime=lambda wildcards, attempt: 720 * attempt,
    params:
        **contrast_params(),
        script=script("contrast_pass"),
        code=code_digest("contrast_pass.py"),
    shell:
        CONTRAST_COMMAND
