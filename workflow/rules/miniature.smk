# The paper in miniature: does a tiny model learn more from what a method selects? Generated rows only.
# The cells of the study: every ranked experiment at every share, random draws, all rows, and no training.
_SHARES = config["miniature"]["shares"] if config["miniature"] else []
MINIATURE_RUNS = expand(f"{RESULTS}/miniature_runs/{{cell}}-{{share}}.json", cell=[*RANKED, "_random"], share=_SHARES)
MINIATURE_RUNS += expand(f"{RESULTS}/miniature_runs/{{cell}}.json", cell=["_full-1", "_before-0"])


if config["miniature"]:

    rule miniature_runs:
        input:
            unpack(
                lambda wildcards: (
                    {"ranking": f"{RESULTS}/selection/{wildcards.cell}/ranking.parquet"}
                    if wildcards.cell in RANKED
                    else {}
                )
            ),
            samples=rules.samples.output.samples,
        output:
            f"{RESULTS}/miniature_runs/{{cell}}-{{share}}.json",
        log:
            f"{RESULTS}/logs/miniature_runs/{{cell}}-{{share}}.log",
        benchmark:
            f"{RESULTS}/benchmarks/miniature_runs/{{cell}}-{{share}}.tsv"
        wildcard_constraints:
            share=r"[0-9.]+",
        conda:
            "../../envs/gateau.yaml"
        resources:
            mem_mb=4000,
            runtime=120,
        params:
            **CONFIGURED.fingerprints("base"),
            script=script("miniature_runs"),
            code=code_digest("miniature_runs.py"),
            model=model_json("base"),
            own=as_json({key: value for key, value in CONFIGURED.model("base").items() if key != "path"}),
            prompt=no_wildcards(config["scoring"]["prompt"]),
            planted=as_json(config["data"]["planted"]),
            options=as_json({key: value for key, value in config["miniature"].items() if key != "shares"}),
            files=lambda wildcards, input: named_files(input, "ranking"),
        shell:
            "python {params.script:q} --samples {input.samples:q} {params.files} --experiment {wildcards.cell:q}"
            " --share {wildcards.share} --model {params.model:q} --prompt {params.prompt:q}"
            " --planted {params.planted:q} --options {params.options:q} --output {output:q} > {log:q} 2>&1"

    rule miniature_summary:
        input:
            MINIATURE_RUNS,
        output:
            csv=f"{RESULTS}/miniature_summary/miniature.csv",
            markdown=report(
                f"{RESULTS}/miniature_summary/miniature.md",
                caption="../report/miniature.rst",
                category="5. Miniature",
                labels={"figure": "recall by method and share"},
            ),
            plot=report(
                f"{RESULTS}/miniature_summary/miniature.png",
                caption="../report/miniature.rst",
                category="5. Miniature",
                labels={"figure": "recall by method and share, plot"},
            ),
        log:
            f"{RESULTS}/logs/miniature_summary/miniature_summary.log",
        benchmark:
            f"{RESULTS}/benchmarks/miniature_summary/miniature_summary.tsv"
        conda:
            "../../envs/gateau.yaml"
        resources:
            mem_mb=4000,
            runtime=30,
        params:
            script=script("miniature_summary"),
            code=code_digest("miniature_summary.py"),
        shell:
            "python {params.script:q} --runs {input:q} --csv {output.csv:q} --markdown {output.markdown:q}"
            " --plot {output.plot:q} > {log:q} 2>&1"
