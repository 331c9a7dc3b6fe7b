# Language models from scratch, from one recipe.
#
#   make demo                            the whole chain on the built-in world, minutes on two cores
#   make test                            the tests
#   make run RECIPE=recipes/mine.yaml    whatever that recipe has not finished yet, then the report
#
# RECIPE   recipe file                                        (recipes/demo.yaml)
# LAUNCH   a file of recipes/accelerate, instead of the recipe's own: LAUNCH=cpu-2
# SET      values that win over the file:                     SET="seed=1 stages.sft.learning_rate=1e-4"
# STAGE    one stage by its name, for `make run`:             STAGE=dpo_gentle
# STEP     of the stage, for `make ledger`
# STORE    where finished work is kept                        (artifacts)
# TO       the folder that `make export` writes:              TO=my_model
# FORMAT   stock, a class of transformers, or ours, with its code (stock)
# DATA     what `make inspect` looks at; text for `make better-data`: DATA=my_text
# NAME     of the module that `make new-model` writes:        NAME=thing
# REBUILD  1 rebuilds a stale stage that was costly to make
# YES      1 lets `make clean` remove without asking
# PYTHON   the interpreter that makes the virtual environment (python3)

RECIPE  ?= recipes/demo.yaml
LAUNCH  ?=
SET     ?=
STAGE   ?=
STEP    ?= 1
STORE   ?= artifacts
REBUILD ?=
TO      ?=
NAME    ?=
DATA    ?=
YES     ?=
FORMAT  ?= stock
PYTHON  ?= python3

VENV    := .venv
BIN     := $(VENV)/bin
READY   := $(VENV)/.ready
STAGES  := tokenizer pretrain finetune sft reward dpo ppo evaluate
TUNE     = $(SET:%=--set %) $(if $(LAUNCH),--launch $(LAUNCH))
BUILD    = $(TUNE) --store $(STORE) $(if $(filter 1,$(REBUILD)),--rebuild)
SOURDOUGH = $(BIN)/python -m pipelines

.DEFAULT_GOAL := help
.PHONY: help setup demo demo-encoder demo-translation run $(STAGES) check inspect plan show data report export ledger verify clean schema new-model \
        test test-all test-docs test-equality test-ray test-gpu lint types format bench better-data

help: ## this list
	@sed -n 's/^# \{0,1\}//p' Makefile | sed '/^$$/q' | head -n 1
	@awk 'BEGIN {FS = ":.*## "} /^##@/ {printf "\n%s\n", substr($$0, 5)} \
	      /^[a-zA-Z_$$()-]+:.*## / {name = $$1; sub(/\$$\(STAGES\)/, "<stage>", name); printf "  %-17s %s\n", name, $$2}' Makefile
	@printf '\nVariables: RECIPE=recipes/x.yaml LAUNCH=gpu-1 SET="a.b=c" STAGE=name STORE=folder TO=folder REBUILD=1\n'
	@printf 'Stages: $(STAGES)\n'

##@ Run
demo: $(READY) ## the whole chain on the built-in world, from nothing to the report
	@$(SOURDOUGH) run recipes/demo.yaml $(BUILD)

demo-encoder: $(READY) ## an encoder: masked text, then sentiment from few labels, with and without the first
	@$(SOURDOUGH) run recipes/demo-encoder.yaml $(BUILD)

demo-translation: $(READY) ## an encoder-decoder translates into an invented language
	@$(SOURDOUGH) run recipes/demo-translation.yaml $(BUILD)

run: $(READY) ## what RECIPE has not finished yet, then the report (one stage: STAGE=name)
	@$(SOURDOUGH) run $(RECIPE) $(BUILD) $(if $(STAGE),--stage $(STAGE))

$(STAGES): $(READY) ## build one stage of RECIPE, and what it needs: make ppo
	@$(SOURDOUGH) $@ $(RECIPE) $(BUILD)

data: $(READY) ## fetch and check every dataset; pins the commits of Hub data
	@$(SOURDOUGH) data $(RECIPE) $(BUILD)

