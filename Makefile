# Needs python3 (3.11 or newer) and make; everything else is installed into .venv, from constraints.txt.
PYTHON := .venv/bin/python
DEMO := outputs/demo
.PHONY: demo test test-long faults lint
comma := ,

# installed again when what it depends on changes
.venv/installed-%: pyproject.toml constraints.txt
	test -x $(PYTHON) || python3 -m venv .venv
	$(PYTHON) -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[$(subst +,$(comma),$*)]"
	touch $@

demo: .venv/installed-demo ## pre-train on the embedded pictures, transfer, print one table
	rm -rf $(DEMO)
	$(PYTHON) train.py -m objective=supervised,mae,simclr experiment=demo hydra.sweep.dir=$(DEMO)
	$(PYTHON) finetune.py -m checkpoint=$(DEMO)/supervised,$(DEMO)/mae,$(DEMO)/simclr transfer=knn,linear outputs=$(DEMO)
	$(PYTHON) finetune.py -m checkpoint=none transfer=knn,linear outputs=$(DEMO) model=vit_t model.depth=6 datamodule=emoji datamodule.image_size=32
	$(PYTHON) compare.py report=$(DEMO)

test: .venv/installed-demo+dev ## everything but what is marked long
	$(PYTHON) -m pytest -m "not long"

test-long: .venv/installed-demo+dev ## the rest, but for what make faults does
	$(PYTHON) -m pytest -m long --ignore=tests/faults

faults: .venv/installed-demo+dev ## kills runs at random, fills disk and memory, damages every kind of file; prints counts
	$(PYTHON) -m pytest tests/faults

lint: .venv/installed-demo+dev
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
