# make demo: run the main job.  make test: run the tests.  make lint: style and types.
# make bench: the measurements in benchmarks/ (some hours).  make paper: the source paper's runs (hours).
# Each makes the virtual environment .venv when it is missing or when the project's requirements have changed.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/installed
OUT ?= runs/boundary-flux

.PHONY: demo test lint bench paper clean

demo: $(STAMP)
	$(BIN)/fokker run boundary-flux --preset quick --out $(OUT)

test: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(STAMP)
	$(BIN)/python benchmarks/channel_convergence.py
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/reaction_convergence.py
	$(BIN)/python benchmarks/foundation.py
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/noise_family.py
	$(BIN)/python benchmarks/noise_family_report.py
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/simulation_store.py
	$(BIN)/python benchmarks/simulations_page.py
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/streaming.py
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/sbi_tasks.py run
	$(BIN)/python benchmarks/sbi_tasks.py collect
	$(BIN)/fokker run guidance-battery --preset paper --out .bench/guidance-battery --quiet
	$(BIN)/python benchmarks/guidance_battery.py .bench/guidance-battery
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/guidance_exact.py run
	$(BIN)/python benchmarks/guidance_exact.py collect
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/discretisation.py
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/context_points.py
	$(BIN)/python benchmarks/functions_page.py
	$(BIN)/python benchmarks/guidance.py run
	$(BIN)/python benchmarks/guidance.py collect
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/field_baselines.py run
	$(BIN)/python benchmarks/field_baselines.py collect

paper: $(STAMP)
	$(BIN)/python benchmarks/paper.py run
	$(BIN)/python benchmarks/paper.py collect
	$(BIN)/python benchmarks/fields.py run
	$(BIN)/python benchmarks/fields.py collect

clean:
	rm -rf $(VENV)

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(0 if v >= (3, 11) else f"Python 3.11 or newer is needed, this is {v[0]}.{v[1]}")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt torch==2.13.0
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[all,dev]'
	touch $@
