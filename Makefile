# Thin names over `python -m ...`; everything else is in Python. GNU make.
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
PIP := $(RUN) -m pip install --quiet --disable-pip-version-check --editable

.PHONY: help train mnist bench study drift sweep board-test test test-slow formal verilog synth lint clean

help: ## this table
	@echo 'target     what it does'
	@echo '---------  ---------------------------------------------------------------------------------------'
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1           \2/p' Makefile | sed 's/^\(.\{11\}\) */\1/'
	@echo
	@echo 'make train takes SCHEME= DATASET= BACKEND= PORT= TARGET= LAYERS= IMAGES= EPOCHS= SEED= LANES= PARAMS= WAVES=1 OUT='
	@echo 'CHECKPOINT= RESUME=1, each as the option of the same name in: $(RUN) -m cosim.train --help'

mnist: DATASET := mnist
mnist: IMAGES ?= 60000
mnist: EPOCHS ?= 30
mnist: OUT ?= runs/paper-seed$(or $(SEED),1)
mnist: train ## the paper's experiment: 60,000 images x 30 epochs on the RTL; stopped, it goes on with RESUME=1

train: $(VENV)/.run ## train a network on the RTL (or BACKEND=model) and test it; writes the directory OUT
	@$(RUN) -m cosim.train \
	  $(if $(SCHEME),--scheme '$(SCHEME)') \
	  $(if $(DATASET),--dataset '$(DATASET)') $(if $(BACKEND),--backend '$(BACKEND)') $(if $(LAYERS),--layers '$(LAYERS)') \
	  $(if $(IMAGES),--images '$(IMAGES)') $(if $(EPOCHS),--epochs '$(EPOCHS)') $(if $(SEED),--seed '$(SEED)') \
	  $(if $(PORT),--port '$(PORT)') $(if $(TARGET),--target '$(TARGET)') \
	  $(if $(LANES),--lanes '$(LANES)') $(if $(PARAMS),--params '$(PARAMS)') $(if $(OUT),--out '$(OUT)') \
	  $(if $(CHECKPOINT),--checkpoint '$(CHECKPOINT)') $(if $(filter-out 0,$(RESUME)),--resume) \
	  $(if $(filter-out 0,$(WAVES)),--waves)

study: $(VENV)/.run ## accuracy of declared settings, three seeds each, what has no result yet; cosim/results/*.md
	@$(RUN) -m cosim.capacitor_study run
	@$(RUN) -m cosim.capacitor_study table
	@$(RUN) -m cosim.study run
	@$(RUN) -m cosim.study table

sweep: $(VENV)/.run ## cost against network and capacities, cycles by phase, what has no result yet; cosim/results/sweep.md
	@$(RUN) -m cosim.sweep run
	@$(RUN) -m cosim.sweep table

drift: $(VENV)/.run ## accuracy against time since programming, 1 s to 1 year; cosim/results/drift.png
	@$(RUN) -m cosim.drift

bench: $(VENV)/.run ## time an image on NumPy, model, cosimulation and bare Verilator; writes build/bench.json
	@$(RUN) -m cosim.benchmark $(if $(ROUNDS),--rounds '$(ROUNDS)') $(if $(DATASET),--dataset '$(DATASET)')

board-test: $(VENV)/$(if $(filter-out 0,$(NETLIST)),.test,.run) ## train through a virtual board (TARGET=), with faults of the line; its NETLIST=1; the one at PORT=
	@$(RUN) -m cosim.board_test $(if $(TARGET),--target '$(TARGET)') $(if $(PORT),--port '$(PORT)') \
	  $(if $(LAYERS),--layers '$(LAYERS)') $(if $(IMAGES),--images '$(IMAGES)') $(if $(filter-out 0,$(NETLIST)),--netlist)

test: $(VENV)/.test ## every test but proofs and those longer than a minute, on two cores
	$(RUN) -m pytest -n 2 -m 'not formal and not slow'

test-slow: $(VENV)/.test ## the tests longer than a minute
	$(RUN) -m pytest -m 'slow and not formal'

formal: $(VENV)/.test ## the proofs (yosys, z3)
	$(RUN) -m pytest -n 2 --timeout 7200 -m formal

verilog: $(VENV)/.run ## build/verilog: unit and blocks as Verilog, parameters, register documents, port list
	$(RUN) -m hdl.generate $(if $(PARAMS),--params '$(PARAMS)')

synth: $(VENV)/.test ## synthesize, place and route TARGET (a name of constraints/targets.toml) with SEEDS=1; build/synth/TARGET.json
	@$(RUN) -m hdl.synthesize '$(TARGET)' $(if $(SEEDS),--seeds '$(SEEDS)')

lint: $(VENV)/.test ## ruff on everything, pyright on model and cosim
	$(RUN) -m ruff check .
	$(RUN) -m pyright --pythonpath $(RUN)

clean: ## remove .venv, build and caches; keeps data and runs
	rm -rf $(VENV) build crosstrain.egg-info .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/.run: pyproject.toml
	@echo 'making $(VENV) and installing the packages pinned in pyproject.toml'
	@$(PYTHON) -m venv $(VENV)
	@$(PIP) .
	@touch $@

$(VENV)/.test: $(VENV)/.run
	@$(PIP) '.[test]'
	@touch $@
