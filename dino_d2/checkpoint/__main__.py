# SPDX-License-Identifier: Apache-2.0
"""Convert a checkpoint: our own to the authors' names, a published one to ours.

python -m dino_d2.checkpoint IN OUT
"""

import argparse
import sys

from .write import convert


def main(arguments: list[str] | None = None, prog: str = "python -m dino_d2.checkpoint") -> int:
    """Write the converted file and print a summary; exit with a message if this fails."""
    parser = argparse.ArgumentParser(prog=prog, description=__doc__.splitlines()[0])
    parser.add_argument("input", metavar="IN", help="checkpoint of any known format, recognised by its tensors")
    parser.add_argument("output", metavar="OUT", help="PyTorch file to write")
    options = parser.parse_args(arguments)
    try:
        print(convert(options.input, options.output))
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    return 0


if __name__ == "__main__":
    main()