##@ Look
check: $(READY) ## every mistake in RECIPE, with file:line:column
	@$(SOURDOUGH) check $(RECIPE) $(TUNE)

inspect: $(READY) ## what DATA=path (file, folder or pattern) holds, and the lines of a recipe that read it
	@$(SOURDOUGH) inspect "$(DATA)"

plan: $(READY) ## what would run, why, and what it costs
	@$(SOURDOUGH) plan $(RECIPE) $(TUNE) --store $(STORE)

show: $(READY) ## the whole recipe, with each value's origin
	@$(SOURDOUGH) show $(RECIPE) $(TUNE)

report: $(READY) ## write the report again from what is finished
	@$(SOURDOUGH) report $(RECIPE) $(TUNE) --store $(STORE)

export: $(READY) ## write one stage's model as a folder that other tools read: STAGE=sft TO=folder
	@$(SOURDOUGH) export $(RECIPE) $(TUNE) --store $(STORE) --stage "$(STAGE)" --to "$(TO)" --format $(FORMAT)

ledger: $(READY) ## which documents a step of a pretrain stage takes: STAGE=pretrain STEP=1234
	@$(SOURDOUGH) ledger $(RECIPE) $(TUNE) --store $(STORE) --stage "$(or $(STAGE),pretrain)" --step "$(STEP)"

verify: $(READY) ## compare every finished file with its manifest
	@$(SOURDOUGH) verify $(RECIPE) $(TUNE) --store $(STORE)

clean: $(READY) ## remove unfinished work and artifacts that no run uses
	@$(SOURDOUGH) clean --store $(STORE) $(if $(filter 1,$(YES)),--yes)

##@ Develop
setup: $(READY) ## make the virtual environment (every target does when it must)

new-model: $(READY) ## a transformer of your own to go on from: NAME=thing writes my_models/thing.py and .yaml
	@$(SOURDOUGH) new-model --name "$(NAME)"

schema: $(READY) ## write recipes/schema.json, which completes keys in editors
	@$(SOURDOUGH) schema > recipes/.schema.json && mv recipes/.schema.json recipes/schema.json

test: $(READY) ## the tests (minutes)
	@$(BIN)/python -m pytest -m "not slow and not gpu"

test-all: $(READY) ## also whole runs, launches of several processes, kill tests
	@$(BIN)/python -m pytest -m "not gpu"

test-docs: $(READY) ## the pages of docs/ followed in a copy of the project
	@$(BIN)/python -m pytest -m slow tests/end_to_end/test_docs_followed.py

test-ray: $(READY) ## data work on a local Ray cluster of two nodes; installs ray
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,ray]'
	@$(BIN)/python -m pytest -m slow tests/distributed/test_ray.py

test-equality: $(READY) ## our blocks against transformers' own classes (part of `make test`)
	@$(BIN)/python -m pytest -m "equality and not gpu" tests/unit

test-gpu: $(READY) ## the tests that need a GPU
	@CUDA_VISIBLE_DEVICES=$${CUDA_VISIBLE_DEVICES-0} $(BIN)/python -m pytest -m gpu

lint: $(READY) ## ruff
	@$(BIN)/ruff check . && $(BIN)/ruff format --check .

types: $(READY) ## mypy
	@$(BIN)/mypy

format: $(READY) ## format the code in place
	@$(BIN)/ruff check --fix . && $(BIN)/ruff format .

bench: $(READY) ## speed against peers, as ratios in one run
	@for script in $(filter-out $(addprefix benchmarks/,better_data.py heap.py measuring.py),$(wildcard benchmarks/*.py)); do $(BIN)/python $$script || exit 1; done

better-data: $(READY) ## one model on a heap of text and on the cleaned one (ten minutes; your own text: DATA=folder)
	@$(BIN)/python benchmarks/better_data.py $(if $(DATA),--data "$(DATA)")

$(READY): pyproject.toml constraints.txt
	@echo "Setting up $(VENV) (once; about a minute plus downloads)"
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(v < (3, 11) and f"Python 3.11 or later is needed, this is {v[0]}.{v[1]}: PYTHON=python3.12 make ...")'
	@$(PYTHON) -m venv --clear $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@
