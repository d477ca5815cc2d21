# Two commands on a fresh machine, `make train` and `make test`; `make check` is what CI runs.
PYTHON ?= python3
BIN := .venv/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt --no-compile -e
JAX_TESTS := tests
SOURCES := setup.cfg pyproject.toml constraints.txt

.PHONY: train test test-jax check format lint clean

train: .venv/train
	$(BIN)/python train.py --compare=sgd,smoothout --radius=0.02 --batch_size=720 --epochs=30 \
		--workdir=runs/quickstart --overwrite

test: .venv/test
	KERAS_BACKEND=tensorflow $(BIN)/python -m pytest -q -n 2 --dist worksteal

test-jax: .venv/test
	KERAS_BACKEND=jax $(BIN)/python -m pytest -q -n 2 --dist worksteal $(JAX_TESTS)

check: lint test test-jax

lint: .venv/test
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

format: .venv/test
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

.venv/train: $(SOURCES)
	$(PYTHON) -m venv .venv
	$(INSTALL) ".[tensorflow,train]"
	touch $@

.venv/test: $(SOURCES)
	$(PYTHON) -m venv .venv
	$(INSTALL) ".[tensorflow,jax,train,test]"
	touch $@ .venv/train

clean:
	rm -rf .venv runs
