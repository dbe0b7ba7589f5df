# Each target sets up what it needs in a virtual environment of its own, once; a second call starts right away.
#   make demo                     train the head alone, then Mona, on handwritten digits over photographs
#   make test ARGS="-k resume"    the tests; ARGS go to pytest
#   make benchmark                time and memory beside other ways of fine-tuning; ARGS go to the command
#   make quality                  ruff's checks, as CI runs them
#   make style                    ruff's fixes and format
# PYTHON=/path/to/python chooses the interpreter, VENV=.venv the environment's folder.

PYTHON ?= $(firstword $(foreach name,python3.11 python3,$(if $(shell $(name) --version 2>&1 | grep "Python 3"),$(name))))
VENV ?= .venv
ARGS ?=

RUN := $(VENV)/bin/python
INSTALL := $(RUN) -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
REQUIREMENTS := pyproject.toml constraints.txt
CODE := $(wildcard mona_peft scripts tests notebooks)

.PHONY: demo benchmark test quality style clean

demo: $(VENV)/demo.stamp
	$(RUN) -m scripts.demo $(ARGS)

benchmark: $(VENV)/demo.stamp
	$(RUN) -m scripts.benchmark $(ARGS)

# One thread a worker: two workers on two cores would otherwise compete.
test: $(VENV)/test.stamp
	OMP_NUM_THREADS=1 $(RUN) -m pytest -n 2 --nbmake tests $(wildcard notebooks) $(ARGS)

quality: $(VENV)/ruff.stamp
	$(RUN) -m ruff check $(CODE)
	$(RUN) -m ruff format --check $(CODE)

style: $(VENV)/ruff.stamp
	$(RUN) -m ruff check --fix $(CODE)
	$(RUN) -m ruff format $(CODE)

clean:
	rm -rf $(VENV)

$(VENV)/venv.stamp:
	$(PYTHON) -m venv --clear $(VENV)
	touch $@

# torch goes first and alone: the constraint fixes its version, and no later install may exchange it for another.
$(VENV)/torch.stamp: $(VENV)/venv.stamp constraints.txt
	$(INSTALL) torch
	touch $@

$(VENV)/ruff.stamp: $(VENV)/venv.stamp constraints.txt
	$(INSTALL) ruff
	touch $@

$(VENV)/demo.stamp $(VENV)/test.stamp: $(VENV)/%.stamp: $(VENV)/torch.stamp $(REQUIREMENTS)
	$(INSTALL) --editable ".[$*]"
	touch $@
