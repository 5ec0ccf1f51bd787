# Three passes over every shard, with scoring.gpus_per_job devices each. The progress store keeps every finished sample.


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
        **pass_params("short", "short_pass"),
        own=short_view(),
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
        **pass_params("long", "long_pass"),
        own=f"{ATTENTION_BLOCK} --layer-block {config['scoring']['layer_block']}",
    shell:
        PASS_COMMAND


rule segment_pass:
    input:
        unpack(screen_if_any),
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
        **pass_params("long", "segment_pass"),
        own=f"--segment-length {config['cam']['segment_length']}",
        segments=as_json(config["scoring"]["segments"]),
        files=lambda wildcards, input: f"{named_files(input, 'screen', 'long')} {ATTENTION_BLOCK}",
        # not compared, because the composition of batches changes the last digits only
        batches=lambda wildcards, input: f"--batch-tokens {config['scoring']['segment_batch_tokens']}",
    shell:
        SEGMENT_COMMAND


# The same as the short pass, with what some methods put in θ_S's place. It runs only if an experiment needs it.
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
        **contrast_params("contrast_pass"),
    shell:
        CONTRAST_COMMAND


# The two rules below run only if an experiment needs them, in one job: they read a few thousand tokens a sample.
rule embeddings:
    input:
        rules.samples.output.samples,
    output:
        ensure(f"{RESULTS}/embeddings/embeddings.parquet", non_empty=True),
    log:
        f"{RESULTS}/logs/embeddings/embeddings.log",
    benchmark:
        f"{RESULTS}/benchmarks/embeddings/embeddings.tsv"
    conda:
        "../../envs/gateau.yaml"
    threads: config["scoring"]["threads"]
    resources:
        gpu=min(GPUS_PER_PASS, 1),
        mem_mb=lambda wildcards, attempt: 16000 * attempt,
        runtime=lambda wildcards, attempt: 240 * attempt,
    params:
        **text_model_params("embedder", "embeddings"),
        own="",
    shell:
        TEXT_MODEL_COMMAND


rule rewards:
    input:
        rules.samples.output.samples,
    output:
        ensure(f"{RESULTS}/rewards/rewards.parquet", non_empty=True),
    log:
        f"{RESULTS}/logs/rewards/rewards.log",
    benchmark:
        f"{RESULTS}/benchmarks/rewards/rewards.tsv"
    conda:
        "../../envs/gateau.yaml"
    threads: config["scoring"]["threads"]
    resources:
        gpu=GPUS_PER_PASS,
        mem_mb=lambda wildcards, attempt: 48000 * attempt,
        runtime=lambda wildcards, attempt: 720 * attempt,
    params:
        **text_model_params("reward", "rewards"),
        own=lambda wildcards, input: f"--max-non-finite-share {config['scoring']['max_non_finite_share']}",
    shell:
        TEXT_MODEL_COMMAND
