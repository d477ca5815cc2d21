# Two commands on a fresh machine, `make train` and `make test`; `make check` is what CI runs.
PYTHON ?= python3
BIN := .venv/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt --no-compile -e
unexport PYTHONDONTWRITEBYTECODE  # Importing TensorFlow from source files takes three times as long.
SOURCES := setup.cfg pyproject.toml constraints.txt

.PHONY: train test test-jax test-slow test-release check docs format lint clean

train: .venv/train
	$(BIN)/python train.py --compare=sgd,smoothout --radius=0.02 --batch_size=720 --epochs=30 \
		--workdir=runs/quickstart --overwrite

PYTEST := $(BIN)/python -m pytest -q -n 2 --dist loadgroup
# Compiles in half the time. A release runs the code that users run.
SKETCHED := XLA_FLAGS="--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"

test: .venv/test
	KERAS_BACKEND=tensorflow $(SKETCHED) $(PYTEST) -m "not slow"

test-jax: .venv/test
	KERAS_BACKEND=jax $(SKETCHED) $(PYTEST) -m "not slow"

# Soaks, installations, long recipes.
test-slow: .venv/test
	KERAS_BACKEND=tensorflow $(PYTEST) -m "slow and not release"
	KERAS_BACKEND=jax $(PYTEST) -m "slow and jax and not release"

# What only a release needs: small experiments of the methods, every layer of Keras.
test-release: .venv/test
	KERAS_BACKEND=tensorflow $(PYTEST) -m release
	KERAS_BACKEND=jax $(PYTEST) -m release

check: lint docs test test-jax test-slow

# The site, in build/site/docs/index.html; a broken link is an error.
docs: .venv/docs
	KERAS_BACKEND=tensorflow $(BIN)/python -m sphinx -W --keep-going -q -j auto -c docs . build/site

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

.venv/docs: .venv/test docs/conf.py
	$(INSTALL) ".[docs]"
	touch $@

clean:
	rm -rf .venv runs build docs/methods docs/reference
