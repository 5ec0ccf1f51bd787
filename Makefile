# make demo: all stages on generated data.   make test: all checks.
# Both create .venv on their first call, which needs Python 3.11 or 3.12.
PYTHON ?= python3.11
BIN := .venv/bin
DEMO := results/demo/export/gateau_log
QUESTION := The old road turns past tall grass at dawn.\nNote falcon balor detek mosar rigas tunut.\nGreen hills waits behind the open gate as always.\n\nWhat does note falcon say?

.PHONY: demo test types tests bench soak invalidation config-reference

demo: .venv/installed
	$(BIN)/snakemake --workflow-profile local --configfile config/demo.yaml
	@cat results/demo/selection/overview.md
	@echo
	@sed '/^## In detail/,$$d' results/demo/leaderboard/leaderboard.md
	@echo
	@echo "A generated question, and the answer of the model trained on the best samples ($(DEMO)):"
	@echo "> $(QUESTION)"
	@$(BIN)/python scripts/chat.py --model $(DEMO) --prompt "$$(printf '$(QUESTION)')"
	@echo
	@echo "Look at  results/demo/selection/overview.md                 this table"
	@echo "         results/demo/selection/gateau/gateau_long.jsonl    the selected rows, best first"
	@echo "         results/demo/selection/gateau/ranking.parquet      every sample's rank and scores"
	@echo "         results/demo/selection/gateau/distributions.png    how the scores spread"
	@echo "         results/demo/samples/rejects.jsonl                 rows left out, and why"
	@echo "         results/demo/tokens/long_preview.html              what a model reads and what it learns"
	@echo "         results/demo/plot_train/losses.png                 training and held-out losses"
	@echo "         $(DEMO)/README.md                 the model's card"
	@echo "         results/demo/leaderboard/leaderboard.html          base and trained models on four small benchmarks"
	@echo "         results/demo/score_needle/gateau_log/heatmap.png   where the needle is found"
	@echo "Talk:    $(BIN)/python scripts/chat.py --model $(DEMO)"
	@echo "Report:  $(BIN)/snakemake --configfile config/demo.yaml --report results/demo/report.html"

test: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/snakefmt --check workflow
	$(BIN)/snakemake --lint
	$(MAKE) --jobs 2 types tests
	$(BIN)/python -m pytest -m alone -n 0

# takes a minute on one core, while the tests leave a core idle
types: .venv/installed
	$(BIN)/mypy

tests: .venv/installed
	$(BIN)/python -m pytest -m "not alone"

bench: .venv/installed
	$(BIN)/python tests/benchmark/scoring.py
	$(BIN)/python tests/benchmark/tokens.py
	$(BIN)/python tests/benchmark/planning.py

# kills a run of every stage with kill -9 at twenty random moments; about 40 minutes
soak: .venv/installed
	GATEAU_KILLS=20 $(BIN)/python -m pytest -n 0 -s tests/workflow/test_soak.py

# makes each kind of change to a finished run and checks what reruns; about twenty minutes
invalidation: .venv/installed
	GATEAU_INVALIDATION=all $(BIN)/python -m pytest -n 0 -s tests/workflow/test_invalidation.py

# config/README.md is written from the schema
config-reference: .venv/installed
	$(BIN)/python scripts/config_reference.py

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[test]"
	touch $@
