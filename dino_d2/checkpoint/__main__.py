"""Convert a checkpoint: our own to the authors' names, a published one to ours.

python -m dino_d2.checkpoint IN OUT
"""

import argparse
import sys

from .write import convert


def main(arguments: list[str] | None = None, prog: str = "python -m dino_d2.checkpoint") -> int:
    """Writes the converted file and prints what was done; 1 if it cannot, else 0."""
    parser = argparse.ArgumentParser(prog=prog, description=__doc__.splitlines()[0])
    parser.add_argument("input", metavar="IN", help="checkpoint of any known format, recognised by its tensors")
    parser.add_argument("output", metavar="OUT", help="PyTorch file to write")
    options = parser.parse_args(arguments)
    try:
        print(convert(options.input, options.output))
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
