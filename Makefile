# make fit: train the default model and read what it writes. make test: the test suite. Both on a fresh machine.
PYTHON ?= python3
BIN = .venv/bin
READY = .venv/.ready

.PHONY: fit test test-all check format clean

fit: $(READY)
	$(BIN)/python xlab.py fit --ckpt_path last
	$(BIN)/python xlab.py test --ckpt_path last
	@echo && echo 'A sample (more: ./infer.py last "The"):'
	@$(BIN)/python infer.py last 'The history of' -l 80 -T 0.8 -p 0.95 -s 1

test: $(READY)
	$(BIN)/python -m pytest -q -n auto

test-all: $(READY)
	$(BIN)/python -m pytest -q -n auto -m 'not gpu and not network'

check: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(MAKE) test

format: $(READY)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

$(READY): requirements.txt pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --editable .
	touch $@

clean:
	rm -rf .venv build dist .pytest_cache .ruff_cache .mypy_cache .hypothesis
