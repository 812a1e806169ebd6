"""Several hosts: processes on machines that trust each other, joined by JAX so that each sees the devices of all.

Whatever goes wrong in one process must end all of them, each with one line, and none may wait for ever: processes first
find each other over a plain connection, what the first alone can find out it tells the others, and the loss of a
process is the end of the rest. Nobody is asked who he is: whoever reaches the port can take part.
"""

import atexit
import contextlib
import ctypes
import dataclasses
import json
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

import diffcr
from diffcr.errors import FitError, InputError

LOST = "another process was lost (its own message says why); run all of them again, with --resume"

_SECONDS = 120.0
_ERRORS = {"InputError": InputError, "FitError": FitError}
_CODES = {InputError: 2, FitError: 3, KeyboardInterrupt: 130}
_FORM = "--hosts takes auto, or ADDRESS:PORT,NUMBER,INDEX[,SECONDS] such as 10.0.0.1:7777,2,0"


@dataclasses.dataclass(frozen=True)
class Hosts:
    """Which processes join, and which of them this is.

    Attributes:
        address: HOST:PORT of process 0, which listens on that address alone; None for what Slurm, MPI or a TPU pod
            says.
        number: Of processes; None with no address.
        index: Of this one, from 0; None with no address.
        seconds: How long processes wait for each other at the start.

    Raises:
        InputError: If the numbers do not fit each other.
    """

    address: str | None = None
    number: int | None = None
    index: int | None = None
    seconds: float = _SECONDS

    def __post_init__(self):
        if self.address is None:
            return
        host, _, port = self.address.rpartition(":")
        if not host or not port.isdecimal() or not 0 < int(port) < 65536:
            raise InputError(f"{_FORM}; {self.address!r} is no address and port")
        if self.number < 1 or not 0 <= self.index < self.number:
            raise InputError(f"{_FORM}; processes are numbered from 0 to NUMBER - 1, not {self.index} of {self.number}")
        if not 0 < self.seconds < float("inf"):
            raise InputError(f"{_FORM}; SECONDS must be above 0, not {self.seconds:g}")

    @property
    def place(self) -> tuple[str, int]:
        """Host and port of process 0."""
        host, _, port = self.address.rpartition(":")
        return host.strip("[]"), int(port)


def parse_hosts(text: str | None) -> Hosts | None:
    """The processes that --hosts names; None for this one alone.

    Raises:
        InputError: If it is neither auto nor an address with its numbers.
    """
    if text is None or text == "auto":
        return None if text is None else Hosts()
    parts = text.split(",")
    try:
        if len(parts) not in (3, 4):
            raise ValueError
        return Hosts(parts[0].strip(), int(parts[1]), int(parts[2]), *(float(x) for x in parts[3:]))
    except ValueError as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{_FORM}, not {text!r}") from None


# Joining ------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def joined(hosts: Hosts | None, start: Callable[[], Any] = lambda: None) -> Iterator[Any]:
    """Within the block JAX sees the devices of all processes; to be entered before JAX has computed anything.

    What the libraries below print is kept back, and where they would abort the process it ends with one line and 3.

    Args:
        hosts: The processes; None for this one alone.
        start: What starts JAX's devices, called once the processes are joined; the block gets what it gives.

    Raises:
        InputError: If the processes do not find each other, or their numbers, versions or devices do not fit.
        FitError: If another process is lost on the way.
    """
    if hosts is None:
        yield start()
        return
    if hosts.address is not None:
        meet(hosts)
    with _own_streams() as errors, _no_abort(errors):
        _initialise(hosts)
        try:
            started = start()
            _require_same_devices()
            # Connects all with all: a process that ends before this is waited for in vain.
            barrier()
            yield started
            barrier()
        except BaseException as error:
            lost = isinstance(error, ValueError | RuntimeError) and not isinstance(error, InputError | FitError)
            lost = lost and _of_collective(error)
            _end_at_once(3 if lost else _CODES.get(type(error), 1))
            if lost:
                raise FitError(LOST) from error
            raise
        import jax

        jax.distributed.shutdown()


