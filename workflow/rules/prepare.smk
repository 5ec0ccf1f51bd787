# Raw rows become validated samples, and an index says which shard scores which sample.


if config["data"]["planted"]:

    rule planted_rows:
        output:
            **({"short": f"{RESULTS}/planted_rows/short.jsonl"} if config["data"]["planted"].get("chats") else {}),
            long=f"{RESULTS}/planted_rows/long.jsonl",
        log:
            f"{RESULTS}/logs/planted_rows/planted_rows.log",
        benchmark:
            f"{RESULTS}/benchmarks/planted_rows/planted_rows.tsv"
        conda:
            "../../envs/gateau.yaml"
        resources:
            mem_mb=2000,
            runtime=30,
        params:
            script=script("planted_rows"),
            code=code_digest("planted_rows.py"),
            planted=as_json(config["data"]["planted"]),
            chats=lambda wildcards, output: f"--chats {shlex.quote(output.short)}" if "short" in output.keys() else "",
        shell:
            "python {params.script:q} --planted {params.planted:q} --output {output.long:q} {params.chats}"
            " > {log:q} 2>&1"


rule samples:
    input:
        raw_data("data.long", RAW_LONG),
    output:
        samples=ensure(f"{RESULTS}/samples/samples.parquet", non_empty=True),
        rejects=f"{RESULTS}/samples/rejects.jsonl",
        summary=f"{RESULTS}/samples/summary.json",
    log:
        f"{RESULTS}/logs/samples/samples.log",
    benchmark:
        f"{RESULTS}/benchmarks/samples/samples.tsv"
    conda:
        "../../envs/gateau.yaml"
    resources:
        mem_mb=lambda wildcards, attempt: 4000 * attempt,
        runtime=lambda wildcards, attempt: 120 * attempt,
    params:
        script=script("samples"),
        code=code_digest("samples.py"),
        duplicate_content=config["data"]["duplicate_content"],
        max_rejected_share=config["data"]["max_rejected_share"],
    shell:
        "python {params.script:q} --input {input:q} --samples {output.samples:q} --rejects {output.rejects:q}"
        " --summary {output.summary:q} --duplicate-content {params.duplicate_content}"
        " --max-rejected-share {params.max_rejected_share} > {log:q} 2>&1"


if RAW_SHORT:

    rule chats:
        input:
            raw_data("data.short", RAW_SHORT),
        output:
            chats=ensure(f"{RESULTS}/chats/chats.parquet", non_empty=True),
            rejects=f"{RESULTS}/chats/rejects.jsonl",
            summary=f"{RESULTS}/chats/summary.json",
        log:
            f"{RESULTS}/logs/chats/chats.log",
        benchmark:
            f"{RESULTS}/benchmarks/chats/chats.tsv"
        conda:
            "../../envs/gateau.yaml"
        resources:
            mem_mb=lambda wildcards, attempt: 4000 * attempt,
            runtime=lambda wildcards, attempt: 120 * attempt,
        params:
            script=script("chats"),
            code=code_digest("chats.py"),
            duplicate_content=config["data"]["duplicate_content"],
            max_rejected_share=config["data"]["max_rejected_share"],
        shell:
            "python {params.script:q} --input {input:q} --chats {output.chats:q} --rejects {output.rejects:q}"
            " --summary {output.summary:q} --duplicate-content {params.duplicate_content}"
            " --max-rejected-share {params.max_rejected_share} > {log:q} 2>&1"


rule index:
    input:
        rules.samples.output.samples,
    output:
        ensure(f"{RESULTS}/index/index.parquet", non_empty=True),
    log:
        f"{RESULTS}/logs/index/index.log",
    benchmark:
        f"{RESULTS}/benchmarks/index/index.tsv"
    conda:
        "../../envs/gateau.yaml"
    threads: 4
    resources:
        mem_mb=lambda wildcards, attempt: 8000 * attempt,
        runtime=lambda wildcards, attempt: 120 * attempt,
    params:
        script=script("index"),
        code=code_digest("index.py"),
        model=model_json("long"),
        tokenizer=tokenizer_of("long"),
        prompt=no_wildcards(config["scoring"]["prompt"]),
        max_length=config["scoring"]["max_length"],
        shards=len(SHARDS),
    shell:
        "RAYON_NUM_THREADS={threads} python {params.script:q} --samples {input:q} --model {params.model:q}"
        " --prompt {params.prompt:q} --max-length {params.max_length}"
        " --shards {params.shards} --output {output:q} > {log:q} 2>&1"
