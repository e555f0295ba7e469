# make demo: a real program through Spidl.  make test: everything that must hold.
PYTHON := .venv/bin/python

.PHONY: setup setup-test demo test lint survey trixie numbers bench clean

setup:
	@scripts/setup run

setup-test:
	@scripts/setup test

demo: setup
	@scripts/demo

test: setup-test lint
	$(PYTHON) -m pytest -q -n 2 --dist loadfile

lint: setup-test
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check --quiet .
	$(PYTHON) -m mypy
	$(PYTHON) -m mypy --strict tests/programs tests/survey benchmarks

# Every program of this machine, plainly and under filters, packages' own test suites under filters,
# then real work in a root of another Debian, and with a third one's libraries: hours.
survey: setup-test
	$(PYTHON) -m tests.survey $(ARGS)
	$(PYTHON) -m tests.survey.filtered
	$(PYTHON) -m tests.survey.filtered_work
	$(PYTHON) -m tests.survey.filtered_suites
	$(PYTHON) -m tests.survey.trixie
	$(PYTHON) -m tests.survey.capsules
	$(PYTHON) -m tests.survey.policies

trixie: setup-test
	$(PYTHON) -m tests.survey.trixie $(ARGS)

# Measures everything (ten minutes, better on a quiet machine) and writes docs/numbers.md.
numbers: setup-test
	$(PYTHON) -m benchmarks.numbers $(ARGS)

# The same in a minute or two, with fewer programs and rounds, into build/bench.
bench: setup-test
	$(PYTHON) -m benchmarks.numbers --quick --output build/bench $(ARGS)

clean:
	$(MAKE) --quiet -C boot clean
	$(MAKE) --quiet -C launcher clean
	$(MAKE) --quiet -C decode clean
	rm -rf .venv build .mypy_cache .ruff_cache .pytest_cache .hypothesis src/*.egg-info
	find . -name __pycache__ -not -path './.git/*' -prune -exec rm -rf {} +