def _initialise(hosts: Hosts) -> None:
    import jax

    options = {}
    if hosts.address is not None:
        host, port = hosts.place
        bind = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        options = {
            "coordinator_address": hosts.address,
            "num_processes": hosts.number,
            "process_id": hosts.index,
            "coordinator_bind_address": bind,
            "cluster_detection_method": "deactivate",
        }
    try:
        jax.distributed.initialize(
            **options,
            initialization_timeout=round(max(1, hosts.seconds)),
            heartbeat_timeout_seconds=100,
            shutdown_timeout_seconds=5,
        )
    except (ValueError, RuntimeError, TypeError) as error:
        if hosts.address is None:
            raise InputError(
                "--hosts auto finds neither Slurm, Open MPI nor a TPU pod here; give --hosts ADDRESS:PORT,NUMBER,INDEX"
            ) from error
        raise InputError(f"--hosts {hosts.address}: the processes cannot be joined ({_first_line(error)})") from error


def _require_same_devices() -> None:
    import jax

    if jax.device_count() != jax.process_count() * jax.local_device_count():
        raise InputError(
            f"the processes have different numbers of devices, {jax.local_device_count()} here and "
            f"{jax.device_count()} together; give each the same --devices"
        )


def _end_at_once(code: int) -> None:
    """At its end this process does not wait for the others, which wait for what it would have sent."""

    def end():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)

    atexit.register(end)


def _of_collective(error: BaseException) -> bool:
    text = str(error)
    return any(word in text for word in ("Gloo", "collective", "NCCL", "coordination service", "Connection closed"))


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


# Meeting ------------------------------------------------------------------------------------------------


def meet(hosts: Hosts) -> None:
    """Wait until all processes have said who they are, over a connection of their own, which is then closed.

    JAX itself would abort the process where another does not come, and does not see two that have the same number.

    Raises:
        InputError: If one does not come in time, two have one number, or their versions or numbers differ.
    """
    (_receive if hosts.index == 0 else _call)(hosts)


def _greeting(hosts: Hosts) -> bytes:
    return f"diffcr {diffcr.__version__} {hosts.number} {hosts.index}\n".encode()


def _receive(hosts: Hosts) -> None:
    """Process 0: take calls until all are there."""
    end, callers = time.monotonic() + hosts.seconds, {}
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(_listen(hosts))
        while len(callers) < hosts.number - 1:
            server.settimeout(max(0.01, end - time.monotonic()))
            try:
                caller = stack.enter_context(server.accept()[0])
            except TimeoutError:
                missing = sorted(set(range(1, hosts.number)) - set(callers))
                raise InputError(
                    f"--hosts {hosts.address}: process {', '.join(map(str, missing))} of {hosts.number} did not come "
                    f"within {hosts.seconds:g} s; start them together, or give more SECONDS"
                ) from None
            words = _line(caller).split()
            if len(words) != 4 or words[0] != "diffcr":
                continue
            problem = _misfit(hosts, words, callers)
            if problem:
                _tell([caller, *callers.values()], problem)
                raise InputError(f"--hosts {hosts.address}: {problem}")
            callers[int(words[3])] = caller
        _tell(callers.values(), "go")


def _misfit(hosts: Hosts, words: list[str], callers: dict) -> str | None:
    _, version, number, index = words
    if version != diffcr.__version__:
        return f"process {index} is of diffcr {version}, process 0 of {diffcr.__version__}; install the same everywhere"
    if number != str(hosts.number):
        return f"process {index} was started as one of {number}, process 0 as one of {hosts.number}; give the same"
    if not index.isdecimal() or not 0 < int(index) < hosts.number or int(index) in callers:
        return f"two processes are number {index}; give each its own INDEX"
    return None


