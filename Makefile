# make demo    sets up and shows kwire at work on real kernel events (as root)
# make test    sets up and runs all tests, in guests with other kernels too (as root; else what can run)
# make check   style and types
# make quick   the same, and the tests that need neither the kernel nor minutes
# make vm KERNEL=6.12 CMD='uname -r'    one command as root in a guest (IMAGE=vmlinuz MODULES=DIR: any kernel)
# make bench   every figure that the README quotes, but for those of guests (bench/attach.py)
# make clean   removes what the others made, downloads included

PYTHON ?= python3
KERNEL ?= 6.12
SOURCES := pyproject.toml setup.py $(wildcard native/*.c native/*.h)
PACKAGES := gcc libc6-dev kmod bpftrace qemu-system-x86 qemu-system-common tshark tcpdump bpftool nats-server prometheus xxd bsdextrautils iproute2 openssl lua5.2 lua5.3 lua5.4
PIP := .venv/bin/python -m pip --disable-pip-version-check -q

.PHONY: demo test check quick vm bench clean packages kernels
.DELETE_ON_ERROR:

demo: .venv/.tool
	@.venv/bin/python scripts/demo.py

test: check packages kernels
	@.venv/bin/python -m pytest -n logical --maxprocesses 8 --guests

check: .venv/.tests
	@.venv/bin/ruff check
	@.venv/bin/ruff format --check
	@.venv/bin/mypy

quick: check
	@.venv/bin/python -m pytest -q -n 2 -m 'not live and not first' $(addprefix tests/,bpf btf lang compile wire view)

vm:
	@$(PYTHON) tests/vm/run.py $(if $(IMAGE),--image $(IMAGE) $(if $(MODULES),--modules $(MODULES)),--kernel $(KERNEL)) \
		-- sh -c '$(CMD)'

bench: .venv/.tool
	@scripts/packages linux-perf bpftrace time nftables
	@set -e; for script in $(filter-out bench/attach.py bench/common.py bench/replay.py bench/stages.py,$(wildcard bench/*.py)); do .venv/bin/python $$script; done

clean:
	rm -rf .venv .vm build dist src/*.egg-info src/kwire/*.so .*_cache .hypothesis demo*.pcapng
	find src tests bench -name __pycache__ -prune -exec rm -rf {} +

# The tool alone is a smaller download than the tool with all that its tests need.
.venv/.tool: $(SOURCES) | .venv/bin/python
	@scripts/packages gcc libc6-dev
	@echo "installing kwire into .venv"
	@$(PIP) install -e .
	@touch $@

.venv/.tests: $(SOURCES) | .venv/bin/python
	@scripts/packages gcc libc6-dev
	@echo "installing kwire and its test tools into .venv"
	@$(PIP) install -e '.[test]'
	@touch .venv/.tool $@

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "kwire needs Python 3.11 or newer")'
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || scripts/packages python3-venv
	@$(PYTHON) -m venv .venv

packages:
	@scripts/packages $(PACKAGES)

kernels: packages
	@scripts/kernels
