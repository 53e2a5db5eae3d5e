# Every target stands alone on a fresh clone: it makes .venv and installs what it needs first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help install lock train test test-slow test-matrix lint types cuda-build test-detectron2 clean

help:
	@echo "make train            install, then train a small DINO on generated images, evaluate and draw (minutes on a CPU)"
	@echo "make test             install, then run the test suite without its slow tests (minutes)"
	@echo "make test-slow        install, then run the slow tests: documented commands, wheels, whole trainings"
	@echo "make install          make $(VENV) and install the project and its op into it; LOCK=none: the newest versions"
	@echo "make lock             write the versions in $(VENV) to $(LOCK)"
	@echo "make test-matrix      the core of the suite on the oldest and newest versions that are promised (nox)"
	@echo "make test-detectron2  the suite on Detectron2 itself, in the environment of DETECTRON2_PYTHON"
	@echo "make cuda-build       compile the op for CUDA, with or without a GPU in this machine"
	@echo "make lint             check style: Python, C++ and CUDA, spelling"
	@echo "make types            check the type annotations"
	@echo "make clean            remove $(VENV), build results and output/"

install: $(INSTALLED)

# The versions that the suite was green with. LOCK=none takes the newest that pyproject.toml allows.
LOCK ?= requirements/lock.txt
TORCH := "torch>=2.11" torchvision
PROJECT := --no-build-isolation --editable ".[dev]"
PIP := $(BIN)/python -m pip install --quiet
NOT_LOCKED := echo "make install: the versions of $(LOCK) are not all to be had here; taking the newest that are allowed" \
	"(pip's words: $(VENV)/lock.log)"
# Where the locked PyTorch is not to be had, its own libraries follow the one that is; the rest of the lock still holds.
CONSTRAINTS := $(VENV)/constraints.txt
OF_TORCH := ^(torch|torchvision|triton|(nvidia|cuda)-[^=]*)==

# Build isolation would download a second PyTorch only to compile the op, so PyTorch comes first.
$(INSTALLED): pyproject.toml setup.py $(wildcard csrc/* csrc/*/*)
	test -d $(VENV) || $(PYTHON) -m venv $(VENV)
	$(PIP) --upgrade pip "setuptools>=77" wheel ninja
ifeq ($(LOCK),none)
	$(PIP) $(TORCH)
	$(PIP) $(PROJECT)
else
	$(PIP) --constraint $(LOCK) $(TORCH) 2>$(VENV)/lock.log && cp $(LOCK) $(CONSTRAINTS) || { $(NOT_LOCKED); \
	grep -vE '$(OF_TORCH)' $(LOCK) > $(CONSTRAINTS); $(PIP) $(TORCH); }
	$(PIP) --constraint $(CONSTRAINTS) $(PROJECT) 2>>$(VENV)/lock.log || { $(NOT_LOCKED); $(PIP) $(PROJECT); }
endif
	touch $@

train: $(INSTALLED)
	$(BIN)/python train_net.py --config-file configs/dino/dino_tiny_shapes.py

PYTEST := $(BIN)/python -m pytest tests -n 2 --dist loadfile --no-loadscope-reorder

test: $(INSTALLED)
	$(PYTEST) -m "not slow"

test-slow: $(INSTALLED)
	$(PYTEST) -m slow

SESSIONS ?=
test-matrix: $(INSTALLED)
	$(BIN)/python -m nox $(if $(SESSIONS),--session '$(SESSIONS)')

# setuptools is left out: each Python and each environment has its own.
lock: $(INSTALLED)
	$(BIN)/python -m pip freeze --exclude-editable --exclude dino_d2 | grep -v "@ file" > $(LOCK)

# DETECTRON2_PYTHON is the Python of an environment that has Detectron2 and this project's dependencies.
DETECTRON2_PYTHON ?= python3
test-detectron2: $(INSTALLED)
	@$(DETECTRON2_PYTHON) -c "import detectron2, pytest" || { echo "make test-detectron2: $(DETECTRON2_PYTHON) has no \
	Detectron2 or no pytest. Install them there, or name another Python: make test-detectron2 DETECTRON2_PYTHON=..."; exit 1; }
	DINO_D2_ENGINE=detectron2 PYTHONPATH=$(CURDIR) $(DETECTRON2_PYTHON) -m pytest tests

# The compiler of torch's own CUDA version, as wheels: no system toolkit and no GPU needed.
cuda-build: $(INSTALLED)
	cuda=$$($(BIN)/python -c "import torch; print(torch.version.cuda)") && \
	$(BIN)/python -m pip install --quiet "nvidia-cuda-nvcc==$$cuda.*" "nvidia-nvvm==$$cuda.*" \
	    "nvidia-cuda-crt==$$cuda.*" "nvidia-cuda-cccl==$$cuda.*" && \
	FORCE_CUDA=1 DINO_D2_REQUIRE_OP=1 $(BIN)/python setup.py build_ext --inplace

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell
	$(BIN)/clang-format --dry-run -Werror $(wildcard csrc/*.* csrc/*/*.*)

types: $(INSTALLED)
	$(BIN)/mypy

clean:
	rm -rf $(VENV) build output *.egg-info