def _listen(hosts: Hosts) -> socket.socket:
    try:
        family = socket.getaddrinfo(*hosts.place, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server(hosts.place, family=family)
    except OSError as error:
        raise InputError(
            f"--hosts {hosts.address}: process 0 cannot listen there ({error}); give an address of its own machine "
            "and a free port"
        ) from error


def _call(hosts: Hosts) -> None:
    """Any other process: call the first until it answers, then wait for its word."""
    end, problem = time.monotonic() + hosts.seconds, "no answer"
    while time.monotonic() < end:
        try:
            with socket.create_connection(hosts.place, timeout=max(0.01, end - time.monotonic())) as line:
                line.sendall(_greeting(hosts))
                word = _line(line, max(0.01, end - time.monotonic()))
        except socket.gaierror as error:
            raise InputError(f"--hosts {hosts.address}: no such host ({error}); check the address") from error
        except OSError as error:
            problem = str(error)
            time.sleep(0.2)
            continue
        if word == "go":
            return
        if word:
            raise InputError(f"--hosts {hosts.address}: {word}")
        # Whoever listened there has gone, or is something else.
        problem = "it hung up"
        time.sleep(0.2)
    raise InputError(
        f"--hosts {hosts.address}: process 0 was not reached within {hosts.seconds:g} s ({problem}); check the address "
        "and that it runs, or give more SECONDS"
    )


def _line(connection: socket.socket, seconds: float = 5.0) -> str:
    """One line, or what there is of it when the other end closes, falls silent or sends too much."""
    connection.settimeout(seconds)
    received = b""
    with contextlib.suppress(OSError):
        while b"\n" not in received and len(received) < 1000:
            piece = connection.recv(1000)
            if not piece:
                break
            received += piece
    return received.decode(errors="replace").partition("\n")[0]


def _tell(connections, word: str) -> None:
    for connection in connections:
        with contextlib.suppress(OSError):
            connection.sendall(f"{word}\n".encode())


# Talking ------------------------------------------------------------------------------------------------


def is_first() -> bool:
    """Whether this is process 0, which reads and writes what there is one of."""
    import jax

    return jax.process_index() == 0


def barrier() -> None:
    """Wait until all processes are here."""
    _share(None)


def first_only(function: Callable[[], Any], otherwise: Any = None) -> Any:
    """What a function gives in process 0; `otherwise` in the others, which do not call it.

    Raises:
        InputError, FitError: In every process, where the function raises it in the first.
    """
    import jax

    if jax.process_count() == 1:
        return function()
    result, problem = otherwise, None
    if is_first():
        try:
            result = function()
        except (InputError, FitError) as error:
            problem = error
    told = _share(None if problem is None else [type(problem).__name__, str(problem)])
    if problem is not None:
        raise problem
    if told is not None:
        raise _ERRORS[told[0]](told[1])
    return result


def first_tells(function: Callable[[], Any]) -> Any:
    """What a function gives in process 0, JSON, in every process; errors as `first_only` has them."""
    return _share(first_only(function))


def _share(content: Any) -> Any:
    """JSON content of process 0."""
    import jax
    from jax.experimental.multihost_utils import broadcast_one_to_all

    if jax.process_count() == 1:
        return content
    text = np.frombuffer(json.dumps(content).encode(), np.uint8) if is_first() else np.zeros(0, np.uint8)
    length = int(broadcast_one_to_all(np.int32(len(text))))
    text = text if is_first() else np.zeros(length, np.uint8)
    return json.loads(bytes(broadcast_one_to_all(text)).decode())


# What the libraries print -------------------------------------------------------------------------------


@contextlib.contextmanager
def _own_streams() -> Iterator[int]:
    """Python's output goes where it went; what libraries write past it, such as traces of their stack, does not.

    Gives the descriptor of the errors.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    before, copies = (sys.stdout, sys.stderr), (os.dup(1), os.dup(2))
    with open(os.devnull, "w") as nothing:
        for number in (1, 2):
            os.dup2(nothing.fileno(), number)
    if _descriptor(sys.stdout) == 1:
        sys.stdout = os.fdopen(copies[0], "w", buffering=1, encoding="utf-8", closefd=False)
    if _descriptor(sys.stderr) == 2:
        sys.stderr = os.fdopen(copies[1], "w", buffering=1, encoding="utf-8", closefd=False)
    yield copies[1]
    # After an error it stays so: the process ends, and the libraries may have more to say.
    sys.stdout.flush()
    sys.stderr.flush()
    sys.stdout, sys.stderr = before
    for number, copy in zip((1, 2), copies, strict=True):
        os.dup2(copy, number)
        os.close(copy)


def _descriptor(stream) -> int | None:
    try:
        return stream.fileno()
    except (AttributeError, OSError, ValueError):
        return None


@contextlib.contextmanager
def _no_abort(errors: int) -> Iterator[None]:
    """Where a library calls abort(), as JAX's does in the process that outlives the first, end with one line and 3.

    Python's own handlers do not run then: abort() comes first.
    """
    last_words, ending = f"diffcr: {LOST}\n".encode(), threading.Event()

    @ctypes.CFUNCTYPE(None, ctypes.c_int)
    def end(_):
        if ending.is_set():
            # The process is about to say why it ends.
            time.sleep(10)
        else:
            os.write(errors, last_words)
        os._exit(3)

    libc = ctypes.CDLL(None)
    libc.signal.restype = ctypes.c_void_p
    libc.signal.argtypes = (ctypes.c_int, ctypes.c_void_p)
    previous = libc.signal(signal.SIGABRT, ctypes.cast(end, ctypes.c_void_p))
    try:
        yield
    except BaseException:
        ending.set()
        # The handler stays in use until the process has ended.
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(end))
        raise
    libc.signal(signal.SIGABRT, previous)
