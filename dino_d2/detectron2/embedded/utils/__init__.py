"""Communication, events, logging, registry and small tools, as in `detectron2.utils`."""
