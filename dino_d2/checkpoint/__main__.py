"""Convert a checkpoint: our own to the authors' names, a published one to ours.

python -m dino_d2.checkpoint IN OUT
"""

import argparse
import sys

from .write import convert

parser = argparse.ArgumentParser(prog="python -m dino_d2.checkpoint", description=__doc__.splitlines()[0])
parser.add_argument("input", metavar="IN", help="checkpoint of any known format, recognised by its tensors")
parser.add_argument("output", metavar="OUT", help="PyTorch file to write")
arguments = parser.parse_args()
try:
    print(convert(arguments.input, arguments.output))
except (ValueError, OSError) as error:
    sys.exit(f"error: {error}")
