# SPDX-License-Identifier: Apache-2.0
"""Communication, events, logging, registry and small tools, as in `detectron2.utils`."""
