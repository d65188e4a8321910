# Needs python3 (3.11 or newer) and make; everything else is installed into .venv, from constraints.txt.
PYTHON := .venv/bin/python
.PHONY: demo test test-long faults lint
comma := ,

# installed again when what it depends on changes
.venv/installed-%: pyproject.toml constraints.txt
	test -x $(PYTHON) || python3 -m venv .venv
	$(PYTHON) -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[$(subst +,$(comma),$*)]"
	touch $@

demo: .venv/installed-demo ## pre-train on the embedded pictures, transfer, compare; stopped and started again it goes on
	$(PYTHON) compare.py plan=images_demo

test: .venv/installed-demo+dev ## everything but what is marked long
	OMP_NUM_THREADS=1 $(PYTHON) -m pytest -m "not long" -n 2 --dist loadfile

test-long: .venv/installed-demo+dev ## the rest, but for what make faults does
	$(PYTHON) -m pytest -m long --ignore=tests/faults

faults: .venv/installed-demo+dev ## kills runs at random, fills disk and memory, damages every kind of file; prints counts
	$(PYTHON) -m pytest tests/faults

lint: .venv/installed-demo+dev
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
