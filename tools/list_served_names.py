# SPDX-License-Identifier: Apache-2.0
"""List the names that the embedded engine serves, as the table in docs/detectron2.md has them.

    python tools/list_served_names.py            # print the table
    python tools/list_served_names.py --write    # put it into docs/detectron2.md

A package serves what its `__init__.py` imports; a module, the functions and classes that it defines, or its `__all__`.
A name of a package is not repeated for its modules. Modules beside the packages are the embedded
engine's own: Detectron2 has none there.
"""

import argparse
import importlib
import pkgutil
from pathlib import Path
from types import ModuleType

from dino_d2.detectron2 import embedded

PAGE = Path(__file__).resolve().parents[1] / "docs" / "detectron2.md"
BEGIN, END = "<!-- table of served names: tools/list_served_names.py -->\n", "<!-- end of table -->\n"

#: What the embedded engine's modules share between them, which Detectron2 does not have.
OWN = {"not_served", "to_augmentation"}


def served_names() -> dict[str, list[str]]:
    """From a module, by its name in Detectron2, to the names it serves."""
    prefix = f"{embedded.__name__}."
    found = {module.name: importlib.import_module(module.name)
             for module in pkgutil.walk_packages(embedded.__path__, prefix)
             if module.name.removeprefix(prefix) not in OWN}  # fmt: skip
    served: dict[str, list[str]] = {}
    listed: set[tuple[str, int]] = set()  # names with the identity of their objects
    for name in sorted(found, key=lambda name: (name.count("."), name)):
        if name.count(".") == prefix.count(".") and not is_package(found[name]):
            continue
        public_here = [public for public in public_names(found[name]) if public not in OWN]
        new = [public for public in public_here if (public, id(vars(found[name])[public])) not in listed]
        listed |= {(public, id(vars(found[name])[public])) for public in new}
        if new:
            served[f"detectron2.{name.removeprefix(prefix)}"] = sorted(new, key=str.casefold)
    return dict(sorted(served.items()))


def public_names(module: ModuleType) -> list[str]:
    if hasattr(module, "__all__"):
        return [name for name in module.__all__ if not isinstance(getattr(module, name), ModuleType)]
    public = {name: value for name, value in vars(module).items()
              if not name.startswith("_") and not isinstance(value, ModuleType)}  # fmt: skip
    if is_package(module):
        return list(public)
    return [name for name, value in public.items() if getattr(value, "__module__", None) == module.__name__]


def is_package(module: ModuleType) -> bool:
    return module.__spec__.submodule_search_locations is not None


def table() -> str:
    lines = ["| module | names |", "|---|---|"]
    lines += [
        f"| `{module}` | {', '.join(f'`{name}`' for name in names)} |" for module, names in served_names().items()
    ]
    return "\n".join(lines) + "\n"


def page_with_table(page: str) -> str:
    """The text of the page with today's table in the place of the one it has."""
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{table()}\n{END}{after}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="put the table into docs/detectron2.md")
    if parser.parse_args().write:
        PAGE.write_text(page_with_table(PAGE.read_text()))
    else:
        print(table(), end="")


if __name__ == "__main__":
    main()
