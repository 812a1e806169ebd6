"""The command `diffcr devices`, and the options that lay work over devices."""

import json
from typing import Annotated, Any

import typer

DevicesOption = Annotated[
    int | None,
    typer.Option("--devices", help="Cores (or accelerators) to share the work, such as 2 (default: all).", metavar="N"),
]

HostsOption = Annotated[
    str | None,
    typer.Option(
        "--hosts",
        help="Join processes on several machines, each started with this command: auto (Slurm, Open MPI, TPU pods), "
        "or ADDRESS:PORT of process 0, their NUMBER, and the INDEX of this one. Only among machines you trust.",
        metavar="auto|ADDRESS:PORT,NUMBER,INDEX",
    ),
]


def devices(
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
) -> None:
    """What the commands compute on here: devices, memory, precision, what is laid over them, and how to change it.

    Example: [bold]diffcr devices[/bold]
    """
    from .devices import describe_devices

    content = describe_devices()
    print(json.dumps(content, indent=2) if as_json else "\n".join(_lines(content)))


def _lines(content: dict[str, Any]) -> list[str]:
    out = [_row("platform", content["platform"])]
    for each in content["devices"]:
        memory = "" if each["memory_bytes"] is None else f", {_size(each['memory_bytes'])}"
        out.append(_row(f"device {each['id']}", each["kind"] + memory))
    machine = "" if content["memory_bytes"] is None else f", {_size(content['memory_bytes'])} of memory"
    out.append(_row("cores", f"{content['cores']} of {content['cores_of_machine']}{machine}"))
    out.append(_row("processes", f"{content['processes']}, {content['devices_of_all_processes']} devices together"))
    out.append(_row("precision", content["precision"]))
    out += [_row(name, what) for name, what in content["layout"].items()]
    out += [_row(f"to change {name}", how) for name, how in content["change"].items()]
    out += [_row("environment", f"{name}={value}") for name, value in content["environment"].items()]
    out.append(_row("versions", ", ".join(f"{name} {value}" for name, value in content["versions"].items())))
    return out + [_row("note", text) for text in content["notes"]]


def _row(name: str, text: str) -> str:
    return f"{name:<28} {text}"


def _size(number: float) -> str:
    return f"{number / 2**30:.3g} GiB"
