# SPDX-License-Identifier: Apache-2.0
"""Communication among ranks, events, logging, files and the registry, as in `detectron2.utils`."""
