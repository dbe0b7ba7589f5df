# Each target sets up what it needs in a virtual environment of its own, once; a second call starts right away.
#   make demo                     which solar cells are broken? Downloads 180 MB; DATA=digits is offline, on digits
#   make test ARGS="-k resume"    the tests; ARGS go to pytest
#   make test ARGS="-m slow"      their long forms
#   make test-versions            the tests on the oldest and the newest supported transformers and PEFT; there
#                                 deprecations are errors, also those that are attributed to other libraries' files
#   make test-quantization        those of a backbone in low precision, with torchao and bitsandbytes
#   make test-torchvision         those of RetinaNet, of timm's backbones and open_clip's, with torchvision and both
#   make test-triton              those of the kernels in Triton: on a GPU where there is one, else by its interpreter
#   make test-deepspeed           that of DeepSpeed's ZeRO-2, on two processes of a CPU
#   make benchmark                time and memory beside other ways of fine-tuning, 20 minutes; ARGS=--all takes hours,
#                                 other ARGS go to the command alone
#   make benchmark-gpu            on a GPU: the tests of the kernels in Triton, then the benchmark, eager, compiled, Triton
#   make compare                  compare all methods; ARGS go to the runs, TASK=object_detection is about another task
#   make docs                     the pages in docs/ as a site, in build/site; warnings are errors
#   make quality                  ruff's checks, as CI runs them
#   make style                    ruff's fixes and format
# PYTHON=/path/to/python chooses the interpreter, VENV=.venv the environment's folder.

PYTHON ?= $(firstword $(foreach name,python3.11 python3,$(if $(shell $(name) --version 2>&1 | grep "Python 3"),$(name))))
VENV ?= .venv
ARGS ?=
DATA ?= cells

RUN := $(VENV)/bin/python
INSTALL := $(RUN) -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
REQUIREMENTS := pyproject.toml constraints.txt
CODE := $(wildcard mona_peft scripts tests notebooks)

# transformers and PEFT, oldest and newest supported; pyproject.toml has the range.
VERSIONS := 5.9.0+0.20.0 5.24.0+0.21.2

.PHONY: demo benchmark benchmark-gpu compare test test-versions test-quantization test-torchvision test-triton test-deepspeed docs quality style clean

demo: $(VENV)/demo.stamp
	$(RUN) -m scripts.demo --data $(DATA) $(ARGS)

benchmark: $(VENV)/demo.stamp
	$(RUN) -m scripts.benchmark $(ARGS)
	$(if $(filter-out --all,$(ARGS)),,$(RUN) -m scripts.benchmark loader)
	$(if $(filter-out --all,$(ARGS)),,$(RUN) -m scripts.benchmark training_run)

benchmark-gpu: $(VENV)/demo.stamp $(VENV)/triton.stamp
	$(RUN) -m scripts.benchmark.gpu $(ARGS)

compare: $(VENV)/demo.stamp
	$(RUN) -m scripts.compare_methods run --jobs 2 $(TASK:%=--task %) $(ARGS)
	$(RUN) -m scripts.compare_methods report $(TASK:%=--task %)

# One thread a worker: two workers on two cores would otherwise compete.
test: $(VENV)/test.stamp
	OMP_NUM_THREADS=1 $(RUN) -m pytest -n 2 --nbmake tests $(wildcard notebooks) $(ARGS)

test-versions: $(VERSIONS:%=test-versions-%)

# An environment above that of the tests, in which only these packages are others.
test-versions-%: $(VENV)/test.stamp
	$(PYTHON) -m venv $(VENV)/versions/$*
	$(RUN) -c "import site; print(site.getsitepackages()[0])" > $$($(VENV)/versions/$*/bin/python -c "import site; print(site.getsitepackages()[0])")/below.pth
	$(VENV)/versions/$*/bin/python -m pip install --quiet --disable-pip-version-check \
		"transformers==$(word 1,$(subst +, ,$*))" "peft==$(word 2,$(subst +, ,$*))"
	OMP_NUM_THREADS=1 $(VENV)/versions/$*/bin/python -m pytest -n 2 tests --ignore tests/scripts --deprecations $(ARGS)

test-quantization: $(VENV)/quantization.stamp
	OMP_NUM_THREADS=1 $(RUN) -m pytest -m quantization tests $(ARGS)

test-triton: $(VENV)/triton.stamp
	OMP_NUM_THREADS=1 $(RUN) -m pytest -m triton tests $(ARGS)

# An environment above that of the tests, since transformers imports torchvision wherever it finds it.
test-torchvision: $(VENV)/test.stamp
	$(PYTHON) -m venv $(VENV)/torchvision
	$(RUN) -c "import site; print(site.getsitepackages()[0])" > $$($(VENV)/torchvision/bin/python -c "import site; print(site.getsitepackages()[0])")/below.pth
	$(VENV)/torchvision/bin/python -m pip install --quiet --disable-pip-version-check \
		--constraint constraints.txt torchvision timm open_clip_torch
	OMP_NUM_THREADS=1 $(VENV)/torchvision/bin/python -m pytest -m "torchvision or timm or open_clip" tests $(ARGS)

# An environment above that of the tests, since accelerate imports DeepSpeed wherever it finds it; built without its
# operators, and where torch can be seen.
test-deepspeed: $(VENV)/test.stamp
	$(PYTHON) -m venv $(VENV)/deepspeed
	$(RUN) -c "import site; print(site.getsitepackages()[0])" > $$($(VENV)/deepspeed/bin/python -c "import site; print(site.getsitepackages()[0])")/below.pth
	$(VENV)/deepspeed/bin/python -m pip install --quiet --disable-pip-version-check setuptools wheel
	DS_BUILD_OPS=0 DS_ACCELERATOR=cpu $(VENV)/deepspeed/bin/python -m pip install --quiet --disable-pip-version-check \
		--constraint constraints.txt --no-build-isolation "deepspeed>=0.19"
	OMP_NUM_THREADS=1 $(VENV)/deepspeed/bin/python -m pytest -m deepspeed tests $(ARGS)

docs: $(VENV)/docs.stamp
	NO_MKDOCS_2_WARNING=1 $(RUN) -m mkdocs build --strict --quiet $(ARGS)

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

$(VENV)/demo.stamp $(VENV)/test.stamp $(VENV)/quantization.stamp $(VENV)/triton.stamp $(VENV)/docs.stamp: $(VENV)/%.stamp: $(VENV)/torch.stamp $(REQUIREMENTS)
	$(INSTALL) --editable ".[$*]"
	touch $@
