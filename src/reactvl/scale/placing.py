"""How many workers there are, and which device each of them has, from the words of the options."""

from reactvl.manifest import ReactvlError


def places(executor: str, devices: list[str], cores: int) -> list[str]:
    """The device of every worker; one alone is this process itself.

    `executor` is `local`: this process, or a process a device where there are several; `processes`: one a GPU, or on a
    CPU one a core; `processes:N`: N of them, the devices taken in turn. Raises ReactvlError for another spelling and
    for fewer processes than devices.
    """
    kind, colon, text = executor.partition(":")
    if executor == "local":
        return list(devices)
    if kind != "processes" or (colon and not (text.isascii() and text.isdigit() and int(text) > 0)):
        raise ReactvlError(f"executor {executor!r}: use local, processes or processes:N, with N of 1 or more")
    alone = len(devices) == 1 and devices[0].startswith("cpu")
    count = int(text) if colon else (cores if alone else len(devices))
    if count < len(devices):
        raise ReactvlError(f"executor {executor!r}: {len(devices)} devices are named; they need as many processes")
    return [devices[number % len(devices)] for number in range(count)]
