# Needs python3 (3.11 or newer) and make; everything else is installed into .venv.
PYTHON := .venv/bin/python
.PHONY: demo test lint

# what installing depends on: after a change of these files it is done again
.venv/installed-%: pyproject.toml constraints.txt
	test -x $(PYTHON) || python3 -m venv .venv
	$(PYTHON) -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[$(subst +,$(,),$*)]"
	touch $@
, := ,

demo: .venv/installed-demo ## pre-train on the embedded pictures, transfer, print one table
	$(PYTHON) train.py -m objective=supervised,mae,simclr +experiment=demo
