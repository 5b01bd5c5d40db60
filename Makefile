PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.complete

# Keeps the repository's folders off the module path, where `import search` would find the same files under a second name.
export PYTHONSAFEPATH := 1

.PHONY: venv demo test check

venv: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

demo: venv
	$(BIN)/autotune --model mini-flux --budget 4m --storage sqlite:///autotune-out/demo.db

test: venv
	$(BIN)/pytest -n auto --dist loadfile
	$(BIN)/pytest --doctest-modules --ignore-glob='*/migrations/*' src/autotune

check: venv
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
