# make fit: say how long it takes here, train the default model, and print a sample. make test: the test suite. Both on a fresh machine.
# make wheels: wheels for a machine with Python 3.12 and torch, but no network. make gpu: everything that needs a GPU.
PYTHON ?= python3
BIN = .venv/bin
# One test process more than cores: some tests wait for processes of theirs.
TEST_PROCESSES = $(shell $(PYTHON) -c 'import os; print((os.cpu_count() or 1) + 1)')
READY = .venv/.ready

.PHONY: fit test test-all check format wheels gpu clean

fit: $(READY)
	@$(BIN)/python scripts/how_long.py
	$(BIN)/python xlab.py fit -c conf/fit.yaml --ckpt_path last
	$(BIN)/python xlab.py test --ckpt_path last
	@echo && echo 'A sample (more: ./infer.py last "The"):'
	@$(BIN)/python infer.py last 'The history of' -l 80 -T 0.8 -p 0.95 -s 1

test: $(READY)
	$(BIN)/python -m pytest -q -n $(TEST_PROCESSES)

test-all: $(READY)
	$(BIN)/python -m pytest -q -n $(TEST_PROCESSES) -m 'not gpu and not network'

check: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(MAKE) test

format: $(READY)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# Left out: torch and its dependencies; packages that only check code, plot, or read parquet and CSV files and the hub.
WHEELS ?= .wheels
WHEELS_PYTHON ?= 3.12
LEFT_OUT = torch|sympy|mpmath|networkx|setuptools|mypy|mypy_extensions|librt|ast_serialize|pathspec|ruff|matplotlib|$\
	contourpy|cycler|fonttools|kiwisolver|pillow|pyparsing|rensa|pyarrow|datasets|pandas|python-dateutil|tzdata|dill|$\
	multiprocess|huggingface_hub|hf-xet|httpx2|httpcore2|h11|anyio|click|truststore

wheels: $(READY)
	rm -rf $(WHEELS)
	grep -vE '^(($(LEFT_OUT))==|#)' requirements.txt | $(BIN)/pip download --quiet --disable-pip-version-check --no-deps \
		--only-binary=:all: --python-version $(WHEELS_PYTHON) --implementation cp \
		$(foreach n,5 12 17 24 27 28 31 34,--platform manylinux_2_$(n)_x86_64) --platform manylinux1_x86_64 \
		--platform manylinux2014_x86_64 --dest $(WHEELS) --requirement /dev/stdin
	@echo "$$(ls $(WHEELS) | wc -l) wheels, $$(du -sm $(WHEELS) | cut -f1) MiB, in $(WHEELS)"
	@test $$(du -scm $(WHEELS) $$(git ls-files) | tail -1 | cut -f1) -lt 64 || { echo 'code and wheels exceed 64 MiB'; exit 1; }

gpu:
	PYTHON=$(PYTHON) WHEELS=$(WHEELS) bash scripts/gpu.sh $(ARGS)

$(READY): requirements.txt pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --editable .
	touch $@

clean:
	rm -rf .venv build dist .pytest_cache .ruff_cache .mypy_cache .hypothesis
