"""`relic doctor`."""

from __future__ import annotations

from pathlib import Path


def doctor(data: Path | None = None, json: bool = False) -> int:
    """Tell what this machine has (✓), lacks (✗) and can do without (–), each with the command that mends it.

    Exits with 1 where something that is needed is missing or broken.

    Args:
        data: Beton whose reading speed is measured.
        json: Print JSON.
    """
    import dataclasses
    from json import dumps

    from relic.doctor import examine, line

    checks = []
    for check in examine(data):
        checks.append(check)
        if not json:
            print(line(check, width=14), flush=True)
    broken = sum(check.status == "broken" for check in checks)
    if json:
        print(dumps({"ok": not broken, "checks": [dataclasses.asdict(check) for check in checks]}, indent=1))
    elif broken:
        print(f"\n{broken} {'thing stands' if broken == 1 else 'things stand'} in the way (✗)")
    else:
        print("\nready: nothing that is needed is missing")
    return 1 if broken else 0
